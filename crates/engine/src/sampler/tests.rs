//! The sampler against naive oracles: full sorts, plain loops, `f64`.

use proptest::prelude::*;

use super::*;

fn greedy() -> SamplingParams {
    SamplingParams {
        temperature: 0.0,
        top_p: 1.0,
        top_k: 0,
        min_p: 0.0,
        frequency_penalty: 0.0,
        presence_penalty: 0.0,
        repetition_penalty: 1.0,
        logit_bias: Vec::new(),
        seed: None,
        logprobs: None,
        max_tokens: 100,
        min_tokens: 0,
        stop_token_ids: Vec::new(),
        ignore_eos: false,
        bad_words: Vec::new(),
        allowed_token_ids: None,
    }
}

fn context(params: &SamplingParams) -> Context<'_> {
    Context { params, prompt: &[], output: &[], eos_token_ids: &[], seed: 7, choice: 0, mask: None }
}

fn pick(logits: &[f32], context: &Context<'_>) -> Result<u32, SampleError> {
    Sampler::default().sample(logits, context).map(|sample| sample.id)
}

/// The ids that are drawn at all in `draws` positions.
fn drawn(logits: &[f32], params: &SamplingParams, draws: usize) -> Vec<usize> {
    let mut sampler = Sampler::default();
    let mut counts = vec![0; logits.len()];
    let prompt = vec![0; draws];
    for position in 0..draws {
        let context = Context { prompt: &prompt[..position], ..context(params) };
        counts[sampler.sample(logits, &context).unwrap().id as usize] += 1;
    }
    counts
}

#[test]
fn greedy_takes_the_best_and_of_equals_the_lowest_id() {
    assert_eq!(pick(&[1.0, 5.0, 2.0, 5.0], &context(&greedy())), Ok(1));
    assert_eq!(pick(&[-0.0, 0.0], &context(&greedy())), Ok(0));
}

#[test]
fn logits_that_are_not_finite_are_an_error() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        assert_eq!(pick(&[1.0, bad], &context(&greedy())), Err(SampleError::NotFinite));
    }
}

#[test]
fn overflow_by_the_requests_own_parameters_is_an_error() {
    let params = SamplingParams { repetition_penalty: f32::MIN_POSITIVE, ..greedy() };
    let context = Context { prompt: &[0], ..context(&params) };
    assert_eq!(pick(&[1e30, 1.0], &context), Err(SampleError::Overflow));
}

#[test]
fn bias_can_force_and_forbid() {
    let params = SamplingParams { logit_bias: vec![(0, 100.0), (99, 100.0)], ..greedy() };
    assert_eq!(pick(&[1.0, 5.0, 2.0], &context(&params)), Ok(0));
    let params = SamplingParams { logit_bias: vec![(1, -100.0)], ..greedy() };
    assert_eq!(pick(&[1.0, 5.0, 2.0], &context(&params)), Ok(2));
}

#[test]
fn only_allowed_tokens() {
    let params = SamplingParams { allowed_token_ids: Some(vec![2, 0, 2, 99]), ..greedy() };
    assert_eq!(pick(&[1.0, 5.0, 2.0], &context(&params)), Ok(2));
    let params = SamplingParams { allowed_token_ids: Some(vec![99]), ..greedy() };
    assert_eq!(pick(&[1.0, 5.0], &context(&params)), Err(SampleError::NothingAllowed));
}

#[test]
fn bad_words_are_cut_at_their_last_token() {
    let params = SamplingParams { bad_words: vec![vec![1, 2], vec![3], vec![]], ..greedy() };
    let logits = [0.0, 1.0, 5.0, 9.0];
    let with = |output| Context { output, ..context(&params) };
    assert_eq!(pick(&logits, &with(&[])), Ok(2));
    assert_eq!(pick(&logits, &with(&[1])), Ok(1));
    assert_eq!(pick(&logits, &with(&[1, 0])), Ok(2));
    // A word doesn't begin in the prompt.
    assert_eq!(pick(&logits, &Context { prompt: &[1], ..with(&[]) }), Ok(2));
}

#[test]
fn no_end_before_min_tokens() {
    let params = SamplingParams { min_tokens: 2, stop_token_ids: vec![2], ..greedy() };
    let logits = [1.0, 2.0, 9.0, 10.0];
    let with = |output| Context { output, eos_token_ids: &[3], ..context(&params) };
    assert_eq!(pick(&logits, &with(&[0])), Ok(1));
    assert_eq!(pick(&logits, &with(&[0, 0])), Ok(3));
    // Where end-of-sequence is an ordinary token, it is one from the start.
    let params = SamplingParams { ignore_eos: true, ..params.clone() };
    assert_eq!(pick(&logits, &Context { params: &params, ..with(&[0]) }), Ok(3));
}

#[test]
fn the_same_sampler_gives_the_same_token_again() {
    let params = SamplingParams { repetition_penalty: 2.0, presence_penalty: 1.0, ..greedy() };
    let mut sampler = Sampler::default();
    let context = Context { prompt: &[1, 1], output: &[2, 2], ..context(&params) };
    let first = sampler.sample(&[2.9, 5.0, 6.0], &context);
    let other = sampler.sample(&[0.0, 1.0], &self::context(&greedy()));
    assert_eq!(other.unwrap().id, 1);
    assert_eq!(sampler.sample(&[2.9, 5.0, 6.0], &context), first);
    assert_eq!(first.unwrap().id, 0);
}

#[test]
fn top_k_keeps_exactly_k_and_of_equals_the_lowest_ids() {
    let params = SamplingParams { temperature: 1.0, top_k: 2, ..greedy() };
    let counts = drawn(&[1.0, 1.0, 1.0, 0.0], &params, 200);
    assert!(counts[0] > 0 && counts[1] > 0);
    assert_eq!(counts[2..], [0, 0]);
}

#[test]
fn top_p_keeps_the_token_that_reaches_it() {
    let logits = [0.5f32.ln(), 0.3f32.ln(), 0.2f32.ln()];
    let params = |top_p| SamplingParams { temperature: 1.0, top_p, ..greedy() };
    assert_eq!(drawn(&logits, &params(0.4), 300)[1..], [0, 0]);
    let counts = drawn(&logits, &params(0.6), 300);
    assert!(counts[1] > 0);
    assert_eq!(counts[2], 0);
    assert!(drawn(&logits, &params(0.9), 300)[2] > 0);
}

#[test]
fn min_p_is_relative_to_the_best() {
    let logits = [0.5f32.ln(), 0.3f32.ln(), 0.2f32.ln()];
    let params = |min_p| SamplingParams { temperature: 1.0, min_p, ..greedy() };
    assert_eq!(drawn(&logits, &params(0.5), 300)[2], 0);
    assert!(drawn(&logits, &params(0.5), 300)[1] > 0);
    assert_eq!(drawn(&logits, &params(1.0), 300)[1..], [0, 0]);
}

/// Seeds are fixed, so this can't fail by chance.
#[test]
fn draws_follow_the_softmax_of_the_tempered_logits() {
    const DRAWS: usize = 20_000;
    let logits = [0.3, -1.0, 2.0, 0.0, 1.1, -0.4];
    for temperature in [0.5, 1.0, 2.0] {
        let params = SamplingParams { temperature, ..greedy() };
        let counts = drawn(&logits, &params, DRAWS);
        let weights: Vec<f64> =
            logits.iter().map(|&l| (f64::from(l) / f64::from(temperature)).exp()).collect();
        let total: f64 = weights.iter().sum();
        let chi2: f64 = counts
            .iter()
            .zip(&weights)
            .map(|(&count, weight)| {
                let expected = weight / total * DRAWS as f64;
                (count as f64 - expected).powi(2) / expected
            })
            .sum();
        // 99.9% of chi-squared with 5 degrees of freedom.
        assert!(chi2 < 20.5, "temperature {temperature}: {chi2}");
    }
}

#[test]
fn a_temperature_near_zero_is_nearly_greedy() {
    let params = SamplingParams { temperature: 1e-40, ..greedy() };
    assert_eq!(drawn(&[1.0, 1.5, 1.4], &params, 50), [0, 50, 0]);
}

/// What the penalties are to do, one token at a time, without any shared scratch memory.
fn naive_penalties(logits: &[f32], context: &Context<'_>) -> Vec<f32> {
    let params = context.params;
    let mut logits = logits.to_vec();
    for (id, logit) in (0u32..).zip(&mut logits) {
        for &(at, bias) in &params.logit_bias {
            *logit += if at == id { bias } else { 0.0 };
        }
        let allowed = params.allowed_token_ids.as_ref().is_none_or(|ids| ids.contains(&id));
        let bad = params.bad_words.iter().any(|word| {
            let whole: Vec<u32> = context.output.iter().copied().chain([id]).collect();
            !word.is_empty() && whole.ends_with(word)
        });
        let ends = params.stop_token_ids.contains(&id)
            || (context.eos_token_ids.contains(&id) && !params.ignore_eos);
        if !allowed || bad || (ends && context.output.len() < params.min_tokens) {
            *logit = f32::NEG_INFINITY;
        }
        let count = context.output.iter().filter(|&&t| t == id).count();
        if count > 0 || context.prompt.contains(&id) {
            let r = params.repetition_penalty;
            *logit = if *logit > 0.0 { *logit / r } else { *logit * r };
        }
        *logit -= params.frequency_penalty * count as f32;
        *logit -= if count > 0 { params.presence_penalty } else { 0.0 };
    }
    logits
}

/// The ids that min_p, top_k and top_p leave, by full sorts.
fn naive_candidates(logits: &[f32], params: &SamplingParams) -> Vec<u32> {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |l: f32| ((l - best) / params.temperature).exp();
    let mut kept: Vec<(u32, f32)> = (0u32..).zip(logits.iter().copied()).collect();
    kept.retain(|&(_, l)| (l - best) / params.temperature >= weights::LOWEST);
    kept.retain(|&(_, l)| weight(l) >= params.min_p);
    kept.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if params.top_k > 0 {
        kept.truncate(params.top_k as usize);
    }
    let total: f64 = kept.iter().map(|&(_, l)| f64::from(weight(l))).sum();
    let mut before = 0.0;
    if params.top_p < 1.0 {
        kept.retain(|&(_, l)| {
            let keep = before < f64::from(params.top_p) * total;
            before += f64::from(weight(l));
            keep
        });
    }
    let mut ids: Vec<u32> = kept.into_iter().map(|(id, _)| id).collect();
    ids.sort_unstable();
    ids
}

/// The ids that the sampler left, in order.
fn kept(sampler: &Sampler, params: &SamplingParams) -> Vec<u32> {
    if params.top_p < 1.0 || (1..sampler.logits.len()).contains(&(params.top_k as usize)) {
        return sampler.candidates.iter().map(|candidate| candidate.id).collect();
    }
    let weights = (0u32..).zip(&sampler.weights.values);
    weights.filter(|(_, weight)| **weight > 0.0).map(|(id, _)| id).collect()
}

/// Long enough for several rounds of [`find_top_k`] and [`keep_top_p`], and for masks among them.
#[test]
fn a_whole_vocabulary_as_the_naive_oracle() {
    let mut logits: Vec<f32> = (0..20_000u32).map(|i| (i * 7919 % 3001) as f32 / 300.0).collect();
    logits.iter_mut().step_by(3).for_each(|logit| *logit -= 4.0);
    let banned: Vec<u32> = (0..20_000).filter(|id| id % 7 != 0).collect();
    for (top_k, top_p, min_p) in [
        (0, 1.0, 0.0),
        (0, 0.9, 0.0),
        (0, 0.999, 0.0),
        (0, 0.5, 0.01),
        (1, 1.0, 0.0),
        (50, 1.0, 0.0),
        (127, 0.9, 0.0),
        (3000, 1.0, 0.0),
        (19_999, 0.7, 0.1),
        (50_000, 1.0, 0.0),
    ] {
        for allowed_token_ids in [None, Some(banned.clone())] {
            let params = SamplingParams {
                temperature: 0.8,
                top_k,
                top_p,
                min_p,
                allowed_token_ids,
                ..greedy()
            };
            let mut sampler = Sampler::default();
            let id = sampler.sample(&logits, &context(&params)).unwrap().id;
            let kept = kept(&sampler, &params);
            assert!(kept.binary_search(&id).is_ok());
            assert!(kept == naive_candidates(&sampler.logits, &params), "{top_k} {top_p} {min_p}");
        }
    }
}

prop_compose! {
    fn any_params()(
        temperature in prop_oneof![Just(0.0f32), 0.1f32..2.0],
        top_p in prop_oneof![Just(1.0f32), 0.01f32..1.0],
        top_k in prop_oneof![Just(0u32), 1u32..12],
        min_p in prop_oneof![Just(0.0f32), 0.0f32..1.0],
        frequency_penalty in prop_oneof![Just(0.0f32), -2.0f32..2.0],
        presence_penalty in prop_oneof![Just(0.0f32), -2.0f32..2.0],
        repetition_penalty in prop_oneof![Just(1.0f32), 0.5f32..2.0],
        logit_bias in prop::collection::vec((0u32..220, -100.0f32..100.0), 0..3),
        min_tokens in 0usize..4,
        stop_token_ids in prop::collection::vec(0u32..10, 0..2),
        (ignore_eos, bad_words, allowed_token_ids) in (
            any::<bool>(),
            prop::collection::vec(prop::collection::vec(0u32..6, 0..3), 0..3),
            prop::option::weighted(0.2, prop::collection::vec(0u32..220, 1..20)),
        ),
    ) -> SamplingParams {
        SamplingParams {
            temperature, top_p, top_k, min_p, frequency_penalty, presence_penalty,
            repetition_penalty, logit_bias, min_tokens, stop_token_ids, ignore_eos, bad_words,
            allowed_token_ids, ..greedy()
        }
    }
}

proptest! {
    #[test]
    fn as_the_naive_oracle(
        // Quarters, so that there are equals, but their differences survive penalties.
        logits in prop::collection::vec((-40i16..40).prop_map(|l| f32::from(l) / 4.0), 6..200),
        params in any_params(),
        prompt in prop::collection::vec(0u32..6, 0..6),
        output in prop::collection::vec(0u32..6, 0..6),
        seed in any::<u64>(),
    ) {
        let eos = [3];
        let context = Context {
            params: &params, prompt: &prompt, output: &output, eos_token_ids: &eos, seed, choice: 1,
            mask: None,
        };
        let mut sampler = Sampler::default();
        let found = sampler.sample(&logits, &context);
        let changed = naive_penalties(&logits, &context);
        if changed.iter().all(|&l| l == f32::NEG_INFINITY) {
            prop_assert_eq!(found, Err(SampleError::NothingAllowed));
            return Ok(());
        }
        prop_assert_eq!(&sampler.logits, &changed);
        let id = found.unwrap().id;
        if params.temperature == 0.0 {
            let best = changed.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            prop_assert_eq!(Some(id as usize), changed.iter().position(|&l| l == best));
        } else {
            let kept = kept(&sampler, &params);
            prop_assert!(kept.contains(&id));
            prop_assert_eq!(kept, naive_candidates(&changed, &params));
        }
    }
}

#[test]
fn a_constraint_keeps_its_tokens_and_ends_only_where_it_is_complete() {
    let mut mask = TokenMask::default();
    [1, 3, 40].iter().for_each(|&id| mask.insert(id));
    let params = SamplingParams { stop_token_ids: vec![2], ..greedy() };
    let mut logits = vec![0.0; 64];
    (logits[0], logits[1], logits[2], logits[3], logits[40]) = (9.0, 1.0, 8.0, 2.0, 3.0);
    let with = |complete| Context { mask: Some((&mask, complete)), ..context(&params) };
    assert_eq!(pick(&logits, &with(false)), Ok(40));
    assert_eq!(pick(&logits, &with(true)), Ok(2), "a stop token may end what is complete");
    // Beyond the mask's end there is nothing.
    logits[63] = 10.0;
    assert_eq!(pick(&logits, &with(false)), Ok(40));
    let none = TokenMask::default();
    let nothing = Context { mask: Some((&none, false)), ..context(&params) };
    assert_eq!(pick(&logits, &nothing), Err(SampleError::NothingAllowed));
}
