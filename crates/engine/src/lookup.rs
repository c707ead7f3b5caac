//! Guesses from the text itself: where its last tokens stood before, what followed them then may
//! follow now (prompt lookup decoding, Saxena 2023). Free where answers quote their prompts or
//! themselves: code, summaries, tables, corrections.
//!
//! A plain scan, and no index that would have to be kept beside every sequence: it reads 4 bytes a
//! token, where the attention of the same step reads thousands. It looks back [`WINDOW`] tokens, so
//! that this holds under a sliding window too.

/// Fewest tokens that must agree: one alone says nothing of the next.
pub(crate) const SHORTEST: usize = 2;
/// More are not counted.
pub(crate) const LONGEST: usize = 8;
/// How many tokens back it looks.
const WINDOW: usize = 1 << 14;
/// Tokens compared together.
const LANES: usize = 16;

/// An earlier place at which the text read as it does at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Match {
    /// How many of the last tokens agree: [`SHORTEST`] to [`LONGEST`].
    pub(crate) len: usize,
    /// What followed begins this many tokens before the text's end; at least 1.
    pub(crate) distance: usize,
}

/// Prompt and answer, one after the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text<'a> {
    pub(crate) prompt: &'a [u32],
    pub(crate) output: &'a [u32],
}

impl Text<'_> {
    fn len(self) -> usize {
        self.prompt.len() + self.output.len()
    }

    fn at(self, index: usize) -> u32 {
        match index.checked_sub(self.prompt.len()) {
            None => self.prompt[index],
            Some(answered) => self.output[answered],
        }
    }

    /// The longest match, of equals the latest.
    pub(crate) fn find(self) -> Option<Match> {
        let last = self.len().checked_sub(1)?;
        let wanted = self.at(last);
        let oldest = last.saturating_sub(WINDOW);
        let mut best = None;
        // Backwards, and done as soon as no match could be longer.
        let mut consider = |at: usize| {
            let len = self.agreeing(at, last);
            if len >= SHORTEST && best.is_none_or(|best: Match| len > best.len) {
                best = Some(Match { len, distance: last - at });
            }
            len == LONGEST
        };
        let split = self.prompt.len();
        let answered = &self.output[oldest.saturating_sub(split)..last.saturating_sub(split)];
        let asked = &self.prompt[oldest.min(split)..last.min(split)];
        let _done = rfind(answered, wanted, |at| consider(oldest.max(split) + at))
            || rfind(asked, wanted, |at| consider(oldest + at));
        best
    }

    /// How many tokens up to `at` are those up to `last`, as far as they count.
    fn agreeing(self, at: usize, last: usize) -> usize {
        let most = LONGEST.min(at + 1);
        (0..most).take_while(|back| self.at(at - back) == self.at(last - back)).count()
    }

    /// The first `count` tokens that followed a match; where they reach the text's end, they go on
    /// as they began.
    pub(crate) fn following(self, found: Match, count: usize) -> impl Iterator<Item = u32> {
        let begin = self.len() - found.distance;
        (0..count).map(move |i| self.at(begin + i % found.distance))
    }
}

/// Calls `each` with the places of `wanted`, last first, until it says true; whether it did.
///
/// Without an early exit from a group, so that it is compiled to vector code.
fn rfind(tokens: &[u32], wanted: u32, mut each: impl FnMut(usize) -> bool) -> bool {
    let mut end = tokens.len();
    for group in tokens.rchunks(LANES) {
        end -= group.len();
        if group.iter().fold(false, |any, &token| any | (token == wanted)) {
            let found = (0..group.len()).rev().filter(|&i| group[i] == wanted);
            if found.map(|i| end + i).any(&mut each) {
                return true;
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every place, every length.
    fn naive(tokens: &[u32]) -> Option<Match> {
        let last = tokens.len().checked_sub(1)?;
        let places = last.saturating_sub(WINDOW)..last;
        (SHORTEST..=LONGEST).rev().find_map(|len| {
            let suffix = tokens.get(tokens.len().checked_sub(len)?..)?;
            let agrees = |&at: &usize| at + 1 >= len && tokens[at + 1 - len..=at] == *suffix;
            let at = places.clone().rev().find(agrees)?;
            Some(Match { len, distance: last - at })
        })
    }

    proptest! {
        #[test]
        fn it_finds_what_a_naive_scan_finds(
            tokens in prop::collection::vec(0u32..4, 0..80),
            split in 0usize..80,
            count in 0usize..9,
        ) {
            let (prompt, output) = tokens.split_at(split.min(tokens.len()));
            let text = Text { prompt, output };
            let found = text.find();
            prop_assert_eq!(found, naive(&tokens));
            if let Some(found) = found {
                let mut copied = tokens.clone();
                for _ in 0..count {
                    copied.push(copied[copied.len() - found.distance]);
                }
                let following: Vec<u32> = text.following(found, count).collect();
                prop_assert_eq!(following, &copied[tokens.len()..]);
            }
        }
    }

    #[test]
    fn the_longest_match_wins_and_of_equals_the_latest() {
        let find = |prompt: &[u32], output: &[u32]| {
            let text = Text { prompt, output };
            text.find().map(|found| (found.len, text.following(found, 3).collect::<Vec<_>>()))
        };
        assert_eq!(find(&[], &[]), None);
        assert_eq!(find(&[1], &[1]), None);
        assert_eq!(find(&[1, 2, 7, 8], &[9, 1, 2]), Some((2, vec![7, 8, 9])));
        assert_eq!(find(&[1, 2, 7, 1, 2, 8], &[1, 2]), Some((2, vec![8, 1, 2])));
        assert_eq!(find(&[5, 1, 2, 7, 1, 2], &[8, 5, 1, 2]), Some((3, vec![7, 1, 2])));
        // Beyond the end, what followed goes on.
        assert_eq!(find(&[3, 4], &[3, 4]), Some((2, vec![3, 4, 3])));
        assert_eq!(find(&[6, 6], &[6]), Some((2, vec![6, 6, 6])));
    }

    #[test]
    fn it_does_not_look_beyond_its_window() {
        let unique = |count: u32| 100..100 + count;
        let text = |between: usize| -> Vec<u32> {
            [1, 2].into_iter().chain(unique(between as u32)).chain([1, 2]).collect()
        };
        let found = |tokens: &[u32]| Text { prompt: tokens, output: &[] }.find().is_some();
        assert!(found(&text(WINDOW - 2)));
        assert!(!found(&text(WINDOW - 1)));
    }
}
