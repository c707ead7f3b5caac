//! Formats whose calls are not written as JSON, in cases of our own, however the text is cut.

#![expect(clippy::expect_used, reason = "a helper of a test may fail the test")]

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
    "k2_horizon",
    "minimax_m2",
    "dots",
    "minimax_m3",
    "deepseek_v32",
    "deepseek_v4",
    "step3",
    "minicpm5",
    "pythonic",
    "llama4_pythonic",
    "lfm2",
    "olmo3",
    "openai",
    "functiongemma",
    "gemma4",
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
        lark: None,
        parameters: json!({
            "type": "object",
            "properties": {
                "text": {"type": "string"},
                "count": {"type": "integer"},
                "meta": {"type": "object"},
                "who": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                "sizes": {"type": "array", "items": {"type": "integer"}},
                "rows": {"type": "array", "items": {"$ref": "#/$defs/Row"}},
            },
            "$defs": {"Row": {
                "type": "object",
                "properties": {"id": {"type": "string"}, "rows": {"type": "array"}},
            }},
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
    // Nothing is no number, and not the beginning of one either.
    (
        "qwen3_coder",
        "<function=note><parameter=count></parameter><parameter=text>x</parameter></function>",
        "",
        &[("note", r#"{"count": "", "text": "x"}"#)],
    ),
    (
        "qwen3_coder",
        "<function=note><parameter=meta>{\"a\": 1</parameter></function>Done",
        "Done",
        &[("note", r#"{"meta": "{\"a\": 1"}"#)],
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
        "k2_horizon",
        "Hi <ifm|tool_calls>\n<ifm|tool_call>note\n<ifm|arg_key>count</ifm|arg_key>\n\
         <ifm|arg_value>2</ifm|arg_value>\n<ifm|arg_key>x</ifm|arg_key>\n\
         <ifm|arg_type>string</ifm|arg_type>\n<ifm|arg_value>3</ifm|arg_value>\n\
         </ifm|tool_call>\n<ifm|tool_call>{\"name\": \"note\", \"arguments\": {\"a\": [1]}}\n\
         </ifm|tool_call>\n</ifm|tool_calls> there",
        "Hi  there",
        &[("note", r#"{"count": 2, "x": "3"}"#), ("note", r#"{"a": [1]}"#)],
    ),
    (
        "k2_horizon",
        "<ifm|tool_call>{\"name\": \"note\"}</ifm|tool_call> b <ifm|tool_calls><ifm|tool_call>{\"a",
        "b <ifm|tool_calls><ifm|tool_call>{\"a",
        &[("note", "{}")],
    ),
    (
        "dots",
        "<dots_function_call>\n<invoke name=\"note\">\n<parameter name=\"text\">a\nb</parameter>\n\
         </invoke>\n{\"arguments\": {\"n\": 1}, \"name\": \"f\"}</dots_function_call>",
        "",
        &[("note", r#"{"text": "a\nb"}"#), ("f", r#"{"n": 1}"#)],
    ),
    ("dots", "<dots_function_call>{\"a\": 1}", "<dots_function_call>{\"a\": 1}", &[]),
    (
        "minimax_m3",
        "a\n]<]minimax[>[<tool_call>\n]<]minimax[>[<invoke name=\"note\">]<]minimax[>[<text>42 <b> \
         ]<]minimax[>[</text>]<]minimax[>[<sizes>]<]minimax[>[<item>1]<]minimax[>[</item>\
         ]<]minimax[>[</sizes>]<]minimax[>[<rows>]<]minimax[>[<item>]<]minimax[>[<id>07\
         ]<]minimax[>[</id>]<]minimax[>[<rows>]<]minimax[>[</rows>]<]minimax[>[</item>\
         ]<]minimax[>[</rows>]<]minimax[>[<who>null]<]minimax[>[</who>]<]minimax[>[</invoke>\n\
         ]<]minimax[>[<invoke name=\"f\">]<]minimax[>[</invoke>\n]<]minimax[>[</tool_call>\nb",
        "a\n\nb",
        &[
            (
                "note",
                r#"{"text": "42 <b> ", "sizes": [1], "rows": [{"id": "07", "rows": []}], "who": null}"#,
            ),
            ("f", "{}"),
        ],
    ),
    // Without a schema, what is in an element tells what it is.
    (
        "minimax_m3",
        "]<]minimax[>[<tool_call>]<]minimax[>[<invoke name=\"f\">]<]minimax[>[<a>]<]minimax[>[<item>x\
         ]<]minimax[>[</item>]<]minimax[>[<item>2]<]minimax[>[</item>]<]minimax[>[</a>]<]minimax[>[<b>\
         ]<]minimax[>[<c>True]<]minimax[>[</c>]<]minimax[>[<c>]<]minimax[>[<d>]<]minimax[>[</d>\
         ]<]minimax[>[</c>]<]minimax[>[</b>]<]minimax[>[</e>]<]minimax[>[</invoke>]<]minimax[>[</tool_call>",
        "",
        &[("f", r#"{"a": ["x", 2], "b": {"c": [true, {"d": ""}]}}"#)],
    ),
    // What was cut holds no markup.
    (
        "minimax_m3",
        "]<]minimax[>[<tool_call>]<]minimax[>[<invoke name=\"note\">]<]minimax[>[<rows>\
         ]<]minimax[>[<item>]<]minimax[>[<id>a]<]minimax[>[</id>]<]minimax[>[</item>\
         ]<]minimax[>[<item>]<]minimax[>[<id>b]<]minimax[>[</i",
        "",
        &[("note…", r#"{"rows": [{"id": "a"}, {"id": "b"#)],
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
        "gemma4",
        "Hi <|tool_call>call:note{text:<|\"|>a, \"b\"<|\"|>,meta:{x:[1,true]}}<tool_call|> there",
        "Hi  there",
        &[("note", r#"{"text": "a, \"b\"", "meta": {"x": [1, true]}}"#)],
    ),
    ("functiongemma", "<start_function_call>call:note{}", "", &[("note", "{}")]),
    ("functiongemma", "<start_function_call>x", "<start_function_call>x", &[]),
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
