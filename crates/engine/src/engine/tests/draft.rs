//! A draft model: that it saves steps where it thinks as the model does, that it changes nothing
//! else, and that it holds nobody up.

use super::*;

/// A pass takes a tenth of a step.
fn cheap(_rows: usize) -> Duration {
    Duration::from_millis(1)
}

/// A pass takes as long as a step.
fn dear(_rows: usize) -> Duration {
    Duration::from_millis(10)
}

fn step(_rows: usize) -> Duration {
    Duration::from_millis(10)
}

/// Nothing but the draft model guesses.
fn drafting() -> EngineConfig {
    EngineConfig {
        max_model_len: 1200,
        num_blocks: 400,
        num_speculative_tokens: 4,
        ngram_lookup: false,
        ..config()
    }
}

/// A draft model of another `twist` than the model's, which is 0.
fn draft_runner(config: &EngineConfig, twist: u64) -> FakeRunner {
    let mut runner = FakeRunner::new(config, VOCAB);
    runner.twist = twist;
    runner
}

fn bench_with(config: &EngineConfig, draft: FakeRunner, max_model_len: usize) -> Bench {
    let draft = DraftModel { runner: Box::new(draft), max_model_len };
    let runner = FakeRunner::new(config, VOCAB);
    let mut bench = Bench::with_draft(config.clone(), runner, Some(draft));
    bench.core.step_time = Some(step);
    bench.core.draft.as_mut().unwrap().pass_time = Some(cheap);
    bench
}

fn bench(config: &EngineConfig, twist: u64) -> Bench {
    bench_with(config, draft_runner(config, twist), config.max_model_len)
}

/// An engine with a draft model beside it that knows of its texts' `period`.
pub(super) fn beside(
    mut bench: Bench,
    config: &EngineConfig,
    twist: u64,
    period: Option<u64>,
) -> Bench {
    let mut runner = draft_runner(config, twist);
    runner.period = period;
    let model = DraftModel { runner: Box::new(runner), max_model_len: config.max_model_len };
    let mut draft = Draft::new(model, config, VOCAB);
    draft.pass_time = Some(cheap);
    bench.core.draft = Some(draft);
    bench
}

fn without(config: &EngineConfig) -> EngineConfig {
    EngineConfig { num_speculative_tokens: 0, ..config.clone() }
}

/// Runs requests together; each must get what it gets alone and without guesses.
fn check(mut bench: Bench, requests: &[GenerateRequest]) -> EngineStats {
    let plain = without(&EngineConfig { num_blocks: 400, ..bench.core.config.clone() });
    let submitted: Vec<_> = requests.iter().map(|r| bench.submit(r.clone()).unwrap()).collect();
    bench.finish();
    for (request, receivers) in requests.iter().zip(submitted) {
        let answers: Vec<Answer> = receivers.into_iter().map(Answer::of).collect();
        let alone = Bench::alone(&plain, request.clone());
        for (answer, alone) in answers.iter().zip(&alone) {
            assert_eq!(answer.essence(), alone.essence(), "{:?}", request.params);
        }
    }
    assert_eq!(bench.stats().blocks_used, 0);
    bench.stats()
}

#[test]
fn a_draft_that_is_the_model_is_always_right_at_every_temperature() {
    for params in super::speculation::all_params() {
        for n in [1, 3] {
            let wanted = GenerateRequest { n, params: params.clone(), ..request(prompt(1, 33), 1) };
            let stats = check(bench(&drafting(), 0), &[wanted]);
            assert_eq!(stats.accepted_tokens, stats.draft_tokens, "{params:?}");
            let steps = stats.generation_tokens / n as u64;
            // Of five tokens four are guessed, but for the first ones and the last.
            assert!(stats.accepted_tokens * 10 > stats.generation_tokens * 7 || steps < 40);
        }
    }
}

#[test]
fn a_draft_of_another_mind_changes_nothing_and_is_given_up() {
    let requests: Vec<_> = super::speculation::all_params()
        .into_iter()
        .map(|params| GenerateRequest { params, ..request(prompt(2, 20), 1) })
        .collect();
    let stats = check(bench(&drafting(), 1), &requests);
    assert!(stats.draft_tokens > 100 && stats.accepted_tokens * 3 < stats.draft_tokens);

    let mut dear_bench = bench(&drafting(), 1);
    dear_bench.core.draft.as_mut().unwrap().pass_time = Some(dear);
    let stats = check(dear_bench, &[request(prompt(0, 20), 1000)]);
    // Some, to see; and then one at times.
    assert!((1..60).contains(&stats.draft_tokens), "{}", stats.draft_tokens);
    assert!(stats.draft_passes < 80, "{}", stats.draft_passes);
}

#[test]
fn drafts_go_on_in_batches_and_after_preemption() {
    for (num_blocks, prefix_caching) in [(400, true), (12, true), (12, false)] {
        for twist in [0, 1] {
            let config = EngineConfig { num_blocks, prefix_caching, ..drafting() };
            let drawn = |request: GenerateRequest| GenerateRequest {
                params: SamplingParams { temperature: 1.0, ..request.params.clone() },
                ..request
            };
            let requests: Vec<_> = (0..6)
                .map(|kind| request(prompt(kind % 4, 20 + kind), 70))
                .flat_map(|request| [request.clone(), drawn(request)])
                .collect();
            let stats = check(bench(&config, twist), &requests);
            assert_eq!(stats.preemptions > 0, num_blocks == 12);
            assert!(stats.draft_tokens > 50, "{}", stats.draft_tokens);
            assert!(twist != 0 || stats.accepted_tokens == stats.draft_tokens);
        }
    }
}

#[test]
fn a_draft_ends_where_the_answer_does() {
    let plain = Bench::alone(&without(&drafting()), request(prompt(1, 10), 60)).remove(0).tokens;
    let eos = plain[40];
    let config = EngineConfig { eos_token_ids: vec![eos], ..drafting() };
    let mut ended = request(prompt(1, 10), 60);
    ended.params.ignore_eos = false;
    let stats = check(bench(&config, 0), &[ended]);
    assert_eq!(stats.accepted_tokens, stats.draft_tokens);
    for max_tokens in 1..30 {
        check(bench(&drafting(), 0), &[request(prompt(0, 20), max_tokens)]);
    }
}

#[test]
fn beyond_its_longest_sequence_a_draft_says_nothing() {
    let config = drafting();
    let short = bench_with(&config, draft_runner(&config, 0), 64);
    let log = Arc::clone(&short.log);
    let stats = check(short, &[request(prompt(0, 20), 200)]);
    assert!(stats.draft_tokens > 20 && stats.draft_tokens <= 44, "{}", stats.draft_tokens);
    // Plain steps from there on.
    assert!(log.lock().unwrap().iter().rev().take(130).all(|batch| batch.tokens.len() == 1));
    // A prompt that is too long for it from the start.
    let short = bench_with(&config, draft_runner(&config, 0), 64);
    assert_eq!(check(short, &[request(prompt(0, 100), 50)]).draft_passes, 0);
}

#[test]
fn a_draft_with_more_rows_or_fewer_than_the_model_has_guesses_ids_of_both() {
    let config = drafting();
    for vocab_size in [VOCAB - 8, VOCAB + 40] {
        let runner = FakeRunner::new(&config, vocab_size);
        let stats = check(bench_with(&config, runner, 1200), &[request(prompt(0, 20), 200)]);
        assert!(stats.draft_tokens > 0 || vocab_size < VOCAB);
    }
}

#[test]
fn a_draft_that_fails_is_done_without() {
    for fault in [Fault::Error, Fault::Panic, Fault::Short] {
        let config = drafting();
        let draft = FakeRunner::with_faults(&config, VOCAB, fault_in_step(9, fault));
        let mut failing = bench_with(&config, draft, 1200);
        let receiver = failing.submit_one(request(prompt(0, 20), 100));
        failing.finish();
        let alone = Bench::alone(&without(&config), request(prompt(0, 20), 100));
        assert_eq!(Answer::of(receiver).essence(), alone[0].essence());
        assert!(failing.core.draft.is_none(), "{fault:?}");
        let stats = failing.stats();
        assert!(stats.draft_tokens > 0 && stats.failed_steps == 0);
        assert_eq!(stats.draft_passes, 9);
    }
}

/// Its prompt is computed beside running streams as the model's is: in chunks, and after those.
#[test]
fn a_draft_catches_up_in_chunks_that_the_streams_bear() {
    // A row of prefill takes a quarter of a step, of the draft model's a tenth of that.
    fn rows_cost(rows: usize) -> Duration {
        Duration::from_micros(10_000 + 2_500 * (rows as u64 - 1))
    }
    fn passes_cost(rows: usize) -> Duration {
        Duration::from_micros(250 * rows as u64)
    }
    let config = EngineConfig { max_batched_tokens: 256, ..drafting() };
    let draft = draft_runner(&config, 0);
    let draft_log = Arc::clone(&draft.log);
    let mut bench = bench_with(&config, draft, 1200);
    bench.core.step_time = Some(rows_cost);
    bench.core.draft.as_mut().unwrap().pass_time = Some(passes_cost);
    let stream = bench.submit_one(request(prompt(0, 20), 400));
    for _ in 0..30 {
        bench.step();
    }
    draft_log.lock().unwrap().clear();
    let long = bench.submit_one(request(prompt(1, 600), 300));
    bench.finish();
    assert_eq!(Answer::of(stream).tokens.len(), 400);
    assert_eq!(Answer::of(long).tokens.len(), 300);
    let longest = draft_log.lock().unwrap().iter().map(|batch| batch.tokens.len()).max().unwrap();
    // 0.8 of a step in rows of 0.25 ms: one of two rows takes 12.5 ms, one of ten rows 32.5.
    assert!((20..=104).contains(&longest), "{longest} rows");
    let stats = bench.stats();
    assert_eq!(stats.accepted_tokens, stats.draft_tokens);
    assert!(stats.accepted_tokens > 100, "{}", stats.accepted_tokens);
}

#[test]
fn a_draft_finds_prefixes_in_its_own_cache() {
    let config = drafting();
    let draft = draft_runner(&config, 0);
    let draft_log = Arc::clone(&draft.log);
    let mut bench = bench_with(&config, draft, 1200);
    let first = request(prompt(0, 200), 50);
    let receiver = bench.submit_one(first.clone());
    bench.finish();
    let turn = [first.prompt, Answer::of(receiver).tokens, vec![1, 2, 3]].concat();
    let rows = |log: &Mutex<Vec<Batch>>| -> usize {
        log.lock().unwrap().iter().map(|batch| batch.tokens.len()).sum()
    };
    let before = rows(&draft_log);
    assert!(before >= 200);
    let receiver = bench.submit_one(request(turn, 50));
    bench.finish();
    assert_eq!(Answer::of(receiver).tokens.len(), 50);
    assert!(rows(&draft_log) < before + 80, "{} rows", rows(&draft_log) - before);
}

/// What the text tells is free, and preferred where it comes true as often.
#[test]
fn lookups_and_drafts_go_together() {
    let config = EngineConfig { ngram_lookup: true, ..drafting() };
    let periodic = |twist| {
        let mut runner = draft_runner(&config, twist);
        runner.period = Some(7);
        runner
    };
    for twist in [0, 1] {
        let draft = DraftModel { runner: Box::new(periodic(twist)), max_model_len: 1200 };
        let mut both = Bench::with_draft(config.clone(), periodic(0), Some(draft));
        both.core.step_time = Some(step);
        both.core.draft.as_mut().unwrap().pass_time = Some(cheap);
        let receiver = both.submit_one(request(prompt(0, 20), 400));
        both.finish();
        let alone =
            super::speculation::alone(&without(&config), Some(7), request(prompt(0, 20), 400));
        assert_eq!(Answer::of(receiver).essence(), alone[0].essence());
        let stats = both.stats();
        assert!(stats.steps < 250, "{} steps", stats.steps);
        assert!(stats.draft_passes > 20 && stats.draft_passes < 4 * stats.steps);
    }
}
