//! The timing model and the counters.
//!
//! A request waits for a slot and for room in the KV cache (both first come, first served), then
//! for its turn to prefill (prompt tokens share one rate), then makes one token per gap. Everything
//! is driven by whoever polls: dropping the stream of [`Piece`]s *is* cancellation, as it is in the
//! real engine, and frees the slot and the KV tokens at once.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{Stream, StreamExt as _, stream};
use serde::Serialize;
use tokio::{
    sync::{Mutex, OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use crate::{Fault, MockConfig};

/// The engine's counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Stats {
    /// Requests that were accepted so far.
    pub accepted: u64,
    /// Accepted requests that are neither finished nor aborted: the waiting and the running.
    pub in_flight: u64,
    /// Requests that hold a slot and KV tokens.
    pub running: u64,
    /// Requests that were answered to the end.
    pub finished: u64,
    /// Requests whose client left, or whose fault cut them short.
    pub aborted: u64,
    /// Tokens made so far, by all requests.
    pub generated_tokens: u64,
}

/// What one request asks of the simulation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job {
    pub(crate) prompt_tokens: u32,
    /// Tokens of each choice.
    pub(crate) reply_tokens: u32,
    pub(crate) choices: u32,
    pub(crate) fault: Option<Fault>,
}

impl Job {
    /// KV tokens the request holds while it runs; choices share the prompt.
    pub(crate) fn kv_tokens(&self) -> u32 {
        self.prompt_tokens.saturating_add(self.reply_tokens.saturating_mul(self.choices))
    }
}

/// One step of an answer, in the order of a stream: roles, tokens, finishes, the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece {
    Role { choice: u32 },
    Token { choice: u32, index: u32 },
    Finish { choice: u32 },
    Done,
}

/// The fault that ends an answer early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Between two events.
    Clean,
    /// In the middle of an event.
    Inside,
}

pub(crate) struct Simulation {
    pub(crate) config: MockConfig,
    slots: Arc<Semaphore>,
    kv: Arc<Semaphore>,
    /// Held while one prompt is prefilled.
    prefill: Mutex<()>,
    accepted: AtomicU64,
    running: AtomicU64,
    finished: AtomicU64,
    aborted: AtomicU64,
    generated_tokens: AtomicU64,
}

impl Simulation {
    pub(crate) fn new(config: MockConfig) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(config.slots.max(1))),
            kv: Arc::new(Semaphore::new(config.kv_tokens as usize)),
            config,
            prefill: Mutex::new(()),
            accepted: AtomicU64::new(0),
            running: AtomicU64::new(0),
            finished: AtomicU64::new(0),
            aborted: AtomicU64::new(0),
            generated_tokens: AtomicU64::new(0),
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        // Ends are read before starts, so that the difference never goes below zero.
        let (finished, aborted) = (read(&self.finished), read(&self.aborted));
        let accepted = read(&self.accepted);
        Stats {
            accepted,
            in_flight: accepted - finished - aborted,
            running: read(&self.running),
            finished,
            aborted,
            generated_tokens: read(&self.generated_tokens),
        }
    }

    /// Runs one request. The request counts as accepted now, not when the stream is first polled.
    pub(crate) fn run(
        self: &Arc<Self>,
        job: Job,
    ) -> impl Stream<Item = Result<Piece, Cut>> + Send + use<> {
        let ticket = Ticket::new(Arc::clone(self));
        stream::once(ticket.prefilled(job)).flat_map(move |ticket| {
            let answer =
                Answer { ticket, job, script: script(job), started: Instant::now(), cut: false };
            stream::unfold(answer, Answer::next)
        })
    }

    /// The time `tokens` take at `rate` tokens per second.
    fn duration(tokens: u32, rate: f64) -> Duration {
        if rate > 0.0 { Duration::from_secs_f64(f64::from(tokens) / rate) } else { Duration::ZERO }
    }
}

/// The whole answer of a job: choices take turns, token by token.
fn script(job: Job) -> VecDeque<Piece> {
    let choices = 0..job.choices;
    let roles = choices.clone().map(|choice| Piece::Role { choice });
    let tokens = (0..job.reply_tokens)
        .flat_map(|index| (0..job.choices).map(move |choice| Piece::Token { choice, index }));
    let finishes = choices.map(|choice| Piece::Finish { choice });
    roles.chain(tokens).chain(finishes).chain([Piece::Done]).collect()
}

/// An answer that is being given.
struct Answer {
    ticket: Ticket,
    job: Job,
    /// What is still to come.
    script: VecDeque<Piece>,
    /// When the first token was begun; the gaps are counted from here, so that the timer's
    /// granularity (1 ms) does not add up.
    started: Instant,
    cut: bool,
}

impl Answer {
    async fn next(mut self) -> Option<(Result<Piece, Cut>, Self)> {
        if self.cut {
            return None;
        }
        let piece = self.script.pop_front()?;
        match piece {
            Piece::Token { choice: 0, index } => {
                if let Some(cut) = fault_before(self.job.fault, index).await {
                    self.cut = true;
                    return Some((Err(cut), self));
                }
                let gap = Simulation::duration(index + 1, self.ticket.engine.config.decode_rate);
                if !gap.is_zero() {
                    tokio::time::sleep_until(self.started + gap).await;
                }
                self.ticket.count_token();
            }
            Piece::Token { .. } => self.ticket.count_token(),
            Piece::Done => self.ticket.finished = true,
            Piece::Role { .. } | Piece::Finish { .. } => {}
        }
        Some((Ok(piece), self))
    }
}

/// Does what the fault asks for before the token `index` is made.
async fn fault_before(fault: Option<Fault>, index: u32) -> Option<Cut> {
    match fault {
        Some(Fault::HangAfter(tokens)) if tokens == index => std::future::pending().await,
        Some(Fault::CutAfter(tokens)) if tokens == index => Some(Cut::Clean),
        Some(Fault::CutInside(tokens)) if tokens == index => Some(Cut::Inside),
        Some(Fault::DieAfter(tokens)) if tokens == index => {
            // What was written before has to reach the client, or the fault is not the one asked.
            tokio::time::sleep(Duration::from_millis(20)).await;
            std::process::exit(70)
        }
        _ => None,
    }
}

/// A request's place in the engine; dropping it frees everything and counts how it ended.
struct Ticket {
    engine: Arc<Simulation>,
    /// Slot and KV tokens, once admitted.
    permits: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
    finished: bool,
}

impl Ticket {
    fn new(engine: Arc<Simulation>) -> Self {
        engine.accepted.fetch_add(1, Ordering::Relaxed);
        Self { engine, permits: None, finished: false }
    }

    /// Waits for admission, then for the prompt's prefill.
    async fn prefilled(mut self, job: Job) -> Self {
        let slot = Arc::clone(&self.engine.slots).acquire_owned().await;
        let kv = Arc::clone(&self.engine.kv).acquire_many_owned(job.kv_tokens()).await;
        // The semaphores are never closed, so both are always Ok.
        if let (Ok(slot), Ok(kv)) = (slot, kv) {
            self.engine.running.fetch_add(1, Ordering::Relaxed);
            self.permits = Some((slot, kv));
        }
        let time = Simulation::duration(job.prompt_tokens, self.engine.config.prefill_rate);
        if !time.is_zero() {
            let _turn = self.engine.prefill.lock().await;
            tokio::time::sleep(time).await;
        }
        self
    }

    fn count_token(&self) {
        self.engine.generated_tokens.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.permits.take().is_some() {
            self.engine.running.fetch_sub(1, Ordering::Relaxed);
        }
        let end = if self.finished { &self.engine.finished } else { &self.engine.aborted };
        end.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn job(prompt_tokens: u32, reply_tokens: u32) -> Job {
        Job { prompt_tokens, reply_tokens, choices: 1, fault: None }
    }

    #[tokio::test]
    async fn roles_come_first_and_finishes_last() {
        let engine = Arc::new(Simulation::new(MockConfig::default()));
        let pieces: Vec<_> = engine.run(Job { choices: 2, ..job(3, 2) }).collect().await;
        let pieces: Vec<_> = pieces.into_iter().map(Result::unwrap).collect();
        assert_eq!(
            pieces,
            [
                Piece::Role { choice: 0 },
                Piece::Role { choice: 1 },
                Piece::Token { choice: 0, index: 0 },
                Piece::Token { choice: 1, index: 0 },
                Piece::Token { choice: 0, index: 1 },
                Piece::Token { choice: 1, index: 1 },
                Piece::Finish { choice: 0 },
                Piece::Finish { choice: 1 },
                Piece::Done,
            ]
        );
        let stats = engine.stats();
        assert_eq!((stats.finished, stats.in_flight, stats.generated_tokens), (1, 0, 4));
    }

    #[tokio::test]
    async fn a_dropped_stream_frees_its_slot() {
        let config = MockConfig { slots: 1, ..MockConfig::default() };
        let engine = Arc::new(Simulation::new(config));
        let mut first = Box::pin(engine.run(job(1, 100)));
        first.next().await.unwrap().unwrap();
        let mut second = Box::pin(engine.run(job(1, 1)));
        assert!(second.next().now_or_never().is_none(), "the only slot is taken");
        assert_eq!(engine.stats().in_flight, 2);
        drop(first);
        assert_eq!(second.count().await, 4);
        let stats = engine.stats();
        assert_eq!((stats.aborted, stats.finished, stats.running), (1, 1, 0));
    }

    #[tokio::test]
    async fn a_full_kv_cache_makes_requests_wait() {
        let config = MockConfig { kv_tokens: 100, ..MockConfig::default() };
        let engine = Arc::new(Simulation::new(config));
        let mut first = Box::pin(engine.run(job(60, 10)));
        first.next().await.unwrap().unwrap();
        let mut second = Box::pin(engine.run(job(60, 10)));
        assert!(second.next().now_or_never().is_none());
        assert_eq!(first.count().await, 12);
        assert_eq!(second.count().await, 13);
    }

    #[tokio::test]
    async fn a_cut_ends_the_answer_after_the_given_token() {
        let engine = Arc::new(Simulation::new(MockConfig::default()));
        let cut = Job { fault: Some(Fault::CutAfter(1)), ..job(1, 5) };
        let pieces: Vec<_> = engine.run(cut).collect().await;
        assert_eq!(pieces.len(), 3);
        assert_eq!(pieces[2], Err(Cut::Clean));
        assert_eq!(engine.stats().aborted, 1);
    }
}
