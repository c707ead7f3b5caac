//! vLLM's recorded structural tags, one set per model, against the answers that they must allow.
//!
//! The recordings lie beside the checkout (`<repo>/../shared/fixtures/toolcalls/grammar_replay`);
//! where they are not, the tests say so and pass. A model whose tokenizer is there too is followed
//! by its own token ids; the others by bytes, with the model's markers as special tokens.

#![expect(clippy::expect_used, reason = "a helper of a test may fail the test")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use wharf_grammar::{Compiler, Constraint, Grammar, JsonStyle, Limits, Vocabulary};
use wharf_text::{tokenizer::from_hugging_face, tool_calls::arguments_in_style};

/// Cases that are not allowed as recorded, each with the reason. The list is exact: one that is
/// allowed after all fails the test.
const DIFFERENCES: &[(&str, &str)] = &[
    ("GLM-5.2-FP8[4].auto_schema_content", FREE_OR_JSON),
    ("Qwen3-0.6B[4].auto_schema_content", FREE_OR_JSON),
    ("Qwen3.5-4B[4].auto_schema_content", FREE_OR_JSON),
];

const FREE_OR_JSON: &str = "an `or` of triggered tags and JSON: the JSON is also the beginning of \
    the free text before a tag, and the lexer takes the longer one, so that it cannot end";

/// Special tokens of the models without a tokenizer here.
const MARKERS: &[(&str, &[&str])] = &[
    ("DeepSeek-V4-Flash", &["<think>", "</think>", "｜DSML｜"]),
    ("DeepSeek-V4.1-Flash", &["<think>", "</think>", "｜DSML｜"]),
    (
        "GLM-5.2-FP8",
        &[
            "<think>",
            "</think>",
            "<tool_call>",
            "</tool_call>",
            "<arg_key>",
            "</arg_key>",
            "<arg_value>",
            "</arg_value>",
        ],
    ),
    ("Kimi-K3", &["<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"]),
    ("MiniMax-M2.5", &["<think>", "</think>", "<minimax:tool_call>", "</minimax:tool_call>"]),
    ("MiniMax-M3", &["<mm:think>", "</mm:think>"]),
    ("Qwen3.5-4B", &["<think>", "</think>", "<tool_call>", "</tool_call>"]),
];

/// The folder of the fixtures.
fn fixtures() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/fixtures");
    let there = folder.join("toolcalls/grammar_replay").exists();
    if !there {
        println!("skipped: no shared/fixtures/toolcalls/grammar_replay beside the checkout");
    }
    there.then_some(folder)
}

/// Nothing is timed here.
fn limits() -> Limits {
    Limits { compile_time: Duration::from_secs(600), ..Limits::default() }
}

/// A model's compiler, and how it writes a text.
struct Model {
    compiler: Compiler,
    markers: &'static [&'static str],
    /// The recorded ids are this vocabulary's.
    by_ids: bool,
    end: u32,
}

impl Model {
    fn of(name: &str, folder: &Path, ends: &[u32]) -> Self {
        match MARKERS.iter().find(|(model, _)| *model == name) {
            Some((_, markers)) => Self::of_bytes(markers),
            None => Self::of_tokenizer(&folder.join("tokenizers/qwen3/tokenizer.json"), ends),
        }
    }

    fn of_bytes(markers: &'static [&'static str]) -> Self {
        let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
        tokens.extend(markers.iter().map(|marker| marker.as_bytes().to_vec()));
        tokens.push(b"<end>".to_vec());
        let end = u32::try_from(tokens.len() - 1).expect("a small vocabulary");
        let special = (0..=end).map(|id| id > 255).collect();
        let tokenize = Box::new(|text: &str| in_bytes(text, markers));
        let vocabulary = Vocabulary { tokens, special, eos_token_ids: vec![end], tokenize };
        let compiler = Compiler::new(vocabulary, limits()).expect("a sound vocabulary");
        Self { compiler, markers, by_ids: false, end }
    }

    fn of_tokenizer(file: &Path, ends: &[u32]) -> Self {
        let file = fs::read(file).expect("a tokenizer");
        let tokenizer = from_hugging_face(&file, None).expect("a tokenizer");
        let count = u32::try_from(tokenizer.vocab_size()).expect("ids are 32 bits");
        let vocabulary = Vocabulary {
            tokens: (0..count).map(|id| tokenizer.token_bytes(id).to_vec()).collect(),
            special: (0..count).map(|id| tokenizer.is_special(id)).collect(),
            eos_token_ids: ends.to_vec(),
            tokenize: Box::new(move |text| tokenizer.encode(text, false).unwrap_or_default()),
        };
        let compiler = Compiler::new(vocabulary, limits()).expect("a sound vocabulary");
        Self { compiler, markers: &[], by_ids: true, end: ends[0] }
    }

    /// Follows the tokens to the end; where and why it cannot.
    fn follow(&self, constraint: &Constraint, tokens: &[u32]) -> Result<(), String> {
        let mut matcher = constraint.matcher();
        for (at, token) in tokens.iter().enumerate() {
            if !matcher.mask().map_err(|error| error.to_string())?.contains(*token) {
                return Err(format!("token {token} at {at} is refused"));
            }
            matcher.consume(*token).map_err(|error| error.to_string())?;
        }
        if matcher.is_finished() {
            return Ok(());
        }
        let may_end = matcher.mask().map_err(|error| error.to_string())?.contains(self.end);
        match matcher.is_complete() && may_end {
            true => Ok(()),
            false => Err("it is not complete".to_owned()),
        }
    }
}

/// Markers as tokens, the rest as bytes.
fn in_bytes(text: &str, markers: &[&str]) -> Vec<u32> {
    let (mut ids, mut rest) = (Vec::new(), text);
    'text: while !rest.is_empty() {
        for (id, marker) in (256..).zip(markers) {
            if let Some(after) = rest.strip_prefix(marker) {
                ids.push(id);
                rest = after;
                continue 'text;
            }
        }
        let (character, after) = rest.split_at(rest.chars().next().map_or(0, char::len_utf8));
        ids.extend(character.bytes().map(u32::from));
        rest = after;
    }
    ids
}

/// A recorded answer.
struct Case {
    id: String,
    /// Compiled with JSON in both of our ways to write it, or why not.
    constraints: Result<Vec<Constraint>, String>,
    text: String,
    ids: Vec<u32>,
}

fn cases(model: &Model, name: &str, recording: &Value, ends: &[u32]) -> Vec<Case> {
    let mut cases = Vec::new();
    for (at, entry) in recording["grammars"].as_array().expect("grammars").iter().enumerate() {
        let tag = &entry["grammar"];
        for (kind, answer) in entry["generations"].as_object().expect("generations") {
            let styles = [JsonStyle::spaced(), JsonStyle::compact()];
            let constraints = styles.iter().map(|style| {
                let grammar = Grammar::from_structural_tag(tag, style, &arguments_in_style);
                grammar.and_then(|grammar| model.compiler.compile(&grammar))
            });
            let constraints = constraints.collect::<Result<_, _>>();
            let text = answer["completion"].as_str().expect("a text");
            // The rest is the reasoning's, which this tag says nothing of.
            let covered = match tag["coverage"].as_str() {
                Some("final_output_only") => text.split_once("</mm:think>").expect("reasoning").1,
                _ => text,
            };
            let ids: Vec<u32> =
                serde_json::from_value(answer["generation_token_ids"].clone()).expect("ids");
            let (last, ids) = ids.split_last().expect("an id");
            assert!(ends.contains(last), "{name}: the answer ended");
            cases.push(Case {
                id: format!("{name}[{at}].{kind}"),
                constraints: constraints.map_err(|error| format!("{error:?}")),
                text: covered.to_owned(),
                ids: ids.to_vec(),
            });
        }
    }
    cases
}

/// `text` in one of the two styles; `ids`: as these tokens.
fn allowed(model: &Model, case: &Case, text: &str, ids: Option<&[u32]>) -> Result<(), String> {
    let written = in_bytes(text, model.markers);
    let tokens = ids.filter(|_| model.by_ids).unwrap_or(&written);
    let mut result = Err("no style".to_owned());
    for constraint in case.constraints.as_ref().map_err(Clone::clone)? {
        result = model.follow(constraint, tokens);
        if result.is_ok() {
            break;
        }
    }
    result
}

/// All models and their cases.
fn each(mut visit: impl FnMut(&str, &Model, &Case)) {
    let Some(folder) = fixtures() else { return };
    let files = fs::read_dir(folder.join("toolcalls/grammar_replay")).expect("a folder");
    let mut files: Vec<PathBuf> = files.map(|file| file.expect("a file").path()).collect();
    files.sort();
    for file in files {
        let text = fs::read_to_string(&file).expect("readable");
        let recording: Value = serde_json::from_str(&text).expect("JSON");
        let name = file.file_stem().and_then(|name| name.to_str()).expect("a name");
        let ends: Vec<u32> =
            serde_json::from_value(recording["all_stop_token_ids"].clone()).expect("ids");
        let model = Model::of(name, &folder, &ends);
        for case in cases(&model, name, &recording, &ends) {
            visit(name, &model, &case);
        }
    }
}

/// A change of an answer that makes a wrong one of it.
const FAULTS: &[(&str, &str)] = &[
    ("get_weather", "get_whether"),
    ("1.0", "one"),
    ("sunny\"}", "sunny\""),
    ("\"answer\"", "\"question\""),
    ("location", "place"),
    ("[\"left\"", "[3"),
    ("</think>", "<think></think></think>"),
    ("I will call", "I will</think> call"),
    ("I will call", "I will<|open|> call"),
];

#[test]
fn recorded_answers_are_allowed_but_for_the_listed_ones_and_faults_are_refused() {
    let mut counts: BTreeMap<String, [usize; 3]> = BTreeMap::new();
    let mut wrong = Vec::new();
    each(|name, model, case| {
        let listed = DIFFERENCES.iter().any(|(id, _)| *id == case.id);
        let result = allowed(model, case, &case.text, Some(&case.ids));
        let [all, right, refused] = counts.entry(name.to_owned()).or_default();
        *all += 1;
        *right += usize::from(result.is_ok());
        if result.is_ok() == listed {
            wrong.push(format!("{}: {result:?}\n  {:?}", case.id, case.text));
        }
        for text in faulty(case) {
            *refused += 1;
            if allowed(model, case, &text, None).is_ok() {
                wrong.push(format!("{}: it must be refused\n  {text:?}", case.id));
            }
        }
    });
    for (model, [all, allowed, refused]) in counts {
        println!("{model:<20} {all:>2} answers, {allowed} allowed; {refused} faulty ones refused");
    }
    assert!(wrong.is_empty(), "{} are not as listed:\n{}", wrong.len(), wrong.join("\n"));
}

/// The answer with each of the faults that it can have.
fn faulty(case: &Case) -> Vec<String> {
    let texts = FAULTS.iter().filter_map(|(right, fault)| {
        // Another model's marker is a text as any other.
        let kimi = case.id.starts_with("Kimi");
        let other = fault.contains("<|open|>") != kimi && fault.starts_with("I will");
        (!other && case.text.contains(right)).then(|| case.text.replacen(right, fault, 1))
    });
    texts.collect()
}
