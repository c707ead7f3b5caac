//! From a generation to an HTTP answer, whole or as a stream, for either route.
//!
//! A route brings its [`Format`]; what is the same for both (the order of a stream, usage, the
//! drain's deadline) is here and in `sse`.
use crate::admission::Ticket;
use crate::choice::Update;
use crate::compute::Compute;
use crate::error::ApiError;
use crate::generation::{Generation, Job};
use crate::request_id::{self, RequestId};
use crate::shape::HeldTo;
use crate::sse::{self, Frames};
use crate::state::{AppState, unix_now};
use crate::validate::Streaming;
use axum::response::Response;
use std::sync::Arc;
use std::time::Instant;
use wharf_api::{GenerationFields, Usage};

/// Which build answers.
pub(crate) const FINGERPRINT: &str = concat!("wharf-", env!("CARGO_PKG_VERSION"));

/// A request that has been parsed, validated, rendered and tokenised.
pub(crate) struct Plan<F> {
    pub(crate) job: Job,
    /// What `job` will be held to.
    pub(crate) held_to: Option<HeldTo>,
    pub(crate) format: F,
    pub(crate) streaming: Streaming,
}

/// What every answer and chunk of a request begins with.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) id: String,
    pub(crate) created: u64,
    pub(crate) model: String,
}

impl Head {
    /// The id is `prefix` and the client's own (header before field), or a new one.
    ///
    /// # Errors
    /// 404 for an unknown model, 400 for an unsound `request_id`.
    pub(crate) fn new(
        state: &AppState,
        fields: &GenerationFields,
        id: &RequestId,
        prefix: &str,
    ) -> Result<Self, ApiError> {
        let model = state.model_name(fields.model.as_deref())?;
        let id = match fields.request_id.as_deref() {
            Some(given) if !request_id::is_sound(given) => {
                let reason = "must be 1 to 128 visible ASCII characters";
                return Err(ApiError::field("request_id", reason));
            }
            Some(given) if !id.from_client => given,
            _ => &id.value,
        };
        Ok(Self { id: format!("{prefix}{id}"), created: unix_now(), model })
    }
}

/// How a route writes its answers.
pub(crate) trait Format: Send + 'static {
    /// The first chunks of a stream.
    fn open(&mut self, usage: Option<&Usage>, out: &mut Frames);
    /// The chunks of an update, which may be none.
    fn update(&mut self, index: usize, update: Update, usage: Option<&Usage>, out: &mut Frames);
    /// The last chunk.
    fn usage(&mut self, usage: Usage, out: &mut Frames);
    /// A whole answer; on the compute pool. `choices`: all updates of each choice, added up.
    fn whole(&mut self, choices: Vec<Update>, usage: Usage) -> Response;
}

/// Runs a plan.
///
/// # Errors
/// What cannot be enforced, and what the engine says; for streams only before the first byte.
pub(crate) async fn answer<F: Format>(
    state: &Arc<AppState>,
    mut plan: Plan<F>,
    mut ticket: Ticket,
    arrived: Instant,
) -> Result<Response, ApiError> {
    if let Some(held_to) = plan.held_to {
        plan.job.constraint = Some(held_to.compile(state).await?);
    }
    let mut generation = Generation::submit(state, plan.job, arrived).inspect_err(|error| {
        if matches!(error, ApiError::QueueFull { .. }) {
            state.metrics.reject("queue_full");
        }
    })?;
    let format = plan.format;
    if plan.streaming.stream {
        let keep_alive = state.config.sse_keep_alive;
        return Ok(sse::stream(generation, format, ticket, plan.streaming, keep_alive));
    }
    let mut choices = vec![Update::default(); generation.len()];
    loop {
        let next = tokio::select! {
            biased;
            next = generation.next() => next,
            () = ticket.over() => {
                generation.fail();
                return Err(ApiError::Draining);
            }
        };
        match next {
            Some(Ok((index, update))) => choices[index].append(update),
            Some(Err(error)) => return Err(error),
            None => break,
        }
    }
    write(&state.compute, format, choices, generation.usage()).await
}

/// Writes a whole answer, off the runtime: with log-probabilities it may be megabytes.
async fn write<F: Format>(
    compute: &Compute,
    mut format: F,
    choices: Vec<Update>,
    usage: Usage,
) -> Result<Response, ApiError> {
    compute.finish(move || format.whole(choices, usage)).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::{self, ThreadId};
    use std::time::Duration;

    /// Tells which thread wrote it.
    struct Witness(std::sync::mpsc::Sender<ThreadId>);

    impl Format for Witness {
        fn open(&mut self, _: Option<&Usage>, _: &mut Frames) {}
        fn update(&mut self, _: usize, _: Update, _: Option<&Usage>, _: &mut Frames) {}
        fn usage(&mut self, _: Usage, _: &mut Frames) {}
        fn whole(&mut self, _: Vec<Update>, _: Usage) -> Response {
            self.0.send(thread::current().id()).expect("the test waits");
            Response::default()
        }
    }

    #[tokio::test]
    async fn a_whole_answer_is_written_off_the_runtime() {
        let compute = Compute::new(1, 1, Duration::from_secs(60));
        let (sender, writer) = std::sync::mpsc::channel();
        let answer = write(&compute, Witness(sender), Vec::new(), Usage::default()).await;
        assert!(answer.is_ok());
        assert_ne!(writer.recv(), Ok(thread::current().id()));
    }
}
