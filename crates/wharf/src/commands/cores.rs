//! How many threads can compute at once without sharing a core.
//!
//! Two hardware threads of one core share its multipliers, so for arithmetic a second one gains
//! nothing and costs waiting. Counted are the physical cores behind the CPUs this process may run
//! on, and no more than the control group's quota allows.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;

/// The number of threads to compute with.
pub(super) fn available() -> NonZeroUsize {
    // Honours affinity and the cgroup's quota.
    let cpus = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    match physical().and_then(NonZeroUsize::new) {
        Some(cores) => cpus.min(cores),
        None => cpus,
    }
}

/// Distinct cores behind the CPUs we may run on, if the system tells.
fn physical() -> Option<usize> {
    let allowed = rustix::thread::sched_getaffinity(None).ok()?;
    let cores: Option<BTreeSet<String>> = (0..rustix::thread::CpuSet::MAX_CPU)
        .filter(|&cpu| allowed.is_set(cpu))
        .map(|cpu| {
            let file = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
            std::fs::read_to_string(file).ok()
        })
        .collect();
    Some(cores?.len())
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_more_threads_than_cpus() {
        let cpus = std::thread::available_parallelism().unwrap();
        assert!(super::available() <= cpus);
    }
}
