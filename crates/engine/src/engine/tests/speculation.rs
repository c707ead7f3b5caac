//! Guesses: that they save steps, and change nothing else.

use super::*;

/// Room for texts in which much is guessed.
fn long() -> EngineConfig {
    EngineConfig { max_model_len: 1200, num_blocks: 400, num_speculative_tokens: 4, ..config() }
}

/// Rows cost nothing: whatever can be guessed is.
fn free(_rows: usize) -> Duration {
    Duration::from_millis(10)
}

/// Each row costs as much as the first.
fn dear(rows: usize) -> Duration {
    Duration::from_millis(10) * rows as u32
}

/// An engine whose texts mostly repeat themselves after `period` tokens, if there is one.
pub(super) fn bench(config: EngineConfig, period: Option<u64>) -> Bench {
    let mut runner = FakeRunner::new(&config, VOCAB);
    runner.period = period;
    let mut bench = Bench::with_runner(config, runner);
    bench.core.step_time = Some(free);
    bench
}

/// A request alone on such an engine, fresh.
pub(super) fn alone(
    config: &EngineConfig,
    period: Option<u64>,
    request: GenerateRequest,
) -> Vec<Answer> {
    run(config, period, request).0
}

fn run(
    config: &EngineConfig,
    period: Option<u64>,
    request: GenerateRequest,
) -> (Vec<Answer>, EngineStats) {
    let mut bench = bench(config.clone(), period);
    let receivers = bench.submit(request).unwrap();
    bench.finish();
    (receivers.into_iter().map(Answer::of).collect(), bench.stats())
}

/// The statistics with guesses and without, and that all else is the same.
fn compare(period: Option<u64>, request: &GenerateRequest) -> (EngineStats, EngineStats) {
    let off = EngineConfig { num_speculative_tokens: 0, ..long() };
    let (with, on) = run(&long(), period, request.clone());
    let (without, off) = run(&off, period, request.clone());
    assert_eq!(with, without, "{:?}", request.params);
    assert_eq!(on.generation_tokens, off.generation_tokens);
    assert_eq!(off.draft_tokens, 0);
    (on, off)
}

/// Greedy and drawn, with all that looks at the tokens before, and all that may end an answer.
pub(super) fn all_params() -> Vec<SamplingParams> {
    let plain = params(200);
    let drawn = |seed| SamplingParams { temperature: 0.7, seed: Some(seed), ..plain.clone() };
    vec![
        SamplingParams { logprobs: Some(3), ..drawn(1) },
        SamplingParams { logprobs: Some(0), ..plain.clone() },
        SamplingParams { repetition_penalty: 1.2, frequency_penalty: 0.2, ..plain.clone() },
        SamplingParams { presence_penalty: 0.5, top_k: 5, ..drawn(2) },
        SamplingParams { top_p: 0.8, min_p: 0.05, ..drawn(3) },
        SamplingParams { stop_token_ids: vec![3], min_tokens: 90, ..plain.clone() },
        SamplingParams { ignore_eos: false, min_tokens: 7, ..drawn(4) },
        SamplingParams { bad_words: vec![vec![1, 2], vec![4]], ..plain.clone() },
        SamplingParams { allowed_token_ids: Some((0..9).collect()), ..drawn(5) },
        SamplingParams { logit_bias: vec![(2, -3.0), (11, 3.0)], ..plain },
    ]
}

#[test]
fn guesses_that_come_true_save_steps_and_change_nothing() {
    let (on, off) = compare(Some(7), &request(prompt(0, 20), 400));
    assert_eq!(off.steps, 400);
    assert!(on.steps < 250, "{} steps", on.steps);
    assert_eq!(on.accepted_tokens, off.steps - on.steps);
    assert!(on.draft_tokens > on.accepted_tokens);
    assert!(on.drafts <= on.steps);
    let mut accepted = 0;
    for params in all_params() {
        for n in [1, 3] {
            let wanted = GenerateRequest { n, params: params.clone(), ..request(prompt(1, 33), 1) };
            accepted += compare(Some(7), &wanted).0.accepted_tokens;
        }
    }
    assert!(accepted > 1000, "{accepted}");
}

#[test]
fn an_answer_ends_where_it_should_however_much_was_guessed() {
    for max_tokens in 1..40 {
        compare(Some(3), &request(prompt(0, 20), max_tokens));
    }
    // The longest sequence, in the fewest blocks.
    for max_model_len in 30..50 {
        let config = EngineConfig {
            max_model_len,
            num_blocks: (max_model_len - 1).div_ceil(BLOCK_TOKENS),
            ..long()
        };
        let (answers, stats) = run(&config, Some(3), request(prompt(0, 20), 100));
        assert_eq!(answers[0].tokens.len(), max_model_len - 20);
        assert_eq!(answers[0].finish, Some(FinishReason::Length));
        assert!(stats.accepted_tokens > 0 && stats.preemptions == 0);
    }
}

#[test]
fn what_was_guessed_wrongly_is_never_found_in_the_cache() {
    let mut bench = bench(long(), Some(5));
    let wanted = request(prompt(0, 20), 300);
    let receiver = bench.submit_one(wanted.clone());
    bench.finish();
    let text = [wanted.prompt, Answer::of(receiver).tokens].concat();
    let batches = bench.log().clone();
    let off = EngineConfig { num_speculative_tokens: 0, ..long() };
    let mut wrong = 0;
    for batch in batches {
        let start = batch.sequences[0].start;
        let mut other = [&text[..start], &batch.tokens[..]].concat();
        let same = other.iter().zip(&text).take_while(|(a, b)| a == b).count();
        if same == other.len() {
            continue;
        }
        wrong += 1;
        // Up to beyond the block that has the wrong token.
        other.resize(other.len() + BLOCK_TOKENS, 0);
        let other = request(other, 3);
        let receiver = bench.submit_one(other.clone());
        bench.finish();
        let answer = Answer::of(receiver);
        assert_eq!(answer.cached_tokens, Some(same / BLOCK_TOKENS * BLOCK_TOKENS));
        assert_eq!(answer.essence(), alone(&off, Some(5), other)[0].essence());
    }
    assert!(wrong > 20, "{wrong} wrong guesses");
    // And what came true is.
    let again = bench.submit_one(request(text.clone(), 3));
    bench.finish();
    let whole = (text.len() - 1) / BLOCK_TOKENS * BLOCK_TOKENS;
    assert_eq!(Answer::of(again).cached_tokens, Some(whole));
}

#[test]
fn where_texts_do_not_repeat_themselves_guesses_stop() {
    let mut bench = bench(long(), None);
    bench.core.step_time = Some(dear);
    let receiver = bench.submit_one(request(prompt(0, 20), 1000));
    let mut guessed = Vec::new();
    while !bench.core.scheduler.is_empty() {
        bench.step();
        guessed.push(bench.stats().draft_tokens);
    }
    assert_eq!(Answer::of(receiver).tokens.len(), 1000);
    // Some, to see: and then hardly any.
    let (early, late) = (guessed[100], guessed[guessed.len() - 1] - guessed[100]);
    assert!(early > 0 && early < 40, "{early}");
    assert!(late < 30, "{late}");
}

#[test]
fn where_rows_cost_what_steps_cost_many_streams_are_not_slowed() {
    let mut bench = bench(long(), Some(7));
    bench.core.step_time = Some(dear);
    let receivers = [(); 4].map(|()| bench.submit_one(request(prompt(0, 20), 500)));
    bench.finish();
    for receiver in receivers {
        assert_eq!(Answer::of(receiver).tokens.len(), 500);
    }
    let stats = bench.stats();
    assert!(stats.draft_tokens < 100, "{}", stats.draft_tokens);
}

#[test]
fn a_wrong_guess_fails_nobody_by_what_the_model_gives_for_it() {
    // Of four guessed tokens the last has logits that are no numbers: it matters only where the
    // three before it come true.
    let faults: Faults =
        Box::new(|_, batch| (batch.logits_rows.len() == 5).then_some(Fault::NotANumber(4)));
    let mut runner = FakeRunner::with_faults(&long(), VOCAB, faults);
    runner.period = Some(23);
    let mut bench = Bench::with_runner(long(), runner);
    bench.core.step_time = Some(free);
    let receiver = bench.submit_one(request(prompt(0, 20), 300));
    let mut wrong = 0;
    while !bench.core.scheduler.is_empty() {
        let before = bench.stats();
        bench.step();
        let after = bench.stats();
        let accepted = after.accepted_tokens - before.accepted_tokens;
        wrong += u32::from(after.draft_tokens - before.draft_tokens == 4 && accepted < 4);
    }
    assert!(Answer::of(receiver).failed.unwrap().contains("finite"));
    assert!(wrong > 0);
    assert_eq!(bench.stats().blocks_used, 0);
}
