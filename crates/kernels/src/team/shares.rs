//! How a region's tasks are dealt out: to each worker a share of its own, consecutive ones.
//!
//! The same share of every region goes to the same worker, in proportion: so a panel of weights is
//! multiplied, step after step, by the thread that packed it, which finds it in its core's caches and
//! its socket's memory. A region of several parts (matrices) is dealt out part by part for that reason.

/// The tasks of a region, `parts[part]` of each part, and into how many shares they are dealt.
#[derive(Clone, Copy)]
pub(super) struct Shares<'a> {
    parts: &'a [usize],
    count: usize,
}

impl<'a> Shares<'a> {
    /// One for each of `workers`, unless there are fewer tasks.
    ///
    /// # Panics
    /// With 2³² tasks: see `Shared::claimed`.
    pub(super) fn new(parts: &'a [usize], workers: usize) -> Self {
        let tasks = parts.iter().fold(0, |sum: usize, tasks| sum.saturating_add(*tasks));
        assert!(u32::try_from(tasks).is_ok(), "{tasks} tasks in a region");
        Self { parts, count: tasks.min(workers) }
    }

    /// How many shares there are.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// How many tasks `share` has.
    pub(super) fn len(&self, share: usize) -> usize {
        self.parts
            .iter()
            .map(|&tasks| self.start(tasks, share + 1) - self.start(tasks, share))
            .sum()
    }

    /// Task `n` of `share`: its part, and its index there.
    ///
    /// # Panics
    /// When the share has no such task.
    pub(super) fn task(&self, share: usize, mut n: usize) -> (usize, usize) {
        for (part, &tasks) in self.parts.iter().enumerate() {
            let index = self.start(tasks, share) + n;
            let end = self.start(tasks, share + 1);
            if index < end {
                return (part, index);
            }
            n = index - end;
        }
        unreachable!("share {share} has {} tasks", self.len(share))
    }

    /// Where `share` begins in a part of `tasks`: `share * tasks / count`, without an overflow.
    fn start(&self, tasks: usize, share: usize) -> usize {
        share * (tasks / self.count) + share * (tasks % self.count) / self.count
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use super::*;

    #[test]
    fn every_task_is_in_one_share_and_shares_of_a_part_differ_by_one() {
        for workers in [1, 2, 3, 7, 32] {
            for parts in [&[1][..], &[2], &[31], &[100], &[5, 0, 3], &[64, 32, 32, 1], &[1, 1]] {
                let shares = Shares::new(parts, workers);
                assert_eq!(shares.count(), parts.iter().sum::<usize>().min(workers));
                let mut next = vec![0; parts.len()];
                for share in 0..shares.count() {
                    let before = next.clone();
                    for n in 0..shares.len(share) {
                        let (part, index) = shares.task(share, n);
                        assert_eq!(index, next[part]);
                        next[part] += 1;
                    }
                    for ((next, before), tasks) in next.iter().zip(&before).zip(parts) {
                        assert!((next - before).abs_diff(tasks / shares.count()) <= 1);
                    }
                }
                assert_eq!(next, parts);
            }
        }
    }

    #[test]
    fn a_region_without_tasks_has_no_shares() {
        assert_eq!(Shares::new(&[], 3).count(), 0);
        assert_eq!(Shares::new(&[0, 0], 3).count(), 0);
    }

    #[test]
    #[should_panic(expected = "tasks in a region")]
    fn more_tasks_than_are_counted_are_refused() {
        let _ = Shares::new(&[usize::MAX, 2], 8);
    }
}
