//! The engine on a fake runner, step by step, without its thread.

mod constrained;
mod draft;
mod pressure;
mod priority;
mod recurrent;
mod speculation;
mod thread;
mod workload;

use std::sync::{Mutex, MutexGuard};

use wharf_model::BLOCK_TOKENS;

use super::*;
use crate::{
    SamplingParams,
    fake_runner::{FakeRunner, Fault, Faults},
};

const VOCAB: usize = 24;
const EOS: u32 = 23;

fn config() -> EngineConfig {
    EngineConfig {
        max_batched_tokens: 32,
        max_running: 4,
        max_waiting: 100,
        max_model_len: 160,
        num_blocks: 64,
        prefix_caching: true,
        num_state_snapshots: None,
        num_speculative_tokens: 0,
        ngram_lookup: true,
        eos_token_ids: vec![EOS],
    }
}

fn params(max_tokens: usize) -> SamplingParams {
    SamplingParams {
        temperature: 0.0,
        top_p: 1.0,
        top_k: 0,
        min_p: 0.0,
        frequency_penalty: 0.0,
        presence_penalty: 0.0,
        repetition_penalty: 1.0,
        logit_bias: Vec::new(),
        seed: Some(5),
        logprobs: None,
        max_tokens,
        min_tokens: 0,
        stop_token_ids: Vec::new(),
        ignore_eos: true,
        bad_words: Vec::new(),
        allowed_token_ids: None,
    }
}

/// A prompt of `len` tokens; prompts of different `kind` differ from the first token on.
fn prompt(kind: u32, len: u32) -> Vec<u32> {
    (0..len).map(|i| (i * i + 3 * i + kind) % VOCAB as u32).collect()
}

fn request(prompt: Vec<u32>, max_tokens: usize) -> GenerateRequest {
    GenerateRequest {
        prompt,
        n: 1,
        params: params(max_tokens),
        cache_salt: None,
        priority: 0,
        constraint: None,
    }
}

/// An engine without its thread.
struct Bench {
    core: Core,
    log: Arc<Mutex<Vec<Batch>>>,
}

impl Bench {
    fn new(config: EngineConfig) -> Self {
        Self::with_faults(config, Box::new(|_, _| None))
    }

    fn with_faults(config: EngineConfig, faults: Faults) -> Self {
        Self::with_runner(config.clone(), FakeRunner::with_faults(&config, VOCAB, faults))
    }

    fn with_runner(config: EngineConfig, runner: FakeRunner) -> Self {
        Self::with_draft(config, runner, None)
    }

    fn with_draft(config: EngineConfig, runner: FakeRunner, draft: Option<DraftModel>) -> Self {
        config.validate().unwrap();
        let log = Arc::clone(&runner.log);
        Self { core: Core::new(Box::new(runner), draft, config, Arc::default()), log }
    }

    fn submit(&mut self, request: GenerateRequest) -> Result<Vec<Receiver>, SubmitError> {
        request.validate(&self.core.config, VOCAB)?;
        let limit = self.core.config.max_waiting;
        let slot = QueueSlot::take(&self.core.shared, limit);
        let slot = slot.ok_or(SubmitError::QueueFull { limit })?;
        let (submission, receivers) = Submission::open(request, slot);
        self.core.accept(submission);
        Ok(receivers)
    }

    fn submit_one(&mut self, request: GenerateRequest) -> Receiver {
        self.submit(request).unwrap().remove(0)
    }

    fn step(&mut self) {
        self.core.step();
        self.core.scheduler.check();
        self.core.draft.iter().for_each(Draft::check);
    }

    fn finish(&mut self) {
        let mut steps = 0;
        while !self.core.scheduler.is_empty() {
            self.step();
            steps += 1;
            assert!(steps < 100_000, "no progress");
        }
    }

    fn stats(&self) -> EngineStats {
        self.core.shared.snapshot()
    }

    fn log(&self) -> MutexGuard<'_, Vec<Batch>> {
        self.log.lock().unwrap()
    }

    /// A request alone on a fresh engine.
    fn alone(config: &EngineConfig, request: GenerateRequest) -> Vec<Answer> {
        let mut bench = Self::new(config.clone());
        let receivers = bench.submit(request).unwrap();
        bench.finish();
        receivers.into_iter().map(Answer::of).collect()
    }
}

/// All that one receiver got.
#[derive(Debug, Clone, Default, PartialEq)]
struct Answer {
    tokens: Vec<u32>,
    logprobs: Vec<crate::TokenLogprob>,
    cached_tokens: Option<usize>,
    finish: Option<FinishReason>,
    failed: Option<String>,
}

impl Answer {
    fn of(mut receiver: Receiver) -> Self {
        Self::so_far(&mut receiver)
    }

    fn so_far(receiver: &mut Receiver) -> Self {
        let mut answer = Self::default();
        while let Ok(event) = receiver.try_recv() {
            answer.add(event);
        }
        answer
    }

    fn add(&mut self, event: Event) {
        assert!(self.finish.is_none() && self.failed.is_none(), "{event:?} after the last event");
        match event {
            Event::Started { cached_tokens, .. } => {
                assert_eq!(self.cached_tokens, None, "started twice");
                assert!(self.tokens.is_empty());
                self.cached_tokens = Some(cached_tokens);
            }
            Event::Token { id, logprob, .. } => {
                assert!(self.cached_tokens.is_some(), "a token before Started");
                self.tokens.push(id);
                self.logprobs.extend(logprob);
            }
            Event::Finished(reason) => self.finish = Some(reason),
            Event::Failed(failure) => self.failed = Some(failure.to_string()),
        }
    }

    /// What must not depend on the company.
    fn essence(&self) -> (&[u32], &[crate::TokenLogprob], Option<FinishReason>) {
        (&self.tokens, &self.logprobs, self.finish)
    }
}

#[test]
fn a_request_gets_its_tokens_and_gives_its_blocks_back() {
    let mut bench = Bench::new(config());
    let receiver = bench.submit_one(request(prompt(0, 40), 20));
    assert_eq!(bench.stats().waiting, 1);
    bench.step();
    assert_eq!((bench.stats().waiting, bench.stats().running), (0, 1));
    assert_eq!(bench.stats().blocks_used, 3);
    bench.finish();
    let answer = Answer::of(receiver);
    assert_eq!(answer.tokens.len(), 20);
    assert_eq!(answer.finish, Some(FinishReason::Length));
    assert_eq!(answer.cached_tokens, Some(0));
    let stats = bench.stats();
    assert_eq!((stats.blocks_used, stats.running, stats.waiting), (0, 0, 0));
    assert_eq!((stats.prompt_tokens, stats.generation_tokens), (40, 20));
    assert_eq!((stats.prefill_rows, stats.decode_rows), (40, 19));
    // 32 + 8 tokens of prefill, then one by one.
    assert_eq!((stats.steps, stats.blocks_total), (21, 64));
}

#[test]
fn eos_stop_tokens_and_the_longest_sequence_end_a_choice() {
    let plain = Bench::alone(&config(), request(prompt(1, 10), 50)).remove(0).tokens;
    let position = |id: u32| plain.iter().position(|&t| t == id).unwrap();
    let last = *plain.iter().max_by_key(|&&id| position(id)).unwrap();

    let mut with_eos = EngineConfig { eos_token_ids: vec![last], ..config() };
    let mut ended = request(prompt(1, 10), 50);
    ended.params.ignore_eos = false;
    let answer = Bench::alone(&with_eos, ended.clone()).remove(0);
    assert_eq!(answer.finish, Some(FinishReason::Eos(last)));
    assert_eq!(answer.tokens, plain[..position(last)]);

    ended.params.ignore_eos = true;
    assert_eq!(Bench::alone(&with_eos, ended.clone()).remove(0).tokens, plain);

    ended.params.stop_token_ids = vec![last];
    let answer = Bench::alone(&with_eos, ended).remove(0);
    assert_eq!(answer.finish, Some(FinishReason::StopToken(last)));
    assert_eq!(answer.tokens, plain[..position(last)]);

    with_eos.max_model_len = 25;
    let answer = Bench::alone(&with_eos, request(prompt(1, 10), 50)).remove(0);
    assert_eq!((answer.finish, &answer.tokens[..]), (Some(FinishReason::Length), &plain[..15]));
}

#[test]
fn no_tokens_wanted_is_an_end_at_once() {
    let mut bench = Bench::new(config());
    let mut wanted = request(prompt(0, 4), 0);
    wanted.n = 2;
    for receiver in bench.submit(wanted).unwrap() {
        let answer = Answer::of(receiver);
        assert_eq!(answer.finish, Some(FinishReason::Length));
        assert!(answer.tokens.is_empty());
    }
    assert_eq!((bench.stats().waiting, bench.stats().steps), (0, 0));
}

#[test]
fn what_could_never_run_is_refused() {
    let mut bench = Bench::new(EngineConfig { num_blocks: 4, max_waiting: 2, ..config() });
    let error = |bench: &mut Bench, r| bench.submit(r).unwrap_err();
    assert!(matches!(error(&mut bench, request(vec![], 1)), SubmitError::Invalid(_)));
    assert!(matches!(error(&mut bench, request(vec![24], 1)), SubmitError::Invalid(_)));
    let long = error(&mut bench, request(prompt(0, 160), 1));
    assert_eq!(long, SubmitError::TooLong { prompt: 160, limit: 160 });
    let big = error(&mut bench, request(prompt(0, 60), 6));
    assert_eq!(big, SubmitError::NoRoom { need: 5, have: 4 });
    let _fits = bench.submit(request(prompt(0, 60), 5)).unwrap();
    let _fits = bench.submit(request(prompt(0, 60), 5)).unwrap();
    let third = error(&mut bench, request(prompt(0, 60), 5));
    assert_eq!(third, SubmitError::QueueFull { limit: 2 });
    // The one that runs waits no longer.
    bench.step();
    let _fits = bench.submit(request(prompt(0, 60), 5)).unwrap();
    bench.finish();
}

#[test]
fn turn_two_finds_turn_one_in_the_cache() {
    let mut bench = Bench::new(config());
    let first = request(prompt(0, 37), 30);
    let receiver = bench.submit_one(first.clone());
    bench.finish();
    let mut turn = first.prompt;
    turn.extend(Answer::of(receiver).tokens);
    turn.extend([1, 2, 3]);
    let second = request(turn, 10);
    let receiver = bench.submit_one(second.clone());
    bench.finish();
    let answer = Answer::of(receiver);
    // 37 + 30 tokens, the last of which was never computed: 66, so 4 full blocks.
    assert_eq!(answer.cached_tokens, Some(4 * BLOCK_TOKENS));
    let cold = Bench::alone(&config(), second).remove(0);
    assert_eq!(cold.cached_tokens, Some(0));
    assert_eq!(answer.essence(), cold.essence());
    let stats = bench.stats();
    assert_eq!((stats.prefix_cache_queries, stats.prefix_cache_hits), (37 + 70, 64));
}

#[test]
fn a_prompt_that_is_cached_whole_still_computes_its_last_token() {
    let mut bench = Bench::new(config());
    let wanted = request(prompt(0, 48), 5);
    let cold = bench.submit_one(wanted.clone());
    bench.finish();
    let warm = bench.submit_one(wanted);
    bench.finish();
    let (cold, warm) = (Answer::of(cold), Answer::of(warm));
    assert_eq!(warm.cached_tokens, Some(32));
    assert_eq!(cold.essence(), warm.essence());
}

#[test]
fn other_salts_and_no_prefix_caching_share_nothing() {
    let mut salted = request(prompt(0, 48), 5);
    salted.cache_salt = Some("a".into());
    let mut other = salted.clone();
    other.cache_salt = Some("b".into());
    let plain = request(prompt(0, 48), 5);
    let mut bench = Bench::new(config());
    for (request, cached) in [(&salted, 0), (&other, 0), (&plain, 0), (&salted, 32)] {
        let receiver = bench.submit_one(request.clone());
        bench.finish();
        assert_eq!(Answer::of(receiver).cached_tokens, Some(cached));
    }
    let mut bench = Bench::new(EngineConfig { prefix_caching: false, ..config() });
    for _ in 0..2 {
        let receiver = bench.submit_one(plain.clone());
        bench.finish();
        assert_eq!(Answer::of(receiver).cached_tokens, Some(0));
    }
    assert_eq!(bench.stats().prefix_cache_hits, 0);
}

#[test]
fn choices_compute_the_prompt_once_with_and_without_prefix_caching() {
    for (prefix_caching, max_batched_tokens) in [(true, 32), (false, 32), (true, 512), (false, 512)]
    {
        let config = EngineConfig { prefix_caching, max_batched_tokens, ..config() };
        let mut bench = Bench::new(config.clone());
        let mut wanted = request(prompt(0, 100), 8);
        wanted.n = 4;
        wanted.params.temperature = 1.0;
        let receivers = bench.submit(wanted.clone()).unwrap();
        for _ in 0..5 {
            bench.step();
        }
        // 6 full blocks shared, and 1 for each choice's own tail.
        assert_eq!(bench.stats().blocks_used, 6 + 4);
        bench.finish();
        let stats = bench.stats();
        // 100 tokens, and 4 in the last block for each of the other three.
        assert_eq!(stats.prefill_rows, 100 + 3 * 4);
        assert_eq!(stats.prompt_tokens, 100);
        assert_eq!(stats.prefix_cache_queries, if prefix_caching { 100 } else { 0 });
        assert_eq!(stats.prefix_cache_hits, 0);
        let answers: Vec<Answer> = receivers.into_iter().map(Answer::of).collect();
        for (i, answer) in answers.iter().enumerate() {
            assert_eq!((answer.tokens.len(), answer.cached_tokens), (8, Some(0)));
            assert!(answers[..i].iter().all(|other| other.tokens != answer.tokens));
        }
        // Reproducible.
        assert_eq!(answers, Bench::alone(&config, wanted));
    }
}

#[test]
fn two_requests_with_one_prompt_compute_it_once_though_they_arrive_together() {
    // With 110 the second begins in the same step, and stops in the middle of a block: it must find
    // the rest all the same.
    for (max_batched_tokens, cached, most) in [(16, 96, 100 + 16), (110, 0, 100 + 10 + 4)] {
        let mut bench = Bench::new(EngineConfig { max_batched_tokens, ..config() });
        let both = [(); 2].map(|()| bench.submit_one(request(prompt(0, 100), 4)));
        bench.finish();
        let [first, second] = both.map(Answer::of);
        assert_eq!(first.essence(), second.essence());
        let stats = bench.stats();
        let rows = stats.prefill_rows;
        assert!(rows <= most, "{rows} rows at {max_batched_tokens} a step");
        // What it took from the other while both ran is a hit, though `Started` came too early to say so.
        assert_eq!(second.cached_tokens, Some(cached));
        assert_eq!((stats.prefix_cache_queries, stats.prefix_cache_hits), (200, 200 - rows));
    }
}

#[test]
fn requests_without_a_seed_differ() {
    let mut bench = Bench::new(config());
    let mut wanted = request(prompt(0, 10), 12);
    wanted.params.seed = None;
    wanted.params.temperature = 1.0;
    let first = bench.submit_one(wanted.clone());
    let second = bench.submit_one(wanted);
    bench.finish();
    assert_ne!(Answer::of(first).tokens, Answer::of(second).tokens);
}

#[test]
fn a_dropped_receiver_frees_its_blocks_within_one_step() {
    let mut bench = Bench::new(config());
    let prefilling = bench.submit_one(request(prompt(0, 100), 20));
    let other = bench.submit_one(request(prompt(1, 10), 20));
    let waiting = bench.submit_one(request(prompt(2, 10), 20));
    bench.step();
    assert_eq!(bench.stats().blocks_used, 7);
    drop(prefilling);
    drop(waiting);
    bench.step();
    assert_eq!((bench.stats().blocks_used, bench.stats().running), (1, 1));
    drop(other);
    bench.step();
    let stats = bench.stats();
    assert_eq!((stats.blocks_used, stats.running, stats.waiting), (0, 0, 0));
    assert!(bench.core.scheduler.is_empty());
}

#[test]
fn each_choice_is_cancelled_by_itself() {
    let mut wanted = request(prompt(0, 70), 12);
    wanted.n = 3;
    wanted.params.temperature = 1.0;
    let alone = Bench::alone(&config(), wanted.clone());
    let mut bench = Bench::new(config());
    let mut receivers = bench.submit(wanted).unwrap();
    // The first goes while it computes the prompt for all three.
    bench.step();
    drop(receivers.remove(0));
    bench.finish();
    let rest: Vec<Answer> = receivers.into_iter().map(Answer::of).collect();
    assert_eq!(rest, alone[1..]);
    assert_eq!(bench.stats().blocks_used, 0);
}

#[test]
fn a_long_prompt_never_stalls_a_stream() {
    let mut bench = Bench::new(EngineConfig { max_batched_tokens: 8, ..config() });
    let mut stream = bench.submit_one(request(prompt(0, 8), 50));
    bench.step();
    assert_eq!(Answer::so_far(&mut stream).tokens.len(), 1);
    let long = bench.submit_one(request(prompt(1, 120), 2));
    let mut tokens = 0;
    while bench.stats().waiting == 1 || bench.stats().running == 2 {
        bench.step();
        while let Ok(event) = stream.try_recv() {
            tokens += usize::from(matches!(event, Event::Token { .. }));
        }
    }
    let mixed = bench.log().iter().filter(|batch| batch.sequences.len() == 2).count();
    let rows: Vec<_> = bench.log()[1..18].iter().map(|batch| batch.tokens.len()).collect();
    // One goes by to see what decoding takes.
    assert_eq!(rows, [8, 8, 8, 8, 8, 8, 8, 8, 2, 8, 8, 8, 8, 8, 8, 8, 8]);
    assert_eq!(mixed, 19);
    // 7 rows a step are left for the prompt: 18 steps, and one more for its second token.
    assert_eq!(tokens, 19);
    assert_eq!(Answer::of(long).tokens.len(), 2);
    bench.finish();
}

/// What the pace of prefill goes by.
#[test]
fn who_decodes_and_who_waits_with_room_is_counted() {
    let mut bench = Bench::new(EngineConfig { max_batched_tokens: 8, ..config() });
    assert_eq!(bench.core.scheduler.company(), (0, 0));
    let _first = bench.submit_one(request(prompt(0, 5), 50));
    bench.step();
    assert_eq!(bench.core.scheduler.company(), (1, 0));
    let _more: Vec<_> = (1..4).map(|kind| bench.submit_one(request(prompt(kind, 60), 2))).collect();
    assert_eq!(bench.core.scheduler.company(), (1, 3));
    // Once its prompt has begun it still waits for its answer.
    bench.step();
    assert_eq!((bench.stats().running, bench.core.scheduler.company()), (2, (1, 3)));
    // Of four that may run three wait already: there is no room for others beside them.
    let _others: Vec<_> =
        (4..9).map(|kind| bench.submit_one(request(prompt(kind, 9), 2))).collect();
    assert_eq!(bench.core.scheduler.company(), (1, 3));
}

#[test]
fn requests_start_in_order_of_priority_and_arrival() {
    let mut bench = Bench::new(EngineConfig { max_running: 1, ..config() });
    let mut receivers = Vec::new();
    for (kind, priority) in [(0, 1), (1, 1), (2, 0), (3, 1), (4, -1)] {
        let mut wanted = request(prompt(kind, 5), 3);
        wanted.priority = priority;
        receivers.push(bench.submit_one(wanted));
    }
    let mut order = Vec::new();
    while !bench.core.scheduler.is_empty() {
        bench.step();
        for (i, receiver) in receivers.iter_mut().enumerate() {
            while let Ok(event) = receiver.try_recv() {
                if matches!(event, Event::Started { .. }) {
                    order.push(i);
                }
            }
        }
    }
    assert_eq!(order, [4, 2, 0, 1, 3]);
}

#[test]
fn nothing_overtakes_the_head_of_the_queue() {
    let mut bench = Bench::new(EngineConfig { num_blocks: 8, ..config() });
    let running = bench.submit_one(request(prompt(0, 60), 10));
    bench.step();
    // 4 blocks are left: the big one waits for more, and the small one for the big one.
    let mut big = bench.submit_one(request(prompt(1, 90), 2));
    let mut small = bench.submit_one(request(prompt(2, 4), 2));
    while Answer::so_far(&mut big).cached_tokens.is_none() {
        assert_eq!(Answer::so_far(&mut small), Answer::default());
        bench.step();
    }
    bench.finish();
    assert_eq!(Answer::of(running).finish, Some(FinishReason::Length));
}

/// It used to look up all its prompt's blocks in every step.
#[test]
fn a_blocked_head_of_the_queue_is_looked_up_again_only_when_something_changed() {
    let mut bench = Bench::new(EngineConfig { num_blocks: 10, ..config() });
    let running = bench.submit_one(request(prompt(0, 60), 60));
    bench.step();
    bench.step();
    let mut big = bench.submit_one(request(prompt(1, 120), 2));
    let before = bench.core.scheduler.prefix_lookups;
    for _ in 0..40 {
        bench.step();
    }
    assert_eq!(bench.core.scheduler.prefix_lookups, before + 1);
    assert_eq!(Answer::so_far(&mut big), Answer::default());
    bench.finish();
    assert_eq!(Answer::of(big).finish, Some(FinishReason::Length));
    assert_eq!(Answer::of(running).finish, Some(FinishReason::Length));
}

/// A blocked sequence begins as soon as enough of its prompt has been computed by another.
#[test]
fn a_blocked_head_of_the_queue_notices_that_its_prompt_is_being_computed() {
    let mut bench = Bench::new(EngineConfig { num_blocks: 10, ..config() });
    let first = bench.submit_one(request(prompt(0, 120), 20));
    bench.step();
    let mut second = bench.submit_one(request(prompt(0, 120), 2));
    let mut steps = 0;
    while Answer::so_far(&mut second).cached_tokens.is_none() {
        bench.step();
        steps += 1;
    }
    assert!(steps < 10, "{steps} steps");
    bench.finish();
    assert_eq!(Answer::of(first).finish, Some(FinishReason::Length));
}

/// Nothing that `submit` takes gets there; were it to, the thread used to turn without end.
#[test]
fn a_sequence_that_can_never_run_fails_and_those_behind_it_go_on() {
    let mut bench = Bench::new(EngineConfig { num_blocks: 4, ..config() });
    let slot = QueueSlot::take(&bench.core.shared, 9).unwrap();
    let (submission, mut receivers) = Submission::open(request(prompt(0, 100), 5), slot);
    bench.core.accept(submission);
    let behind = bench.submit_one(request(prompt(1, 20), 5));
    bench.step();
    bench.finish();
    let stuck = Answer::of(receivers.remove(0));
    assert!(stuck.failed.unwrap().contains("nothing that could run"));
    assert_eq!(Answer::of(behind).tokens.len(), 5);
}

#[test]
fn a_preempted_sequence_goes_on_as_if_nothing_had_been() {
    let config = EngineConfig { num_blocks: 8, max_running: 3, ..config() };
    let mut bench = Bench::new(config.clone());
    let requests: Vec<_> = (0..3).map(|kind| request(prompt(kind, 20), 70)).collect();
    let receivers: Vec<_> = requests.iter().map(|r| bench.submit_one(r.clone())).collect();
    bench.finish();
    assert!(bench.stats().preemptions > 0);
    assert_eq!(bench.stats().generation_tokens, 3 * 70);
    for (request, receiver) in requests.into_iter().zip(receivers) {
        let alone = Bench::alone(&config, request);
        assert_eq!(Answer::of(receiver).essence(), alone[0].essence());
    }
    assert_eq!((bench.stats().blocks_used, bench.stats().waiting_started), (0, 0));
}

/// The faults of a runner that goes wrong in one step.
fn fault_in_step(step: u64, fault: Fault) -> Faults {
    Box::new(move |now, _| (now == step).then_some(fault))
}

#[test]
fn a_failed_step_fails_its_sequences_and_the_engine_goes_on() {
    for fault in [Fault::Error, Fault::Panic, Fault::Short] {
        let config = EngineConfig { max_batched_tokens: 11, ..config() };
        let mut bench = Bench::with_faults(config.clone(), fault_in_step(6, fault));
        let wanted = request(prompt(0, 66), 5);
        let first = bench.submit_one(wanted.clone());
        let not_yet = bench.submit_one(request(prompt(1, 60), 5));
        for _ in 0..6 {
            bench.step();
        }
        assert!(Answer::of(first).failed.is_some(), "{fault:?}");
        assert_eq!((bench.stats().failed_steps, bench.stats().blocks_used), (1, 0));
        // Three blocks were sound; the fourth, which the failed step filled, isn't found.
        let again = bench.submit_one(wanted.clone());
        bench.finish();
        let again = Answer::of(again);
        assert_eq!(again.cached_tokens, Some(3 * BLOCK_TOKENS));
        assert_eq!(again.essence(), Bench::alone(&config, wanted)[0].essence());
        assert_eq!(Answer::of(not_yet).finish, Some(FinishReason::Length));
        assert_eq!(bench.stats().blocks_used, 0);
    }
}

#[test]
fn logits_that_are_no_numbers_fail_one_sequence_only() {
    let mut bench = Bench::with_faults(config(), fault_in_step(4, Fault::NotANumber(1)));
    let receivers: Vec<_> = (0..3).map(|k| bench.submit_one(request(prompt(k, 9), 9))).collect();
    bench.finish();
    let answers: Vec<_> = receivers.into_iter().map(Answer::of).collect();
    assert_eq!(answers[0].finish, Some(FinishReason::Length));
    assert!(answers[1].failed.as_ref().unwrap().contains("finite"));
    assert_eq!(answers[1].tokens.len(), 3);
    assert_eq!(answers[2].finish, Some(FinishReason::Length));
    assert_eq!((bench.stats().failed_steps, bench.stats().blocks_used), (0, 0));
}

#[test]
fn an_engine_that_is_gone_tells_its_receivers() {
    let mut bench = Bench::new(config());
    let running = bench.submit_one(request(prompt(0, 9), 9));
    bench.step();
    let waiting = bench.submit_one(request(prompt(1, 9), 9));
    drop(bench);
    assert_eq!(Answer::of(running).failed.as_deref(), Some("the engine has stopped"));
    assert_eq!(Answer::of(waiting).failed.as_deref(), Some("the engine has stopped"));
}
