//! Stop strings over token borders.
//!
//! An Aho-Corasick automaton over all stop strings reads the text byte by byte. Its state
//! is the longest end of the text that begins a stop string; exactly that much is withheld,
//! because the next piece may complete it. Reading costs time linear in the text, however
//! many stop strings there are, and the outcome does not depend on where the text is cut.
//!
//! Which match counts: the one that *ends* first; of several that end together, the one that
//! begins first (the longest), so that no part of any stop string is emitted; of equal
//! strings, the one listed first.

use std::collections::HashMap;
use std::sync::Arc;

/// What a push found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopOutcome {
    /// No stop string ended here.
    Continue,
    /// Stop string number `index` matched; the text before it (and it, if included) has been emitted.
    Matched {
        /// Which, in the order given to [`StopMatcher::new`].
        index: usize,
    },
}

/// Withholds exactly the text that is a proper prefix of a stop string.
///
/// Cloning is cheap and gives a matcher in the same state: the choices of one request can
/// share one automaton.
#[derive(Debug, Clone)]
pub struct StopMatcher {
    automaton: Arc<Automaton>,
    include: bool,
    /// The automaton's state after all text so far.
    state: u32,
    /// Text from `start` on is withheld; before it, already emitted.
    held: String,
    start: usize,
    /// The stop string that ended the text.
    matched: Option<usize>,
}

impl StopMatcher {
    /// A matcher for `stops`. `include`: emit the matched stop string too. Empty stop
    /// strings never match (a server refuses them earlier).
    pub fn new(stops: &[String], include: bool) -> Self {
        Self {
            automaton: Arc::new(Automaton::new(stops)),
            include,
            state: ROOT,
            held: String::new(),
            start: 0,
            matched: None,
        }
    }

    /// Feeds text; appends to `out` what may be sent. After a match nothing more is
    /// emitted, and every push gives the same match again.
    pub fn push(&mut self, text: &str, out: &mut String) -> StopOutcome {
        self.push_where(text, out, |_| true)
    }

    /// As [`Self::push`], but a match counts only if `accept` agrees to where it leaves the text:
    /// it is given how many bytes of all the text so far, `text` included, would be cut off (and
    /// never emitted). What does not count is text as any other.
    pub fn push_where(
        &mut self,
        text: &str,
        out: &mut String,
        mut accept: impl FnMut(usize) -> bool,
    ) -> StopOutcome {
        if let Some(index) = self.matched {
            return StopOutcome::Matched { index };
        }
        let already = self.held.len();
        self.held.push_str(text);
        for (at, byte) in text.bytes().enumerate() {
            self.state = self.automaton.next(self.state, byte);
            if let Some(index) = self.automaton.match_at(self.state) {
                let end = already + at + 1;
                let keep = if self.include { end } else { end - self.automaton.stop_lens[index] };
                if !accept(self.held.len() - keep) {
                    continue;
                }
                self.emit_to(keep, out);
                self.matched = Some(index);
                self.held.clear();
                self.start = 0;
                return StopOutcome::Matched { index };
            }
        }
        self.emit_to(self.held.len() - self.automaton.depth(self.state), out);
        StopOutcome::Continue
    }

    /// No more text: appends what was withheld.
    pub fn finish(&mut self, out: &mut String) {
        self.emit_to(self.held.len(), out);
        self.state = ROOT;
    }

    /// Emits the withheld text up to `end`, an offset into `held`. A stop string begins with
    /// the first byte of a character, so `end` is always at a character's border.
    fn emit_to(&mut self, end: usize, out: &mut String) {
        out.push_str(&self.held[self.start..end]);
        self.start = end;
        // Moving the rest to the front only when that frees half keeps it linear.
        if self.start * 2 >= self.held.len() {
            self.held.drain(..self.start);
            self.start = 0;
        }
    }
}

/// The state in which nothing is withheld.
const ROOT: u32 = 0;

/// No stop string ends in this state.
const NO_MATCH: u32 = u32::MAX;

/// An Aho-Corasick automaton: a trie of all stop strings, where each state also knows the
/// state of its longest proper end that is in the trie.
#[derive(Debug)]
struct Automaton {
    /// Children in the trie: (state, byte) to state.
    children: HashMap<(u32, u8), u32>,
    /// Where to go on when a state has no child for a byte. [states]
    fallback: Vec<u32>,
    /// Length of the text each state stands for. [states]
    depths: Vec<u32>,
    /// The stop string that ends in each state, the longest; `NO_MATCH` if none. [states]
    matches: Vec<u32>,
    /// Length of each stop string in bytes. [stops]
    stop_lens: Vec<usize>,
}

impl Automaton {
    fn new(stops: &[String]) -> Self {
        let mut automaton = Self {
            children: HashMap::new(),
            fallback: vec![ROOT],
            depths: vec![0],
            matches: vec![NO_MATCH],
            stop_lens: stops.iter().map(String::len).collect(),
        };
        // States in the order they were made, with the byte that leads to each.
        let mut made = Vec::new();
        for (index, stop) in stops.iter().enumerate().filter(|(_, stop)| !stop.is_empty()) {
            let mut state = ROOT;
            for byte in stop.bytes() {
                state = automaton.child_or_new(state, byte, &mut made);
            }
            let matched = &mut automaton.matches[state as usize];
            if *matched == NO_MATCH {
                *matched = index as u32;
            }
        }
        // Shallow states first: a fallback is always shallower than its state.
        made.sort_by_key(|&(state, ..)| automaton.depths[state as usize]);
        for (state, parent, byte) in made {
            automaton.link(state, parent, byte);
        }
        automaton
    }

    /// The child of `state` for `byte`, made if it is not there.
    fn child_or_new(&mut self, state: u32, byte: u8, made: &mut Vec<(u32, u32, u8)>) -> u32 {
        let new = self.depths.len() as u32;
        let child = *self.children.entry((state, byte)).or_insert(new);
        if child == new {
            self.depths.push(self.depths[state as usize] + 1);
            self.fallback.push(ROOT);
            self.matches.push(NO_MATCH);
            made.push((child, state, byte));
        }
        child
    }

    /// Sets where `state`, the child of `parent` for `byte`, falls back to.
    fn link(&mut self, state: u32, parent: u32, byte: u8) {
        if parent != ROOT {
            self.fallback[state as usize] = self.next(self.fallback[parent as usize], byte);
        }
        let fallback = self.fallback[state as usize];
        if self.matches[state as usize] == NO_MATCH {
            self.matches[state as usize] = self.matches[fallback as usize];
        }
    }

    /// The state after reading `byte` in `state`.
    fn next(&self, mut state: u32, byte: u8) -> u32 {
        loop {
            if let Some(&child) = self.children.get(&(state, byte)) {
                return child;
            }
            if state == ROOT {
                return ROOT;
            }
            state = self.fallback[state as usize];
        }
    }

    fn match_at(&self, state: u32) -> Option<usize> {
        let index = self.matches[state as usize];
        (index != NO_MATCH).then_some(index as usize)
    }

    fn depth(&self, state: u32) -> usize {
        self.depths[state as usize] as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stops(list: &[&str]) -> Vec<String> {
        list.iter().map(|&stop| stop.to_owned()).collect()
    }

    /// Feeds `pieces`; gives what was emitted after each push, and the match.
    fn run(stops: &[String], include: bool, pieces: &[&str]) -> (Vec<String>, Option<usize>) {
        let mut matcher = StopMatcher::new(stops, include);
        let mut emitted = Vec::new();
        for piece in pieces {
            let mut out = String::new();
            let outcome = matcher.push(piece, &mut out);
            emitted.push(out);
            if let StopOutcome::Matched { index } = outcome {
                return (emitted, Some(index));
            }
        }
        let mut out = String::new();
        matcher.finish(&mut out);
        emitted.push(out);
        (emitted, None)
    }

    #[test]
    fn only_a_proper_prefix_is_withheld() {
        let (emitted, matched) = run(&stops(&["END"]), false, &["a E", "N", "x", "EN"]);
        assert_eq!(emitted, ["a ", "", "ENx", "", "EN"]);
        assert_eq!(matched, None);
    }

    #[test]
    fn a_match_over_borders_emits_nothing_of_it() {
        let (emitted, matched) = run(&stops(&["\n\n", "END"]), false, &["one E", "ND two"]);
        assert_eq!(emitted, ["one ", ""]);
        assert_eq!(matched, Some(1));
    }

    #[test]
    fn include_emits_the_stop_string_and_nothing_after_it() {
        let (emitted, matched) = run(&stops(&["END"]), true, &["one E", "ND two"]);
        assert_eq!(emitted.concat(), "one END");
        assert_eq!(matched, Some(0));
    }

    #[test]
    fn the_match_that_ends_first_wins_then_the_longest() {
        assert_eq!(run(&stops(&["bcd", "bc"]), false, &["abcd"]), (stops(&["a"]), Some(1)));
        assert_eq!(run(&stops(&["c", "abc"]), false, &["xabc"]), (stops(&["x"]), Some(1)));
        assert_eq!(run(&stops(&["a", "a"]), false, &["a"]), (stops(&[""]), Some(0)));
    }

    #[test]
    fn overlapping_prefixes_fall_back() {
        let (emitted, matched) = run(&stops(&["aab"]), false, &["a", "a", "a", "a", "b"]);
        assert_eq!(emitted.concat(), "aa");
        assert_eq!(matched, Some(0));
    }

    #[test]
    fn after_a_match_nothing_more_is_emitted() {
        let mut matcher = StopMatcher::new(&stops(&["x"]), false);
        let mut out = String::new();
        assert_eq!(matcher.push("ax", &mut out), StopOutcome::Matched { index: 0 });
        assert_eq!(matcher.push("b", &mut out), StopOutcome::Matched { index: 0 });
        matcher.finish(&mut out);
        assert_eq!(out, "a");
    }

    #[test]
    fn a_match_that_does_not_count_is_text_as_any_other() {
        let mut matcher = StopMatcher::new(&stops(&["}"]), false);
        let mut out = String::new();
        let mut cut_off = Vec::new();
        let refuse = |bytes: usize| {
            cut_off.push(bytes);
            false
        };
        assert_eq!(matcher.push_where("a}b} ", &mut out, refuse), StopOutcome::Continue);
        assert_eq!(cut_off, [4, 2]);
        assert_eq!(matcher.push("c}d", &mut out), StopOutcome::Matched { index: 0 });
        assert_eq!(out, "a}b} c");
    }

    #[test]
    fn no_stop_strings_pass_everything() {
        assert_eq!(run(&[], false, &["é", "x"]).0, ["é", "x", ""]);
        assert_eq!(run(&stops(&[""]), false, &["é"]).0, ["é", ""]);
    }

    #[test]
    fn a_hundred_thousand_stop_strings_are_searched_at_once() {
        let many: Vec<String> = (0..100_000).map(|n| format!("<{n}>")).collect();
        let (emitted, matched) = run(&many, false, &["text <9999", "9> more"]);
        assert_eq!(emitted.concat(), "text ");
        assert_eq!(matched, Some(99_999));
    }

    /// The slow and obvious version: (emitted in the end, match).
    fn oracle(stops: &[String], include: bool, text: &str) -> (String, Option<usize>) {
        for end in 0..=text.len() {
            let longest = stops
                .iter()
                .enumerate()
                .filter(|(_, stop)| !stop.is_empty())
                .filter(|(_, stop)| text[..end].ends_with(stop.as_str()))
                .max_by_key(|(index, stop)| (stop.len(), std::cmp::Reverse(*index)));
            if let Some((index, stop)) = longest {
                let keep = if include { end } else { end - stop.len() };
                return (text[..keep].to_owned(), Some(index));
            }
        }
        (text.to_owned(), None)
    }

    /// How much of `text` may be a prefix of a stop string.
    fn longest_open_end(stops: &[String], text: &str) -> usize {
        let open =
            |n: &usize| stops.iter().any(|stop| stop.len() > *n && text.ends_with(&stop[..*n]));
        (0..=text.len()).rev().find(open).unwrap_or(0)
    }

    proptest! {
        #[test]
        fn every_chunking_gives_what_the_oracle_gives(
            stops in prop::collection::vec("[abc]{1,4}", 0..5),
            text in "[abc]{0,9}",
            include: bool,
        ) {
            let (want, want_match) = oracle(&stops, include, &text);
            // Every set of borders between the characters.
            for borders in 0_u32..1 << text.len().saturating_sub(1) {
                let mut matcher = StopMatcher::new(&stops, include);
                let (mut out, mut from, mut matched) = (String::new(), 0, None);
                for to in 1..=text.len() {
                    if to < text.len() && borders & (1 << (to - 1)) == 0 {
                        continue;
                    }
                    if let StopOutcome::Matched { index } = matcher.push(&text[from..to], &mut out) {
                        matched = Some(index);
                        break;
                    }
                    from = to;
                    let open = longest_open_end(&stops, &text[..to]);
                    prop_assert_eq!(&out, &text[..to - open]);
                }
                matcher.finish(&mut out);
                prop_assert_eq!((&out, matched), (&want, want_match));
            }
        }

        #[test]
        fn characters_of_any_width_stay_whole(
            stops in prop::collection::vec("[é😀a]{1,3}", 1..4),
            pieces in prop::collection::vec("[é😀a]{0,3}", 0..6),
        ) {
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let whole = run(&stops, false, &[pieces.concat().as_str()]);
            let cut = run(&stops, false, &pieces);
            prop_assert_eq!((whole.0.concat(), whole.1), (cut.0.concat(), cut.1));
        }
    }
}
