//! A model with recurrent layers: states in slots, and prefixes that count up to a copy of one.

use super::*;

fn recurrent(num_state_snapshots: usize) -> EngineConfig {
    EngineConfig { num_state_snapshots: Some(num_state_snapshots), ..config() }
}

/// Runs one request to its end.
fn run(bench: &mut Bench, request: GenerateRequest) -> Answer {
    let receiver = bench.submit_one(request);
    bench.finish();
    Answer::of(receiver)
}

#[test]
fn the_same_prompt_goes_on_from_the_end_of_its_last_full_block() {
    let mut bench = Bench::new(recurrent(2));
    let cold = run(&mut bench, request(prompt(0, 90), 20));
    let warm = run(&mut bench, request(prompt(0, 90), 20));
    assert_eq!((cold.cached_tokens, warm.cached_tokens), (Some(0), Some(80)));
    assert_eq!(warm.essence(), cold.essence());
    // The last token is run even where it fills a block.
    run(&mut bench, request(prompt(1, 64), 5));
    assert_eq!(run(&mut bench, request(prompt(1, 64), 5)).cached_tokens, Some(48));
}

#[test]
fn a_conversation_goes_on_from_the_prompt_before() {
    let mut bench = Bench::new(recurrent(2));
    let first = run(&mut bench, request(prompt(0, 40), 20));
    let next = [prompt(0, 40), first.tokens, prompt(3, 10)].concat();
    let config = recurrent(2);
    let answer = run(&mut bench, request(next.clone(), 9));
    // Keys and values of 60 tokens are there, a state of 32.
    assert_eq!(answer.cached_tokens, Some(32));
    assert_eq!(answer.essence(), Bench::alone(&config, request(next, 9))[0].essence());
}

#[test]
fn a_shared_beginning_is_copied_when_it_shows_and_found_by_the_third() {
    let mut bench = Bench::new(recurrent(8));
    let own = |kind| request([prompt(0, 70), prompt(kind, 40)].concat(), 3);
    let cached: Vec<_> = (4..8).map(|kind| run(&mut bench, own(kind)).cached_tokens).collect();
    assert_eq!(cached, [Some(0), Some(0), Some(64), Some(64)]);
    assert_eq!(bench.stats().prefix_cache_hits, 128);
    // The step that makes one copy makes no second.
    let rows = |bench: &Bench| -> usize { bench.log().iter().map(|b| b.tokens.len()).sum() };
    assert_eq!(rows(&bench), 4 * (110 + 2) - 128);
}

#[test]
fn choices_go_on_from_a_copy_even_without_prefix_caching() {
    for prefix_caching in [true, false] {
        let config = EngineConfig { prefix_caching, ..recurrent(1) };
        let mut bench = Bench::new(config.clone());
        let request = GenerateRequest { n: 3, ..request(prompt(0, 50), 10) };
        let receivers = bench.submit(request.clone()).unwrap();
        bench.finish();
        let answers: Vec<Answer> = receivers.into_iter().map(Answer::of).collect();
        let prompt_rows = bench.stats().prefill_rows;
        assert_eq!(prompt_rows, 50 + 2 * 2, "the prompt is computed once, its tail by each");
        for (answer, alone) in answers.iter().zip(Bench::alone(&config, request)) {
            assert_eq!(answer.essence(), alone.essence());
        }
    }
}

#[test]
fn without_slots_for_copies_every_prompt_is_computed() {
    let mut bench = Bench::new(recurrent(0));
    for _ in 0..2 {
        assert_eq!(run(&mut bench, request(prompt(0, 90), 5)).cached_tokens, Some(0));
    }
    let receivers = bench.submit(GenerateRequest { n: 2, ..request(prompt(1, 50), 5) }).unwrap();
    bench.finish();
    let answers: Vec<Answer> = receivers.into_iter().map(Answer::of).collect();
    assert!(answers.iter().all(|answer| answer.finish.is_some()));
}

#[test]
fn the_least_recently_used_copy_is_forgotten() {
    let mut bench = Bench::new(recurrent(2));
    for kind in [0, 1, 0, 2] {
        run(&mut bench, request(prompt(kind, 40), 3));
    }
    let mut cached = |kind| run(&mut bench, request(prompt(kind, 40), 3)).cached_tokens;
    assert_eq!((cached(0), cached(2), cached(1)), (Some(32), Some(32), Some(0)));
}

#[test]
fn preempted_sequences_begin_again_from_a_copy() {
    let config = EngineConfig { num_blocks: 10, ..recurrent(4) };
    let mut bench = Bench::new(config.clone());
    let requests: Vec<_> = (0..3).map(|kind| request(prompt(kind, 40), 60)).collect();
    let receivers: Vec<_> = requests.iter().map(|r| bench.submit_one(r.clone())).collect();
    bench.finish();
    assert!(bench.stats().preemptions > 0);
    for (receiver, request) in receivers.into_iter().zip(requests) {
        let alone = Bench::alone(&config, request);
        assert_eq!(Answer::of(receiver).essence(), alone[0].essence());
    }
}

#[test]
fn nothing_is_guessed() {
    let config = EngineConfig { num_speculative_tokens: 4, ..recurrent(2) };
    let mut bench = super::speculation::bench(config, Some(5));
    run(&mut bench, request(prompt(0, 20), 100));
    assert_eq!(bench.stats().draft_tokens, 0);
}

#[test]
fn a_failed_step_gives_its_slots_back() {
    let faults: Faults = Box::new(|step, _| (step == 1).then_some(Fault::Error));
    let mut bench = Bench::with_faults(recurrent(1), faults);
    let failed = run(&mut bench, request(prompt(0, 20), 5));
    assert!(failed.failed.is_some());
    // What it wrote is not found, and the slot for copies is there for others.
    assert_eq!(run(&mut bench, request(prompt(0, 20), 5)).cached_tokens, Some(0));
    assert_eq!(run(&mut bench, request(prompt(0, 20), 5)).cached_tokens, Some(16));
}
