//! Counters and gauges. The engine's thread writes them once per step, anybody reads them at any
//! time; nobody waits for anybody.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst},
};

/// Counters (`u64`, since the start) and gauges (`usize`, now).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EngineStats {
    /// Sequences (choices) running.
    pub running: usize,
    /// Requests of which no choice has been scheduled yet. What `max_waiting` limits.
    pub waiting: usize,
    /// Sequences that wait although their request has started: preempted ones, and choices whose
    /// slot, blocks or prompt are not there yet.
    pub waiting_started: usize,
    /// KV blocks there are.
    pub blocks_total: usize,
    /// KV blocks that running sequences refer to. Blocks that only the prefix cache holds are free.
    pub blocks_used: usize,
    /// Prompt tokens looked up in the prefix cache; each request counts once, and none where prefix
    /// caching is off.
    pub prefix_cache_queries: u64,
    /// Prompt tokens found there: when their request started, or later, while another with the
    /// same prompt was computing it beside them.
    pub prefix_cache_hits: u64,
    /// Sequences that lost their blocks to another and were put back in the queue.
    pub preemptions: u64,
    /// Tokens that were computed again because their sequence had lost its blocks, and what they
    /// held could not be found any more.
    pub recomputed_tokens: u64,
    /// Prompt tokens of the requests scheduled; each request counts once, cached tokens too.
    pub prompt_tokens: u64,
    /// Tokens sampled or forced, end-of-sequence and stop tokens too.
    pub generation_tokens: u64,
    /// Tokens that a constraint forced, so that they were not sampled.
    pub forced_tokens: u64,
    /// Guesses of how a text goes on, one or more tokens each.
    pub drafts: u64,
    /// Tokens guessed.
    pub draft_tokens: u64,
    /// Guessed tokens that came true, so that they took no step of their own.
    pub accepted_tokens: u64,
    /// Passes of the draft model, those in which it caught up too.
    pub draft_passes: u64,
    /// Times that the logits were there before the mask of a constraint.
    pub late_masks: u64,
    /// Steps run, failed ones too.
    pub steps: u64,
    /// Steps in which the runner failed or panicked.
    pub failed_steps: u64,
    /// Rows that were part of a prompt, or of the recomputation of a preempted sequence.
    pub prefill_rows: u64,
    /// Sequences that steps took on with their answers, by one token or by those that a constraint
    /// forced; guesses don't count.
    pub decode_rows: u64,
}

/// What the handles and the engine's thread share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    stopped: AtomicBool,
    // The one gauge that the submitters write.
    waiting: AtomicUsize,
    running: AtomicUsize,
    waiting_started: AtomicUsize,
    blocks_total: AtomicUsize,
    blocks_used: AtomicUsize,
    prefix_cache_queries: AtomicU64,
    prefix_cache_hits: AtomicU64,
    preemptions: AtomicU64,
    recomputed_tokens: AtomicU64,
    prompt_tokens: AtomicU64,
    generation_tokens: AtomicU64,
    forced_tokens: AtomicU64,
    drafts: AtomicU64,
    draft_tokens: AtomicU64,
    accepted_tokens: AtomicU64,
    draft_passes: AtomicU64,
    late_masks: AtomicU64,
    steps: AtomicU64,
    failed_steps: AtomicU64,
    prefill_rows: AtomicU64,
    decode_rows: AtomicU64,
}

impl Shared {
    /// Stores everything but `waiting`, which [`QueueSlot`]s keep.
    pub(crate) fn publish(&self, stats: &EngineStats) {
        self.running.store(stats.running, Relaxed);
        self.waiting_started.store(stats.waiting_started, Relaxed);
        self.blocks_total.store(stats.blocks_total, Relaxed);
        self.blocks_used.store(stats.blocks_used, Relaxed);
        self.prefix_cache_queries.store(stats.prefix_cache_queries, Relaxed);
        self.prefix_cache_hits.store(stats.prefix_cache_hits, Relaxed);
        self.preemptions.store(stats.preemptions, Relaxed);
        self.recomputed_tokens.store(stats.recomputed_tokens, Relaxed);
        self.prompt_tokens.store(stats.prompt_tokens, Relaxed);
        self.generation_tokens.store(stats.generation_tokens, Relaxed);
        self.forced_tokens.store(stats.forced_tokens, Relaxed);
        self.drafts.store(stats.drafts, Relaxed);
        self.draft_tokens.store(stats.draft_tokens, Relaxed);
        self.accepted_tokens.store(stats.accepted_tokens, Relaxed);
        self.draft_passes.store(stats.draft_passes, Relaxed);
        self.late_masks.store(stats.late_masks, Relaxed);
        self.steps.store(stats.steps, Relaxed);
        self.failed_steps.store(stats.failed_steps, Relaxed);
        self.prefill_rows.store(stats.prefill_rows, Relaxed);
        self.decode_rows.store(stats.decode_rows, Relaxed);
    }

    pub(crate) fn snapshot(&self) -> EngineStats {
        EngineStats {
            running: self.running.load(Relaxed),
            waiting: self.waiting.load(Relaxed),
            waiting_started: self.waiting_started.load(Relaxed),
            blocks_total: self.blocks_total.load(Relaxed),
            blocks_used: self.blocks_used.load(Relaxed),
            prefix_cache_queries: self.prefix_cache_queries.load(Relaxed),
            prefix_cache_hits: self.prefix_cache_hits.load(Relaxed),
            preemptions: self.preemptions.load(Relaxed),
            recomputed_tokens: self.recomputed_tokens.load(Relaxed),
            prompt_tokens: self.prompt_tokens.load(Relaxed),
            generation_tokens: self.generation_tokens.load(Relaxed),
            forced_tokens: self.forced_tokens.load(Relaxed),
            drafts: self.drafts.load(Relaxed),
            draft_tokens: self.draft_tokens.load(Relaxed),
            accepted_tokens: self.accepted_tokens.load(Relaxed),
            draft_passes: self.draft_passes.load(Relaxed),
            late_masks: self.late_masks.load(Relaxed),
            steps: self.steps.load(Relaxed),
            failed_steps: self.failed_steps.load(Relaxed),
            prefill_rows: self.prefill_rows.load(Relaxed),
            decode_rows: self.decode_rows.load(Relaxed),
        }
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(SeqCst)
    }

    pub(crate) fn set_stopped(&self) {
        self.stopped.store(true, SeqCst);
    }
}

/// A request's place in the queue: taken by the submitter, given back when the request is first
/// scheduled, or whatever else becomes of it.
#[derive(Debug)]
pub(crate) struct QueueSlot(Arc<Shared>);

impl QueueSlot {
    /// `None`: `limit` requests wait already.
    pub(crate) fn take(shared: &Arc<Shared>, limit: usize) -> Option<Self> {
        let one_more = |waiting| (waiting < limit).then_some(waiting + 1);
        shared.waiting.fetch_update(Relaxed, Relaxed, one_more).ok()?;
        Some(Self(Arc::clone(shared)))
    }
}

impl Drop for QueueSlot {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_slot_counts_while_it_lives() {
        let shared = Arc::new(Shared::default());
        let first = QueueSlot::take(&shared, 2);
        let second = QueueSlot::take(&shared, 2);
        assert!(first.is_some() && second.is_some());
        assert!(QueueSlot::take(&shared, 2).is_none());
        assert_eq!(shared.snapshot().waiting, 2);
        drop(first);
        assert_eq!(shared.snapshot().waiting, 1);
        assert!(QueueSlot::take(&shared, 2).is_some());
    }
}
