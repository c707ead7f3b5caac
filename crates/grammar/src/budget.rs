//! How long an answer may reason: after so many tokens the end of the reasoning is forced.
//!
//! Kept here and not in the grammar, whose language it does not change: any text may end with the
//! marker anywhere.

use crate::Grammar;

/// What is left of a budget.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    /// The answer is in the text that has a budget only if it begins with this.
    start: Vec<u8>,
    /// What ends that text.
    ends: Vec<Vec<u8>>,
    /// The first of `ends`, as tokens; and what is left of it after each of its beginnings.
    endings: Vec<(Vec<u8>, Vec<u32>)>,
    /// What must be written when nothing is left.
    closing: Vec<u32>,
    left: usize,
    /// The answer so far.
    text: Vec<u8>,
    /// How many of `closing` have been written.
    closed: usize,
    over: bool,
}

impl Budget {
    /// The budget at the beginning of `grammar`, if there is one.
    pub(crate) fn of(grammar: &Grammar, tokenize: &dyn Fn(&str) -> Vec<u32>) -> Option<Self> {
        match grammar {
            Grammar::Until { ends, max_tokens: Some(max_tokens), .. } => {
                let first = ends.first()?;
                // Longest beginnings first.
                let beginnings = (0..first.len()).rev().filter(|&at| first.is_char_boundary(at));
                let ending = |at| (first.as_bytes()[..at].to_vec(), tokenize(&first[at..]));
                Some(Self {
                    start: Vec::new(),
                    ends: ends.iter().map(|end| end.clone().into_bytes()).collect(),
                    endings: beginnings.map(ending).collect(),
                    closing: tokenize(first),
                    left: *max_tokens,
                    text: Vec::new(),
                    closed: 0,
                    over: false,
                })
            }
            Grammar::Sequence(parts) => match parts.as_slice() {
                [Grammar::Literal(start), rest @ ..] => {
                    let budget = Self::of(rest.first()?, tokenize)?;
                    let start = [start.as_bytes(), &budget.start].concat();
                    Some(Self { start, ..budget })
                }
                [first, ..] => Self::of(first, tokenize),
                [] => None,
            },
            Grammar::AnyOf(parts) => parts.iter().find_map(|part| Self::of(part, tokenize)),
            _ => None,
        }
    }

    /// The answer goes on with a token of these bytes.
    pub(crate) fn count(&mut self, bytes: &[u8]) {
        if self.over {
            return;
        }
        if self.left == 0 && self.begun() {
            self.closed += 1;
            self.over = self.closed >= self.closing.len();
            return;
        }
        self.text.extend_from_slice(bytes);
        self.left = self.left.saturating_sub(1);
        if !self.begun() {
            // It has begun with something else, or not yet with all of it.
            self.over = !self.start.starts_with(&self.text);
            return;
        }
        let after_start = &self.text[self.start.len()..];
        self.over = self.ends.iter().any(|end| {
            // No further back than the token reaches.
            let from = after_start.len().saturating_sub(end.len() + bytes.len());
            after_start[from..].windows(end.len().max(1)).any(|window| window == end.as_slice())
        });
        // It may have begun to end by itself.
        let begun = self.endings.iter().find(|(begun, _)| after_start.ends_with(begun));
        if let Some((_, rest)) = begun.filter(|_| self.left == 0) {
            self.closing.clone_from(rest);
        }
    }

    /// What must come next; empty while the budget lasts.
    pub(crate) fn forced(&self) -> Vec<u32> {
        if self.over || self.left > 0 || !self.begun() {
            return Vec::new();
        }
        self.closing[self.closed..].to_vec()
    }

    fn begun(&self) -> bool {
        self.text.starts_with(&self.start)
    }
}
