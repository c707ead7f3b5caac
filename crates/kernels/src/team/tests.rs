//! Regions of real threads: each task once, whoever is late, panics or begins another region inside.

use super::*;
use std::sync::atomic::{AtomicU32, AtomicUsize};

fn team(threads: usize) -> Team {
    Team::new(NonZeroUsize::new(threads).unwrap())
}

#[test]
fn every_task_runs_once_over_many_tiny_regions() {
    for threads in [1, 2, 4, 9] {
        let team = team(threads);
        for round in 0..3000 {
            let tasks = round % 17;
            let ran: Vec<AtomicU32> = (0..tasks).map(|_| AtomicU32::new(0)).collect();
            team.run(tasks, &|index, worker| {
                assert!(worker < team.threads());
                ran[index].fetch_add(1, SeqCst);
            });
            assert!(ran.iter().all(|n| n.load(SeqCst) == 1), "{threads} threads, {round}");
        }
    }
}

#[test]
fn workers_wake_after_parking() {
    let team = team(3);
    for _ in 0..20 {
        thread::sleep(Duration::from_millis(2));
        let sum = AtomicUsize::new(0);
        team.run(100, &|index, _| {
            sum.fetch_add(index, SeqCst);
        });
        assert_eq!(sum.into_inner(), 4950);
    }
}

#[test]
fn one_worker_number_is_never_in_two_tasks_at_once() {
    let team = team(4);
    let busy: Vec<AtomicBool> = (0..4).map(|_| AtomicBool::new(false)).collect();
    for _ in 0..200 {
        team.run(40, &|_, worker| {
            assert!(!busy[worker].swap(true, SeqCst));
            std::hint::spin_loop();
            busy[worker].store(false, SeqCst);
        });
    }
}

#[test]
fn a_panic_is_raised_in_the_caller_and_the_team_lives_on() {
    for threads in [1, 2, 4] {
        let team = team(threads);
        for bad in [0, 3, 9] {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                team.run(10, &|index, _| assert!(index != bad, "task {index} fails"));
            }));
            let message = *caught.unwrap_err().downcast::<String>().unwrap();
            assert_eq!(message, format!("task {bad} fails"));
            let ran = AtomicUsize::new(0);
            team.run(10, &|_, _| {
                ran.fetch_add(1, SeqCst);
            });
            assert_eq!(ran.into_inner(), 10);
        }
    }
}

/// Dropping the second task's payload used to unwind out of the region, past the workers that
/// were still in it.
#[test]
fn payloads_that_panic_when_dropped_do_not_break_the_region() {
    struct Bomb(usize);
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("payload {} was dropped", self.0);
        }
    }
    for threads in [2, 4] {
        let team = team(threads);
        let ran = AtomicUsize::new(0);
        let caught = catch_unwind(AssertUnwindSafe(|| {
            team.run(10, &|index, _| {
                ran.fetch_add(1, SeqCst);
                std::panic::panic_any(Bomb(index));
            });
        }));
        let payload = caught.unwrap_err();
        assert!(payload.is::<Bomb>());
        std::mem::forget(payload);
        assert_eq!(ran.into_inner(), 10);
        let sum = AtomicUsize::new(0);
        team.run(10, &|index, _| {
            sum.fetch_add(index, SeqCst);
        });
        assert_eq!(sum.into_inner(), 45);
    }
}

#[test]
fn a_region_inside_a_task_runs_in_its_thread() {
    for threads in [1, 3] {
        let team = team(threads);
        let ran = AtomicUsize::new(0);
        team.run(4, &|_, outer| {
            team.run(5, &|_, inner| {
                assert_eq!(outer, inner);
                ran.fetch_add(1, SeqCst);
            });
        });
        assert_eq!(ran.into_inner(), 20);
    }
}

#[test]
fn callers_from_several_threads_take_turns() {
    let team = team(3);
    let sum = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..200 {
                    team.run(7, &|index, _| {
                        sum.fetch_add(index, SeqCst);
                    });
                }
            });
        }
    });
    assert_eq!(sum.into_inner(), 4 * 200 * 21);
}

#[test]
fn every_task_of_every_part_runs_once() {
    for threads in [1, 2, 5] {
        let team = team(threads);
        for parts in [&[][..], &[0], &[1], &[0, 1, 0], &[3, 0, 8], &[40, 20, 20, 1, 1]] {
            let ran: Vec<Vec<AtomicU32>> = parts
                .iter()
                .map(|&tasks| (0..tasks).map(|_| AtomicU32::new(0)).collect())
                .collect();
            team.run_parts(parts, &|part, index, worker| {
                assert!(worker < threads);
                ran[part][index].fetch_add(1, SeqCst);
            });
            assert!(ran.iter().flatten().all(|ran| ran.load(SeqCst) == 1), "{threads}, {parts:?}");
        }
    }
}

/// Whoever comes first to a task of its own is held up there until the others have done all the rest.
#[test]
fn a_worker_that_is_held_up_loses_its_share_to_the_others() {
    const TASKS: usize = 60;
    for threads in [2, 3, 8] {
        let team = team(threads);
        for held_up in 0..threads {
            let (ran, held) = (AtomicUsize::new(0), AtomicBool::new(false));
            let begun = Instant::now();
            team.run(TASKS, &|_, worker| {
                if worker == held_up && !held.swap(true, SeqCst) {
                    while ran.load(SeqCst) < TASKS - 1 {
                        assert!(begun.elapsed() < Duration::from_secs(60), "nobody takes the rest");
                        thread::yield_now();
                    }
                }
                ran.fetch_add(1, SeqCst);
            });
            assert_eq!(ran.into_inner(), TASKS);
        }
    }
}

/// A worker's counter may still hold the number of the last time round, when it was all claimed.
#[test]
fn numbers_of_regions_begin_again() {
    let team = team(3);
    let run = |tasks| {
        let ran = AtomicUsize::new(0);
        team.run(tasks, &|_, _| {
            ran.fetch_add(1, SeqCst);
        });
        assert_eq!(ran.into_inner(), tasks);
    };
    let jump = |number: u64| team.shared.state.0.store(number * REGION, SeqCst);
    jump(u64::from(u32::MAX) - 1);
    run(20);
    run(20); // number 0
    run(2); // not the third worker's
    jump(u64::from(u32::MAX));
    run(20);
}

#[test]
fn chunks_cover_the_slice() {
    let team = team(2);
    let mut data = vec![0usize; 103];
    team.run_chunks(&mut data, 10, &|index, piece, _| {
        piece.iter_mut().for_each(|x| *x = index + 1);
    });
    assert!(data.iter().enumerate().all(|(i, &x)| x == i / 10 + 1));
}
