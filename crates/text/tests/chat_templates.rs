//! Chat templates against what transformers renders, byte for byte.
//!
//! The reference cases lie beside the checkout (`<repo>/../shared/fixtures/templates`); where
//! they are not, the test says so and passes. Each case that differs is listed with its
//! reason in `template_differences.txt`, and the test fails when that list and reality
//! differ in either direction.

#![expect(clippy::unwrap_used, reason = "a helper of a test may fail the test")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value as Json;
use wharf_text::template::{ChatTemplate, RenderInput};

fn fixtures() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/fixtures/templates");
    if !folder.exists() {
        eprintln!("skipped: {} is not there", folder.display());
        return None;
    }
    Some(folder)
}

/// "template conversation" of each listed difference.
fn listed_differences() -> BTreeSet<String> {
    include_str!("template_differences.txt")
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
        .map(|line| line.split('|').next().unwrap().trim().to_owned())
        .collect()
}

/// The template with the frozen clock of the reference and the case's special tokens.
fn template(source: &str, variables: &Json) -> Result<ChatTemplate, String> {
    let frozen = jiff::civil::date(2025, 1, 15).at(12, 30, 0, 0);
    let frozen = frozen.to_zoned(jiff::tz::TimeZone::UTC).unwrap();
    let template = ChatTemplate::new(source, None, None).map_err(|error| error.to_string())?;
    let mut template = template.with_clock(Arc::new(move || frozen.clone()));
    for (name, value) in variables.as_object().unwrap() {
        template = template.with_variable(name, value.as_str().unwrap());
    }
    Ok(template)
}

fn input(conversation: &Json) -> RenderInput {
    let list = |value: &Json| value.as_array().cloned();
    RenderInput {
        messages: list(&conversation["messages"]).unwrap(),
        tools: list(&conversation["tools"]),
        documents: list(&conversation["documents"]),
        add_generation_prompt: conversation["add_generation_prompt"].as_bool().unwrap(),
        continue_final_message: conversation["continue_final_message"].as_bool().unwrap_or(false),
        kwargs: conversation["kwargs"].as_object().cloned().unwrap_or_default(),
        verbatim: true,
    }
}

/// What went wrong with a case, if anything.
fn difference(
    template: &Result<ChatTemplate, String>,
    input: &RenderInput,
    case: &Json,
) -> Option<String> {
    let got = match template {
        Ok(template) => template.render(input).map_err(|error| error.to_string()),
        Err(error) => Err(error.clone()),
    };
    match (case["expected"].as_str(), got) {
        (Some(want), Ok(got)) if want == got => None,
        (None, Err(_)) => None,
        (Some(want), Ok(got)) => {
            let same = want.chars().zip(got.chars()).take_while(|(a, b)| a == b).count();
            let from = same.saturating_sub(30);
            let show = |text: &str| text.chars().skip(from).take(110).collect::<String>();
            Some(format!("at character {same}\n  want …{:?}\n  got  …{:?}", show(want), show(&got)))
        }
        (Some(_), Err(error)) => Some(format!("failed: {error}")),
        (None, Ok(_)) => Some(format!("should fail: {}", case["error"])),
    }
}

#[test]
fn templates_render_as_transformers_renders_them() {
    let Some(folder) = fixtures() else {
        return;
    };
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let conversations: Json = serde_json::from_str(&read("conversations.json")).unwrap();
    let mut templates: HashMap<String, Result<ChatTemplate, String>> = HashMap::new();
    let mut differences = BTreeMap::new();
    let mut count = 0;
    for line in read("cases.jsonl").lines() {
        let case: Json = serde_json::from_str(line).unwrap();
        let (name, conversation) =
            (case["template"].as_str().unwrap(), case["conversation"].as_str().unwrap());
        let key = format!("{name}{}", case["variables"]);
        let template =
            templates.entry(key).or_insert_with(|| template(&read(name), &case["variables"]));
        let input = input(&conversations["conversations"][conversation]);
        if let Some(difference) = difference(template, &input, &case) {
            differences.insert(format!("{name} {conversation}"), difference);
        }
        count += 1;
    }
    let listed = listed_differences();
    let unlisted: Vec<_> = differences.iter().filter(|(key, _)| !listed.contains(*key)).collect();
    let stale: Vec<_> = listed.iter().filter(|key| !differences.contains_key(*key)).collect();
    println!("{} of {count} cases equal", count - differences.len());
    for (key, difference) in &unlisted {
        println!("{key}: {difference}");
    }
    assert!(unlisted.is_empty(), "{} differences are not listed", unlisted.len());
    assert!(stale.is_empty(), "listed, but equal: {stale:?}");
    assert!(
        differences.len() * 100 <= count,
        "more than 1% differ: {} of {count}",
        differences.len()
    );
}
