//! Guesses by a draft model: a small model of the same vocabulary that runs ahead of the large one
//! (Leviathan, Kalman, Matias: "Fast inference from transformers via speculative decoding", 2023;
//! but that a guess counts only if it is the very token the sampler takes, so that answers stay the
//! same to the bit). It chooses by the request's own parameters and its own draws: a draft that
//! thinks as the model does guesses right at every temperature.
//!
//! It has keys and values of its own, in blocks of its own that are found by their prefixes as the
//! model's are; what it has computed of a running sequence is its [`Course`]. Before each step it
//! guesses for all sequences that [`Speculation`] finds worth it, one pass for each token ahead. One
//! that has fallen behind (by its prompt, as a rule) catches up after the step, in chunks no longer
//! than what the step's own prefill leaves of the streams' patience ([`Pace`]).
//!
//! Nothing here may change an answer, or fail one: what goes wrong here ends the guessing. That
//! holds of a wrong course too; so nobody but the tests would notice one.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use wharf_model::{BLOCK_TOKENS, Batch, BatchSequence};

use crate::{
    EngineConfig, Runner,
    block_cache::{BlockCache, BlockId},
    pace::Pace,
    sampler::{Context, Sampler},
    scheduler::Scheduler,
    sequence::{Rank, Sequence},
    speculation::{Origin, Speculation},
};

/// A model that guesses for another one.
pub struct DraftModel {
    /// Runs it. It has room for as many KV blocks as the other one, and token ids mean the same to
    /// both; either may have more rows than ids. It keeps no recurrent states.
    pub runner: Box<dyn Runner>,
    /// Its longest sequence; beyond it, it does not guess.
    pub max_model_len: usize,
}

/// What the draft model guesses for a step.
pub(crate) type Drafts = BTreeMap<Rank, Vec<u32>>;

/// A sequence that is so many tokens behind, or fewer, catches up in its first pass; one that is
/// more has to wait for chunks, which are no smaller: each is a pass.
const AT_HAND: usize = 16;

/// What the draft model has computed of a running sequence.
#[derive(Debug, Default)]
struct Course {
    block_table: Vec<BlockId>,
    /// Positions that hold the sequence's own tokens.
    num_computed: usize,
    /// What was computed after those, for a guess; which of it came true is seen later.
    ahead: Vec<u32>,
}

/// A sequence in the passes of one step.
struct Run {
    rank: Rank,
    /// How many tokens to guess.
    count: usize,
    guess: Vec<u32>,
    /// No more of it.
    done: bool,
}

/// A draft model at work.
pub(crate) struct Draft {
    runner: Box<dyn Runner>,
    /// Ids that both models have.
    num_ids: usize,
    max_model_len: usize,
    max_batched_tokens: usize,
    cache: BlockCache,
    /// Of running sequences.
    courses: BTreeMap<Rank, Course>,
    /// Sequences that are worth guesses, but too far behind.
    behind: Vec<Rank>,
    /// How many rows of catching up a step bears.
    pace: Pace,
    sampler: Sampler,
    // [batch.logits_rows.len(), runner.vocab_size()]
    logits: Vec<f32>,
    /// An answer with the guess after it.
    text: Vec<u32>,
    /// Passes so far, those of catching up too.
    pub(crate) num_passes: u64,
    /// What passes of so many rows take, instead of the clock's word.
    #[cfg(test)]
    pub(crate) pass_time: Option<fn(usize) -> Duration>,
}

impl Draft {
    pub(crate) fn new(model: DraftModel, config: &EngineConfig, vocab_size: usize) -> Self {
        Self {
            num_ids: model.runner.vocab_size().min(vocab_size),
            runner: model.runner,
            max_model_len: model.max_model_len.min(config.max_model_len),
            max_batched_tokens: config.max_batched_tokens,
            // `EngineConfig::validate` has refused more than 2^32 - 1.
            cache: BlockCache::new(u32::try_from(config.num_blocks).unwrap_or(u32::MAX)),
            courses: BTreeMap::new(),
            behind: Vec::new(),
            pace: Pace::default(),
            sampler: Sampler::default(),
            logits: Vec::new(),
            text: Vec::new(),
            num_passes: 0,
            #[cfg(test)]
            pass_time: None,
        }
    }

    /// Guesses for a step that has `spare` rows for it.
    pub(crate) fn guess(
        &mut self,
        scheduler: &mut Scheduler,
        speculation: &mut Speculation,
        eos_token_ids: &[u32],
        spare: usize,
    ) -> Result<Drafts, String> {
        self.forget(scheduler);
        self.behind.clear();
        let mut runs = self.choose(scheduler, speculation, spare);
        let mut budget = self.max_batched_tokens;
        runs.retain_mut(|run| self.is_at_hand(run, scheduler, &mut budget));
        while runs.iter().any(|run| !run.done) {
            let batch = self.batch(&runs, scheduler);
            let took = self.pass(&batch)?;
            speculation.observe_pass(batch.tokens.len(), took);
            self.take_tokens(&mut runs, scheduler, eos_token_ids);
        }
        let guessed = runs.into_iter().filter(|run| !run.guess.is_empty());
        Ok(guessed.map(|run| (run.rank, run.guess)).collect())
    }

    /// Computes what sequences are behind, after a step that had `rows` rows, `prefill_rows` of
    /// them of prefill, where it might have had `most` of those, and took so long.
    pub(crate) fn catch_up(&mut self, scheduler: &Scheduler, step: &Step) -> Result<(), String> {
        if step.prefill_rows == 0 {
            self.pace.observe(step.rows, 0, step.took);
        }
        let most = self.chunk_rows();
        let left = step.most.saturating_sub(step.prefill_rows);
        let mut budget = most * left / step.most.max(1);
        let mut batch = Batch::default();
        let mut caught_up = Vec::new();
        for rank in std::mem::take(&mut self.behind) {
            let Some(sequence) = scheduler.get(rank) else { continue };
            // The last token is left to the pass that guesses, which needs its logits.
            let Some(from) = self.follow(sequence, rank, sequence.len() - 1) else { continue };
            let num_rows = (sequence.len() - 1 - from).min(budget);
            if num_rows > 0 && self.fits(sequence, from) {
                budget -= num_rows;
                self.add_rows(&mut batch, rank, from, sequence.tokens(from, num_rows));
                caught_up.push((rank, from + num_rows));
            }
        }
        if batch.tokens.is_empty() {
            return Ok(());
        }
        let took = self.pass(&batch)?;
        self.pace.observe(0, batch.tokens.len(), took);
        for (rank, num_computed) in caught_up {
            if let Some(sequence) = scheduler.get(rank) {
                self.commit(sequence, rank, num_computed);
            }
        }
        Ok(())
    }

    /// Rows in which it catches up after a step.
    fn chunk_rows(&self) -> usize {
        let most = self.max_batched_tokens;
        self.pace.rows_beside(most, 1).max(AT_HAND.min(most))
    }

    /// Gives back the blocks of sequences that no longer run. What they hold can still be found.
    fn forget(&mut self, scheduler: &Scheduler) {
        let gone = self.courses.extract_if(.., |rank, _| scheduler.get(*rank).is_none());
        for (_, mut course) in gone {
            self.cache.release_table(&mut course.block_table);
        }
    }

    /// Which sequences to guess for, and how far.
    fn choose(
        &self,
        scheduler: &mut Scheduler,
        speculation: &Speculation,
        spare: usize,
    ) -> Vec<Run> {
        let answering = scheduler.answering();
        let rows = answering.len();
        let candidate = |rank: Rank| {
            let sequence = scheduler.get(rank)?;
            let most =
                scheduler.guessable(rank).min(self.max_model_len.checked_sub(sequence.len())?);
            let rate = sequence.drafter.rate(Origin::Draft);
            let found = scheduler.find_match(rank).map(|found| found.len);
            // What the text itself tells costs nothing.
            let better = found
                .is_some_and(|matched| sequence.drafter.rate(Origin::Lookup { matched }) >= rate);
            (most > 0 && !better).then_some((rank, rate, most))
        };
        let mut candidates: Vec<_> = answering.into_iter().filter_map(candidate).collect();
        candidates.sort_by(|(_, a, _), (_, b, _)| b.total_cmp(a));
        let rates: Vec<f64> = candidates.iter().map(|(_, rate, _)| *rate).collect();
        let passes = speculation.draft(rows, &rates, usize::MAX, spare);
        let could_pay = || speculation.draft(rows, &[1.0], 1, spare).count > 0;
        let mut runs = Vec::new();
        for (index, (rank, _, most)) in candidates.into_iter().enumerate() {
            let Some(sequence) = scheduler.get_mut(rank) else { continue };
            let count = if index < passes.sequences {
                sequence.drafter.take_draft();
                passes.count.min(most)
            } else if sequence.drafter.refuse_draft(could_pay) {
                1
            } else {
                continue;
            };
            runs.push(Run { rank, count, guess: Vec::new(), done: false });
        }
        runs
    }

    /// Whether a sequence can be guessed for now, within `budget` rows; as many tokens as there are
    /// blocks for.
    fn is_at_hand(&mut self, run: &mut Run, scheduler: &Scheduler, budget: &mut usize) -> bool {
        let Some(sequence) = scheduler.get(run.rank) else { return false };
        let Some(from) = self.follow(sequence, run.rank, sequence.len()) else { return false };
        let missing = sequence.len() - from;
        if missing > AT_HAND.min(*budget) {
            // A chunk takes most of a step's time, and a guess saves a part of a step.
            let chunks = missing / self.chunk_rows().max(1);
            if 2 * chunks <= scheduler.guessable(run.rank) {
                self.behind.push(run.rank);
            }
            return false;
        }
        if !self.fits(sequence, from) {
            return false;
        }
        let Some(course) = self.courses.get_mut(&run.rank) else { return false };
        // The last guessed token is never computed here.
        let wanted = sequence.len() + run.count - 1;
        while course.block_table.len() * BLOCK_TOKENS < wanted {
            let Some(id) = self.cache.allocate() else { break };
            course.block_table.push(id);
        }
        let room = (course.block_table.len() * BLOCK_TOKENS).min(self.max_model_len);
        run.count = run.count.min(1 + room.saturating_sub(sequence.len()));
        *budget -= missing;
        true
    }

    /// Both models know the sequence's tokens from `start` on. Those before were computed, or are
    /// of its own vocabulary by that.
    fn fits(&self, sequence: &Sequence, start: usize) -> bool {
        sequence.tokens(start, usize::MAX).all(|token| (token as usize) < self.num_ids)
    }

    /// Brings a sequence's course up to what has become of its guesses, and sees to blocks for its
    /// first `len` tokens. Returns how many of its tokens are computed; `None`: there are no blocks.
    fn follow(&mut self, sequence: &Sequence, rank: Rank, len: usize) -> Option<usize> {
        if !self.courses.contains_key(&rank) {
            // The last token is never found: it gives the logits.
            let most = (sequence.len() - 1) / BLOCK_TOKENS;
            let tokens = |index| sequence.block_tokens(index);
            let block_table = self.cache.find_prefix(&sequence.request.salt, most, tokens);
            block_table.iter().for_each(|&id| self.cache.acquire(id));
            let num_computed = block_table.len() * BLOCK_TOKENS;
            self.courses.insert(rank, Course { block_table, num_computed, ahead: Vec::new() });
        }
        let course = self.courses.get_mut(&rank)?;
        let ahead = std::mem::take(&mut course.ahead);
        let from = course.num_computed;
        // The last token is always computed anew, for its logits.
        let most = (sequence.len() - 1).checked_sub(from)?;
        let became = sequence.tokens(from, ahead.len().min(most));
        let came_true = ahead.iter().zip(became).take_while(|(ahead, token)| **ahead == *token);
        let num_computed = from + came_true.count();
        self.commit(sequence, rank, num_computed);
        let course = self.courses.get_mut(&rank)?;
        while course.block_table.len() * BLOCK_TOKENS < len {
            course.block_table.push(self.cache.allocate()?);
        }
        Some(num_computed)
    }

    /// The first `num_computed` tokens of a sequence are computed; blocks that are full by that can
    /// be found.
    fn commit(&mut self, sequence: &Sequence, rank: Rank, num_computed: usize) {
        let Some(course) = self.courses.get_mut(&rank) else { return };
        let filled = course.num_computed / BLOCK_TOKENS..num_computed / BLOCK_TOKENS;
        course.num_computed = num_computed;
        let tokens = |index| sequence.block_tokens(index);
        let salt = &sequence.request.salt;
        self.cache.insert_filled(salt, &mut course.block_table, filled, tokens);
    }

    /// The next pass: what each sequence has not computed, and of its guess the last token.
    fn batch(&self, runs: &[Run], scheduler: &Scheduler) -> Batch {
        let mut batch = Batch::default();
        for run in runs.iter().filter(|run| !run.done) {
            let (Some(sequence), Some(course)) =
                (scheduler.get(run.rank), self.courses.get(&run.rank))
            else {
                continue;
            };
            match run.guess.last() {
                None => {
                    let own = sequence.tokens(course.num_computed, usize::MAX);
                    self.add_rows(&mut batch, run.rank, course.num_computed, own);
                }
                Some(&last) => {
                    let start = sequence.len() + run.guess.len() - 1;
                    self.add_rows(&mut batch, run.rank, start, [last].into_iter());
                }
            }
            batch.logits_rows.push(batch.tokens.len() - 1);
        }
        batch
    }

    fn add_rows(
        &self,
        batch: &mut Batch,
        rank: Rank,
        start: usize,
        tokens: impl Iterator<Item = u32>,
    ) {
        let Some(course) = self.courses.get(&rank) else { return };
        let first_row = batch.tokens.len();
        batch.tokens.extend(tokens);
        let num_rows = batch.tokens.len() - first_row;
        let (block_table, state) = (course.block_table.clone(), None);
        batch.sequences.push(BatchSequence { first_row, num_rows, start, block_table, state });
    }

    /// Fills `self.logits`; what it took.
    fn pass(&mut self, batch: &Batch) -> Result<Duration, String> {
        self.num_passes += 1;
        let began = Instant::now();
        self.runner.forward(batch, &mut self.logits)?;
        let took = began.elapsed();
        #[cfg(test)]
        let took = self.pass_time.map_or(took, |pass_time| pass_time(batch.tokens.len()));
        let expected = batch.logits_rows.len() * self.runner.vocab_size();
        match self.logits.len() {
            len if len == expected => Ok(took),
            len => Err(format!("it gave {len} logits instead of {expected}")),
        }
    }

    /// Takes in a pass: one token more of each guess.
    fn take_tokens(&mut self, runs: &mut [Run], scheduler: &Scheduler, eos_token_ids: &[u32]) {
        let logits = std::mem::take(&mut self.logits);
        let rows = logits.chunks_exact(self.runner.vocab_size());
        for (run, row) in runs.iter_mut().filter(|run| !run.done).zip(rows) {
            run.done = true;
            let Some(sequence) = scheduler.get(run.rank) else { continue };
            match run.guess.last() {
                None => self.commit(sequence, run.rank, sequence.len()),
                Some(&last) => {
                    if let Some(course) = self.courses.get_mut(&run.rank) {
                        course.ahead.push(last);
                    }
                }
            }
            let logits = &row[..self.num_ids];
            let Some(token) = self.next_token(sequence, &run.guess, logits, eos_token_ids) else {
                continue;
            };
            run.guess.push(token);
            run.done = run.guess.len() >= run.count || sequence.is_end(token, eos_token_ids);
        }
        self.logits = logits;
    }

    /// What the sampler takes from the draft model's logits after a sequence and a guess.
    fn next_token(
        &mut self,
        sequence: &Sequence,
        guess: &[u32],
        logits: &[f32],
        eos_token_ids: &[u32],
    ) -> Option<u32> {
        self.text.clear();
        self.text.extend(sequence.output.iter().chain(guess));
        let context = Context {
            params: &sequence.request.params,
            prompt: &sequence.request.prompt,
            output: &self.text,
            eos_token_ids,
            seed: sequence.request.seed,
            choice: sequence.choice,
            mask: None,
        };
        // Where it finds nothing to take, the model's own logits may say otherwise.
        self.sampler.choose(logits, &context).ok()
    }

    /// Checks the books: every reference is some course's.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        let tables: Vec<&[BlockId]> =
            self.courses.values().map(|course| &course.block_table[..]).collect();
        self.cache.check(&tables);
    }
}

/// What a step of the model was, for what may follow it.
pub(crate) struct Step {
    pub(crate) rows: usize,
    pub(crate) prefill_rows: usize,
    /// Most rows of prefill it might have had.
    pub(crate) most: usize,
    pub(crate) took: Duration,
}
