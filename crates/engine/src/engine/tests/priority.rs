//! Priorities: who starts, who makes way for whom, and that nobody makes way for nothing.

use super::*;

/// A request of a case: when it arrives (in steps), its priority, and the lengths of its prompt and
/// answer in tokens.
type Arrival = (u64, i64, u32, usize);

struct Case {
    name: &'static str,
    max_running: usize,
    num_blocks: usize,
    arrivals: &'static [Arrival],
    /// The order in which the requests end.
    ends: &'static [usize],
    /// How often a sequence lost its blocks.
    preemptions: u64,
}

const CASES: &[Case] = &[
    Case {
        name: "the more important one takes the only slot",
        max_running: 1,
        num_blocks: 64,
        arrivals: &[(0, 1, 20, 30), (5, 0, 20, 10)],
        ends: &[1, 0],
        preemptions: 1,
    },
    Case {
        name: "of equal priority, who came first goes on",
        max_running: 1,
        num_blocks: 64,
        arrivals: &[(0, 1, 20, 30), (5, 1, 20, 10)],
        ends: &[0, 1],
        preemptions: 0,
    },
    Case {
        name: "the less important one waits",
        max_running: 1,
        num_blocks: 64,
        arrivals: &[(0, -1, 20, 30), (5, 0, 20, 10), (6, -1, 20, 5)],
        ends: &[0, 2, 1],
        preemptions: 0,
    },
    Case {
        name: "where there is room, nobody makes way",
        max_running: 2,
        num_blocks: 64,
        arrivals: &[(0, 5, 20, 30), (5, 0, 20, 10)],
        ends: &[1, 0],
        preemptions: 0,
    },
    Case {
        name: "only as many make way as it takes, the worst first",
        max_running: 4,
        // Of which three pairs are in use.
        num_blocks: 8,
        arrivals: &[(0, 1, 20, 10), (0, 3, 20, 10), (0, 2, 20, 10), (3, 0, 30, 8)],
        ends: &[0, 2, 3, 1],
        preemptions: 1,
    },
    Case {
        name: "all of them, if it takes all",
        max_running: 4,
        num_blocks: 9,
        arrivals: &[(0, 1, 20, 10), (0, 3, 20, 16), (0, 2, 20, 12), (3, 0, 130, 8)],
        ends: &[3, 0, 2, 1],
        preemptions: 3,
    },
    Case {
        name: "nobody makes way in vain",
        max_running: 4,
        num_blocks: 10,
        // The first holds what the third would need, and is as important.
        arrivals: &[(0, 0, 100, 12), (0, 9, 10, 12), (3, 0, 100, 2)],
        ends: &[0, 1, 2],
        preemptions: 0,
    },
    Case {
        name: "one that makes way again and again ends all the same",
        max_running: 1,
        num_blocks: 64,
        arrivals: &[(0, 7, 20, 30), (4, 0, 20, 3), (12, 0, 20, 3), (20, 0, 20, 3), (28, 0, 20, 3)],
        ends: &[1, 2, 3, 4, 0],
        preemptions: 4,
    },
];

#[test]
fn who_is_more_important_goes_first_and_takes_no_more_than_it_needs() {
    for case in CASES {
        let config = EngineConfig {
            max_running: case.max_running,
            num_blocks: case.num_blocks,
            max_batched_tokens: 160,
            ..config()
        };
        let mut bench = Bench::new(config.clone());
        let wanted: Vec<GenerateRequest> = (0u32..)
            .zip(case.arrivals)
            .map(|(kind, &(_, priority, len, max_tokens))| GenerateRequest {
                priority,
                ..request(prompt(kind, len), max_tokens)
            })
            .collect();
        let mut receivers: Vec<Option<Receiver>> = wanted.iter().map(|_| None).collect();
        let mut answers = vec![Answer::default(); wanted.len()];
        let mut ends = Vec::new();
        let mut step = 0;
        while ends.len() < wanted.len() {
            for (index, arrival) in case.arrivals.iter().enumerate() {
                if arrival.0 == step {
                    receivers[index] = Some(bench.submit_one(wanted[index].clone()));
                }
            }
            bench.step();
            step += 1;
            assert!(step < 1000, "{}: no end", case.name);
            for (index, receiver) in receivers.iter_mut().enumerate() {
                while let Some(Ok(event)) = receiver.as_mut().map(Receiver::try_recv) {
                    answers[index].add(event);
                }
                if answers[index].finish.is_some() && !ends.contains(&index) {
                    ends.push(index);
                }
            }
        }
        assert_eq!(ends, case.ends, "{}", case.name);
        assert_eq!(bench.stats().preemptions, case.preemptions, "{}", case.name);
        for (request, answer) in wanted.into_iter().zip(&answers) {
            let alone = Bench::alone(&config, request);
            assert_eq!(answer.essence(), alone[0].essence(), "{}", case.name);
        }
    }
}

/// Whether others would make way in vain is not worked out anew in every step.
#[test]
fn one_that_nobody_can_make_way_for_is_looked_up_once() {
    let mut bench = Bench::new(EngineConfig { num_blocks: 10, ..config() });
    let ranked = |request, priority| GenerateRequest { priority, ..request };
    let _first = bench.submit_one(ranked(request(prompt(0, 60), 60), 0));
    let _second = bench.submit_one(ranked(request(prompt(1, 10), 60), 9));
    bench.step();
    bench.step();
    let _big = bench.submit_one(ranked(request(prompt(2, 120), 2), 0));
    let before = bench.core.scheduler.prefix_lookups;
    for _ in 0..20 {
        bench.step();
    }
    assert_eq!(bench.core.scheduler.prefix_lookups, before + 1);
    assert_eq!(bench.stats().preemptions, 0);
    bench.finish();
}

/// A choice that waits for its prompt, which another is computing, can't start: it displaces nobody.
/// (It took the place of one that was then admitted again in the same step.)
#[test]
fn choices_that_wait_for_their_prompt_displace_nobody() {
    let mut bench = Bench::new(EngineConfig { max_running: 2, ..config() });
    let ranked = |request, priority| GenerateRequest { priority, ..request };
    let _first = bench.submit_one(ranked(request(prompt(0, 5), 40), 1));
    bench.step();
    let twice = GenerateRequest { n: 2, ..ranked(request(prompt(1, 20), 1), 0) };
    let _choices = bench.submit(twice);
    bench.step();
    assert_eq!(bench.stats().preemptions, 0);
    bench.finish();
}
