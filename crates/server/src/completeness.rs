//! Where a stop string may end a constrained answer.
//!
//! A constraint promises that an answer which did not end by length satisfies it. So a stop string
//! counts only where what is left of the answer does; elsewhere it is text as any other: a `}` to
//! stop at does not cut a JSON object in half. The engine says after each token whether the answer
//! is complete; between two tokens nobody has looked.
use std::collections::VecDeque;

/// Where stop strings count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopRule {
    /// Everywhere: nothing is promised.
    Anywhere,
    /// Where the answer is complete, which inside of a token is not known: there they do not count.
    Complete,
    /// Where free text may go on or end: inside of a token too, if it may before and after it.
    FreeText,
}

/// What is known of the places in the text where stop strings may begin or end.
#[derive(Debug)]
pub(crate) struct Completeness {
    rule: StopRule,
    /// The ends of the last tokens, in bytes of the text, and whether the answer is complete there.
    ends: VecDeque<(usize, bool)>,
    /// How far back a stop string may begin, in bytes.
    longest_stop: usize,
}

impl Completeness {
    /// At the beginning of an answer, which is complete there only if it is free text.
    pub(crate) fn new(rule: StopRule, longest_stop: usize) -> Self {
        let begin = (0, rule != StopRule::Complete);
        Self { rule, ends: VecDeque::from([begin]), longest_stop }
    }

    /// A token ends at `end`.
    pub(crate) fn token(&mut self, end: usize, complete: bool) {
        if self.rule == StopRule::Anywhere || self.longest_stop == 0 {
            return;
        }
        // Of tokens without text the last one counts.
        while self.ends.back().is_some_and(|&(last, _)| last >= end) {
            self.ends.pop_back();
        }
        self.ends.push_back((end, complete));
        // One end at or before the earliest place stays.
        while self.ends.get(1).is_some_and(|&(second, _)| second + self.longest_stop <= end) {
            self.ends.pop_front();
        }
    }

    /// Whether the answer may end at `place`.
    pub(crate) fn may_end_at(&self, place: usize) -> bool {
        if self.rule == StopRule::Anywhere {
            return true;
        }
        let after = self.ends.partition_point(|&(end, _)| end < place);
        match self.ends.get(after) {
            Some(&(end, complete)) if end == place => complete,
            Some(&(_, complete)) => {
                let before = after.checked_sub(1).and_then(|before| self.ends.get(before));
                self.rule == StopRule::FreeText && complete && before.is_none_or(|&(_, c)| c)
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(rule: StopRule, tokens: &[(usize, bool)]) -> Completeness {
        let mut known = Completeness::new(rule, 4);
        tokens.iter().for_each(|&(end, complete)| known.token(end, complete));
        known
    }

    #[test]
    fn without_a_constraint_every_place_will_do() {
        let known = after(StopRule::Anywhere, &[(3, false)]);
        assert!((0..9).all(|place| known.may_end_at(place)));
    }

    #[test]
    fn under_a_constraint_only_the_ends_of_complete_tokens_will_do() {
        let known = after(StopRule::Complete, &[(2, false), (5, true), (8, true)]);
        let places: Vec<usize> = (0..10).filter(|&place| known.may_end_at(place)).collect();
        assert_eq!(places, [5, 8]);
    }

    #[test]
    fn free_text_may_end_inside_of_its_tokens_but_not_inside_of_a_call() {
        let known = after(StopRule::FreeText, &[(3, true), (5, false), (6, false), (8, true)]);
        let places: Vec<usize> = (3..10).filter(|&place| known.may_end_at(place)).collect();
        assert_eq!(places, [3, 8]);
        let known = after(StopRule::FreeText, &[(3, true), (6, true)]);
        let places: Vec<usize> = (0..10).filter(|&place| known.may_end_at(place)).collect();
        assert_eq!(places, [0, 1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn what_no_stop_string_reaches_any_more_is_forgotten() {
        let known = after(StopRule::Complete, &[(2, true), (4, true), (6, true), (8, true)]);
        assert_eq!(known.ends, [(4, true), (6, true), (8, true)]);
    }

    #[test]
    fn of_tokens_without_text_the_last_one_counts() {
        let known = after(StopRule::Complete, &[(2, true), (2, false)]);
        assert!(!known.may_end_at(2));
    }
}
