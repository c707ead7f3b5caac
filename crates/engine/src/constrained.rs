//! A choice under a constraint: where its answer stands in the grammar.

use std::{
    collections::VecDeque,
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::Duration,
};

use wharf_grammar::{Constraint, MatchError, TokenMask};

use crate::{
    Failure, SamplingParams,
    masks::{MaskPool, Next, Position, Reply},
};

/// What a constrained choice carries from step to step.
pub(crate) struct Constrained {
    state: State,
    /// The answer so far satisfies the constraint.
    complete: bool,
    /// Tokens that must follow, where they are taken one at a time.
    queue: VecDeque<u32>,
    /// Forced tokens are appended without sampling.
    forcing: bool,
    /// They are taken one at a time, each with its log-probability.
    one_by_one: bool,
    /// Logits of the last row, `[vocab_size]`, whose mask was not there in time.
    pub(crate) late_logits: Option<Vec<f32>>,
}

/// Where the matcher is.
enum State {
    Here(Position),
    /// With a worker, which brings it back with the mask.
    Lent(Receiver<Reply>),
    /// Lost; the choice has failed.
    Gone,
}

/// What may follow the answer, as the sampler asks for it.
pub(crate) enum Allowed {
    /// The tokens of the mask.
    OneOf(TokenMask),
    /// These tokens: one, where each wants its log-probability, else all that must follow.
    Forced(Vec<u32>),
}

impl Constrained {
    pub(crate) fn new(constraint: Constraint, params: &SamplingParams) -> Self {
        // Where a request forbids tokens, or favours some, that holds of forced ones too: they are
        // sampled under the mask then.
        let free = params.bad_words.is_empty()
            && params.allowed_token_ids.is_none()
            && params.logit_bias.is_empty();
        Self {
            complete: constraint.is_complete(),
            state: State::Here(Position::Beginning(constraint)),
            queue: VecDeque::new(),
            forcing: free,
            one_by_one: params.logprobs.is_some(),
            late_logits: None,
        }
    }

    /// The answer so far satisfies the constraint, so that it may end here.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    /// The answer is complete, and nothing may follow.
    pub(crate) fn is_finished(&self) -> bool {
        matches!(&self.state, State::Here(Position::After(matcher)) if matcher.is_finished())
    }

    /// Begins to work out what may follow, unless that is known or on its way.
    pub(crate) fn prepare(&mut self, pool: &mut MaskPool) -> Result<(), Failure> {
        if !self.queue.is_empty() {
            return Ok(());
        }
        self.state = match std::mem::replace(&mut self.state, State::Gone) {
            State::Here(position) => {
                State::Lent(pool.lend(position, self.forcing).map_err(Failure::Engine)?)
            }
            other => other,
        };
        Ok(())
    }

    /// What may follow, or `None` if that is still not known after `patience`.
    pub(crate) fn allowed(&mut self, patience: Duration) -> Result<Option<Allowed>, Failure> {
        if let Some(token) = self.queue.pop_front() {
            return Ok(Some(Allowed::Forced(vec![token])));
        }
        let lost = || Failure::Engine("a constraint's matcher was lost".into());
        let State::Lent(receiver) = &self.state else { return Err(lost()) };
        let Reply { matcher, next } = match receiver.recv_timeout(patience) {
            Ok(reply) => reply,
            Err(RecvTimeoutError::Timeout) => return Ok(None),
            Err(RecvTimeoutError::Disconnected) => return Err(lost()),
        };
        self.state = State::Here(Position::After(Box::new(matcher)));
        match next.map_err(failure)? {
            Next::OneOf(mask) => Ok(Some(Allowed::OneOf(mask))),
            Next::Forced(tokens) if self.one_by_one => {
                self.queue.extend(tokens);
                self.allowed(patience)
            }
            Next::Forced(tokens) => Ok(Some(Allowed::Forced(tokens))),
        }
    }

    /// The answer goes on with `token`.
    pub(crate) fn consume(&mut self, token: u32) -> Result<(), Failure> {
        let State::Here(Position::After(matcher)) = &mut self.state else {
            return Err(Failure::Engine("a constraint's matcher was lost".into()));
        };
        matcher.consume(token).map_err(failure)?;
        self.complete = matcher.is_complete();
        Ok(())
    }
}

fn failure(error: MatchError) -> Failure {
    match error {
        MatchError::TooComplex(_) => Failure::Request(error.to_string()),
        MatchError::Rejected(_) | MatchError::Internal(_) => Failure::Engine(error.to_string()),
    }
}
