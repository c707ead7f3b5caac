//! Choices under constraints: tokens 0 to 22 are the letters a to w, and 23 ends an answer.

use std::sync::OnceLock;

use wharf_grammar::{Compiler, Constraint, Grammar, Limits, Vocabulary};

use super::*;

fn tokenize(text: &str) -> Vec<u32> {
    text.bytes().map(|letter| u32::from(letter - b'a')).collect()
}

fn constraint(grammar: &Grammar) -> Constraint {
    static COMPILER: OnceLock<Compiler> = OnceLock::new();
    let compiler = COMPILER.get_or_init(|| {
        let vocabulary = Vocabulary {
            tokens: (0..VOCAB as u8).map(|id| vec![b'a' + id]).collect(),
            special: vec![false; VOCAB],
            eos_token_ids: vec![EOS],
            tokenize: Box::new(tokenize),
        };
        Compiler::new(vocabulary, Limits::default()).unwrap()
    });
    compiler.compile(grammar).unwrap()
}

fn regex(pattern: &str) -> Constraint {
    constraint(&Grammar::Regex(pattern.into()))
}

/// Choices, long forced runs, ends that the model chooses, and no end.
pub(super) fn constraints() -> Vec<Constraint> {
    ["[a-f]{3}abcdefghijklmnopqrstuvw[ab]*", "(abc|bcd){1,40}", "[g-k]+", "a", "[a-w]{7}(uvw){9}"]
        .map(regex)
        .to_vec()
}

fn constrained(pattern: &str, params: SamplingParams) -> GenerateRequest {
    GenerateRequest { params, constraint: Some(regex(pattern)), ..request(prompt(0, 20), 1) }
}

fn text(answer: &Answer) -> String {
    answer.tokens.iter().map(|&id| char::from(b'a' + id as u8)).collect()
}

#[test]
fn an_answer_follows_its_constraint_to_its_end() {
    let answer = Bench::alone(&config(), constrained("[a-c]{4}(xyz)?|v", params(30))).remove(0);
    assert!(matches!(answer.finish, Some(FinishReason::Complete | FinishReason::Eos(_))));
    let text = text(&answer);
    assert!(
        text == "v" || (text.len() == 4 && text.bytes().all(|b| b"abc".contains(&b))),
        "{text}"
    );
}

#[test]
fn nothing_is_generated_to_say_that_nothing_may_follow() {
    let mut bench = Bench::new(config());
    let receiver = bench.submit_one(constrained("abcdefgh", params(30)));
    bench.finish();
    let answer = Answer::of(receiver);
    assert_eq!((text(&answer).as_str(), answer.finish), ("abcdefgh", Some(FinishReason::Complete)));
    let stats = bench.stats();
    assert_eq!((stats.forced_tokens, stats.generation_tokens, stats.steps), (8, 8, 1));
}

#[test]
fn forced_tokens_are_computed_in_one_pass_with_the_next_choice() {
    let mut bench = Bench::new(config());
    let receiver = bench.submit_one(constrained("[ab]cdefgh[ab]", params(30)));
    bench.finish();
    assert_eq!(Answer::of(receiver).tokens.len(), 8);
    // The prompt; the first choice; what it forces; the second choice, which ends it.
    assert!(bench.stats().steps <= 3, "{} steps", bench.stats().steps);
    let rows: Vec<usize> = bench.log.lock().unwrap().iter().map(|b| b.tokens.len()).collect();
    assert!(rows.contains(&6) || rows.contains(&7), "{rows:?}");
}

#[test]
fn log_probabilities_do_not_change_what_is_forced() {
    let pattern = "[a-f]{2}ghijk[a-f]{2}";
    let plain = Bench::alone(&config(), constrained(pattern, params(30))).remove(0);
    let told = SamplingParams { logprobs: Some(2), ..params(30) };
    let told = Bench::alone(&config(), constrained(pattern, told)).remove(0);
    assert_eq!(told.tokens, plain.tokens);
    assert_eq!(told.finish, plain.finish);
}

#[test]
fn max_tokens_cuts_a_forced_run() {
    let answer = Bench::alone(&config(), constrained("abcdefgh", params(5))).remove(0);
    assert_eq!((text(&answer).as_str(), answer.finish), ("abcde", Some(FinishReason::Length)));
}

#[test]
fn a_stop_token_ends_a_constrained_answer_only_where_it_is_complete() {
    let stop = |pattern, stop_token_ids| {
        let params = SamplingParams { stop_token_ids, ..params(30) };
        Bench::alone(&config(), constrained(pattern, params)).remove(0)
    };
    let answer = stop("abcd", vec![1]);
    assert_eq!((text(&answer).as_str(), answer.finish), ("abcd", Some(FinishReason::Complete)));
    // Complete after "ab", and the rest only by the stop token.
    let answer = stop("ab(cd)*", (2..VOCAB as u32).collect());
    assert_eq!(text(&answer), "ab");
    assert!(matches!(answer.finish, Some(FinishReason::StopToken(_) | FinishReason::Eos(_))));
}

#[test]
fn ignore_eos_ends_where_nothing_may_follow() {
    let params = SamplingParams { ignore_eos: true, ..params(30) };
    let answer = Bench::alone(&config(), constrained("a{0,6}", params)).remove(0);
    assert_eq!((text(&answer).as_str(), answer.finish), ("aaaaaa", Some(FinishReason::Complete)));
}

#[test]
fn what_a_request_forbids_is_not_forced() {
    let params = SamplingParams { allowed_token_ids: Some(vec![0, 2]), ..params(30) };
    let answer = Bench::alone(&config(), constrained("abc", params)).remove(0);
    assert_eq!(text(&answer), "a");
    assert!(answer.failed.unwrap().contains("constraint"));
}

#[test]
fn a_constrained_choice_that_nobody_wants_is_gone_within_a_step() {
    let mut bench = Bench::new(config());
    let receiver = bench.submit_one(constrained("[a-w]{100}", params(100)));
    bench.step();
    drop(receiver);
    bench.step();
    assert_eq!((bench.stats().running, bench.stats().blocks_used), (0, 0));
}

#[test]
fn choices_follow_the_constraint_each_for_itself() {
    let params = SamplingParams { temperature: 1.0, seed: Some(4), ..params(30) };
    let request = GenerateRequest { n: 4, ..constrained("[a-w]{6}", params) };
    let answers = Bench::alone(&config(), request);
    assert!(answers.iter().all(|answer| answer.tokens.len() == 6));
    assert!(answers.iter().any(|answer| answer.tokens != answers[0].tokens));
}

#[test]
fn a_late_mask_costs_its_own_sequence_only_and_changes_nothing() {
    let mut bench = Bench::new(config());
    bench.core.mask_patience = std::time::Duration::ZERO;
    let wanted = constrained("[a-w]{40}", params(60));
    let late = bench.submit_one(wanted.clone());
    let free = bench.submit_one(request(prompt(1, 5), 20));
    bench.step();
    for _ in 0..20 {
        bench.step();
    }
    // The free one had a token in every step.
    assert_eq!(Answer::of(free).tokens.len(), 20);
    bench.finish();
    assert!(bench.stats().late_masks > 0);
    assert_eq!(Answer::of(late).essence(), Bench::alone(&config(), wanted)[0].essence());
}
