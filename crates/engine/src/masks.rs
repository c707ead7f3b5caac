//! Masks are computed here, off the engine's thread, while the model's step runs.
//!
//! A matcher is lent to a worker for the time of a step and comes back with what may or must follow.
//! It belongs to one sequence, so nothing is shared; whoever stops waiting (a dropped sequence)
//! lets the worker finish for nobody.

use std::{
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};

use wharf_grammar::{MatchError, Matcher, TokenMask};

/// More would not be faster: a mask takes a tenth of a step, and there is one for each sequence.
const MOST_WORKERS: usize = 8;

/// What may follow an answer.
pub(crate) enum Next {
    /// One of these.
    OneOf(TokenMask),
    /// These tokens, at least one.
    Forced(Vec<u32>),
}

/// A matcher that is back.
pub(crate) struct Reply {
    pub(crate) matcher: Matcher,
    pub(crate) next: Result<Next, MatchError>,
}

struct Job {
    matcher: Matcher,
    forcing: bool,
    reply: mpsc::Sender<Reply>,
}

/// Threads that compute masks; started when the first one is wanted, ended with the pool.
#[derive(Default)]
pub(crate) struct MaskPool {
    jobs: Option<mpsc::Sender<Job>>,
}

impl MaskPool {
    /// Lends `matcher` out. `forcing`: tokens that must follow are told as such.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(crate) fn lend(
        &mut self,
        matcher: Matcher,
        forcing: bool,
    ) -> Result<mpsc::Receiver<Reply>, String> {
        let jobs = match &mut self.jobs {
            Some(jobs) => jobs,
            none => none.insert(start().map_err(|error| format!("no thread for masks: {error}"))?),
        };
        let (reply, receiver) = mpsc::channel();
        // It fails only if all workers have ended, and then the receiver says so.
        let _ = jobs.send(Job { matcher, forcing, reply });
        Ok(receiver)
    }
}

fn start() -> std::io::Result<mpsc::Sender<Job>> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let (sender, jobs) = mpsc::channel();
    let jobs = Arc::new(Mutex::new(jobs));
    for _ in 0..(cores / 4).clamp(1, MOST_WORKERS) {
        let jobs = Arc::clone(&jobs);
        thread::Builder::new().name("wharf-masks".into()).spawn(move || work(&jobs))?;
    }
    Ok(sender)
}

/// Until the pool is gone. Matchers catch their own panics.
fn work(jobs: &Mutex<mpsc::Receiver<Job>>) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { mut matcher, forcing, reply }) = job else { return };
        let forced = if forcing { matcher.forced() } else { Vec::new() };
        let next = match forced.is_empty() {
            true => matcher.mask().map(Next::OneOf),
            false => Ok(Next::Forced(forced)),
        };
        // Nobody waits for it where its sequence is gone.
        let _ = reply.send(Reply { matcher, next });
    }
}
