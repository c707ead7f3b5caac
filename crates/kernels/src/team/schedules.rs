//! Orders of the threads' steps, thousands of them: no region is lost, run twice or left waiting.
//! `RUSTFLAGS="--cfg shuttle" cargo test -p wharf-kernels --lib team::schedules`

use super::*;
use crate::sync::sync::atomic::AtomicUsize;

/// Each way of drawing orders, this many of them.
const ORDERS: usize = 20_000;

fn check(scenario: impl Fn() + Send + Sync + Copy + 'static) {
    shuttle::check_random(scenario, ORDERS);
    shuttle::check_pct(scenario, ORDERS, 3);
}

/// Runs regions of `sizes` tasks and counts them.
fn run_regions(team: &Team, sizes: &[usize]) {
    for &size in sizes {
        let runs: Vec<AtomicUsize> = (0..size).map(|_| AtomicUsize::new(0)).collect();
        let busy: Vec<AtomicBool> = (0..team.threads()).map(|_| AtomicBool::new(false)).collect();
        team.run(size, &|index, worker| {
            assert!(!busy[worker].swap(true, SeqCst), "worker {worker} is in two tasks");
            runs[index].fetch_add(1, SeqCst);
            busy[worker].store(false, SeqCst);
        });
        assert!(runs.iter().all(|runs| runs.load(SeqCst) == 1));
    }
}

fn team(threads: usize) -> Team {
    Team::new(NonZeroUsize::new(threads).unwrap())
}

#[test]
fn every_task_runs_once_and_the_team_ends() {
    check(|| run_regions(&team(3), &[3, 1, 4, 2]));
}

#[test]
fn callers_take_turns() {
    check(|| {
        let ours = Arc::new(team(2));
        let theirs = Arc::clone(&ours);
        let other = thread::spawn(move || run_regions(&theirs, &[2, 3]));
        run_regions(&ours, &[3, 2]);
        other.join().unwrap();
    });
}

/// A worker that is held up in a task of its own, and the caller likewise: the others take the rest.
#[test]
fn shares_are_taken_from_those_who_are_held_up() {
    check(|| {
        let team = team(3);
        for held_up in [1, 0] {
            let (ran, held) = (AtomicUsize::new(0), AtomicBool::new(false));
            team.run(6, &|_, worker| {
                if worker == held_up && !held.swap(true, SeqCst) {
                    while ran.load(SeqCst) < 5 {
                        thread::yield_now();
                    }
                }
                ran.fetch_add(1, SeqCst);
            });
            assert_eq!(ran.load(SeqCst), 6);
        }
    });
}

/// One worker's counter is left behind by several regions, and then used again.
#[test]
fn regions_of_few_tasks_leave_the_others_behind() {
    check(|| run_regions(&team(3), &[3, 2, 2, 5]));
}

#[test]
fn parts_run_in_one_region() {
    check(|| {
        let team = team(2);
        let ran: Vec<AtomicUsize> = (0..5).map(|_| AtomicUsize::new(0)).collect();
        team.run_parts(&[3, 0, 2], &|part, index, _| {
            ran[[0, 3, 3][part] + index].fetch_add(1, SeqCst);
        });
        assert!(ran.iter().all(|ran| ran.load(SeqCst) == 1));
    });
}

#[test]
fn numbers_of_regions_begin_again() {
    check(|| {
        let team = team(3);
        let jump = || team.shared.state.0.store(u64::from(u32::MAX) * REGION, SeqCst);
        jump();
        run_regions(&team, &[3, 2]); // The third worker's counter is left behind.
        jump();
        run_regions(&team, &[3, 2]);
    });
}
