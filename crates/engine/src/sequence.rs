//! One choice of one request, while the engine works on it.

use std::{cell::Cell, rc::Rc, time::Instant};

use wharf_model::BLOCK_TOKENS;

use crate::{
    EngineConfig, Failure, FinishReason, SamplingParams,
    block_cache::{BlockId, BlockTokens, Salt},
    constrained::Constrained,
    events::EventSink,
    lookup::Text,
    speculation::Drafter,
    states::SequenceState,
    stats::QueueSlot,
};

/// What the choices of a request have in common.
pub(crate) struct Request {
    /// Number in order of arrival.
    pub(crate) id: u64,
    pub(crate) priority: i64,
    pub(crate) prompt: Vec<u32>,
    pub(crate) params: SamplingParams,
    /// Key of the random draws: `params.seed`, or one drawn at random.
    pub(crate) seed: u64,
    pub(crate) salt: Salt,
    pub(crate) arrived: Instant,
    /// Its place in the queue, given back when it is first scheduled.
    pub(crate) queue_slot: Cell<Option<QueueSlot>>,
    /// A choice of it has been scheduled.
    pub(crate) started: Cell<bool>,
    /// A choice of it has computed the whole prompt, so that the others find it in the cache.
    pub(crate) prompt_computed: Cell<bool>,
}

/// Who goes first, and a sequence's name: lower priority values, then order of arrival, then choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    pub(crate) priority: i64,
    pub(crate) request: u64,
    pub(crate) choice: u32,
}

/// One choice of a request: prompt and answer so far, and where its keys and values are.
pub(crate) struct Sequence {
    pub(crate) request: Rc<Request>,
    pub(crate) choice: u32,
    /// The answer so far.
    pub(crate) output: Vec<u32>,
    /// `block_table[p / BLOCK_TOKENS]` holds position `p`. Empty while it waits.
    pub(crate) block_table: Vec<BlockId>,
    /// Positions whose keys and values are in the cache; less than [`Self::len`], but while a
    /// constraint's mask is awaited.
    pub(crate) num_computed: usize,
    /// Positions that were computed once, before it was last preempted.
    pub(crate) num_lost: usize,
    /// Its recurrent state, while it runs, of a model that has one.
    pub(crate) state: Option<SequenceState>,
    /// Where the answer stands in its grammar, if it has one.
    pub(crate) constrained: Option<Constrained>,
    /// How guesses of what follows have fared.
    pub(crate) drafter: Drafter,
    pub(crate) sink: EventSink,
}

impl Sequence {
    pub(crate) fn new(
        request: Rc<Request>,
        choice: u32,
        constrained: Option<Constrained>,
        sink: EventSink,
    ) -> Self {
        Self {
            request,
            choice,
            output: Vec::new(),
            block_table: Vec::new(),
            num_computed: 0,
            num_lost: 0,
            state: None,
            constrained,
            drafter: Drafter::default(),
            sink,
        }
    }

    pub(crate) fn rank(&self) -> Rank {
        let Request { priority, id, .. } = *self.request;
        Rank { priority, request: id, choice: self.choice }
    }

    /// Tokens, prompt and answer.
    pub(crate) fn len(&self) -> usize {
        self.request.prompt.len() + self.output.len()
    }

    /// Tokens still to run through the model before the next one can be sampled; 0 only while a
    /// constraint's mask is awaited.
    pub(crate) fn num_uncomputed(&self) -> usize {
        self.len() - self.num_computed
    }

    /// It goes on with its answer: one token, or those that its constraint forced at once.
    pub(crate) fn is_decoding(&self) -> bool {
        let answering = self.num_computed >= self.request.prompt.len();
        self.num_uncomputed() == 1 || (answering && self.num_uncomputed() > 1)
    }

    /// The answer may end here: it satisfies its constraint, if it has one.
    pub(crate) fn is_complete(&self) -> bool {
        self.constrained.as_ref().is_none_or(Constrained::is_complete)
    }

    /// Prompt and answer.
    pub(crate) fn text(&self) -> Text<'_> {
        Text { prompt: &self.request.prompt, output: &self.output }
    }

    /// Tokens that the answer may still have.
    pub(crate) fn room(&self, max_model_len: usize) -> usize {
        let answer = self.request.params.max_tokens.saturating_sub(self.output.len());
        answer.min(max_model_len.saturating_sub(self.len()))
    }

    /// Tokens at positions `start..start + count`.
    pub(crate) fn tokens(&self, start: usize, count: usize) -> impl Iterator<Item = u32> {
        let prompt = &self.request.prompt;
        let answered = start.saturating_sub(prompt.len());
        let from_prompt = prompt.iter().skip(start);
        from_prompt.chain(self.output.iter().skip(answered)).take(count).copied()
    }

    /// Token ids of block `index`, which must be full.
    pub(crate) fn block_tokens(&self, index: usize) -> BlockTokens {
        let mut block = [0; BLOCK_TOKENS];
        let tokens = self.tokens(index * BLOCK_TOKENS, BLOCK_TOKENS);
        for (slot, token) in block.iter_mut().zip(tokens) {
            *slot = token;
        }
        block
    }

    /// Blocks for all its tokens.
    pub(crate) fn num_blocks_needed(&self) -> usize {
        self.len().div_ceil(BLOCK_TOKENS)
    }

    /// Blocks that it may still come to need, beyond those that it has or needs now.
    pub(crate) fn growth(&self, max_model_len: usize) -> usize {
        // The last token of an answer is never run through the model.
        let longest = (self.len() + self.room(max_model_len)).saturating_sub(1);
        let now = self.num_blocks_needed().max(self.block_table.len());
        longest.div_ceil(BLOCK_TOKENS).saturating_sub(now)
    }

    /// Positions that its blocks have beyond its tokens.
    pub(crate) fn spare_positions(&self) -> usize {
        (self.block_table.len() * BLOCK_TOKENS).saturating_sub(self.len())
    }

    /// The answer would end by this token, and not hold it.
    pub(crate) fn is_end(&self, id: u32, eos_token_ids: &[u32]) -> bool {
        let params = &self.request.params;
        (!params.ignore_eos && eos_token_ids.contains(&id)) || params.stop_token_ids.contains(&id)
    }

    /// Appends a token and says whether it ends the sequence. A token that ends it as end-of-sequence
    /// or stop token isn't appended; under a constraint a stop token does so only where the answer
    /// before it is complete.
    ///
    /// # Errors
    /// The constraint doesn't take it.
    pub(crate) fn push(
        &mut self,
        id: u32,
        config: &EngineConfig,
    ) -> Result<Option<FinishReason>, Failure> {
        let params = &self.request.params;
        if !params.ignore_eos && config.eos_token_ids.contains(&id) {
            return Ok(Some(FinishReason::Eos(id)));
        }
        if params.stop_token_ids.contains(&id) && self.is_complete() {
            return Ok(Some(FinishReason::StopToken(id)));
        }
        if let Some(constrained) = &mut self.constrained {
            constrained.consume(id)?;
        }
        self.output.push(id);
        if self.constrained.as_ref().is_some_and(Constrained::is_finished) {
            return Ok(Some(FinishReason::Complete));
        }
        Ok((self.room(config.max_model_len) == 0).then_some(FinishReason::Length))
    }
}
