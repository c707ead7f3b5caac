//! Reasoning formats, held to recorded cases and to their own rules, however the text is cut.

#![expect(clippy::expect_used, reason = "a helper of a test may fail the test")]

use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::Value;
use wharf_text::{
    output::{OutputEvent, OutputParser, PlainText},
    reasoning::{Opening, by_name, detect, formats},
};

/// What came out, added up.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Parts {
    reasoning: String,
    content: String,
    /// Name, arguments, and whether the call was complete.
    calls: Vec<(String, String, bool)>,
}

fn added_up(events: Vec<OutputEvent>) -> Parts {
    let mut parts = Parts::default();
    for event in events {
        match event {
            OutputEvent::Reasoning(text) => {
                assert!(!text.is_empty());
                parts.reasoning += &text;
            }
            OutputEvent::Content(text) => {
                assert!(!text.is_empty());
                parts.content += &text;
            }
            OutputEvent::CallStart { name } => parts.calls.push((name, String::new(), false)),
            OutputEvent::Arguments(text) => parts.calls.last_mut().expect("a call").1 += &text,
            OutputEvent::CallEnd => parts.calls.last_mut().expect("a call").2 = true,
        }
    }
    parts
}

fn parser(format: &str, prompt: &str) -> Box<dyn OutputParser> {
    let format = by_name(format).unwrap_or_else(|| panic!("no format {format}"));
    format.parser(format.opening(prompt), Box::new(PlainText))
}

fn parse<'a>(format: &str, prompt: &str, pieces: impl IntoIterator<Item = &'a str>) -> Parts {
    let mut parser = parser(format, prompt);
    let mut events = Vec::new();
    for piece in pieces {
        parser.push(piece, &mut events);
    }
    parser.finish(&mut events);
    added_up(events)
}

/// Every way to cut `text` in two, and into its characters, gives the same.
fn assert_cuts_agree(format: &str, prompt: &str, text: &str) {
    let whole = parse(format, prompt, [text]);
    for cut in (1..text.len()).filter(|&cut| text.is_char_boundary(cut)) {
        let cut_in_two = parse(format, prompt, [&text[..cut], &text[cut..]]);
        assert_eq!(cut_in_two, whole, "{format}: {text:?} cut at {cut}");
    }
    let characters = text.char_indices().map(|(at, c)| &text[at..at + c.len_utf8()]);
    assert_eq!(parse(format, prompt, characters), whole, "{format}: {text:?} in characters");
}

fn fixtures(path: &str) -> Option<PathBuf> {
    let path = format!("{}/../../../shared/fixtures/{path}", env!("CARGO_MANIFEST_DIR"));
    let found = PathBuf::from(&path).exists();
    if !found {
        println!("skipped: no shared/fixtures/... beside the checkout");
    }
    found.then(|| path.into())
}

/// Format, end of the prompt, answer, reasoning, content.
const CASES: &[(&str, &str, &str, &str, &str)] = &[
    ("qwen3", "assistant\n", "<think>\nHm.\n</think>\n\nYes.", "\nHm.\n", "Yes."),
    ("qwen3", "assistant\n", "Yes.", "", "Yes."),
    ("qwen3", "assistant\n", "  Yes, <think> is a tag.", "", "  Yes, <think> is a tag."),
    ("qwen3", "assistant\n<think>\n", "Hm.</think>Yes.", "Hm.", "Yes."),
    ("qwen3", "assistant\n<think>\n", "<think>Hm.</think>Yes.", "Hm.", "Yes."),
    ("qwen3", "<think>\n\n</think>\n\n", "Yes, </think> too.", "", "Yes, </think> too."),
    ("qwen3", "<think>\n", "x < y </thi", "x < y </thi", ""),
    ("deepseek_r1", "<｜Assistant｜>", "Hm.</think>\nYes.", "Hm.", "Yes."),
    ("granite", "", "Here's my thought process: a Here's my response: b", " a ", "b"),
    ("granite", "", "Here is my answer.", "", "Here is my answer."),
    ("kimi_vl", "", "◁think▷a◁/think▷b", "a", "b"),
    ("mistral", "", "[THINK]a[/THINK]b [THINK]c", "a", "b [THINK]c"),
    ("seed_oss", "", "<seed:think>a</seed:think>b", "a", "b"),
    ("gemma4", "", "<|channel>thought\na<channel|>b<|channel>c<channel|>d", "ac", "bd"),
    ("granite_3_3", "", "<think>a</think><response>b</response>", "a", "b"),
    ("gemma4", "<|channel>thought\n<channel|>", "b", "", "b"),
    ("hunyuan_a13b", "", "<answer>\nb\n</answer>", "", "b"),
    ("step3p5", "<think>\n", "a\n</think>\nb\n", "a", "b\n"),
    ("minimax_m2_append_think", "<think>\n", "a</think>\nb", "", "<think>a</think>\nb"),
    ("openai_gptoss", "<|start|>assistant", "Just text.", "", "Just text."),
    (
        "openai_gptoss",
        "<|start|>assistant",
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b",
        "a",
        "b",
    ),
    ("openai_gptoss", "<|channel|>analysis<|message|>", "a<|end|>", "a", ""),
    ("openai_gptoss", "<|channel|>final<|message|>", "b < c", "", "b < c"),
];

#[test]
fn reasoning_and_content_are_told_apart() {
    for &(format, prompt, text, reasoning, content) in CASES {
        let parts = parse(format, prompt, [text]);
        let found = (parts.reasoning.as_str(), parts.content.as_str());
        assert_eq!(found, (reasoning, content), "{format}: {text:?}");
        assert_cuts_agree(format, prompt, text);
    }
}

#[test]
fn a_parser_knows_whether_it_stands_in_reasoning() {
    let mut parser = parser("qwen3", "assistant\n");
    let mut events = Vec::new();
    for (piece, reasoning) in [("<think", false), (">a", true), ("</think>", false), ("b", false)] {
        parser.push(piece, &mut events);
        assert_eq!(parser.is_reasoning(), reasoning, "after {piece:?}");
    }
}

#[test]
fn the_prompt_says_where_the_answer_begins() {
    for format in formats() {
        let (name, start, end) = (format.name(), format.start(), format.end());
        assert_eq!(
            format.opening(format!("user: hi\n{start}\n").trim_end()),
            Opening::Reasoning,
            "{name}"
        );
        if name != "openai_gptoss" {
            let over = format!("{start}\n\n{end}\n\n");
            assert_eq!(format.opening(&over), Opening::Content, "{name}");
        }
        assert!(format.markers().contains(&start) || name == "openai_gptoss", "{name}");
        assert_eq!(by_name(name).map(|format| format.name()), Some(name));
    }
    assert!(by_name("unheard_of").is_none());
}

/// Recorded cases that differ from ours, and why.
const DIFFERENCES: &[(&str, &str, &str)] = &[
    ("deepseek_r1", "NEW_LINE_STREAMING", SPACE),
    (
        "gemma4",
        "INVALID_COMPLETE_NONSTREAMING",
        "contradicts INVALID_COMPLETE_STREAMING, which agrees",
    ),
    ("gemma4", "NEW_LINE_NONSTREAMING", SPACE),
    ("gemma4", "NEW_LINE_STREAMING", SPACE),
    ("minimax_m2_append_think", "EMPTY", "contradicts EMPTY_STREAMING, which agrees"),
    ("olmo3", "NO_REASONING_WITH_NEWLINE", SPACE),
    ("olmo3", "SIMPLE_REASONING_WITH_TRAILING_SPACE", SPACE),
    ("olmo3", "NO_REASONING_ONLY_END_THINK", SPACE),
    ("qwen3", "TOOL_CALL_NO_THINK_END", THOUGHT),
    ("qwen3", "TOOL_CALL_WITH_THINK_NO_END", THOUGHT),
    ("step3p5", "NEW_LINE_STREAMING", SPACE),
    ("step3p5", "MULTI_TURN_PROMPT_CONTENT", "it is a prompt, not an answer"),
];

const SPACE: &str = "white space after the end of reasoning is not content, so that content alone \
    satisfies a constraint";

const THOUGHT: &str = "a call in reasoning is a thought; a request with tools has a grammar, which \
    lets calls begin only after the end of reasoning";

/// The end of the prompt that a recorded case belongs to. The recordings leave the prompt out:
/// their texts begin inside of reasoning where the template has written the marker.
fn recorded_prompt(format: &str, case: &str, expected: &Value) -> &'static str {
    let thinks = expected["reasoning"].is_string();
    match format {
        "holo2" | "hy_v3" if !thinks => "<think></think>",
        "ernie45" | "glm45" | "holo2" | "hy_v3" | "olmo3" | "qwen3" => "<think>\n",
        _ if case.is_empty() => unreachable!(),
        _ => "",
    }
}

#[test]
fn recorded_cases_agree() {
    let Some(path) = fixtures("toolcalls/reasoning.jsonl") else { return };
    let text = std::fs::read_to_string(path).expect("fixture");
    let mut count = 0;
    let mut differ = Vec::new();
    for line in text.lines() {
        let case: Value = serde_json::from_str(line).expect("a JSON line");
        let field = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (format, name) = (field(&case["parser"]), field(&case["case"]));
        let prompt = recorded_prompt(&format, &name, &case["expected"]);
        let raw = field(&case["raw_output"]);
        let parts = parse(&format, prompt, [raw.as_str()]);
        assert_cuts_agree(&format, prompt, &raw);
        let expected = (field(&case["expected"]["reasoning"]), field(&case["expected"]["content"]));
        if (&parts.reasoning, &parts.content) != (&expected.0, &expected.1) {
            differ.push((format, name.clone()));
            if !DIFFERENCES.iter().any(|(_, listed, _)| *listed == name) {
                println!("{raw:?}: expected {expected:?}, got {parts:?}");
            }
        }
        count += 1;
    }
    println!("{count} cases, {} differ as listed", differ.len());
    let listed: Vec<_> =
        DIFFERENCES.iter().map(|(f, c, _)| ((*f).to_owned(), (*c).to_owned())).collect();
    assert_eq!(differ, listed);
}

#[test]
fn harmony_messages_are_told_apart() {
    type Case =
        (&'static str, &'static str, &'static str, &'static [(&'static str, &'static str, bool)]);
    let cases: &[Case] = &[
        (
            "<|channel|>analysis<|message|>Need it.<|end|><|start|>assistant<|channel|>commentary \
             to=functions.ping <|constrain|>json<|message|>{}<|call|>",
            "Need it.",
            "",
            &[("ping", "{}", true)],
        ),
        // `<|call|>` ends an answer, and what ends an answer is not in its text.
        (
            " to=functions.f<|channel|>commentary json<|message|>{\"a\": 1}",
            "",
            "",
            &[("f", "{\"a\": 1}", true)],
        ),
        (
            " to=functions.f<|channel|>commentary json<|message|>{\"a\": 1",
            "",
            "",
            &[("f", "{\"a\": 1", false)],
        ),
        (
            "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>final\
             <|message|> Done <|x|>.<|return|>",
            "",
            "I look.Done <|x|>.",
            &[],
        ),
    ];
    for (text, reasoning, content, calls) in cases {
        let parts = parse("openai_gptoss", "<|start|>assistant", [*text]);
        assert_eq!((parts.reasoning.as_str(), parts.content.as_str()), (*reasoning, *content));
        let found: Vec<_> =
            parts.calls.iter().map(|(n, a, done)| (n.as_str(), a.as_str(), *done)).collect();
        assert_eq!(found, *calls, "{text:?}");
        assert_cuts_agree("openai_gptoss", "<|start|>assistant", text);
    }
}

#[test]
fn recorded_harmony_answers_agree() {
    let Some(path) = fixtures("toolcalls/harmony.json") else { return };
    let text = std::fs::read_to_string(path).expect("fixture");
    let fixture: Value = serde_json::from_str(&text).expect("JSON");
    let cases = fixture["cases"].as_array().expect("cases");
    for case in cases {
        let raw = case["raw_output"].as_str().expect("text");
        let parts = parse("openai_gptoss", "<|start|>assistant", [raw]);
        assert_cuts_agree("openai_gptoss", "<|start|>assistant", raw);
        let expected = &case["expected"];
        assert_eq!(parts.reasoning, expected["reasoning"].as_str().unwrap_or_default(), "{raw}");
        assert_eq!(parts.content, expected["content"].as_str().unwrap_or_default(), "{raw}");
        let calls = expected["tool_calls"].as_array().expect("calls");
        assert_eq!(parts.calls.len(), calls.len(), "{raw}");
        for ((name, arguments, complete), call) in parts.calls.iter().zip(calls) {
            assert_eq!(*name, call["name"], "{raw}");
            match call.get("arguments") {
                Some(value) => {
                    assert_eq!(serde_json::from_str::<Value>(arguments).ok().as_ref(), Some(value));
                }
                None => assert_eq!(*arguments, call["arguments_raw"]),
            }
            assert_eq!(*complete, call.get("arguments").is_some(), "{raw}");
        }
    }
    println!("{} answers in harmony", cases.len());
}

/// Chat templates that mark reasoning, and how.
const TEMPLATES: &[(&str, &str)] = &[
    ("Bielik-11B-v3.0-Instruct", "qwen3"),
    ("CohereForAI-c4ai-command-r7b-12-2024-tool_use", "cohere_command3"),
    ("HuggingFaceTB-SmolLM3-3B", "qwen3"),
    ("LFM2.5-Instruct", "qwen3"),
    ("MiniMax-M2", "minimax_m2"),
    ("MiniMax-M3", "minimax_m3"),
    ("NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "qwen3"),
    ("NVIDIA-Nemotron-Nano-v2", "qwen3"),
    ("Qwen-QwQ-32B", "qwen3"),
    ("Qwen-Qwen3-0.6B", "qwen3"),
    ("Qwen3.5-4B", "qwen3"),
    ("StepFun3.5-Flash", "qwen3"),
    ("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "deepseek_r1"),
    ("deepseek-ai-DeepSeek-V3.2", "deepseek_v3"),
    ("deepseek-ai-DeepSeek-V4-Flash-0731", "deepseek_v3"),
    ("deepseek-ai-DeepSeek-V4", "deepseek_v3"),
    ("google-gemma-4-31B-it-interleaved", "gemma4"),
    ("google-gemma-4-31B-it", "gemma4"),
    ("ibm-granite-granite-3.3-2B-Instruct", "granite_3_3"),
    ("llama-cpp-deepseek-r1", "deepseek_r1"),
    ("openai-gpt-oss-120b", "openai_gptoss"),
    ("openbmb-MiniCPM5-1B", "qwen3"),
    ("poolside-Laguna-XS-2.1", "qwen3"),
    ("qwen3", "qwen3"),
    ("qwen35", "qwen3"),
    ("tool_chat_template_apertus", "apertus"),
    ("tool_chat_template_deepseekr1", "deepseek_r1"),
    ("tool_chat_template_hunyuan_a13b", "hunyuan_a13b"),
];

#[test]
fn templates_say_how_they_mark_reasoning() {
    let Some(folder) = fixtures("templates") else { return };
    let mut detected = Vec::new();
    for family in ["llama.cpp", "vllm"] {
        let mut paths: Vec<_> = std::fs::read_dir(folder.join(family))
            .expect("a folder")
            .map(|entry| entry.expect("an entry").path())
            .collect();
        paths.sort();
        for path in paths {
            let template = std::fs::read_to_string(&path).expect("a template");
            let name = path.file_stem().and_then(|name| name.to_str()).expect("a name").to_owned();
            if let Some(format) = detect(&template) {
                detected.push((name, format.name()));
            }
        }
    }
    let listed: Vec<_> = TEMPLATES.iter().map(|(t, f)| ((*t).to_owned(), *f)).collect();
    assert_eq!(detected, listed);
}

proptest! {
    #[test]
    fn any_text_cut_anywhere_gives_the_same_and_loses_nothing(
        format in 0..formats().len(),
        opening in 0..3_usize,
        pieces in prop::collection::vec((0..12_usize, "[ \n<>|/a-zü]{0,5}"), 0..12),
        cuts in prop::collection::vec(1..7_usize, 1..5),
    ) {
        let format = formats()[format];
        let openings = [Opening::Undecided, Opening::Reasoning, Opening::Content];
        let markers = format.markers();
        let text: String = pieces
            .iter()
            .flat_map(|(index, text)| [markers.get(*index).copied().unwrap_or_default(), text])
            .collect();
        let run = |pieces: &mut dyn Iterator<Item = &str>| {
            let mut parser = format.parser(openings[opening], Box::new(PlainText));
            let mut events = Vec::new();
            pieces.for_each(|piece| parser.push(piece, &mut events));
            parser.finish(&mut events);
            added_up(events)
        };
        let whole = run(&mut std::iter::once(text.as_str()));
        let mut rest = text.as_str();
        let mut cuts = cuts.iter().cycle();
        let mut pieces = std::iter::from_fn(|| {
            let wish = *cuts.next()?;
            let at = rest.char_indices().nth(wish).map_or(rest.len(), |(at, _)| at);
            let (piece, left) = rest.split_at(at);
            rest = left;
            (!piece.is_empty()).then_some(piece)
        });
        prop_assert_eq!(&run(&mut pieces), &whole);
    }

    #[test]
    fn text_without_markers_is_not_lost(text in "[a-z .\n]{0,30}", opening in 0..3_usize) {
        let openings = [Opening::Undecided, Opening::Reasoning, Opening::Content];
        for format in formats().iter().filter(|format| format.name() != "minimax_m2_append_think") {
            let mut parser = format.parser(openings[opening], Box::new(PlainText));
            let mut events = Vec::new();
            parser.push(&text, &mut events);
            parser.finish(&mut events);
            let parts = added_up(events);
            let whole = parts.reasoning + &parts.content;
            prop_assert_eq!(whole.trim_start(), text.trim_start(), "{}", format.name());
        }
    }
}
