//! Random workloads: prompts that share prefixes, several choices, cancellations, small budgets, and
//! so few blocks that sequences are preempted and prefixes forgotten. Each choice must get what its
//! request gets alone on a roomy, fresh engine.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Act {
    Submit(Box<GenerateRequest>),
    /// Drops the receiver of the n-th choice there is (modulo their number).
    Cancel(usize),
    Steps(usize),
}

prop_compose! {
    /// Prompts share prefixes of a few kinds, cut anywhere, with own ends.
    fn any_request()(
        (kind, shared, own, own_kind) in (0u32..3, 0u32..60, 0u32..20, 0u32..24),
        (max_tokens, n, priority) in (1usize..50, 1usize..4, 0i64..2),
        temperature in prop_oneof![Just(0.0f32), Just(1.0f32)],
        (seed, logprobs) in (any::<u64>(), prop::option::of(0usize..3)),
        repetition_penalty in prop_oneof![Just(1.0f32), Just(1.3f32)],
        (salt, ignore_eos, top_k) in (prop::option::weighted(0.2, "[ab]"), any::<bool>(), 0u32..5),
        (min_tokens, stop, bad) in (0usize..4, prop::option::weighted(0.2, 0u32..24), 0u32..48),
        constraint in prop::option::of(prop::sample::select(super::constrained::constraints())),
    ) -> GenerateRequest {
        let mut tokens = prompt(kind, shared);
        tokens.extend(prompt(own_kind, own.max(1)));
        // With a constraint, these could leave nothing to write.
        let free = constraint.is_none();
        let params = SamplingParams {
            temperature, seed: Some(seed), logprobs, repetition_penalty, ignore_eos, top_k,
            min_tokens: if free { min_tokens } else { 0 },
            stop_token_ids: Vec::from_iter(stop),
            bad_words: if free && bad < 24 { vec![vec![bad], vec![1, 2, bad]] } else { Vec::new() },
            ..params(max_tokens)
        };
        GenerateRequest { prompt: tokens, n, params, cache_salt: salt.map(Into::into), priority, constraint }
    }
}

prop_compose! {
    fn any_config()(
        max_running in 1usize..6, extra in 0usize..40, num_blocks in 8usize..20,
        (prefix_caching, ngram_lookup) in (any::<bool>(), any::<bool>()),
        num_speculative_tokens in prop_oneof![Just(0usize), 1usize..7],
        num_state_snapshots in prop::option::of(0usize..6),
    ) -> EngineConfig {
        EngineConfig {
            max_running,
            max_batched_tokens: max_running + extra,
            num_blocks,
            prefix_caching,
            num_speculative_tokens,
            ngram_lookup,
            num_state_snapshots,
            ..config()
        }
    }
}

fn any_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => any_request().prop_map(|request| Act::Submit(Box::new(request))),
        1 => (0usize..20).prop_map(Act::Cancel),
        3 => (0usize..20).prop_map(Act::Steps),
    ]
}

/// Every running sequence with one token to go gets it in the next step (and more where its
/// constraint forces more, or guesses come true), ends, is preempted (and perhaps admitted again, to
/// be computed once more), or waits for its mask.
fn step_and_check_decode_rows(bench: &mut Bench) {
    let before = bench.core.scheduler.decoding();
    let preemptions = bench.stats().preemptions;
    bench.step();
    let preempted = bench.stats().preemptions > preemptions;
    for (rank, generated) in before {
        if let Some(sequence) = bench.core.scheduler.get(rank) {
            let late = sequence.constrained.as_ref().is_some_and(|c| c.late_logits.is_some());
            let again = preempted && sequence.num_lost > 0;
            assert!(late || again || sequence.output.len() > generated, "a decode row starved");
            let more =
                sequence.constrained.is_some() || bench.core.config.num_speculative_tokens > 0;
            assert!(more || sequence.output.len() == generated + 1, "more than one token");
        }
    }
}

proptest! {
    #[test]
    fn a_request_gets_the_same_in_any_company(
        config in any_config(), acts in prop::collection::vec(any_act(), 1..30), late: bool,
        period in prop::option::of(3u64..24), twist in prop::option::of(0u64..2),
    ) {
        let mut bench = speculation::bench(config.clone(), period);
        // Where states are kept nothing is guessed.
        if let Some(twist) = twist.filter(|_| config.num_state_snapshots.is_none()) {
            bench = draft::beside(bench, &config, twist, period);
        }
        if late {
            // Most masks are not there in time then.
            bench.core.mask_patience = std::time::Duration::ZERO;
        }
        let mut requests = Vec::new();
        // By (request, choice).
        let mut receivers = BTreeMap::new();
        for act in acts {
            match act {
                Act::Submit(request) => {
                    let Ok(choices) = bench.submit((*request).clone()) else { continue };
                    for (choice, receiver) in choices.into_iter().enumerate() {
                        receivers.insert((requests.len(), choice), receiver);
                    }
                    requests.push(*request);
                }
                Act::Cancel(which) if !receivers.is_empty() => {
                    let key = *receivers.keys().nth(which % receivers.len()).unwrap();
                    receivers.remove(&key);
                }
                Act::Cancel(_) => {}
                Act::Steps(n) => (0..n).for_each(|_| step_and_check_decode_rows(&mut bench)),
            }
        }
        bench.finish();
        let stats = bench.stats();
        prop_assert_eq!((stats.blocks_used, stats.running, stats.waiting), (0, 0, 0));
        prop_assert_eq!(stats.failed_steps, 0);
        // Roomy, cold and in one piece.
        let roomy = EngineConfig {
            num_blocks: 100, max_batched_tokens: 200, num_speculative_tokens: 0, ..config
        };
        for (i, request) in requests.into_iter().enumerate() {
            let wanted = (0..request.n).filter_map(|k| Some((k, receivers.remove(&(i, k))?)));
            let wanted: Vec<_> = wanted.collect();
            if wanted.is_empty() {
                continue;
            }
            let alone = speculation::alone(&roomy, period, request);
            for (choice, receiver) in wanted {
                let answer = Answer::of(receiver);
                prop_assert!(answer.finish.is_some());
                prop_assert_eq!(answer.essence(), alone[choice].essence());
            }
        }
    }
}
