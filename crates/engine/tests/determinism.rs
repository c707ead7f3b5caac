//! One request gives the same tokens and the same log-probability bits whatever the company: alone,
//! in a batch, in chunks, with a cold or a warm cache, after preemption, guessed or not, by a draft model
//! too. With real models: the tiny checkpoints of `crates/model/tests/golden`, and the trained story
//! models where `../shared/fixtures` lies beside the checkout.

use std::{
    error::Error,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use wharf_engine::{
    DraftModel, Engine, EngineConfig, EngineStats, Event, FinishReason, GenerateRequest, Receiver,
    SamplingParams,
    grammar::{Compiler, Constraint, Grammar, Limits, Vocabulary},
    model::{Activations, BLOCK_TOKENS, Isa, KvFormat, LoadOptions, Model},
};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Longest sequence of the tests.
const LONGEST: usize = 120;

/// What a receiver gets, with the bits of the log-probabilities.
#[derive(Debug, PartialEq)]
struct Answer {
    tokens: Vec<u32>,
    // [tokens][top + 1]
    logprob_bits: Vec<Vec<u32>>,
    finish: FinishReason,
}

fn collect(mut receiver: Receiver) -> Outcome<Answer> {
    let (mut tokens, mut logprob_bits) = (Vec::new(), Vec::new());
    loop {
        match receiver.blocking_recv().ok_or("no last event")? {
            Event::Started { .. } => {}
            Event::Token { id, logprob, .. } => {
                tokens.push(id);
                let logprob = logprob.ok_or("no log-probabilities")?;
                let all = logprob.top.iter().map(|top| top.1).chain([logprob.logprob]);
                logprob_bits.push(all.map(f32::to_bits).collect());
            }
            Event::Finished(finish) => return Ok(Answer { tokens, logprob_bits, finish }),
            Event::Failed(reason) => return Err(reason.into()),
        }
    }
}

fn load(path: &Path, threads: usize, activations: Activations) -> Outcome<Model> {
    let threads = NonZeroUsize::new(threads).ok_or("no threads")?;
    Ok(Model::load(
        path,
        &LoadOptions { activations, ..LoadOptions::exact(Isa::detect(), threads) },
    )?)
}

fn start(
    path: &Path,
    threads: usize,
    activations: Activations,
    config: &EngineConfig,
) -> Outcome<Engine> {
    let mut model = load(path, threads, activations)?;
    let num_slots = config.max_running + config.num_state_snapshots.unwrap_or(0);
    model.allocate(config.num_blocks, KvFormat::F32, num_slots);
    Ok(Engine::start(Box::new(model), config.clone())?)
}

/// [`start`] with the model at `draft` to guess for it.
fn start_with_draft(
    path: &Path,
    draft: &Path,
    activations: Activations,
    config: &EngineConfig,
) -> Outcome<Engine> {
    let mut model = load(path, 2, activations)?;
    let options =
        LoadOptions { activations, ..LoadOptions::exact(Isa::detect(), NonZeroUsize::MIN) };
    let mut draft = model.load_beside(draft, &options)?;
    model.allocate_kv(config.num_blocks, KvFormat::F32);
    draft.allocate_kv(config.num_blocks, KvFormat::F32);
    let max_model_len = draft.info().max_model_len;
    let draft = DraftModel { runner: Box::new(draft), max_model_len };
    Ok(Engine::start_with_draft(Box::new(model), Some(draft), config.clone())?)
}

/// Submits all at once; answers by request and choice.
fn run(engine: &Engine, requests: &[GenerateRequest]) -> Outcome<Vec<Vec<Answer>>> {
    let submitted: Result<Vec<Vec<Receiver>>, _> =
        requests.iter().map(|request| engine.submit(request.clone())).collect();
    let collect_all = |choices: Vec<Receiver>| choices.into_iter().map(collect).collect();
    submitted?.into_iter().map(collect_all).collect()
}

/// Prompts of several lengths, some with a common prefix; greedy and drawn; some with two choices;
/// the last ones free to repeat themselves.
fn requests(vocab_size: usize, longest: usize, letters: &Constraint) -> Vec<GenerateRequest> {
    let ids = |count: usize, salt: usize| -> Vec<u32> {
        (0..count).map(|i| ((i * 7919 + i * i * 31 + salt) % vocab_size) as u32).collect()
    };
    let request = |index: usize, prompt: Vec<u32>, n| GenerateRequest {
        n,
        params: SamplingParams {
            temperature: if index.is_multiple_of(2) { 0.0 } else { 0.9 },
            top_p: 0.95,
            top_k: 40,
            min_p: 0.0,
            frequency_penalty: 0.1,
            presence_penalty: 0.0,
            repetition_penalty: 1.1,
            logit_bias: Vec::new(),
            seed: Some(index as u64),
            logprobs: Some(3),
            max_tokens: longest - prompt.len(),
            min_tokens: 0,
            stop_token_ids: Vec::new(),
            ignore_eos: true,
            bad_words: Vec::new(),
            allowed_token_ids: None,
        },
        prompt,
        cache_salt: None,
        priority: 0,
        constraint: None,
    };
    let shared = ids(longest / 3, 1);
    let with = |own: usize| [&shared[..], &ids(own, own)].concat();
    let free = |request: GenerateRequest| GenerateRequest {
        params: SamplingParams {
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            temperature: request.params.temperature / 3.0,
            ..request.params
        },
        ..request
    };
    let constrained = |request| GenerateRequest { constraint: Some(letters.clone()), ..request };
    vec![
        request(0, ids(5, 3), 1),
        request(1, with(9), 1),
        request(2, with(1), 1),
        request(3, with(20), 2),
        request(4, ids(longest / 2, 4), 1),
        request(5, with(9), 1),
        constrained(request(6, with(9), 1)),
        constrained(request(7, with(20), 2)),
        free(request(8, with(20), 1)),
        free(request(9, ids(7, 2).repeat(4), 2)),
    ]
}

/// Choices among letters, a forced run of them, and more choices. Tokens 1 to 26 are the letters.
fn letters(vocab_size: usize) -> Outcome<Constraint> {
    let letter = |id: usize| match id {
        1..=26 => vec![b'a' + id as u8 - 1],
        _ => Vec::new(),
    };
    let vocabulary = Vocabulary {
        tokens: (0..vocab_size).map(letter).collect(),
        special: vec![false; vocab_size],
        eos_token_ids: vec![0],
        tokenize: Box::new(|text| text.bytes().map(|byte| u32::from(byte - b'a') + 1).collect()),
    };
    let grammar = Grammar::Regex("[a-z]{4}forced([a-z]{3}run){2}[a-m]*".into());
    Ok(Compiler::new(vocabulary, Limits::default())?.compile(&grammar)?)
}

/// All the ways against each request alone on a fresh engine, in one piece. `draft`: another
/// model of the same vocabulary.
fn check(path: &Path, draft: &Path, activations: Activations) -> Outcome<()> {
    let start = |threads, config: &EngineConfig| start(path, threads, activations, config);
    let model = load(path, 1, activations)?;
    let info = model.info();
    let recurrent = info.state_bytes > 0;
    let longest = info.max_model_len.min(LONGEST);
    let requests = requests(info.vocab_size, longest, &letters(info.vocab_size)?);
    let roomy = EngineConfig {
        max_batched_tokens: 512,
        max_running: 16,
        max_waiting: 100,
        max_model_len: longest,
        num_blocks: 100,
        prefix_caching: true,
        num_state_snapshots: recurrent.then_some(16),
        num_speculative_tokens: 0,
        ngram_lookup: true,
        eos_token_ids: info.eos_token_ids.clone(),
    };
    let mut alone = Vec::new();
    for request in &requests {
        alone.extend(run(&start(1, &roomy)?, std::slice::from_ref(request))?);
    }
    let same = |way: &str, engine: &Engine| -> Outcome<EngineStats> {
        for (index, (answer, alone)) in run(engine, &requests)?.iter().zip(&alone).enumerate() {
            assert_eq!(answer, alone, "{}: request {index}, {way}", path.display());
        }
        Ok(engine.stats())
    };

    let engine = start(2, &roomy)?;
    let cold = same("batched", &engine)?;
    let warm = same("warm", &engine)?;
    assert!(warm.prefix_cache_hits - cold.prefix_cache_hits >= (longest / 3) as u64);

    let chunks = EngineConfig {
        max_batched_tokens: 9,
        max_running: 7,
        num_state_snapshots: recurrent.then_some(2),
        ..roomy.clone()
    };
    same("in small chunks", &start(2, &chunks)?)?;
    let unshared = EngineConfig { prefix_caching: false, ..chunks.clone() };
    same("in small chunks without prefix caching", &start(2, &unshared)?)?;

    let num_blocks = longest.div_ceil(BLOCK_TOKENS) + 3;
    let cramped = EngineConfig { num_blocks, ..chunks };
    let stats = same("preempted", &start(2, &cramped)?)?;
    assert!(stats.preemptions > 0, "{}: nothing was preempted", path.display());
    assert_eq!(stats.blocks_used, 0);

    let guessing =
        |config: &EngineConfig| EngineConfig { num_speculative_tokens: 4, ..config.clone() };
    let engine = start(2, &guessing(&roomy))?;
    same("guessing", &engine)?;
    if recurrent {
        assert_eq!(same("guessing, warm", &engine)?.draft_tokens, 0);
        return Ok(());
    }
    // Whether to guess is decided by measured times: on a busy machine it may take some turns.
    let until = |what: &str, engine: &Engine, holds: fn(&EngineStats) -> bool| -> Outcome<_> {
        let mut stats = same(what, engine)?;
        for _ in 0..20 {
            if holds(&stats) {
                break;
            }
            stats = same(what, engine)?;
        }
        assert!(holds(&stats), "{}, {what}: {stats:?}", path.display());
        Ok(stats)
    };
    until("guessing, right and wrong", &engine, |stats| {
        stats.accepted_tokens > 0 && stats.draft_tokens > stats.accepted_tokens
    })?;
    same("guessing, in small chunks", &start(2, &guessing(&unshared))?)?;
    let stats = same("guessing, preempted", &start(2, &guessing(&cramped))?)?;
    assert_eq!(stats.blocks_used, 0);

    let drafting = |config: &EngineConfig| EngineConfig { ngram_lookup: false, ..guessing(config) };
    for config in [drafting(&roomy), drafting(&unshared), drafting(&cramped)] {
        let engine = start_with_draft(path, path, activations, &config)?;
        let stats = until("with itself as its draft", &engine, |stats| stats.draft_tokens > 0)?;
        assert_eq!(stats.accepted_tokens, stats.draft_tokens, "{}", path.display());
        let engine = start_with_draft(path, draft, activations, &config)?;
        until("with another model as its draft", &engine, |stats| stats.draft_tokens > 0)?;
    }
    let engine = start_with_draft(path, draft, activations, &guessing(&roomy))?;
    same("with lookups and a draft", &engine)?;
    Ok(())
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn a_request_gives_the_same_bits_alone_batched_warm_guessed_and_after_preemption() -> Outcome<()> {
    let golden = repository().join("crates/model/tests/golden");
    let names = [
        "llama-gqa",
        "llama-rope-dynamic",
        "mistral-window",
        "qwen2",
        "qwen3",
        "smollm3",
        "granite",
        "olmo2",
        "phi3-longrope-long",
        "gemma2",
        "gemma3",
        "qwen3-moe",
        "mixtral",
        "qwen35",
        "qwen35-multimodal",
    ];
    for name in names {
        let draft = if name == "llama-gqa" { "llama-head-dim" } else { "llama-gqa" };
        check(&golden.join(name), &golden.join(draft), Activations::F32)?;
    }
    for name in ["gguf-llama-q4_1", "gguf-llama-q8_0", "gguf-llama-k", "gguf-qwen3moe"] {
        let path = golden.join(name).join("model.gguf");
        let draft = golden.join("llama-gqa");
        check(&path, &draft, Activations::F32)?;
        check(&path, &draft, Activations::Rounded)?;
    }
    Ok(())
}

#[test]
fn trained_models_give_the_same_bits_in_any_company() -> Outcome<()> {
    let models = repository().join("../shared/fixtures/models");
    for (path, draft) in [
        ("stories3m", "stories3m/stories3m-q4_0.gguf"),
        ("stories3m/stories3m-q4_0.gguf", "stories3m"),
        ("stories260k", "stories3m"),
    ] {
        let (path, draft) = (models.join(path), models.join(draft));
        if path.exists() {
            check(&path, &draft, Activations::F32)?;
            check(&path, &draft, Activations::Rounded)?;
        } else {
            println!("skipped: there is no {}", path.display());
        }
    }
    Ok(())
}
