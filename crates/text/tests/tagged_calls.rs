//! Formats whose calls are not written as JSON, held to recorded and constructed calls, however
//! the text is cut.

#![expect(clippy::expect_used, reason = "a helper of a test may fail the test")]

use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::{Value, json};
use wharf_text::{
    output::OutputEvent,
    tool_calls::{ToolSpec, by_name},
};

/// The formats that this file is about.
const FORMATS: &[&str] = &[
    "qwen3_coder",
    "step3p5",
    "seed_oss",
    "glm45",
    "glm47",
    "poolside_v1",
    "hy_v3",
    "minimax_m2",
    "deepseek_v32",
    "deepseek_v4",
    "step3",
    "minicpm5",
    "pythonic",
    "llama4_pythonic",
    "lfm2",
    "olmo3",
    "openai",
];

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
            OutputEvent::Reasoning(text) => parts.reasoning += &text,
            OutputEvent::Content(text) => {
                assert!(!text.is_empty());
                parts.content += &text;
            }
            OutputEvent::CallStart { name } => parts.calls.push((name, String::new(), false)),
            OutputEvent::Arguments(text) => {
                assert!(!text.is_empty());
                parts.calls.last_mut().expect("a call").1 += &text;
            }
            OutputEvent::CallEnd => parts.calls.last_mut().expect("a call").2 = true,
        }
    }
    for (name, arguments, complete) in &parts.calls {
        let parsed = serde_json::from_str::<Value>(arguments);
        assert!(!complete || parsed.is_ok(), "{name}: {arguments}");
    }
    parts
}

fn parse<'a>(format: &str, tools: &[ToolSpec], pieces: impl IntoIterator<Item = &'a str>) -> Parts {
    let format = by_name(format).unwrap_or_else(|| panic!("no format {format}"));
    let mut parser = format.parser(tools);
    let mut events = Vec::new();
    for piece in pieces {
        parser.push(piece, &mut events);
    }
    parser.finish(&mut events);
    added_up(events)
}

/// Every way to cut `text` in two, and into its characters, gives the same.
fn assert_cuts_agree(format: &str, tools: &[ToolSpec], text: &str) {
    let whole = parse(format, tools, [text]);
    for cut in (1..text.len()).filter(|&cut| text.is_char_boundary(cut)) {
        let cut_in_two = parse(format, tools, [&text[..cut], &text[cut..]]);
        assert_eq!(cut_in_two, whole, "{format}: {text:?} cut at {cut}");
    }
    let characters = text.char_indices().map(|(at, c)| &text[at..at + c.len_utf8()]);
    assert_eq!(parse(format, tools, characters), whole, "{format}: {text:?} in characters");
}

fn tools() -> Vec<ToolSpec> {
    vec![ToolSpec {
        name: "note".to_owned(),
        parameters: json!({
            "type": "object",
            "properties": {
                "text": {"type": "string"},
                "count": {"type": "integer"},
                "meta": {"type": "object"},
                "who": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            },
        }),
    }]
}

/// Format, answer, content, name and arguments of each call. A name that ends with `…` is that of
/// a call that was cut.
type Case = (&'static str, &'static str, &'static str, &'static [(&'static str, &'static str)]);

const CASES: &[Case] = &[
    (
        "qwen3_coder",
        "Sure.\n\n<tool_call>\n<function=note>\n<parameter=text>\n a < b\n\n</parameter>\n\
         <parameter=count>\n-3\n</parameter>\n</function>\n</tool_call>\nDone.",
        "Sure.\n\n\nDone.",
        &[("note", r#"{"text": " a < b\n", "count": -3}"#)],
    ),
    // A tag in a JSON string is no tag.
    (
        "qwen3_coder",
        "<function=note><parameter=meta>{\"a\": \"</parameter>\"}</parameter></function>",
        "",
        &[("note", r#"{"meta": {"a": "</parameter>"}}"#)],
    ),
    (
        "qwen3_coder",
        "<tool_call>\n<function=note>\n<parameter=text>\nhalf a \"te",
        "",
        &[("note…", r#"{"text": "half a \"te"#)],
    ),
    (
        "qwen3_coder",
        "<tool_call>\n<function=note>\n<parameter=meta>\n[1, 2",
        "",
        &[("note…", r#"{"meta": [1, 2"#)],
    ),
    ("qwen3_coder", "a <tool_call> is a tag", "a <tool_call> is a tag", &[]),
    ("qwen3_coder", "<tool_call>\n<function=a b>", "<tool_call>\n<function=a b>", &[]),
    ("qwen3_coder", "x <tool_c", "x <tool_c", &[]),
    (
        "glm45",
        "<tool_call>note\n<arg_key>who</arg_key>\n<arg_value>null</arg_value>\n</tool_call>\n\
         <tool_call>other<arg_key>n</arg_key><arg_value>True</arg_value></tool_call>",
        "",
        &[("note", r#"{"who": null}"#), ("other", r#"{"n": true}"#)],
    ),
    (
        "hy_v3",
        "<tool_calls>\n<tool_call>note<tool_sep>\n</tool_call>\n</tool_calls>",
        "",
        &[("note", "{}")],
    ),
    (
        "deepseek_v32",
        "<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"a\" \
         string=\"true\">42</｜DSML｜parameter>\n<｜DSML｜parameter name=\"b\" string=\"false\">42\
         </｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>",
        "",
        &[("f", r#"{"a": "42", "b": 42}"#)],
    ),
    (
        "step3",
        "<｜tool_calls_begin｜>\n<｜tool_call_begin｜>function<｜tool_sep｜><steptml:invoke \
         name=\"note\">\n<steptml:parameter name=\"count\">2</steptml:parameter>\n\
         </steptml:invoke><｜tool_call_end｜>\n<｜tool_calls_end｜>",
        "",
        &[("note", r#"{"count": 2}"#)],
    ),
    (
        "pythonic",
        " [note(text='it\\'s', who=None), note(count=07, meta={'a': (1, {2})},)]\nOk [x]",
        "Ok [x]",
        &[
            ("note", r#"{"text": "it's", "who": null}"#),
            ("note", r#"{"count": 7, "meta": {"a": [1, [2]]}}"#),
        ],
    ),
    ("pythonic", "[note(text='cut", "", &[("note…", r#"{"text": "cut"#)]),
    ("pythonic", "[other(text='a')]", "[other(text='a')]", &[]),
    ("pythonic", "[note(see below)](x)", "[note(see below)](x)", &[]),
    ("pythonic", "[1, 2]", "[1, 2]", &[]),
    ("pythonic", "[]", "[]", &[]),
    (
        "lfm2",
        "Hi <|tool_call_start|>[note(text=\"a]\"), other(n=[1, 2])]<|tool_call_end|> there",
        "Hi  there",
        &[("note", r#"{"text": "a]"}"#), ("other", r#"{"n": [1, 2]}"#)],
    ),
    (
        "lfm2",
        "<|tool_call_start|>[f(a=)]<|tool_call_end|>",
        "<|tool_call_start|>[f(a=)]<|tool_call_end|>",
        &[],
    ),
    (
        "olmo3",
        "<function_calls>\nnote()\nnote(count=-1)\n</function_calls>",
        "",
        &[("note", "{}"), ("note", r#"{"count": -1}"#)],
    ),
    (
        "openai",
        "<|channel|>commentary to=functions.note <|constrain|>json<|message|>{\"count\": 1}<|call|>",
        "",
        &[("note", r#"{"count": 1}"#)],
    ),
    (
        "minicpm5",
        "<function name=\"note\"><param name=\"text\"><![CDATA[a</param>\nb]]></param></function>",
        "",
        &[("note", r#"{"text": "a</param>\nb"}"#)],
    ),
];

#[test]
fn calls_are_read_and_all_else_is_content() {
    for (format, text, content, calls) in CASES {
        let parts = parse(format, &tools(), [*text]);
        assert_eq!(parts.content, *content, "{format}: {text:?}");
        let found: Vec<_> = parts
            .calls
            .iter()
            .map(|(name, arguments, done)| {
                (format!("{name}{}", if *done { "" } else { "…" }), arguments.as_str())
            })
            .collect();
        let found: Vec<_> =
            found.iter().map(|(name, arguments)| (name.as_str(), *arguments)).collect();
        assert_eq!(found, *calls, "{format}: {text:?}");
        assert_cuts_agree(format, &tools(), text);
    }
}

fn fixture(path: &str) -> Option<String> {
    let path = format!("{}/../../../shared/fixtures/{path}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(PathBuf::from(&path)).ok();
    if text.is_none() {
        println!("skipped: no shared/fixtures/... beside the checkout");
    }
    text
}

fn tool_specs(tools: &Value) -> Vec<ToolSpec> {
    let list = tools.as_array().map_or(&[][..], Vec::as_slice);
    let specs = list.iter().map(|tool| {
        let function = tool.get("function").unwrap_or(tool);
        ToolSpec {
            name: function["name"].as_str().unwrap_or_default().to_owned(),
            parameters: function["parameters"].clone(),
        }
    });
    specs.collect()
}

/// Numbers as floating-point ones: 5 and 5.0 are one number.
fn normalised(value: &Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64()),
        Value::Array(items) => items.iter().map(normalised).collect(),
        Value::Object(members) => {
            members.iter().map(|(name, value)| (name.clone(), normalised(value))).collect()
        }
        other => other.clone(),
    }
}

/// Whether `parts` are what a case expects.
fn agrees(parts: &Parts, content: &str, calls: &[Value]) -> bool {
    let expected: Vec<_> =
        calls.iter().map(|call| (call["name"].clone(), normalised(&call["arguments"]))).collect();
    let found: Vec<_> = parts
        .calls
        .iter()
        .map(|(name, arguments, _)| {
            let arguments = serde_json::from_str(arguments).unwrap_or(Value::Null);
            (json!(name), normalised(&arguments))
        })
        .collect();
    // The recordings differ among themselves in white space between content and calls.
    parts.content.trim() == content.trim() && found == expected
}

/// Recorded cases that differ from ours, and why.
const DIFFERENCES: &[(&str, &str)] = &[
    (
        "deepseek_v32 test_deepseekv32::TestExtractToolCalls::test_arguments_wrapper_repaired",
        REPAIR,
    ),
    ("deepseek_v32 test_deepseekv32::TestExtractToolCalls::test_input_wrapper_repaired", REPAIR),
    (
        "deepseek_v32 test_deepseekv32::TestExtractToolCalls::test_null_coerced_back_to_string_by_schema",
        SCHEMA,
    ),
    (
        "deepseek_v32 test_deepseekv32::TestExtractToolCalls::test_string_attr_true_coerced_by_composed_schema",
        SCHEMA,
    ),
    (
        "deepseek_v32 test_deepseekv32::TestExtractToolCalls::test_string_attr_true_coerced_by_schema",
        SCHEMA,
    ),
    (
        "deepseek_v32 test_deepseekv32::TestExtractToolCallsStreaming::test_streaming_matches_non_streaming_conversion_fallbacks",
        SCHEMA,
    ),
    ("minicpm5 test_minicpm5xml::test_alias_enable_roaming", REPAIR),
    ("minicpm5 test_minicpm5xml::test_alias_get_details_by_phone", REPAIR),
    ("minicpm5 test_minicpm5xml::test_extra_arguments_do_not_satisfy_required", UNCHECKED),
    ("minicpm5 test_minicpm5xml::test_extra_arguments_ignored_when_required_present", UNCHECKED),
    ("minicpm5 test_minicpm5xml::test_multiple_calls_interleaved_text", CONTENT),
    (
        "minicpm5 test_minicpm5xml::test_param_missing_name_invalid",
        "malformed: the parameter without a name is content, the rest is a call",
    ),
    ("minicpm5 test_minicpm5xml::test_single_call_with_surrounding_text", CONTENT),
    ("minicpm5 test_minicpm5xml::test_unknown_tool_block_preserved", UNCHECKED),
    ("minicpm5 test_minicpm5xml::test_zero_arg_tool_ignores_extra_arguments", UNCHECKED),
    (
        "qwen3_coder test_qwen3coder::test_malformed_xml_no_gt_delimiter[chat_completion]",
        "malformed: the name ends where a name cannot go on",
    ),
    (
        "step3p5 test_step3p5::test_extract_tool_calls_missing_closing_parameter_tag",
        "malformed: a value goes on to its closing tag, whatever else it holds",
    ),
    (
        "step3p5 test_step3p5::test_extract_tool_calls_non_streaming_mixed_content_and_multiple_tool_calls",
        CONTENT,
    ),
    ("minicpm5 test_minicpm5xml::test_extract_tool_calls_streaming_collapsed_tags_weather", FAULT),
    ("minicpm5 test_minicpm5xml::test_extract_tool_calls_streaming_single", FAULT),
    ("minicpm5 test_minicpm5xml::test_extract_tool_calls_streaming_multiple", FAULT),
    (
        "step3p5 test_step3p5::test_extract_tool_calls_streaming_full_input_mixed_content_and_multiple_tool_calls",
        CONTENT,
    ),
    (
        "lfm2 test_lfm2::test_empty_tool_call_block[]",
        "the recording of the same text in pieces agrees with ours: no calls, and no content",
    ),
    ("llama4_pythonic test_llama4_pythonic::test_tool_call[python_tag_streaming]", FAULT),
];

const SCHEMA: &str = "the recording lacks the tools, and so the types";
const REPAIR: &str = "a guess at what the model meant: names are passed on as written";
const UNCHECKED: &str =
    "a parser tells calls apart; checking them is the grammar's, or the client's";
const CONTENT: &str = "text after or between calls is content, and is not dropped";
const FAULT: &str = "the recorded content holds markup";

#[test]
fn recorded_and_constructed_calls_agree() {
    let mut differ = Vec::new();
    let mut count = 0;
    let mut check = |format: &str,
                     name: &str,
                     tools: &[ToolSpec],
                     raw: &str,
                     content: &str,
                     calls: &[Value]| {
        let format = if format == "openai_harmony" { "openai" } else { format };
        if !FORMATS.contains(&format) {
            return;
        }
        count += 1;
        assert_cuts_agree(format, tools, raw);
        let parts = parse(format, tools, [raw]);
        if !agrees(&parts, content, calls) {
            let name = format!("{format} {name}");
            if !differ.contains(&name) {
                if !DIFFERENCES.iter().any(|(listed, _)| *listed == name) {
                    println!("    (\"{name}\", \"\"),\n{raw:?}\n{content:?} {calls:?}\n{parts:?}");
                }
                differ.push(name);
            }
        }
    };
    for (file, streaming) in [("complete", false), ("streaming", true)] {
        let Some(text) = fixture(&format!("toolcalls/{file}.jsonl")) else { return };
        for line in text.lines() {
            let case: Value = serde_json::from_str(line).expect("a JSON line");
            if streaming && case["matches_complete"] != true {
                continue;
            }
            let chunks = case["streaming_chunks"].as_array().map_or(&[][..], Vec::as_slice);
            let raw = match streaming {
                true => chunks.iter().filter_map(Value::as_str).collect(),
                false => case["raw_output"].as_str().expect("text").to_owned(),
            };
            let calls = case["expected"]["tool_calls"].as_array().expect("calls");
            check(
                case["format"].as_str().expect("a name"),
                case["test"].as_str().expect("a name"),
                &tool_specs(&case["tools"]),
                &raw,
                case["expected"]["content"].as_str().unwrap_or_default(),
                calls,
            );
        }
    }
    let Some(text) = fixture("toolcalls/constructed.json") else { return };
    let constructed: Value = serde_json::from_str(&text).expect("JSON");
    for case in constructed["cases"].as_array().expect("cases") {
        check(
            case["format"].as_str().expect("a name"),
            case["case"].as_str().expect("a name"),
            &tool_specs(&constructed["tools"]),
            case["raw_output"].as_str().expect("text"),
            case["content_before"].as_str().unwrap_or_default(),
            case["expected_calls"].as_array().expect("calls"),
        );
    }
    println!("{count} cases, {} differ as listed", differ.len());
    let mut listed: Vec<_> = DIFFERENCES.iter().map(|(name, _)| (*name).to_owned()).collect();
    listed.sort();
    differ.sort();
    assert_eq!(differ, listed);
}

proptest! {
    #[test]
    fn any_text_cut_anywhere_gives_the_same(
        format in 0..FORMATS.len(),
        case in 0..CASES.len(),
        swaps in prop::collection::vec((0..200_usize, 0..200_usize, "[ \\n<>/=\"{a-cü]{0,4}"), 0..4),
        cuts in prop::collection::vec(1..7_usize, 1..5),
    ) {
        let mut text = CASES[case].1.to_owned();
        for (from, len, new) in swaps {
            let from = (from..=text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(0).min(text.len());
            let to = (from + len % 9..text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(text.len());
            text.replace_range(from..to, &new);
        }
        for format in [FORMATS[format], CASES[case].0] {
            let whole = parse(format, &tools(), [text.as_str()]);
            let mut rest = text.as_str();
            let mut cuts = cuts.iter().cycle();
            let pieces = std::iter::from_fn(|| {
                let at = rest.char_indices().nth(*cuts.next()?).map_or(rest.len(), |(at, _)| at);
                let (piece, left) = rest.split_at(at);
                rest = left;
                (!piece.is_empty()).then_some(piece)
            });
            prop_assert_eq!(&parse(format, &tools(), pieces), &whole, "{}: {:?}", format, text);
        }
    }
}
