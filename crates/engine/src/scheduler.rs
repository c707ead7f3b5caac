//! Decides which tokens run in each step, and which sequences have blocks.
//!
//! Every running sequence that decodes has its row first (and after that what its constraint forced,
//! or a guess of what follows where that is worth it, as far as the budget goes), so a long prompt
//! never stalls the streams beside it; what is left of the budget, or less where that would stretch
//! the streams' gaps (`pace`), goes to chunks of prefill in order of rank (priority, then arrival).
//! Nothing overtakes a sequence of better rank that waits for a slot or for blocks; one that waits
//! for another choice to compute their prompt lets others by. One of more important priority takes
//! slot and blocks from running ones, if it cannot be admitted otherwise.
//!
//! Why it always makes progress: a sequence gets blocks for all its tokens when it is admitted, so
//! only decode rows ask for more; when none is left, the running sequence of the worst rank loses
//! its blocks (all it has computed is in the cache or is recomputed), and that is never one of
//! better rank than the asker. So the best one always runs, and alone it always fits, because
//! `submit` refuses what wouldn't. Guesses take no sequence's blocks. And the budget is at least
//! `max_running`, so there is a row for every decoding sequence, and at least one for a prompt that
//! runs beside them.
//!
//! The choices of a request share the full blocks of its prompt through the prefix index: the first
//! computes the prompt, the others wait for it, find it there, and compute only the tail that
//! doesn't fill a block. No block is ever written by two sequences, so none is ever copied.
//!
//! Of a model with recurrent layers a sequence has a slot of state beside its blocks (`states`), and a
//! prefix found in the index counts up to the last block at whose end a state was copied.
//!
//! Pure: no threads, no clock, no model.

mod make_way;

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Unbounded},
    rc::Rc,
};

use wharf_model::{BLOCK_TOKENS, Batch, BatchSequence};

use crate::{
    EngineConfig, EngineStats,
    block_cache::{BlockCache, BlockId, BlockTokens, Parent, Salt},
    draft::Drafts,
    lookup::Match,
    sequence::{Rank, Request, Sequence},
    speculation::{Guess, Origin, Speculation, Wager},
    states::{SequenceState, States},
};

/// Blocks that are kept for each running sequence to grow into, as far as it may still grow, when one
/// more is admitted. The fewer, the more run at once; the more, the fewer are preempted. With a
/// quarter to a half of the blocks that the streams would need, one block made them compute 0.3 to
/// 0.5 tokens again for each token they got; two 0.2 to 0.45, with half the preemptions, for up to an
/// eighth more steps; four 0.1 to 0.25, for up to a quarter more (counted by a model of the scheduler).
const HEADROOM: usize = 2;

/// What runs in one step.
#[derive(Default)]
pub(crate) struct Plan {
    /// For the runner. `batch.sequences[i]` belongs to `scheduled[i]`.
    pub(crate) batch: Batch,
    pub(crate) scheduled: Vec<Scheduled>,
    /// Requests scheduled for the first time.
    pub(crate) started: Vec<Started>,
}

/// One sequence's part of a plan.
#[derive(Debug)]
pub(crate) struct Scheduled {
    pub(crate) rank: Rank,
    /// Rows of its own tokens; those of the guess come after them.
    pub(crate) num_rows: usize,
    /// Its rows reach its last token, so the step gives logits for the next one.
    pub(crate) samples: bool,
    /// Its rows after those.
    pub(crate) guess: Guess,
}

/// A request scheduled for the first time.
pub(crate) struct Started {
    pub(crate) request: Rc<Request>,
    /// Prompt tokens found in the prefix cache now. What is adopted later is not among them.
    pub(crate) cached_tokens: usize,
}

/// What came of trying to admit a waiting sequence.
enum Admission {
    Admitted,
    /// Another choice is computing the prompt; others may go on.
    NotYet,
    /// No slot or no blocks: nobody behind it may overtake.
    Full,
}

/// A sequence that was refused for want of blocks, and what must change before it is looked at
/// again: to look up a long prompt in every step would cost more than the step.
struct Blocked {
    rank: Rank,
    /// [`BlockCache::num_releases`] at the time.
    releases: u64,
    /// The first block of its tokens that was not in the index.
    missing: Option<(Parent, BlockTokens)>,
    /// Nor would it be let in if those of less important priority made way.
    hopeless: bool,
}

/// All sequences and all blocks.
pub(crate) struct Scheduler {
    max_batched_tokens: usize,
    max_running: usize,
    max_model_len: usize,
    ngram_lookup: bool,
    cache: BlockCache,
    /// `None`: the model has no recurrent layers.
    states: Option<States>,
    waiting: BTreeMap<Rank, Sequence>,
    running: BTreeMap<Rank, Sequence>,
    /// The head of the queue, if it was refused for want of blocks.
    blocked: Option<Blocked>,
    #[cfg(test)]
    pub(crate) prefix_lookups: usize,
    #[cfg(test)]
    num_slots: usize,
    prefix_cache_queries: u64,
    prefix_cache_hits: u64,
    prompt_tokens: u64,
    preemptions: u64,
    recomputed_tokens: u64,
}

impl Scheduler {
    pub(crate) fn new(config: &EngineConfig) -> Self {
        Self {
            max_batched_tokens: config.max_batched_tokens,
            max_running: config.max_running,
            max_model_len: config.max_model_len,
            ngram_lookup: config.ngram_lookup,
            // `EngineConfig::validate` has refused more than 2^32 - 1.
            cache: BlockCache::new(u32::try_from(config.num_blocks).unwrap_or(u32::MAX)),
            // As above.
            states: config.num_state_snapshots.map(|snapshots| {
                let number = |count| u32::try_from(count).unwrap_or(u32::MAX);
                States::new(number(config.max_running), number(snapshots))
            }),
            waiting: BTreeMap::new(),
            running: BTreeMap::new(),
            blocked: None,
            #[cfg(test)]
            prefix_lookups: 0,
            #[cfg(test)]
            num_slots: config.max_running + config.num_state_snapshots.unwrap_or(0),
            prefix_cache_queries: 0,
            prefix_cache_hits: 0,
            prompt_tokens: 0,
            preemptions: 0,
            recomputed_tokens: 0,
        }
    }

    /// No sequence waits or runs.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Queues a sequence.
    pub(crate) fn add(&mut self, sequence: Sequence) {
        self.waiting.insert(sequence.rank(), sequence);
    }

    /// Plans the next step. Sequences that nobody wants any more are gone first. Beside sequences
    /// that decode, at most `prefill_rows` of prefill are planned, one at least, and as many that
    /// constraints forced or that are guesses. `drafts`: what the draft model guesses.
    pub(crate) fn plan(
        &mut self,
        prefill_rows: usize,
        speculation: &Speculation,
        drafts: &mut Drafts,
    ) -> Plan {
        self.drop_cancelled();
        let mut plan = Plan::default();
        self.make_way(&mut plan);
        self.plan_decode(&mut plan, prefill_rows, speculation, drafts);
        let most = match plan.batch.tokens.len() {
            0 => self.max_batched_tokens,
            rows => self.max_batched_tokens.min(rows.saturating_add(prefill_rows.max(1))),
        };
        self.plan_prefill(&mut plan, most);
        plan
    }

    /// The next `num_rows` tokens of a planned sequence have been computed. Its blocks that are now
    /// full can be found by others from here on, and not before. What was computed of a guess
    /// counts when it has become a token of the sequence; until then it is as good as unwritten.
    pub(crate) fn commit(&mut self, rank: Rank, num_rows: usize) {
        let Some(sequence) = self.running.get_mut(&rank) else { return };
        let first = sequence.num_computed / BLOCK_TOKENS;
        let again = sequence.num_lost.saturating_sub(sequence.num_computed).min(num_rows);
        self.recomputed_tokens += again as u64;
        sequence.num_computed += num_rows;
        debug_assert!(sequence.num_computed <= sequence.len(), "a guess is taken for a token");
        let filled = first..sequence.num_computed / BLOCK_TOKENS;
        let mut table = std::mem::take(&mut sequence.block_table);
        let tokens = |index| sequence.block_tokens(index);
        self.cache.insert_filled(&sequence.request.salt, &mut table, filled, tokens);
        sequence.block_table = table;
        if let (Some(state), Some(states)) = (&mut sequence.state, &mut self.states)
            && state.is_saving()
        {
            let indexed = sequence.block_table.iter().take_while(|id| self.cache.is_indexed(**id));
            let indexed = &sequence.block_table[..indexed.count()];
            state.commit(indexed, &mut states.snapshots);
        }
        if sequence.num_computed >= sequence.request.prompt.len() {
            sequence.request.prompt_computed.set(true);
        }
    }

    /// Takes a running sequence out, with its blocks given back.
    pub(crate) fn retire(&mut self, rank: Rank) -> Option<Sequence> {
        let mut sequence = self.running.remove(&rank)?;
        self.release(&mut sequence);
        Some(sequence)
    }

    /// Takes back what a sequence has of the caches.
    fn release(&mut self, sequence: &mut Sequence) {
        self.cache.release_table(&mut sequence.block_table);
        if let (Some(state), Some(states)) = (sequence.state.take(), &mut self.states) {
            states.give_back(state);
        }
    }

    /// A block without a meaning, if there is one.
    fn allocate(cache: &mut BlockCache, states: &mut Option<States>) -> Option<BlockId> {
        let id = cache.allocate()?;
        if let Some(states) = states {
            states.snapshots.forget(id);
        }
        Some(id)
    }

    /// Takes out the sequence of the best rank, running or waiting, with its blocks given back.
    pub(crate) fn take_first(&mut self) -> Option<Sequence> {
        let running = self.running.keys().next();
        let first = *running.into_iter().chain(self.waiting.keys().next()).min()?;
        self.retire(first).or_else(|| self.waiting.remove(&first))
    }

    /// A running sequence.
    pub(crate) fn get(&self, rank: Rank) -> Option<&Sequence> {
        self.running.get(&rank)
    }

    /// A running sequence.
    pub(crate) fn get_mut(&mut self, rank: Rank) -> Option<&mut Sequence> {
        self.running.get_mut(&rank)
    }

    /// The running sequences whose logits wait for a mask.
    pub(crate) fn late(&self) -> Vec<Rank> {
        let is_late =
            |s: &Sequence| s.constrained.as_ref().is_some_and(|c| c.late_logits.is_some());
        self.running.iter().filter(|(_, s)| is_late(s)).map(|(rank, _)| *rank).collect()
    }

    /// All choices of a request, running or waiting.
    pub(crate) fn choices(&mut self, request: &Request) -> impl Iterator<Item = &mut Sequence> {
        let all = choices_of(request);
        self.running.range_mut(all.clone()).chain(self.waiting.range_mut(all)).map(|(_, s)| s)
    }

    /// Fills in what the scheduler knows.
    pub(crate) fn count(&self, stats: &mut EngineStats) {
        stats.running = self.running.len();
        stats.waiting_started = self.waiting.values().filter(|s| s.request.started.get()).count();
        stats.blocks_total = self.cache.num_blocks();
        stats.blocks_used = self.cache.num_used();
        stats.prefix_cache_queries = self.prefix_cache_queries;
        stats.prefix_cache_hits = self.prefix_cache_hits;
        stats.prompt_tokens = self.prompt_tokens;
        stats.preemptions = self.preemptions;
        stats.recomputed_tokens = self.recomputed_tokens;
    }

    fn drop_cancelled(&mut self) {
        self.waiting.retain(|_, sequence| !sequence.sink.is_closed());
        let closed =
            |(rank, sequence): (&Rank, &Sequence)| sequence.sink.is_closed().then_some(*rank);
        let cancelled: Vec<Rank> = self.running.iter().filter_map(closed).collect();
        for rank in cancelled {
            self.retire(rank);
        }
    }

    /// One row for every running sequence that decodes, and up to `more` where forced tokens or
    /// guesses want them and the budget has them.
    fn plan_decode(
        &mut self,
        plan: &mut Plan,
        more: usize,
        speculation: &Speculation,
        drafts: &mut Drafts,
    ) {
        let decoding = self.answering();
        let mut spare = self.max_batched_tokens.saturating_sub(decoding.len()).min(more);
        let mut wager = speculation.wager(decoding.len());
        for (index, rank) in decoding.iter().copied().enumerate() {
            if self.grow(rank) {
                let before = plan.batch.tokens.len();
                let rows = before + decoding.len() - index;
                let guess = match drafts.remove(&rank) {
                    Some(draft) => self.take_draft(rank, draft, spare, &mut wager),
                    None => self.look_up(rank, rows, spare, &mut wager),
                };
                self.schedule(plan, rank, 1 + spare, guess);
                spare -= (plan.batch.tokens.len() - before).saturating_sub(1);
            }
        }
    }

    /// How many sequences go on with their answers, and how many wait for theirs to begin: those that
    /// run, and those that there is room for beside them.
    pub(crate) fn company(&self) -> (usize, usize) {
        let decoding = self.running.values().filter(|s| s.is_decoding()).count();
        let room = self.max_running - self.running.len();
        (decoding, self.running.len() - decoding + self.waiting.len().min(room))
    }

    /// The running sequences that go on with their answers, best rank first.
    pub(crate) fn answering(&self) -> Vec<Rank> {
        let decoding = |(rank, s): (&Rank, &Sequence)| s.is_decoding().then_some(*rank);
        self.running.iter().filter_map(decoding).collect()
    }

    /// Most tokens that may be guessed after a running sequence.
    pub(crate) fn guessable(&self, rank: Rank) -> usize {
        let Some(sequence) = self.running.get(&rank) else { return 0 };
        // A constraint's mask is made for one position.
        if sequence.num_uncomputed() != 1 || sequence.constrained.is_some() {
            return 0;
        }
        // The last token of an answer is never run through the model.
        sequence.room(self.max_model_len).saturating_sub(1)
    }

    /// Where the text of a running sequence stood before as it does at its end, if guesses are
    /// looked up.
    pub(crate) fn find_match(&self, rank: Rank) -> Option<Match> {
        self.running.get(&rank).filter(|_| self.ngram_lookup)?.text().find()
    }

    /// Guesses up to `most` tokens after a running sequence from its text, and sees to blocks for
    /// them; none where that isn't worth it in a step that has `rows` rows without.
    fn look_up(&mut self, rank: Rank, rows: usize, most: usize, wager: &mut Wager<'_>) -> Guess {
        let most = most.min(self.guessable(rank)).min(wager.most());
        let found = if most > 0 { self.find_match(rank) } else { None };
        let Some(found) = found else { return Guess::default() };
        let Some(sequence) = self.running.get_mut(&rank) else { return Guess::default() };
        let wanted = sequence.drafter.guess(wager, found.len, rows, most);
        let count = self.make_room(rank, wanted);
        let Some(sequence) = self.running.get(&rank) else { return Guess::default() };
        let tokens = sequence.text().following(found, count).collect();
        Guess { tokens, origin: Origin::Lookup { matched: found.len } }
    }

    /// What the draft model guesses after a running sequence, as far as there is room.
    fn take_draft(
        &mut self,
        rank: Rank,
        mut tokens: Vec<u32>,
        most: usize,
        wager: &mut Wager<'_>,
    ) -> Guess {
        let wanted = tokens.len().min(most).min(self.guessable(rank));
        tokens.truncate(self.make_room(rank, wanted));
        if let Some(sequence) = self.running.get(&rank) {
            wager.add(&sequence.drafter, tokens.len());
        }
        Guess { tokens, origin: Origin::Draft }
    }

    /// Sees to blocks for guesses after a running sequence; for how many of `wanted` there are.
    fn make_room(&mut self, rank: Rank, wanted: usize) -> usize {
        let num_running = self.running.len();
        let Some(sequence) = self.running.get_mut(&rank) else { return 0 };
        // A block for each running sequence stays, as in `admit`: guesses preempt nobody.
        while sequence.spare_positions() < wanted && self.cache.num_available() > num_running {
            sequence.block_table.extend(Self::allocate(&mut self.cache, &mut self.states));
        }
        wanted.min(sequence.spare_positions())
    }

    /// Sees to it that a running sequence has blocks for all its tokens, at the cost of sequences
    /// of worse rank. False: it is no longer running, because it was itself the worst.
    fn grow(&mut self, rank: Rank) -> bool {
        loop {
            let Some(sequence) = self.running.get_mut(&rank) else { return false };
            if sequence.block_table.len() >= sequence.num_blocks_needed() {
                return true;
            }
            match Self::allocate(&mut self.cache, &mut self.states) {
                Some(id) => sequence.block_table.push(id),
                None => self.preempt_worst(),
            }
        }
    }

    /// Puts the running sequence of the worst rank back in the queue. It keeps its tokens and loses
    /// its blocks.
    fn preempt_worst(&mut self) {
        if let Some((rank, mut sequence)) = self.running.pop_last() {
            self.release(&mut sequence);
            sequence.num_lost = sequence.num_lost.max(sequence.num_computed);
            sequence.num_computed = 0;
            // Its last row will be computed again.
            if let Some(constrained) = &mut sequence.constrained {
                constrained.late_logits = None;
            }
            self.preemptions += 1;
            self.waiting.insert(rank, sequence);
        }
    }

    /// Chunks for running and waiting sequences in order of rank, until the plan has `most` rows.
    fn plan_prefill(&mut self, plan: &mut Plan, most: usize) {
        let mut full = false;
        let mut after = Unbounded;
        while plan.batch.tokens.len() < most {
            let rest = (after, Unbounded);
            let unfinished =
                |(_, s): &(&Rank, &Sequence)| s.num_uncomputed() > 1 && !s.is_decoding();
            let running = self.running.range(rest).find(unfinished).map(|(rank, _)| *rank);
            let waiting = self.waiting.range(rest).next().map(|(rank, _)| *rank);
            let waiting = waiting.filter(|_| !full);
            let Some(rank) = running.into_iter().chain(waiting).min() else { break };
            after = Excluded(rank);
            if waiting == Some(rank) {
                match self.admit(rank, plan) {
                    Admission::Admitted => {}
                    Admission::NotYet => continue,
                    Admission::Full => {
                        full = true;
                        continue;
                    }
                }
            }
            self.adopt(rank);
            self.schedule(plan, rank, most - plan.batch.tokens.len(), Guess::default());
        }
    }

    /// Gives a waiting sequence blocks for all its tokens, those that the index has first, and a slot
    /// for its state.
    fn admit(&mut self, rank: Rank, plan: &mut Plan) -> Admission {
        let Some(sequence) = self.waiting.get(&rank) else { return Admission::Full };
        let request = Rc::clone(&sequence.request);
        let prefilling = !request.prompt_computed.get();
        // Before anything that others could make way for: it would be for nothing.
        if prefilling && self.running.range(choices_of(&request)).next().is_some() {
            return Admission::NotYet;
        }
        if self.running.len() >= self.max_running {
            return Admission::Full;
        }
        if self.is_still_blocked(rank) {
            return Admission::Full;
        }
        let needed = sequence.num_blocks_needed();
        let found = self.cached_prefix(rank);
        let mut block_table = found[..self.usable(&found)].to_vec();
        #[cfg(test)]
        {
            self.prefix_lookups += 1;
        }
        for &id in &block_table {
            self.cache.acquire(id);
        }
        let num_cached = block_table.len();
        // Room to grow into: else it, or another, would soon be preempted.
        let headroom = self.headroom(sequence, self.running.values());
        if self.cache.num_available() < needed - num_cached + headroom {
            let missing = self.missing_block(rank, &found);
            self.cache.release_table(&mut block_table);
            let releases = self.cache.num_releases();
            self.blocked = Some(Blocked { rank, releases, missing, hopeless: false });
            return Admission::Full;
        }
        let state = self.begin_state(rank, &block_table, found.len());
        let more = num_cached..needed;
        block_table.extend(more.map_while(|_| Self::allocate(&mut self.cache, &mut self.states)));
        let Some(mut sequence) = self.waiting.remove(&rank) else { return Admission::Full };
        sequence.block_table = block_table;
        sequence.num_computed = num_cached * BLOCK_TOKENS;
        sequence.state = state;
        self.running.insert(rank, sequence);
        if !request.started.replace(true) {
            let cached_tokens = num_cached * BLOCK_TOKENS;
            if !matches!(request.salt, Salt::Request(_)) {
                self.prefix_cache_queries += request.prompt.len() as u64;
                self.prefix_cache_hits += cached_tokens as u64;
            }
            self.prompt_tokens += request.prompt.len() as u64;
            plan.started.push(Started { request, cached_tokens });
        }
        Admission::Admitted
    }

    /// Blocks that are kept for a sequence and those beside it to grow into.
    fn headroom<'a>(
        &self,
        sequence: &'a Sequence,
        others: impl Iterator<Item = &'a Sequence>,
    ) -> usize {
        let growth = |s: &Sequence| s.growth(self.max_model_len).min(HEADROOM);
        growth(sequence) + others.map(growth).sum::<usize>()
    }

    /// How many of the blocks found in the index a sequence can go on from.
    fn usable(&self, found: &[BlockId]) -> usize {
        self.states.as_ref().map_or(found.len(), |states| states.snapshots.reach(found))
    }

    /// The state of a waiting sequence that is about to run, from the copy at the end of `cached`.
    /// `found`: how many of its blocks were in the index.
    fn begin_state(
        &mut self,
        rank: Rank,
        cached: &[BlockId],
        found: usize,
    ) -> Option<SequenceState> {
        let states = self.states.as_mut()?;
        let request = &self.waiting.get(&rank)?.request;
        let restore = cached.last().and_then(|block| states.snapshots.keep(*block));
        let last = (request.prompt.len() - 1) / BLOCK_TOKENS;
        // Where nobody else could find them, copies are of no use.
        let shared = !matches!(request.salt, Salt::Request(_))
            || self.waiting.range(choices_of(request)).nth(1).is_some();
        let ends = shared.then_some([found.min(last), last]);
        let start = cached.len() * BLOCK_TOKENS;
        // `admit` has seen to it that fewer run than may.
        Some(SequenceState::new(states.take()?, restore, start, ends.into_iter().flatten()))
    }

    /// A waiting sequence was refused for want of blocks, and since then none has been given back,
    /// nor has more of its tokens been computed by others.
    fn is_still_blocked(&self, rank: Rank) -> bool {
        let Some(blocked) = self.blocked.as_ref().filter(|blocked| blocked.rank == rank) else {
            return false;
        };
        let found = |(parent, tokens): &(Parent, BlockTokens)| {
            self.cache.find(parent.clone(), *tokens).is_some()
        };
        blocked.releases == self.cache.num_releases()
            && !blocked.missing.as_ref().is_some_and(found)
    }

    /// What a waiting sequence's first block after `cached_prefix` would be found by.
    fn missing_block(
        &self,
        rank: Rank,
        cached_prefix: &[BlockId],
    ) -> Option<(Parent, BlockTokens)> {
        let sequence = self.waiting.get(&rank)?;
        let index = cached_prefix.len();
        if (index + 1) * BLOCK_TOKENS >= sequence.len() {
            return None;
        }
        let parent = self.cache.parent(&sequence.request.salt, cached_prefix, index)?;
        Some((parent, sequence.block_tokens(index)))
    }

    /// The indexed blocks that hold the first tokens of a waiting sequence. The last token is never
    /// among them: the model must run at least that one to give logits.
    fn cached_prefix(&self, rank: Rank) -> Vec<BlockId> {
        let Some(sequence) = self.waiting.get(&rank) else { return Vec::new() };
        let most = (sequence.len() - 1) / BLOCK_TOKENS;
        let tokens = |index| sequence.block_tokens(index);
        self.cache.find_prefix(&sequence.request.salt, most, tokens)
    }

    /// Skips what another sequence has computed since this one was admitted: two requests with the
    /// same long prompt that arrive together compute it once.
    fn adopt(&mut self, rank: Rank) {
        let found = self.computed_by_others(rank);
        let usable = self.usable(&found);
        let Some(sequence) = self.running.get_mut(&rank) else { return };
        for &id in &found[..usable] {
            let index = sequence.num_computed / BLOCK_TOKENS;
            let end = (index + 1) * BLOCK_TOKENS;
            // Its own block may be half filled, with the same bits.
            self.cache.acquire(id);
            self.cache.release(std::mem::replace(&mut sequence.block_table[index], id));
            let request = &sequence.request;
            if !request.prompt_computed.get() && !matches!(request.salt, Salt::Request(_)) {
                let adopted = end.min(request.prompt.len()) - sequence.num_computed;
                self.prefix_cache_hits += adopted as u64;
            }
            sequence.num_computed = end;
        }
        if let (Some(state), Some(states)) = (&mut sequence.state, &mut self.states)
            && let Some(kept) = found[..usable].last().and_then(|id| states.snapshots.keep(*id))
        {
            state.skip_to(sequence.num_computed, kept, &mut states.snapshots);
        }
    }

    /// The indexed blocks that hold a running sequence's next tokens. The last token is never among
    /// them: it gives the logits.
    fn computed_by_others(&self, rank: Rank) -> Vec<BlockId> {
        let mut found: Vec<BlockId> = Vec::new();
        let Some(sequence) = self.running.get(&rank) else { return found };
        let first = sequence.num_computed / BLOCK_TOKENS;
        for index in first..(sequence.len() - 1) / BLOCK_TOKENS {
            let salt = &sequence.request.salt;
            let parent = match found.last() {
                Some(before) => self.cache.parent(salt, &[*before], 1),
                None => self.cache.parent(salt, &sequence.block_table, index),
            };
            let Some(parent) = parent else { break };
            let Some(id) = self.cache.find(parent, sequence.block_tokens(index)) else { break };
            found.push(id);
        }
        found
    }

    /// Adds up to `budget` of a running sequence's next rows to the plan, and a guess after the
    /// last of them.
    fn schedule(&mut self, plan: &mut Plan, rank: Rank, budget: usize, guess: Guess) {
        let Some(sequence) = self.running.get_mut(&rank) else { return };
        let (start, mut num_rows) = (sequence.num_computed, sequence.num_uncomputed().min(budget));
        let mut state = None;
        if let (Some(own), Some(states)) = (&mut sequence.state, &mut self.states) {
            num_rows = own.most_rows(start, num_rows);
            state = Some(own.plan(start, num_rows, &mut states.snapshots));
        }
        let samples = num_rows == sequence.num_uncomputed();
        let batch = &mut plan.batch;
        let first_row = batch.tokens.len();
        batch.tokens.extend(sequence.tokens(start, num_rows));
        batch.tokens.extend(&guess.tokens);
        batch.sequences.push(BatchSequence {
            first_row,
            num_rows: num_rows + guess.tokens.len(),
            start,
            block_table: sequence.block_table.clone(),
            state,
        });
        if samples {
            batch.logits_rows.extend(first_row + num_rows - 1..batch.tokens.len());
        }
        plan.scheduled.push(Scheduled { rank, num_rows, samples, guess });
    }
}

/// The ranks of all choices of a request.
fn choices_of(request: &Request) -> std::ops::RangeInclusive<Rank> {
    let rank = |choice| Rank { priority: request.priority, request: request.id, choice };
    rank(0)..=rank(u32::MAX)
}

#[cfg(test)]
impl Scheduler {
    /// Checks the books: every reference is some sequence's, and waiting ones have none.
    pub(crate) fn check(&self) {
        let tables: Vec<&[BlockId]> =
            self.running.values().map(|sequence| &sequence.block_table[..]).collect();
        self.cache.check(&tables);
        if let Some(states) = &self.states {
            let running = self.running.values();
            let own = running.map(|sequence| sequence.state.as_ref().expect("a state"));
            states.check(own, self.num_slots);
            assert!(states.blocks().all(|block| self.cache.is_indexed(block)));
        }
        assert!(self.waiting.values().all(|sequence| sequence.state.is_none()));
        assert!(self.waiting.values().all(|s| s.block_table.is_empty() && s.num_computed == 0));
        assert!(self.running.len() <= self.max_running);
    }

    /// The running sequences with one token to go, and how many each has generated.
    pub(crate) fn decoding(&self) -> Vec<(Rank, usize)> {
        let decoding = self.running.iter().filter(|(_, s)| s.num_uncomputed() == 1);
        decoding.map(|(rank, s)| (*rank, s.output.len())).collect()
    }
}
