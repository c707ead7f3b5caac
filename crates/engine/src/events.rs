//! What goes out: one choice's events, in order, and the promise that they end.

use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// What one choice's receiver gets, in order: `Started`, `Token`*, then `Finished` or `Failed`
/// (which may also come first of all).
///
/// When an event arrives, [`crate::Engine::stats`] already counts what it tells.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The prompt has been scheduled for the first time. All choices of a request get it at once,
    /// with the same numbers.
    Started {
        /// Prompt tokens taken from the prefix cache. Those that another request beside this one
        /// goes on to compute, and this one then takes from it, are not known yet and not counted
        /// ([`crate::EngineStats::prefix_cache_hits`] does).
        cached_tokens: usize,
        /// How long the request waited.
        queued: Duration,
    },
    /// One token of the answer.
    Token {
        /// Its id.
        id: u32,
        /// Its log-probability, where the request asks for it.
        logprob: Option<TokenLogprob>,
        /// The answer up to and with this token satisfies the request's constraint, so that it
        /// could end here. Always true without a constraint.
        complete: bool,
    },
    /// The last event of a choice that ended well. For [`FinishReason::Eos`] and
    /// [`FinishReason::StopToken`] one more token was generated than `Token`s were sent; who counts
    /// completion tokens as vLLM does adds 1.
    Finished(FinishReason),
    /// The last event of a choice that failed; the engine goes on with the others.
    Failed(Failure),
}

/// Why a choice failed, and whose fault that is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The request's own parameters leave no token to choose. It would fail again.
    #[error("{0}")]
    Request(String),
    /// The model or the engine failed.
    #[error("{0}")]
    Engine(String),
}

/// Log-probabilities at one position: the log-softmax of the raw logits, before bias, masks,
/// penalties and temperature (vLLM's default, `raw_logprobs`).
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    /// Of the sampled token.
    pub logprob: f32,
    /// The k best, best first, of equals the lowest id first.
    pub top: Vec<(u32, f32)>,
}

/// Why a choice ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// An end-of-sequence token; it was not sent as a `Token`.
    Eos(u32),
    /// One of `stop_token_ids`; it was not sent as a `Token`.
    StopToken(u32),
    /// The constraint is satisfied and allows nothing more. Nothing was generated to say so.
    Complete,
    /// `max_tokens` or the longest sequence reached.
    Length,
}

/// Receives one choice's events; dropping it cancels the choice.
pub type Receiver = UnboundedReceiver<Event>;

/// The sending end. Whatever way it goes (a panic of the engine's thread, a queue that is dropped
/// with requests in it), a receiver that has had no last event gets `Failed` when the sink drops.
#[derive(Debug)]
pub(crate) struct EventSink {
    sender: UnboundedSender<Event>,
    ended: bool,
}

/// An event with its address. Sent after the step's statistics are published.
pub(crate) type Letter = (UnboundedSender<Event>, Event);

impl EventSink {
    pub(crate) fn channel() -> (Self, Receiver) {
        let (sender, receiver) = unbounded_channel();
        (Self { sender, ended: false }, receiver)
    }

    /// Addresses an event. The caller sends it.
    pub(crate) fn letter(&mut self, event: Event) -> Letter {
        self.ended |= matches!(event, Event::Finished(_) | Event::Failed(_));
        (self.sender.clone(), event)
    }

    /// The receiver is gone: nobody wants this choice any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

impl Drop for EventSink {
    fn drop(&mut self) {
        if !self.ended {
            // An error means that the receiver is gone, which is fine.
            let _ =
                self.sender.send(Event::Failed(Failure::Engine("the engine has stopped".into())));
        }
    }
}
