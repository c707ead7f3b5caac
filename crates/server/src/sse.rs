//! Server-sent events: the order of a stream, keep-alive comments, errors in the middle.
//!
//! Opening chunks at once, updates as they come, the usage last, `[DONE]`, and then the body ends
//! (the Node SDK waits for that). Nothing is spawned: the stream *is* the body, so a client that
//! leaves drops it, and with it the generation.
use crate::admission::Ticket;
use crate::answer::Format;
use crate::error::ApiError;
use crate::generation::Generation;
use crate::validate::Streaming;
use axum::body::{Body, Bytes};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::Response;
use futures_util::{FutureExt, StreamExt, stream as streams};
use serde::Serialize;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

/// Most updates written at once where they come faster than the client reads.
const MOST_UPDATES: usize = 64;

/// Events of a stream, as bytes.
#[derive(Debug, Default)]
pub(crate) struct Frames(Vec<u8>);

impl Frames {
    /// One event with `value` as JSON.
    pub(crate) fn push(&mut self, value: &impl Serialize) {
        let start = self.0.len();
        self.0.extend_from_slice(b"data: ");
        if let Err(error) = serde_json::to_writer(&mut self.0, value) {
            // Only a map with keys that are no strings could do that, and there is none.
            tracing::error!(%error, "a chunk could not be written");
            self.0.truncate(start);
            return;
        }
        self.0.extend_from_slice(b"\n\n");
    }

    fn done(&mut self) {
        self.0.extend_from_slice(b"data: [DONE]\n\n");
    }

    fn error(&mut self, error: &ApiError) {
        self.push(&error.body());
        self.done();
    }

    fn comment(&mut self) {
        self.0.extend_from_slice(b": keep-alive\n\n");
    }
}

/// Where a stream stands.
struct Progress<F> {
    generation: Generation,
    format: F,
    ticket: Ticket,
    streaming: Streaming,
    /// `None`: no comments.
    keep_alive: Option<Duration>,
    opened: bool,
    ended: bool,
}

/// The answer that streams `generation`. A `keep_alive` of zero sends no comments.
pub(crate) fn stream<F: Format>(
    generation: Generation,
    format: F,
    ticket: Ticket,
    streaming: Streaming,
    keep_alive: Duration,
) -> Response {
    let progress = Progress {
        generation,
        format,
        ticket,
        streaming,
        keep_alive: (!keep_alive.is_zero()).then_some(keep_alive),
        opened: false,
        ended: false,
    };
    let frames = streams::unfold(progress, |mut progress| async move {
        let frames = progress.next().await?;
        Some((Bytes::from(frames.0), progress))
    });
    let frames = AssertUnwindSafe(frames).catch_unwind().map(|frames| {
        Ok::<_, Infallible>(frames.unwrap_or_else(|_| {
            tracing::error!("a stream panicked");
            let mut frames = Frames::default();
            frames.error(&ApiError::Internal);
            Bytes::from(frames.0)
        }))
    });
    let mut response = Response::new(Body::from_stream(frames));
    let headers = response.headers_mut();
    headers
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx would otherwise collect the stream before it passes it on.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

impl<F: Format> Progress<F> {
    /// The next bytes, or `None` at the end.
    async fn next(&mut self) -> Option<Frames> {
        if self.ended {
            return None;
        }
        let mut out = Frames::default();
        if !self.opened {
            self.opened = true;
            let usage = self.streaming.continuous_usage.then(|| self.generation.usage());
            self.format.open(usage.as_ref(), &mut out);
            if !out.0.is_empty() {
                return Some(out);
            }
        }
        // An update may be nothing to see; wait on. The comment's clock runs on too: what matters
        // is when the client last heard from us.
        let silence = self.keep_alive;
        let deadline = silence.map(|silence| tokio::time::Instant::now() + silence);
        while out.0.is_empty() && !self.ended {
            tokio::select! {
                biased;
                next = self.generation.next() => {
                    self.write(next, &mut out);
                    self.write_what_is_there(&mut out);
                }
                () = self.ticket.over() => {
                    self.generation.fail();
                    self.ended = true;
                    out.error(&ApiError::Draining);
                }
                () = sleep_until(deadline) => out.comment(),
            }
        }
        Some(out)
    }

    /// More updates without waiting: fewer and larger writes where the client is slow.
    fn write_what_is_there(&mut self, out: &mut Frames) {
        for _ in 0..MOST_UPDATES {
            if self.ended {
                return;
            }
            let Some(next) = self.generation.next().now_or_never() else {
                return;
            };
            self.write(next, out);
        }
    }

    fn write(
        &mut self,
        next: Option<Result<(usize, crate::choice::Update), ApiError>>,
        out: &mut Frames,
    ) {
        match next {
            Some(Ok((index, update))) => {
                let usage = self.streaming.continuous_usage.then(|| self.generation.usage());
                self.format.update(index, update, usage.as_ref(), out);
            }
            Some(Err(error)) => {
                self.ended = true;
                out.error(&error);
            }
            None => {
                self.ended = true;
                if self.streaming.include_usage {
                    self.format.usage(self.generation.usage(), out);
                }
                out.done();
            }
        }
    }
}

/// Never, where there is no deadline.
async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
