//! The thread team: fork-join over numbered tasks, spinning briefly before parking.

use std::num::NonZeroUsize;

/// A fixed set of worker threads (the caller is one of them).
pub struct Team {
    threads: usize,
}

impl Team {
    /// Starts `threads - 1` workers; the caller of [`Team::run`] is the last one.
    pub fn new(threads: NonZeroUsize) -> Self {
        Self { threads: threads.get() }
    }
    /// Number of threads, the caller included.
    pub fn threads(&self) -> usize {
        self.threads
    }
    /// Calls `task(index, worker)` for each index in `0..tasks`, and returns when all are done.
    /// `worker` is in `0..threads()`. A panic in a task is re-raised here once all have ended.
    pub fn run(&self, tasks: usize, task: &(dyn Fn(usize, usize) + Sync)) {
        let _ = (tasks, task);
        todo!()
    }
}
