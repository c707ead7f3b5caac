//! One request's choices, from the engine's channels to updates, whoever comes first.
//!
//! Dropping a `Generation` is what cancels a request: the receivers go with it, and the engine
//! frees the blocks within a step. A choice that a stop string ended drops its own receiver.
use crate::choice::{Choice, ChoiceOptions, Update};
use crate::error::ApiError;
use crate::metrics::{ChoiceRecord, Outcome};
use crate::state::AppState;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
use wharf_api::{CompletionTokensDetails, FinishReason, PromptTokensDetails, Usage};
use wharf_engine::grammar::Constraint;
use wharf_engine::{Event, Failure, GenerateRequest, Receiver, SamplingParams};

/// What to generate: `n` choices for each prompt.
pub(crate) struct Job {
    /// Token ids.
    pub(crate) prompts: Vec<Vec<u32>>,
    /// One for each prompt; they differ in `max_tokens`.
    pub(crate) params: Vec<SamplingParams>,
    pub(crate) n: usize,
    pub(crate) options: ChoiceOptions,
    pub(crate) cache_salt: Option<Arc<str>>,
    /// Lower runs first.
    pub(crate) priority: i64,
    /// What every answer must look like.
    pub(crate) constraint: Option<Constraint>,
}

/// Choices on their way; choice `i` of prompt `p` has number `p * n + i`.
pub(crate) struct Generation {
    slots: Vec<Slot>,
    /// Which slot is asked first, so that none starves.
    next: usize,
    n: usize,
    prompt_tokens: u64,
    /// For each prompt.
    cached_tokens: Vec<u64>,
}

struct Slot {
    /// `None` once the choice has ended.
    receiver: Option<Receiver>,
    choice: Choice,
    record: ChoiceRecord,
}

impl Generation {
    /// Hands `job` to the engine.
    ///
    /// # Errors
    /// What the engine says against it. Prompts that it had already taken are dropped again.
    pub(crate) fn submit(state: &AppState, job: Job, arrived: Instant) -> Result<Self, ApiError> {
        let options = Arc::new(job.options);
        let mut generation = Self {
            slots: Vec::with_capacity(job.prompts.len() * job.n),
            next: 0,
            n: job.n,
            prompt_tokens: 0,
            cached_tokens: vec![0; job.prompts.len()],
        };
        for (prompt, params) in job.prompts.into_iter().zip(job.params) {
            let (tokens, max_tokens) = (prompt.len(), params.max_tokens);
            let request = GenerateRequest {
                prompt,
                n: job.n,
                params,
                cache_salt: job.cache_salt.clone(),
                priority: job.priority,
                constraint: job.constraint.clone(),
            };
            let receivers = state.engine.submit(request)?;
            generation.prompt_tokens += tokens as u64;
            state.metrics.observe_request(tokens, job.n, max_tokens);
            generation.slots.extend(receivers.into_iter().map(|receiver| Slot {
                receiver: Some(receiver),
                choice: Choice::new(Arc::clone(&state.tokenizer), Arc::clone(&options)),
                record: ChoiceRecord::new(&state.metrics, arrived),
            }));
        }
        Ok(generation)
    }

    /// Number of choices.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Token counts up to now.
    pub(crate) fn usage(&self) -> Usage {
        let completion: usize = self.slots.iter().map(|slot| slot.choice.generated()).sum();
        let completion_tokens = completion as u64;
        Usage {
            prompt_tokens: self.prompt_tokens,
            completion_tokens,
            total_tokens: self.prompt_tokens + completion_tokens,
            prompt_tokens_details: Some(PromptTokensDetails {
                cached_tokens: self.cached_tokens.iter().sum(),
            }),
            completion_tokens_details: self.reasoned().map(|reasoning_tokens| {
                CompletionTokensDetails { reasoning_tokens, ..CompletionTokensDetails::default() }
            }),
        }
    }

    /// Tokens of all choices that were reasoning, where the model is known to reason.
    fn reasoned(&self) -> Option<u64> {
        let reasoned: Option<usize> = self.slots.iter().map(|slot| slot.choice.reasoned()).sum();
        reasoned.map(|tokens| tokens as u64)
    }

    /// The next update of any choice, or `None` when all have ended.
    ///
    /// # Errors
    /// A choice failed. The request as a whole has then failed.
    pub(crate) async fn next(&mut self) -> Option<Result<(usize, Update), ApiError>> {
        let (index, event) = poll_fn(|context| self.poll_event(context)).await?;
        Some(self.take(index, event).map(|update| (index, update)))
    }

    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Option<(usize, Event)>> {
        let count = self.slots.len();
        let mut all_ended = true;
        for offset in 0..count {
            let index = (self.next + offset) % count;
            let Some(receiver) = &mut self.slots[index].receiver else {
                continue;
            };
            all_ended = false;
            if let Poll::Ready(event) = receiver.poll_recv(context) {
                self.next = (index + 1) % count;
                // A channel that closes without a last event: the engine's thread is gone.
                let event = event
                    .unwrap_or_else(|| Event::Failed(Failure::Engine("it has stopped".to_owned())));
                return Poll::Ready(Some((index, event)));
            }
        }
        if all_ended { Poll::Ready(None) } else { Poll::Pending }
    }

    fn take(&mut self, index: usize, event: Event) -> Result<Update, ApiError> {
        let slot = &mut self.slots[index];
        match &event {
            Event::Started { cached_tokens, queued } => {
                slot.record.start(*queued);
                self.cached_tokens[index / self.n] = *cached_tokens as u64;
            }
            Event::Token { .. } => slot.record.token(),
            Event::Finished(_) | Event::Failed(_) => {}
        }
        let update = slot.choice.push(event).map_err(|failure| {
            slot.record.end(Outcome::Error);
            if let Failure::Engine(reason) = &failure {
                tracing::error!(reason, "the engine failed on a request");
            }
            ApiError::from(failure)
        });
        match &update {
            Ok(Update { finish: Some(finish), .. }) => {
                slot.receiver = None;
                slot.record.end(match finish.reason {
                    FinishReason::Length => Outcome::Length,
                    _ => Outcome::Stop,
                });
            }
            Ok(_) => {}
            Err(_) => self.fail(),
        }
        update
    }

    /// Ends what still runs, because the request failed or may run no longer: an error, not an
    /// abort, which is what a client does.
    pub(crate) fn fail(&mut self) {
        for slot in &mut self.slots {
            slot.receiver = None;
            slot.record.end(Outcome::Error);
        }
    }
}
