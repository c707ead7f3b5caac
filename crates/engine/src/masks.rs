//! Masks are computed here, off the engine's thread, while the model's step runs.
//!
//! A matcher is lent to a worker for the time of a step and comes back with what may or must follow.
//! It belongs to one sequence, so nothing is shared; whoever stops waiting (a dropped sequence)
//! lets the worker finish for nobody. The worker makes it, too, which takes time in proportion to
//! the grammar.

use std::{
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};

use wharf_grammar::{Constraint, MatchError, Matcher, TokenMask};

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

/// Where an answer stands.
pub(crate) enum Position {
    /// Nothing is written.
    Beginning(Constraint),
    After(Box<Matcher>),
}

impl Position {
    fn matcher(self) -> Matcher {
        match self {
            Self::Beginning(constraint) => constraint.matcher(),
            Self::After(matcher) => *matcher,
        }
    }
}

struct Job {
    position: Position,
    forcing: bool,
    reply: mpsc::Sender<Reply>,
}

/// Threads that compute masks; started when the first one is wanted, ended with the pool.
#[derive(Default)]
pub(crate) struct MaskPool {
    jobs: Option<mpsc::Sender<Job>>,
}

impl MaskPool {
    /// Asks what may follow. `forcing`: tokens that must follow are told as such.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(crate) fn lend(
        &mut self,
        position: Position,
        forcing: bool,
    ) -> Result<mpsc::Receiver<Reply>, String> {
        let jobs = match &mut self.jobs {
            Some(jobs) => jobs,
            none => none.insert(start().map_err(|error| format!("no thread for masks: {error}"))?),
        };
        let (reply, receiver) = mpsc::channel();
        // It fails only if all workers have ended, and then the receiver says so.
        let _ = jobs.send(Job { position, forcing, reply });
        Ok(receiver)
    }
}

fn start() -> std::io::Result<mpsc::Sender<Job>> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let (sender, jobs) = mpsc::channel();
    let jobs = Arc::new(Mutex::new(jobs));
    for _ in 0..(cores / 4).clamp(1, MOST_WORKERS) {
        let jobs = Arc::clone(&jobs);
        let work = move || {
            // Of this thread alone: the model's step goes first, for all wait for it, and for a
            // mask only its own sequence. Nothing is lost where the system does not let us.
            let _ = rustix::process::nice(10);
            work(&jobs);
        };
        thread::Builder::new().name("wharf-masks".into()).spawn(work)?;
    }
    Ok(sender)
}

/// Until the pool is gone. Matchers catch their own panics.
fn work(jobs: &Mutex<mpsc::Receiver<Job>>) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { position, forcing, reply }) = job else { return };
        let mut matcher = position.matcher();
        let forced = if forcing { matcher.forced() } else { Vec::new() };
        let next = match forced.is_empty() {
            true => matcher.mask().map(Next::OneOf),
            false => Ok(Next::Forced(forced)),
        };
        // Nobody waits for it where its sequence is gone.
        let _ = reply.send(Reply { matcher, next });
    }
}
