//! The requests of a run: random words, or the lines of a file.
//!
//! The words are short and common, so that a tokenizer of English makes about one token of each;
//! what a prompt really took is in the server's `usage`, and the report says it.

use std::io::BufRead;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

use super::random::Random;
use crate::cli::BenchArgs;

/// Tokens a chat template takes beside the prompt, about.
const TEMPLATE_TOKENS: usize = 12;
/// The stream of the words that all prompts share.
const SHARED: u64 = u64::MAX;
/// One token each in the vocabularies that were looked at.
const WORDS: [&str; 64] = [
    "time",
    "year",
    "people",
    "way",
    "day",
    "man",
    "thing",
    "woman",
    "life",
    "child",
    "world",
    "school",
    "state",
    "family",
    "student",
    "group",
    "country",
    "problem",
    "hand",
    "part",
    "place",
    "case",
    "week",
    "company",
    "system",
    "program",
    "question",
    "work",
    "government",
    "number",
    "night",
    "point",
    "home",
    "water",
    "room",
    "mother",
    "area",
    "money",
    "story",
    "fact",
    "month",
    "lot",
    "right",
    "study",
    "book",
    "eye",
    "job",
    "word",
    "business",
    "issue",
    "side",
    "kind",
    "head",
    "house",
    "service",
    "friend",
    "father",
    "power",
    "hour",
    "game",
    "line",
    "end",
    "member",
    "law",
];

/// The bodies of all requests, the warm-up's first.
pub(super) fn requests(args: &BenchArgs, model: &str) -> Result<Vec<Value>> {
    let total = args.warmup + args.requests.get();
    let messages = match &args.prompts {
        Some(file) => read_prompts(file)?.into_iter().cycle().take(total).collect(),
        None => (0..total as u64).map(|index| random_prompt(args, index)).collect::<Vec<_>>(),
    };
    Ok(messages.into_iter().map(|messages| body(args, model, messages)).collect())
}

/// A chat request.
fn body(args: &BenchArgs, model: &str, messages: Value) -> Value {
    let mut body = Map::new();
    body.insert("model".into(), model.into());
    body.insert("messages".into(), messages);
    body.insert("stream".into(), true.into());
    body.insert("stream_options".into(), json!({"include_usage": true}));
    body.insert("max_tokens".into(), args.output_tokens.get().into());
    body.insert("temperature".into(), args.temperature.into());
    if !args.natural_end {
        body.insert("ignore_eos".into(), true.into());
        body.insert("min_tokens".into(), args.output_tokens.get().into());
    }
    body.extend(args.extra_body.clone().unwrap_or_default());
    Value::Object(body)
}

/// Random words: first those that all prompts share, then this prompt's own.
fn random_prompt(args: &BenchArgs, index: u64) -> Value {
    let shared = args.shared_prefix;
    let own = args.input_tokens.get().saturating_sub(shared + TEMPLATE_TOKENS).max(1);
    let mut text = String::new();
    for (stream, count) in [(SHARED, shared), (index, own)] {
        let mut random = Random::new(args.seed, stream);
        for _ in 0..count {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(random.choose(&WORDS));
        }
    }
    json!([{"role": "user", "content": text}])
}

/// The messages of each line.
fn read_prompts(file: &Path) -> Result<Vec<Value>> {
    let named = || format!("--prompts {}", file.display());
    let reader = std::io::BufReader::new(std::fs::File::open(file).with_context(named)?);
    let mut prompts = Vec::new();
    for (number, line) in reader.lines().enumerate() {
        let line = line.with_context(named)?;
        if !line.trim().is_empty() {
            let messages = messages_of(&line)
                .with_context(|| format!("{} line {}", file.display(), number + 1))?;
            prompts.push(messages);
        }
    }
    ensure!(!prompts.is_empty(), "{} holds no prompt", file.display());
    Ok(prompts)
}

/// `{"messages": [...]}`, or `{"prompt": "..."}`.
fn messages_of(line: &str) -> Result<Value> {
    let value: Value = serde_json::from_str(line)?;
    match (value.get("messages"), value.get("prompt")) {
        (Some(messages @ Value::Array(_)), _) => Ok(messages.clone()),
        (None, Some(Value::String(prompt))) => Ok(json!([{"role": "user", "content": prompt}])),
        _ => bail!("neither a list `messages` nor a text `prompt`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn bodies(flags: &[&str]) -> Result<Vec<Value>> {
        let arguments = ["wharf", "bench"].iter().chain(flags);
        let Command::Bench(args) = Cli::parse_from(arguments).command else { unreachable!() };
        requests(&args, "m")
    }

    fn prompt(body: &Value) -> &str {
        body["messages"][0]["content"].as_str().unwrap()
    }

    #[test]
    fn prompts_differ_and_a_seed_repeats_them() {
        let first = bodies(&["--requests", "50"]).unwrap();
        assert_eq!(first.len(), 51);
        let mut starts: Vec<Vec<&str>> =
            first.iter().map(|b| prompt(b).split(' ').take(8).collect()).collect();
        starts.sort();
        starts.dedup();
        assert_eq!(starts.len(), 51, "two prompts share their first words");
        assert_eq!(first, bodies(&["--requests", "50"]).unwrap());
        assert_ne!(first, bodies(&["--requests", "50", "--seed", "1"]).unwrap());
    }

    #[test]
    fn a_shared_prefix_is_shared() {
        let bodies = bodies(&["--shared-prefix", "20", "--input-tokens", "40"]).unwrap();
        let prefix = |b| prompt(b).split(' ').take(20).collect::<Vec<_>>().join(" ");
        assert_eq!(prefix(&bodies[0]), prefix(&bodies[1]));
        assert_ne!(prompt(&bodies[0]), prompt(&bodies[1]));
    }

    #[test]
    fn lines_of_a_file_are_sent_in_turn() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("p.jsonl");
        let flags = ["--warmup", "0", "--requests", "3", "--prompts", file.to_str().unwrap()];
        let text =
            "{\"prompt\": \"a\"}\n\n{\"messages\": [{\"role\": \"user\", \"content\": \"b\"}]}\n";
        std::fs::write(&file, text).unwrap();
        let sent = bodies(&flags).unwrap();
        assert_eq!(sent.iter().map(prompt).collect::<Vec<_>>(), ["a", "b", "a"]);
        std::fs::write(&file, "{\"prompt\": \"a\"}\n{\"prompt\": 1}\n").unwrap();
        assert!(format!("{:#}", bodies(&flags).unwrap_err()).contains("line 2"));
        std::fs::write(&file, "\n").unwrap();
        assert!(bodies(&flags).is_err());
    }
}
