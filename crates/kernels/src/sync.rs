//! What the team is made of: the standard library's threads and atomics, or shuttle's, which tries out
//! their orders (`--cfg shuttle`; see `team::schedules`).

#[cfg(not(shuttle))]
pub(crate) use std::{sync, thread, thread_local};

#[cfg(shuttle)]
pub(crate) use shuttle::{sync, thread, thread_local};
