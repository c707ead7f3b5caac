//! Whether guesses are worth their rows. A step computes guessed tokens beside the last one and
//! keeps those that the sampler would have chosen: a guess can cost time, and never changes an
//! answer. So it is a wager on time, and a step takes it where it brings more tokens per second,
//! by what is known of three things:
//!
//! - what steps of so many rows take: measured, for it depends on machine, model and company;
//! - how often guesses like this one came true for this sequence ([`Drafter`]);
//! - how many tokens the step gives anyway: what delays it delays them all.
//!
//! What is refused is tried again at times, less and less often, because texts change.
//! Pure: the clock is the caller's.

use std::{ops::RangeInclusive, time::Duration};

use crate::lookup::LONGEST;

/// Steps with more rows than this get no guesses: products are bound by arithmetic there.
const MOST_ROWS: usize = 64;
/// A measurement is forgotten after so many steps: texts have grown since, and it may have been bad
/// luck.
const MEMORY: u64 = 256;
/// Weight of a new measurement.
const NEW: f64 = 0.25;
/// By how much the rows of a guess are overrated: what saves next to nothing is not worth it.
const MARGIN: f64 = 1.1;
/// Weight of a new guess in what is thought of guesses.
const NEW_GUESS: f64 = 0.125;
/// Refusals before a sequence tries again: at first, and at most.
const PATIENCE: RangeInclusive<u32> = 8..=128;

/// What an engine knows of its steps.
pub(crate) struct Speculation {
    /// Most tokens guessed at once; 0 is off.
    most: usize,
    /// By number of rows.
    costs: [Option<Cost>; MOST_ROWS + 1],
    /// Measurements so far.
    now: u64,
}

/// What a step takes.
#[derive(Debug, Clone, Copy)]
struct Cost {
    seconds: f64,
    seen: u64,
}

impl Speculation {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, costs: [None; MOST_ROWS + 1], now: 0 }
    }

    /// For a step in which so many sequences go on: it gives a token of each without guesses.
    pub(crate) fn wager(&self, sequences: usize) -> Wager<'_> {
        // Without the time of a step like this, there is nothing to compare with.
        let most = if self.known(sequences).is_some() { self.most } else { 0 };
        Wager { speculation: self, most, tokens: sequences as f64 }
    }

    /// Takes in the time of a step without prefill.
    pub(crate) fn observe(&mut self, rows: usize, took: Duration) {
        let took = took.as_secs_f64();
        self.now += 1;
        let known = self.known(rows);
        let Some(cost) = self.costs.get_mut(rows) else { return };
        let seconds = match known {
            None => took,
            // A thread that was off its core for a while says nothing of the work.
            Some(known) => known + NEW * (took.min(2.0 * known) - known),
        };
        *cost = Some(Cost { seconds, seen: self.now });
    }

    fn known(&self, rows: usize) -> Option<f64> {
        let cost = self.costs.get(rows).copied().flatten()?;
        (self.now - cost.seen < MEMORY).then_some(cost.seconds)
    }

    /// What a step of `rows` takes, as far as steps around it tell. What lies beyond all that is
    /// known is thought to cost nothing more: so it is tried, and then it is known.
    fn cost(&self, rows: usize) -> Option<f64> {
        let known = |rows: usize| Some((rows as f64, self.known(rows)?));
        let (below, low) = (0..=rows).rev().find_map(known)?;
        let Some((above, high)) = (rows..=MOST_ROWS).find_map(known) else { return Some(low) };
        let way = if above > below { (rows as f64 - below) / (above - below) } else { 0.0 };
        Some(low + way * (high - low))
    }
}

/// The guesses of one step.
pub(crate) struct Wager<'a> {
    speculation: &'a Speculation,
    most: usize,
    /// What the step is to give, with what is expected of the guesses so far.
    tokens: f64,
}

/// What may follow a sequence.
#[derive(Debug, Default)]
pub(crate) struct Guess {
    pub(crate) tokens: Vec<u32>,
    /// Length of the match it was found by.
    pub(crate) matched: usize,
}

impl Wager<'_> {
    /// Most tokens guessed at once.
    pub(crate) fn most(&self) -> usize {
        self.most
    }

    /// How many of up to `most` guessed tokens to add to a step that has `rows` rows. `rate`: each
    /// comes true with this probability, if those before it do.
    fn take(&mut self, rows: usize, rate: f64, most: usize) -> usize {
        let Some(plain) = self.speculation.cost(rows) else { return 0 };
        let (mut count, mut tokens) = (0, self.tokens);
        let mut speed = tokens / plain;
        let (mut likely, mut expected) = (1.0, self.tokens);
        for more in 1..=most.min(MOST_ROWS.saturating_sub(rows)) {
            likely *= rate;
            expected += likely;
            let Some(cost) = self.speculation.cost(rows + more) else { break };
            let seconds = plain + MARGIN * (cost - plain).max(0.0);
            if expected / seconds > speed {
                (count, tokens, speed) = (more, expected, expected / seconds);
            }
        }
        self.tokens = tokens;
        count
    }
}

/// Kinds of guesses, by how many tokens agreed at most: the more, the likelier they come true. And
/// what is thought of a kind at first: how it went with smollm2, on stories and explanations.
const KINDS: [(usize, f64); 4] = [(2, 0.4), (3, 0.5), (LONGEST - 1, 0.65), (LONGEST, 0.85)];

/// How a sequence has fared with its guesses.
#[derive(Debug, Clone)]
pub(crate) struct Drafter {
    /// By kind.
    habits: [Habit; KINDS.len()],
}

#[derive(Debug, Clone, Copy)]
struct Habit {
    /// How often a token comes true, if those before it did.
    rate: f64,
    /// Refusals since the last try.
    refused: u32,
    /// Refusals before the next.
    patience: u32,
}

impl Default for Drafter {
    fn default() -> Self {
        let habit = |(_, rate)| Habit { rate, refused: 0, patience: *PATIENCE.start() };
        Self { habits: KINDS.map(habit) }
    }
}

impl Drafter {
    fn habit(&mut self, matched: usize) -> &mut Habit {
        let kind = KINDS.iter().position(|(most, _)| matched <= *most);
        &mut self.habits[kind.unwrap_or(KINDS.len() - 1)]
    }

    /// How many of up to `most` tokens to guess after a match of `matched`, in a step that has
    /// `rows` rows without.
    pub(crate) fn guess(
        &mut self,
        wager: &mut Wager<'_>,
        matched: usize,
        rows: usize,
        most: usize,
    ) -> usize {
        let habit = self.habit(matched);
        let count = wager.take(rows, habit.rate, most);
        if count > 0 {
            (habit.refused, habit.patience) = (0, *PATIENCE.start());
            return count;
        }
        habit.refused += 1;
        // It may do better by now; where even a right guess would not pay, that changes nothing.
        if habit.refused <= habit.patience || wager.take(rows, 1.0, 1) == 0 {
            return 0;
        }
        (habit.refused, habit.patience) = (0, (2 * habit.patience).min(*PATIENCE.end()));
        1
    }

    /// Of `guessed` tokens after a match of `matched`, the first `accepted` came true.
    pub(crate) fn observe(&mut self, matched: usize, guessed: usize, accepted: usize) {
        let habit = self.habit(matched);
        for i in 0..guessed.min(accepted + 1) {
            let came_true = f64::from(u8::from(i < accepted));
            habit.rate += NEW_GUESS * (came_true - habit.rate);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookup::SHORTEST;

    const MS: Duration = Duration::from_millis(1);

    /// Of a machine on which a step takes `step` and each row after the first `row`.
    fn learnt(step: Duration, row: Duration) -> Speculation {
        let mut speculation = Speculation::new(4);
        for rows in 1..=16 {
            speculation.observe(rows, step + row * (rows as u32 - 1));
        }
        speculation
    }

    #[test]
    fn guesses_are_worth_what_they_bring_less_what_they_cost() {
        let take = |speculation: &Speculation, streams: usize, rate: f64| {
            speculation.wager(streams).take(streams, rate, 4)
        };
        let cheap = learnt(10 * MS, MS / 10);
        assert_eq!(take(&cheap, 1, 0.9), 4);
        assert_eq!(take(&cheap, 1, 0.5), 4);
        assert_eq!(take(&cheap, 1, 0.01), 0);
        assert_eq!(take(&cheap, 8, 0.9), 4);
        // Half of a step: a guess must come true more often than not, the second too.
        let dear = learnt(10 * MS, 5 * MS);
        assert_eq!(take(&dear, 1, 0.4), 0);
        assert!((1..4).contains(&take(&dear, 1, 0.75)));
        assert_eq!(take(&dear, 1, 1.0), 4);
        // With eight streams in 45 ms, a token is worth about as much as its row costs.
        assert_eq!(take(&dear, 8, 0.8), 0);
    }

    #[test]
    fn a_step_counts_what_is_guessed_already() {
        let speculation = learnt(10 * MS, 2 * MS);
        let mut wager = speculation.wager(4);
        let first = wager.take(4, 0.9, 4);
        assert!(first > 0 && wager.tokens > 4.0 + 0.9);
        // The more tokens a step gives, the less one more is worth.
        let mut counts = vec![first];
        for _ in 0..4 {
            counts.push(wager.take(4 + counts.iter().sum::<usize>(), 0.5, 4));
        }
        assert!(counts.is_sorted_by(|a, b| a >= b), "{counts:?}");
        assert_eq!(counts.last(), Some(&0));
    }

    #[test]
    fn what_is_not_known_is_tried_and_what_is_old_is_forgotten() {
        let mut speculation = Speculation::new(4);
        let take = |speculation: &Speculation| {
            let mut wager = speculation.wager(1);
            wager.take(1, 0.9, wager.most())
        };
        assert_eq!(take(&speculation), 0, "nothing to compare with");
        speculation.observe(1, 10 * MS);
        assert_eq!(take(&speculation), 4);
        speculation.observe(5, 500 * MS);
        assert_eq!(take(&speculation), 0);
        for _ in 0..MEMORY {
            speculation.observe(1, 10 * MS);
        }
        assert_eq!(take(&speculation), 4, "it may have been bad luck");
        for _ in 0..MEMORY {
            speculation.observe(5, 11 * MS);
        }
        assert_eq!(take(&speculation), 0, "a plain step is due");
        assert_eq!(Speculation::new(0).wager(1).most(), 0);
        // Steps of any size are taken in.
        speculation.observe(100_000, MS);
        assert_eq!(speculation.wager(1).take(100_000, 1.0, 4), 0);
    }

    #[test]
    fn what_fails_is_tried_less_and_less_often() {
        let speculation = learnt(10 * MS, 5 * MS);
        let mut drafter = Drafter::default();
        let mut tries = Vec::new();
        for step in 0..1000 {
            let count = drafter.guess(&mut speculation.wager(1), SHORTEST, 1, 4);
            if count > 0 {
                tries.push(step);
                drafter.observe(SHORTEST, count, 0);
            }
        }
        assert!((4..15).contains(&tries.len()), "{tries:?}");
        // Longer matches are another matter.
        assert!(drafter.guess(&mut speculation.wager(1), LONGEST, 1, 4) > 0);
        // When it goes well again, that is seen.
        for _ in 0..20 {
            drafter.observe(SHORTEST, 1, 1);
        }
        assert!(drafter.guess(&mut speculation.wager(1), SHORTEST, 1, 4) > 0);
    }
}
