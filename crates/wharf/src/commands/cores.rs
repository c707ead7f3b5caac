//! How many threads can compute at once without sharing a core.
//!
//! Two hardware threads of one core share its multipliers, so for arithmetic a second one gains
//! nothing and costs waiting. Counted are the physical cores behind the CPUs this process may run
//! on, and no more than the control group's quota allows.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

/// The number of threads to compute with.
pub(super) fn available() -> NonZeroUsize {
    // Honours affinity and the cgroup's quota.
    let cpus = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    match first_cpus().and_then(|cpus| NonZeroUsize::new(cpus.len())) {
        Some(cores) => cpus.min(cores),
        None => cpus,
    }
}

/// Of each core behind the CPUs we may run on the first of them, in ascending order, if the system
/// tells.
pub(super) fn first_cpus() -> Option<Vec<usize>> {
    let allowed = rustix::thread::sched_getaffinity(None).ok()?;
    let mut cores = BTreeMap::new();
    for cpu in (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)) {
        let file = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
        cores.entry(std::fs::read_to_string(file).ok()?).or_insert(cpu);
    }
    let mut cpus: Vec<usize> = cores.into_values().collect();
    cpus.sort_unstable();
    Some(cpus)
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_more_threads_than_cpus() {
        let cpus = std::thread::available_parallelism().unwrap();
        assert!(super::available() <= cpus);
    }

    #[test]
    fn cores_are_told_by_cpus_that_differ() {
        let cpus = super::first_cpus().unwrap();
        assert!(!cpus.is_empty() && cpus.is_sorted_by(|a, b| a < b), "{cpus:?}");
    }
}
