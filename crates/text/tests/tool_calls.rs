//! Every tool-call format against recorded and constructed answers, and every way of cutting them.
//!
//! The cases lie beside the checkout (`<repo>/../shared/fixtures/toolcalls`); where they are not,
//! only our own few run.

#![allow(clippy::expect_used, clippy::panic, reason = "tests may panic, helpers included")]

use std::{collections::BTreeMap, fs, path::Path};

use proptest::prelude::*;
use serde_json::Value;
use wharf_text::{
    output::OutputEvent,
    tool_calls::{ToolFormat, ToolSpec, by_name, formats},
};

#[path = "tool_calls/differences.rs"]
mod differences;

/// An answer and what is in it.
struct Case {
    id: String,
    format: String,
    text: String,
    tools: Vec<ToolSpec>,
    content: Option<String>,
    /// Name and arguments.
    calls: Vec<(String, Value)>,
}

/// Events with neighbours of a kind joined.
fn joined(events: Vec<OutputEvent>) -> Vec<OutputEvent> {
    use OutputEvent::{Arguments, Content, Reasoning};
    let mut out: Vec<OutputEvent> = Vec::new();
    for event in events {
        match (out.last_mut(), event) {
            (Some(Content(text)), Content(more))
            | (Some(Reasoning(text)), Reasoning(more))
            | (Some(Arguments(text)), Arguments(more)) => text.push_str(&more),
            (_, event) => out.push(event),
        }
    }
    out
}

fn parse(format: &dyn ToolFormat, tools: &[ToolSpec], pieces: &[&str]) -> Vec<OutputEvent> {
    let mut parser = format.parser(tools);
    let mut events = Vec::new();
    for piece in pieces {
        parser.push(piece, &mut events);
    }
    parser.finish(&mut events);
    assert!(!events.iter().any(|event| matches!(
        event,
        OutputEvent::Content(text) | OutputEvent::Arguments(text) if text.is_empty()
    )));
    joined(events)
}

/// Content, and complete calls with their arguments as JSON.
fn summary(events: &[OutputEvent]) -> (String, Vec<(String, Value)>) {
    let (mut content, mut calls) = (String::new(), Vec::new());
    let mut open: Option<(String, String)> = None;
    for event in events {
        match event {
            OutputEvent::Content(text) => content.push_str(text),
            OutputEvent::CallStart { name } => open = Some((name.clone(), String::new())),
            OutputEvent::Arguments(text) => {
                if let Some((_, arguments)) = &mut open {
                    arguments.push_str(text);
                }
            }
            OutputEvent::CallEnd => {
                let (name, arguments) = open.take().expect("a call ends that has begun");
                let arguments = serde_json::from_str(&arguments).unwrap_or(Value::Null);
                calls.push((name, arguments));
            }
            OutputEvent::Reasoning(_) => {}
        }
    }
    (content, calls)
}

fn specs(tools: &Value) -> Vec<ToolSpec> {
    let functions = tools.as_array().into_iter().flatten().filter_map(|tool| tool.get("function"));
    functions
        .map(|function| ToolSpec {
            name: function["name"].as_str().unwrap_or_default().to_owned(),
            parameters: function.get("parameters").cloned().unwrap_or(Value::Null),
            lark: None,
        })
        .collect()
}

fn arguments(call: &Value) -> Value {
    match call.get("arguments") {
        Some(arguments) if !arguments.is_null() => arguments.clone(),
        _ => call["arguments_raw"]
            .as_str()
            .and_then(|raw| serde_json::from_str(raw).ok())
            .unwrap_or(Value::Null),
    }
}

fn calls(list: &Value) -> Vec<(String, Value)> {
    let each = list.as_array().into_iter().flatten();
    each.map(|call| (call["name"].as_str().unwrap_or_default().to_owned(), arguments(call)))
        .collect()
}

fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

/// The files of the corpus, or `None` where it is not.
fn corpus() -> Option<Vec<Case>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/fixtures/toolcalls");
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
    let mut cases = Vec::new();
    for (file, streaming) in [("complete.jsonl", false), ("streaming.jsonl", true)] {
        for line in read(file)?.lines() {
            let case: Value = serde_json::from_str(line).expect("a case");
            if streaming && case["matches_complete"] != true {
                continue;
            }
            let chunks = case["streaming_chunks"].as_array().into_iter().flatten();
            let chunks: String = chunks.filter_map(Value::as_str).collect();
            cases.push(Case {
                id: format!("{file}: {}", case["test"].as_str().unwrap_or_default()),
                format: case["format"].as_str().unwrap_or_default().to_owned(),
                text: text(&case["raw_output"]).unwrap_or(chunks),
                tools: specs(&case["tools"]),
                content: text(&case["expected"]["content"]),
                calls: calls(&case["expected"]["tool_calls"]),
            });
        }
    }
    let constructed: Value = serde_json::from_str(&read("constructed.json")?).expect("JSON");
    for case in constructed["cases"].as_array().into_iter().flatten() {
        let format = case["format"].as_str().unwrap_or_default();
        cases.push(Case {
            id: format!("constructed: {format} {}", case["case"].as_str().unwrap_or_default()),
            format: match format {
                "llama3_json+python_tag" => "llama3_json".to_owned(),
                "mistral_v11" => "mistral".to_owned(),
                "openai_harmony" => "openai".to_owned(),
                other => other.to_owned(),
            },
            text: text(&case["raw_output"]).unwrap_or_default(),
            tools: specs(&constructed["tools"]),
            content: text(&case["content_before"]),
            calls: calls(&case["expected_calls"]),
        });
    }
    let mistral: Value = serde_json::from_str(&read("mistral_smg.json")?).expect("JSON");
    for (at, case) in mistral.as_array().into_iter().flatten().enumerate() {
        cases.push(Case {
            id: format!("mistral_smg: {at}"),
            format: "mistral".to_owned(),
            text: text(&case["raw_output"]).unwrap_or_default(),
            tools: Vec::new(),
            content: text(&case["content_before"]),
            calls: calls(&case["expected_calls"]),
        });
    }
    // Some tests have recorded several cases.
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for case in &mut cases {
        let count = seen.entry(case.id.clone()).or_default();
        *count += 1;
        if *count > 1 {
            case.id = format!("{} #{count}", case.id);
        }
    }
    Some(cases)
}

/// Whether the case comes out as expected. White space around content is not compared: whose it
/// is differs from one recording to the next, and our one rule is tested where it is written.
fn agrees(case: &Case, format: &dyn ToolFormat) -> bool {
    let (content, found) = summary(&parse(format, &case.tools, &[&case.text]));
    let wanted = case.content.as_deref().unwrap_or_default();
    content.trim() == wanted.trim() && found == case.calls
}

#[test]
fn answers_are_told_apart_as_recorded_but_for_the_listed_ones() {
    let Some(cases) = corpus() else {
        println!("skipped: no shared/fixtures/toolcalls beside the checkout");
        return;
    };
    let mut counts: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let (mut unknown, mut wrong) = (Vec::new(), Vec::new());
    for case in &cases {
        let Some(format) = by_name(&case.format) else {
            unknown.push(case.format.as_str());
            continue;
        };
        let listed = differences::DIFFERENCES.iter().any(|(id, _)| *id == case.id);
        let count = counts.entry(format.name()).or_default();
        count.0 += 1;
        count.1 += usize::from(listed);
        let agrees = agrees(case, format);
        if agrees == listed {
            let (content, found) = summary(&parse(format, &case.tools, &[&case.text]));
            wrong.push(format!(
                "{}\n  text    {:?}\n  wanted  {:?} {:?}\n  found   {content:?} {found:?}",
                case.id, case.text, case.content, case.calls
            ));
        }
    }
    for (format, (all, listed)) in counts {
        println!("{format:<16} {all:>4} cases, {listed} differ");
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(unknown.is_empty(), "formats that are not read: {unknown:?}");
}

#[test]
fn how_an_answer_is_cut_changes_nothing() {
    let Some(cases) = corpus() else {
        println!("skipped: no shared/fixtures/toolcalls beside the checkout");
        return;
    };
    for case in &cases {
        let Some(format) = by_name(&case.format) else { continue };
        let whole = parse(format, &case.tools, &[&case.text]);
        for (cut, _) in case.text.char_indices() {
            let (left, right) = case.text.split_at(cut);
            assert_eq!(parse(format, &case.tools, &[left, right]), whole, "{} at {cut}", case.id);
        }
        let letters: Vec<&str> = case.text.split("").filter(|text| !text.is_empty()).collect();
        assert_eq!(parse(format, &case.tools, &letters), whole, "{} by letters", case.id);
    }
}

/// Pieces of markup of all formats, and other text.
fn any_piece() -> impl Strategy<Value = String> {
    let markers: Vec<String> = formats()
        .iter()
        .flat_map(|format| format.markers().iter().map(|marker| (*marker).to_owned()))
        .collect();
    prop_oneof![
        prop::sample::select(markers),
        prop::sample::select(vec![
            "{\"name\": \"f\", \"arguments\": {\"a\": [1, \"}\"]}}",
            "{",
            "}",
            "[",
            "]",
            "\"",
            "\\",
            ", ",
            "f",
            "\n",
            "```json",
            "f(a=1)"
        ])
        .prop_map(str::to_owned),
        "\\PC{0,4}",
    ]
}

proptest! {
    #[test]
    fn any_text_is_read_the_same_however_it_is_cut(
        pieces in prop::collection::vec(any_piece(), 0..12),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let text = pieces.concat();
        let mut borders: Vec<usize> =
            cuts.iter().map(|cut| cut.index(text.len() + 1)).filter(|&at| text.is_char_boundary(at)).collect();
        borders.extend([0, text.len()]);
        borders.sort_unstable();
        let parts: Vec<&str> = borders.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
        for format in formats() {
            let whole = parse(*format, &[], &[&text]);
            prop_assert_eq!(parse(*format, &[], &parts), whole, "{}", format.name());
        }
    }
}

#[test]
fn a_call_reaches_the_client_while_it_is_written() {
    let format = by_name("hermes").expect("hermes");
    let mut parser = format.parser(&[]);
    let mut out = Vec::new();
    parser.push("Hi\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"lo", &mut out);
    let start = OutputEvent::CallStart { name: "f".into() };
    assert_eq!(
        joined(std::mem::take(&mut out)),
        [OutputEvent::Content("Hi".into()), start, OutputEvent::Arguments("{\"a\": \"lo".into())]
    );
    parser.push("ng\"}}\n</tool_call>", &mut out);
    assert_eq!(out, [OutputEvent::Arguments("ng\"}".into()), OutputEvent::CallEnd]);
}

#[test]
fn a_name_that_comes_last_and_text_that_is_no_call() {
    let read =
        |name: &str, text: &str| summary(&parse(by_name(name).expect("a format"), &[], &[text]));
    let call = |name: &str, arguments| (name.to_owned(), arguments);
    let one = serde_json::json!({"a": 1});
    let (content, calls) =
        read("hermes", "<tool_call>{\"arguments\": {\"a\": 1}, \"name\": \"f\"}</tool_call>");
    assert_eq!((content.as_str(), calls), ("", vec![call("f", one.clone())]));
    // Not a call after all: it is content, exactly.
    for text in ["{\"a\": 1}", "{\"name\": 3}", "{\"name\": \"\"}", "[1, 2]", "{not json}"] {
        let (content, calls) = read("llama3_json", text);
        assert_eq!((content.as_str(), calls.len()), (text, 0), "{text}");
    }
    let (content, calls) = read("hermes", "a <tool_call> is markup");
    assert_eq!((content.as_str(), calls.len()), ("a <tool_call> is markup", 0));
    // Arguments as text that holds JSON.
    let (_, calls) = read(
        "hermes",
        "<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 1}\"}</tool_call>",
    );
    assert_eq!(calls, [call("f", one)]);
}

/// Templates, the format of their calls, and that of their reasoning; `-` for none.
const TEMPLATES: &[(&str, &str, &str)] = &[
    ("Bielik-11B-v3.0-Instruct", "hermes", "qwen3"),
    ("GigaChat3-10B-A1.8B", "gigachat3", "-"),
    ("GigaChat3.1-10B-A1.8B", "gigachat3", "-"),
    ("HuggingFaceTB-SmolLM3-3B", "-", "qwen3"),
    ("Kimi-K2-Instruct", "kimi_k2", "-"),
    ("LFM2-8B-A1B", "lfm2", "-"),
    ("LFM2.5-Instruct", "lfm2", "qwen3"),
    ("MiMo-VL", "hermes", "-"),
    ("MiniMax-M1", "jamba", "-"),
    ("MiniMax-M2", "minimax_m2", "minimax_m2"),
    ("MiniMax-M3", "minimax_m3", "minimax_m3"),
    ("Mistral-Small-3.2-24B-Instruct-2506", "mistral", "-"),
    ("NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "qwen3_coder", "qwen3"),
    ("NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", "hermes", "-"),
    ("NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "hermes", "-"),
    ("Qwen-QwQ-32B", "hermes", "qwen3"),
    ("Qwen-Qwen2.5-7B-Instruct", "hermes", "-"),
    ("Qwen-Qwen3-0.6B", "hermes", "qwen3"),
    ("Qwen3-Coder", "qwen3_coder", "-"),
    ("Qwen3.5-4B", "qwen3_coder", "qwen3"),
    ("StepFun3.5-Flash", "qwen3_coder", "qwen3"),
    ("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "deepseek_v3", "deepseek_r1"),
    ("deepseek-ai-DeepSeek-V3.2", "deepseek_v32", "deepseek_v3"),
    ("deepseek-ai-DeepSeek-V4", "deepseek_v4", "deepseek_v3"),
    ("deepseek-ai-DeepSeek-V4-Flash-0731", "deepseek_v4", "deepseek_v3"),
    ("fireworks-ai-llama-3-firefunction-v2", "phi4_mini_json", "-"),
    ("google-gemma-2-2b-it", "-", "-"),
    ("google-gemma-4-31B-it", "gemma4", "gemma4"),
    ("google-gemma-4-31B-it-interleaved", "gemma4", "gemma4"),
    ("ibm-granite-granite-3.3-2B-Instruct", "granite", "granite_3_3"),
    ("ibm-granite-granite-4.1", "hermes", "-"),
    ("llama-cpp-deepseek-r1", "deepseek_v3", "deepseek_r1"),
    ("meta-llama-Llama-3.2-3B-Instruct", "llama3_json", "-"),
    ("meta-llama-Llama-3.3-70B-Instruct", "llama3_json", "-"),
    ("microsoft-Phi-3.5-mini-instruct", "-", "-"),
    ("mistralai-Mistral-Nemo-Instruct-2407", "mistral", "-"),
    ("moonshotai-Kimi-K2", "kimi_k2", "-"),
    ("openai-gpt-oss-120b", "openai", "openai_gptoss"),
    ("openbmb-MiniCPM5-1B", "minicpm5", "qwen3"),
    ("poolside-Laguna-XS-2.1", "glm45", "qwen3"),
    ("qwen3", "hermes", "qwen3"),
    ("qwen35", "qwen3_coder", "qwen3"),
    ("template_alpaca", "-", "-"),
    ("template_chatglm", "-", "-"),
    ("template_chatml", "-", "-"),
    ("template_falcon", "-", "-"),
    ("template_falcon_180b", "-", "-"),
    ("template_inkbot", "-", "-"),
    ("tool_chat_template_apertus", "apertus", "apertus"),
    ("tool_chat_template_deepseekr1", "deepseek_v3", "deepseek_r1"),
    ("tool_chat_template_functiongemma", "functiongemma", "-"),
    ("tool_chat_template_gemma3_pythonic", "pythonic", "-"),
    ("tool_chat_template_glm4", "glm45", "-"),
    ("tool_chat_template_granite_20b_fc", "granite-20b-fc", "-"),
    ("tool_chat_template_hermes", "hermes", "-"),
    ("tool_chat_template_hunyuan_a13b", "jamba", "hunyuan_a13b"),
    ("tool_chat_template_internlm2_tool", "internlm", "-"),
    ("tool_chat_template_llama3.1_json", "llama3_json", "-"),
    ("tool_chat_template_llama3.2_json", "llama3_json", "-"),
    ("tool_chat_template_llama3.2_pythonic", "pythonic", "-"),
    ("tool_chat_template_mistral", "mistral", "-"),
    ("tool_chat_template_mistral3", "mistral", "-"),
    ("tool_chat_template_mistral_parallel", "mistral", "-"),
    ("tool_chat_template_phi4_mini", "phi4_mini_json", "-"),
    ("tool_chat_template_xlam_qwen", "xlam", "-"),
    ("unsloth-Apriel-1.5", "jamba", "-"),
    // These show tools, in formats that we do not read.
    ("CohereForAI-c4ai-command-r7b-12-2024-tool_use", "-", "cohere_command3"),
    ("NVIDIA-Nemotron-Nano-v2", "-", "qwen3"),
    ("meetkai-functionary-medium-v3.1", "-", "-"),
    ("meetkai-functionary-medium-v3.2", "-", "-"),
    ("tool_chat_template_muse_glimmer", "-", "-"),
    ("upstage-Solar-Open-100B", "-", "-"),
];

#[test]
fn chat_templates_tell_their_formats() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/fixtures/templates");
    let mut seen = BTreeMap::new();
    for part in ["llama.cpp", "vllm"] {
        let Ok(files) = fs::read_dir(folder.join(part)) else {
            println!("skipped: no shared/fixtures/templates beside the checkout");
            return;
        };
        for file in files {
            let path = file.expect("readable").path();
            let source = fs::read_to_string(&path).expect("readable");
            let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
            let calls = wharf_text::tool_calls::detect(&source).map_or("-", |format| format.name());
            let reasoning =
                wharf_text::reasoning::detect(&source).map_or("-", |format| format.name());
            seen.insert(name.to_owned(), (calls, reasoning));
        }
    }
    let wanted: BTreeMap<String, (&str, &str)> = TEMPLATES
        .iter()
        .map(|(name, calls, reasoning)| ((*name).to_owned(), (*calls, *reasoning)))
        .collect();
    let differ = seen.iter().filter(|(name, found)| wanted.get(*name) != Some(*found));
    let differ: Vec<String> = differ.map(|(name, found)| format!("{name} {found:?}")).collect();
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    assert_eq!(seen.len(), wanted.len());
}
