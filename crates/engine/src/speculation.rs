//! Whether guesses are worth their rows. A step computes guessed tokens beside the last one and
//! keeps those that the sampler would have chosen: a guess can cost time, and never changes an
//! answer. So it is a wager on time, and a step takes it where it brings more tokens per second,
//! by what is known of these things:
//!
//! - what steps of so many rows take: measured, for it depends on machine, model and company;
//! - how often guesses like this one came true for this sequence ([`Drafter`]);
//! - what the passes of a draft model take, where it is one that guesses: measured as well;
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
/// Weight of a draft model's new guess in what is thought of it before a sequence has tried it.
const NEW_PRIOR: f64 = 1.0 / 64.0;
/// How often a draft model's token comes true, as long as nobody knows.
const FIRST_PRIOR: f64 = 0.6;
/// Refusals before a sequence tries again: at first, and at most.
const PATIENCE: RangeInclusive<u32> = 8..=128;

/// What an engine knows of its steps.
pub(crate) struct Speculation {
    /// Most tokens guessed at once; 0 is off.
    most: usize,
    /// Steps of the model.
    steps: Costs,
    /// Passes of the draft model.
    passes: Costs,
    /// How often the draft model's tokens came true, of all sequences.
    draft_rate: f64,
}

/// What steps take, by number of rows.
struct Costs {
    by_rows: [Option<Cost>; MOST_ROWS + 1],
    /// Steps of the model so far.
    now: u64,
}

/// What a step takes.
#[derive(Debug, Clone, Copy)]
struct Cost {
    seconds: f64,
    seen: u64,
}

impl Costs {
    const fn new() -> Self {
        Self { by_rows: [None; MOST_ROWS + 1], now: 0 }
    }

    fn observe(&mut self, rows: usize, took: Duration) {
        let took = took.as_secs_f64();
        let known = self.known(rows);
        let Some(cost) = self.by_rows.get_mut(rows) else { return };
        let seconds = match known {
            None => took,
            // A thread that was off its core for a while says nothing of the work.
            Some(known) => known + NEW * (took.min(2.0 * known) - known),
        };
        *cost = Some(Cost { seconds, seen: self.now });
    }

    fn known(&self, rows: usize) -> Option<f64> {
        let cost = self.by_rows.get(rows).copied().flatten()?;
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

impl Speculation {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, steps: Costs::new(), passes: Costs::new(), draft_rate: FIRST_PRIOR }
    }

    /// For a step in which so many sequences go on: it gives a token of each without guesses.
    pub(crate) fn wager(&self, sequences: usize) -> Wager<'_> {
        // Without the time of a step like this, there is nothing to compare with.
        let most = if self.steps.known(sequences).is_some() { self.most } else { 0 };
        Wager { speculation: self, most, tokens: sequences as f64 }
    }

    /// Takes in the time of a step without prefill.
    pub(crate) fn observe(&mut self, rows: usize, took: Duration) {
        self.steps.now += 1;
        self.passes.now += 1;
        self.steps.observe(rows, took);
    }

    /// Takes in the time of a pass of the draft model that gives tokens.
    pub(crate) fn observe_pass(&mut self, rows: usize, took: Duration) {
        self.passes.observe(rows, took);
    }

    /// For a new sequence.
    pub(crate) fn drafter(&self) -> Drafter {
        let mut drafter = Drafter::default();
        drafter.draft.rate = self.draft_rate;
        drafter
    }

    /// Of a sequence's guess, the first `accepted` of `guessed` tokens came true.
    pub(crate) fn observe_guess(
        &mut self,
        drafter: &mut Drafter,
        origin: Origin,
        guessed: usize,
        accepted: usize,
    ) {
        drafter.observe(origin, guessed, accepted);
        if origin == Origin::Draft {
            learn(&mut self.draft_rate, NEW_PRIOR, guessed, accepted);
        }
    }

    /// How many of the sequences whose guesses come true at these `rates`, best first, a draft
    /// model should guess for, and how far, in a step of `rows` sequences that has room for `spare`
    /// rows more. All of them share the model's passes, so what one is worth depends on the others.
    pub(crate) fn draft(&self, rows: usize, rates: &[f64], most: usize, spare: usize) -> Passes {
        let mut best = Passes::default();
        let Some(plain) = self.steps.known(rows) else { return best };
        let mut speed = rows as f64 / plain;
        let spare = spare.min(MOST_ROWS.saturating_sub(rows));
        for sequences in 1..=rates.len() {
            // Not known is free: so it is tried, and then it is known.
            let pass = self.passes.cost(sequences).unwrap_or(0.0);
            let mut likely = rates[..sequences].to_vec();
            let mut expected = rows as f64;
            for count in 1..=most.min(self.most).min(spare / sequences) {
                expected += likely.iter().sum::<f64>();
                likely.iter_mut().zip(rates).for_each(|(likely, rate)| *likely *= rate);
                let Some(cost) = self.steps.cost(rows + sequences * count) else { break };
                let more = (cost - plain).max(0.0) + pass * count as f64;
                let seconds = plain + MARGIN * more;
                if expected / seconds > speed {
                    (best, speed) = (Passes { sequences, count }, expected / seconds);
                }
            }
        }
        best
    }
}

/// What a draft model should do in a step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Passes {
    /// For how many sequences it should guess.
    pub(crate) sequences: usize,
    /// How many tokens of each, and so how many passes.
    pub(crate) count: usize,
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
    pub(crate) origin: Origin,
}

/// How a guess was come by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Origin {
    /// From the text itself: as many of its last tokens stood there before.
    Lookup { matched: usize },
    /// From the draft model. Of a guess of no tokens it means nothing.
    #[default]
    Draft,
}

impl Wager<'_> {
    /// Most tokens guessed at once.
    pub(crate) fn most(&self) -> usize {
        self.most
    }

    /// Counts a draft model's guess that the step has.
    pub(crate) fn add(&mut self, drafter: &Drafter, count: usize) {
        let rate = drafter.draft.rate;
        self.tokens += (1..=count as i32).map(|i| rate.powi(i)).sum::<f64>();
    }

    /// How many of up to `most` guessed tokens to add to a step that has `rows` rows. `rate`: each
    /// comes true with this probability, if those before it do.
    fn take(&mut self, rows: usize, rate: f64, most: usize) -> usize {
        let steps = &self.speculation.steps;
        let Some(plain) = steps.cost(rows) else { return 0 };
        let (mut count, mut tokens) = (0, self.tokens);
        let mut speed = tokens / plain;
        let (mut likely, mut expected) = (1.0, self.tokens);
        for more in 1..=most.min(MOST_ROWS.saturating_sub(rows)) {
            likely *= rate;
            expected += likely;
            let Some(cost) = steps.cost(rows + more) else { break };
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
    /// Of those looked up, by kind.
    lookups: [Habit; KINDS.len()],
    /// Of the draft model's.
    draft: Habit,
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

impl Habit {
    const fn new(rate: f64) -> Self {
        Self { rate, refused: 0, patience: *PATIENCE.start() }
    }

    /// Guesses are worth it.
    fn take(&mut self) {
        (self.refused, self.patience) = (0, *PATIENCE.start());
    }

    /// Guesses are not worth it. Whether to try one all the same: it may do better by now. Where
    /// even a right guess `could_pay` nothing, that changes nothing.
    fn refuse(&mut self, could_pay: impl FnOnce() -> bool) -> bool {
        self.refused += 1;
        if self.refused <= self.patience || !could_pay() {
            return false;
        }
        (self.refused, self.patience) = (0, (2 * self.patience).min(*PATIENCE.end()));
        true
    }
}

impl Default for Drafter {
    fn default() -> Self {
        Self { lookups: KINDS.map(|(_, rate)| Habit::new(rate)), draft: Habit::new(FIRST_PRIOR) }
    }
}

impl Drafter {
    fn habit(&mut self, origin: Origin) -> &mut Habit {
        match origin {
            Origin::Lookup { matched } => &mut self.lookups[kind(matched)],
            Origin::Draft => &mut self.draft,
        }
    }

    /// How often a token of such a guess comes true.
    pub(crate) fn rate(&self, origin: Origin) -> f64 {
        match origin {
            Origin::Lookup { matched } => self.lookups[kind(matched)].rate,
            Origin::Draft => self.draft.rate,
        }
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
        let habit = self.habit(Origin::Lookup { matched });
        let count = wager.take(rows, habit.rate, most);
        if count > 0 {
            habit.take();
            return count;
        }
        usize::from(habit.refuse(|| wager.take(rows, 1.0, 1) > 0))
    }

    /// The draft model guesses for this sequence.
    pub(crate) fn take_draft(&mut self) {
        self.draft.take();
    }

    /// It should not; whether to try it all the same.
    pub(crate) fn refuse_draft(&mut self, could_pay: impl FnOnce() -> bool) -> bool {
        self.draft.refuse(could_pay)
    }

    /// Of `guessed` tokens, the first `accepted` came true.
    fn observe(&mut self, origin: Origin, guessed: usize, accepted: usize) {
        learn(&mut self.habit(origin).rate, NEW_GUESS, guessed, accepted);
    }
}

/// Which of [`KINDS`] a match of `matched` tokens is.
fn kind(matched: usize) -> usize {
    KINDS.iter().position(|(most, _)| matched <= *most).unwrap_or(KINDS.len() - 1)
}

/// Takes a guess into a rate: what came after the first wrong token says nothing.
fn learn(rate: &mut f64, weight: f64, guessed: usize, accepted: usize) {
    for i in 0..guessed.min(accepted + 1) {
        let came_true = f64::from(u8::from(i < accepted));
        *rate += weight * (came_true - *rate);
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
                drafter.observe(Origin::Lookup { matched: SHORTEST }, count, 0);
            }
        }
        assert!((4..15).contains(&tries.len()), "{tries:?}");
        // Longer matches are another matter.
        assert!(drafter.guess(&mut speculation.wager(1), LONGEST, 1, 4) > 0);
        // When it goes well again, that is seen.
        for _ in 0..20 {
            drafter.observe(Origin::Lookup { matched: SHORTEST }, 1, 1);
        }
        assert!(drafter.guess(&mut speculation.wager(1), SHORTEST, 1, 4) > 0);
    }

    #[test]
    fn a_draft_model_guesses_where_its_passes_bring_more_than_they_cost() {
        let mut speculation = learnt(10 * MS, MS / 10);
        let draft = |s: &Speculation, streams: usize, rates: &[f64]| s.draft(streams, rates, 4, 64);
        // Not known yet: free, and so tried.
        assert_eq!(draft(&speculation, 1, &[0.6]), Passes { sequences: 1, count: 4 });
        for rows in 1..=8 {
            speculation.observe_pass(rows, 2 * MS);
        }
        assert_eq!(draft(&speculation, 1, &[0.9]).count, 4);
        assert!((1..4).contains(&draft(&speculation, 1, &[0.6]).count));
        assert_eq!(draft(&speculation, 1, &[0.1]), Passes::default());
        // Passes are shared: what isn't worth it for one of eight streams is for all of them.
        for rows in 1..=8 {
            (0..40).for_each(|_| speculation.observe_pass(rows, 4 * MS));
        }
        assert_eq!(draft(&speculation, 8, &[0.7]), Passes::default());
        assert_eq!(draft(&speculation, 8, &[0.7; 8]).sequences, 8);
        // Who guesses badly is left out.
        let mixed = [0.9, 0.9, 0.9, 0.0, 0.0, 0.0, 0.0, 0.0];
        assert!(draft(&speculation, 8, &mixed).sequences <= 3);
        // Never beyond the rows there are, nor beyond what is known of plain steps.
        let few = speculation.draft(8, &[1.0; 8], 4, 15);
        assert!((1..=15).contains(&(few.sequences * few.count)), "{few:?}");
        assert_eq!(speculation.draft(60, &[1.0; 60], 4, 64), Passes::default());
        assert_eq!(Speculation::new(4).draft(1, &[1.0], 4, 64), Passes::default());
    }

    #[test]
    fn what_a_draft_model_does_for_one_is_expected_of_it_for_the_next() {
        let mut speculation = Speculation::new(4);
        let mut drafter = speculation.drafter();
        for _ in 0..100 {
            speculation.observe_guess(&mut drafter, Origin::Draft, 4, 0);
        }
        let next = speculation.drafter();
        assert!(next.rate(Origin::Draft) < 0.2);
        assert!(drafter.rate(Origin::Draft) < next.rate(Origin::Draft));
        // Its tries become rare, and never end.
        let mut tries = 0;
        for _ in 0..1000 {
            tries += u32::from(drafter.refuse_draft(|| true));
        }
        assert!((4..15).contains(&tries), "{tries}");
        assert!(!drafter.refuse_draft(|| false));
    }
}
