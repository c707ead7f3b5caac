//! Binding threads to CPUs, where the system can.

use std::io;

/// Binds the calling thread to `cpu` alone.
#[cfg(target_os = "linux")]
pub(crate) fn bind(cpu: usize) -> io::Result<()> {
    if cpu >= rustix::thread::CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

/// Whether threads may be bound to each of `cpus`.
#[cfg(target_os = "linux")]
pub(crate) fn check(cpus: &[usize]) -> io::Result<()> {
    let before = rustix::thread::sched_getaffinity(None)?;
    let result = cpus.iter().try_for_each(|&cpu| bind(cpu));
    rustix::thread::sched_setaffinity(None, &before)?;
    result
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn bind(_: usize) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn check(_: &[usize]) -> io::Result<()> {
    bind(0)
}

#[cfg(test)]
#[cfg(all(target_os = "linux", not(shuttle)))]
mod tests {
    use std::{num::NonZeroUsize, sync::Mutex};

    use crate::team::Team;

    /// In which CPUs the calling thread may run.
    fn allowed() -> Vec<usize> {
        let set = rustix::thread::sched_getaffinity(None).unwrap();
        (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect()
    }

    #[test]
    fn workers_stay_on_their_cpus_and_the_caller_is_free() {
        let cpus = allowed();
        let threads = NonZeroUsize::new(cpus.len()).unwrap();
        let team = Team::pinned(threads, &cpus).unwrap();
        assert_eq!(allowed(), cpus, "the caller is as free as before");
        let seen = Mutex::new(vec![None; cpus.len()]);
        while seen.lock().unwrap().contains(&None) {
            team.run(4 * cpus.len(), &|_, worker| seen.lock().unwrap()[worker] = Some(allowed()));
        }
        let seen = seen.into_inner().unwrap();
        assert_eq!(seen[0].as_ref(), Some(&cpus));
        for (worker, cpu) in cpus.iter().enumerate().skip(1) {
            assert_eq!(seen[worker], Some(vec![*cpu]));
        }
    }

    #[test]
    fn a_cpu_that_is_not_there_is_refused() {
        let before = allowed();
        for cpu in [rustix::thread::CpuSet::MAX_CPU - 1, usize::MAX] {
            assert!(Team::pinned(NonZeroUsize::MIN, &[cpu]).is_err());
        }
        assert_eq!(allowed(), before);
    }
}
