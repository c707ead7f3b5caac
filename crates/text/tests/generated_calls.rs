//! What a format's grammar lets through, its parser reads back: complete calls with arguments that
//! satisfy the tool's schema.

#![expect(clippy::expect_used, reason = "a helper of a test may fail the test")]

use serde_json::{Value, json};
use wharf_grammar::{Compiler, Grammar, GrammarError, Limits, Vocabulary};
use wharf_text::{
    output::{OutputEvent, OutputParser},
    tool_calls::{
        ToolFormat, ToolSpec, by_name,
        custom::{CustomInput, CustomInputs},
        formats,
    },
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
    "hermes",
    "llama3_json",
    "mistral",
    "granite",
    "granite-20b-fc",
    "longcat",
    "gigachat3",
    "jamba",
    "phi4_mini_json",
    "apertus",
    "internlm",
    "xlam",
    "deepseek_v3",
    "deepseek_v31",
    "kimi_k2",
];

#[test]
fn every_format_is_in_the_list() {
    let mut listed = FORMATS.to_vec();
    listed.sort_unstable();
    let mut all: Vec<&str> = formats().iter().map(|format| format.name()).collect();
    all.sort_unstable();
    assert_eq!(listed, all);
}

fn tools() -> Vec<ToolSpec> {
    let all = json!({
        "type": "object",
        "properties": {
            "text": {"type": "string", "description": "any"},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            "count": {"type": "integer", "minimum": 1, "maximum": 20},
            "ratio": {"type": "number", "minimum": -5, "maximum": 5},
            "deep": {"type": "boolean"},
            "who": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 2},
            "place": {"$ref": "#/$defs/Place"},
            "places": {"type": "array", "items": {"$ref": "#/$defs/Place"}, "maxItems": 2},
        },
        "required": ["unit", "count"],
        "additionalProperties": false,
        "$defs": {"Place": {
            "type": "object", "required": ["x"],
            "properties": {"x": {"type": "integer"}, "note": {"type": "string"}},
            "additionalProperties": false,
        }},
    });
    let optional = json!({
        "type": "object",
        "properties": {"a": {"type": "string", "maxLength": 3}, "b": {"type": "null"}, "c": {}},
    });
    let spec = |name: &str, parameters| ToolSpec { name: name.to_owned(), parameters, lark: None };
    vec![
        spec("all_kinds", all),
        spec("optional", optional),
        spec("ping", json!({"type": "object"})),
    ]
}

/// Whether a call's arguments satisfy the schema of its tool above.
fn satisfies(name: &str, arguments: &Value) -> bool {
    let known = |names: &[&str]| {
        arguments.as_object().is_some_and(|all| all.keys().all(|key| names.contains(&key.as_str())))
    };
    let place = |value: &Value| {
        let is_integer = value["x"].as_number().is_some_and(|x| !x.to_string().contains('.'));
        is_integer && value.get("note").is_none_or(Value::is_string)
    };
    let each = |name: &str, holds: &dyn Fn(&Value) -> bool| arguments.get(name).is_none_or(holds);
    match name {
        "all_kinds" => {
            known(&["text", "unit", "count", "ratio", "deep", "who", "tags", "place", "places"])
                && ["celsius", "fahrenheit"].contains(&arguments["unit"].as_str().unwrap_or(""))
                && arguments["count"].as_i64().is_some_and(|count| (1..=20).contains(&count))
                && each("text", &Value::is_string)
                && each("ratio", &Value::is_number)
                && each("deep", &Value::is_boolean)
                && each("who", &|value| value.is_string() || value.is_null())
                && each("tags", &|value| {
                    value.as_array().is_some_and(|t| t.len() <= 2 && t.iter().all(Value::is_string))
                })
                && each("place", &place)
                && each("places", &|value| {
                    value.as_array().is_some_and(|all| all.len() <= 2 && all.iter().all(place))
                })
        }
        "optional" => {
            each("a", &|value| value.as_str().is_some_and(|text| text.chars().count() <= 3))
                && each("b", &Value::is_null)
        }
        "ping" => arguments.is_object(),
        _ => false,
    }
}

/// A token per printable character, and some longer ones that end texts.
fn vocabulary(format: &dyn ToolFormat) -> Vocabulary {
    let mut tokens: Vec<String> = (b' '..=b'~').map(|byte| char::from(byte).to_string()).collect();
    let longer = [
        "\n",
        "\t",
        "ü",
        "｜",
        "▁",
        "Ġ",
        "\"",
        "\",",
        "}",
        "]",
        ")",
        "</",
        "parameter>",
        "</parameter>",
        "\n</parameter>\n",
        "</arg_value>",
        "</param>",
        "]]></param>",
        "</｜DSML｜parameter>",
        "</steptml:parameter>",
        "null",
        "true",
        "call",
        "\"}",
        "\"]",
        "\\",
        "<|tool_call",
        "<escape>",
    ];
    tokens.extend(longer.iter().map(|text| (*text).to_owned()));
    tokens.extend(format.markers().iter().map(|text| (*text).to_owned()));
    tokens.push("</s>".to_owned());
    let eos = tokens.len() as u32 - 1;
    let bytes: Vec<Vec<u8>> = tokens.iter().map(|text| text.clone().into_bytes()).collect();
    let table = bytes.clone();
    Vocabulary {
        // Harmony's markers are special tokens, so that text cannot hold them.
        special: (0..tokens.len() as u32)
            .map(|id| {
                let marker = format.markers().contains(&tokens[id as usize].as_str());
                id == eos || (marker && format.name() == "openai")
            })
            .collect(),
        tokens: bytes,
        eos_token_ids: vec![eos],
        // The longest token that fits, one after the other.
        tokenize: Box::new(move |text| {
            let (mut rest, mut ids) = (text.as_bytes(), Vec::new());
            while !rest.is_empty() {
                let fits = (0..table.len() - 1).filter(|&id| rest.starts_with(&table[id]));
                let Some(id) = fits.max_by_key(|&id| table[id].len()) else { break };
                rest = &rest[table[id].len()..];
                ids.push(id as u32);
            }
            ids
        }),
    }
}

/// A linear congruential generator: tests repeat.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }
}

/// A text that the grammar lets through; `None` where it has not ended in time.
fn walk(
    compiler: &Compiler,
    grammar: &Grammar,
    tokens: &[Vec<u8>],
    dice: &mut Dice,
) -> Option<String> {
    let constraint = compiler.compile(grammar).expect("a grammar that compiles");
    let mut matcher = constraint.matcher();
    let mut text = Vec::new();
    let eos = tokens.len() as u32 - 1;
    for _ in 0..1500 {
        if matcher.is_finished() || (matcher.is_complete() && dice.roll(3) == 0) {
            return Some(String::from_utf8(text).expect("text"));
        }
        let mask = matcher
            .mask()
            .unwrap_or_else(|error| panic!("{error} after {:?}", String::from_utf8_lossy(&text)));
        let allowed: Vec<u32> = (0..eos).filter(|&id| mask.contains(id)).collect();
        assert!(!allowed.is_empty(), "nothing may follow {:?}", String::from_utf8_lossy(&text));
        let long: Vec<u32> =
            allowed.iter().copied().filter(|&id| tokens[id as usize].len() > 1).collect();
        let from = if !long.is_empty() && dice.roll(4) == 0 { &long } else { &allowed };
        let id = from[dice.roll(from.len())];
        text.extend(&tokens[id as usize]);
        let taken = matcher.consume(id);
        assert!(taken.is_ok(), "{taken:?} {:?}", String::from_utf8_lossy(&text));
    }
    None
}

/// The calls in `text`; anything but calls fails the test.
fn calls(format: &dyn ToolFormat, text: &str) -> Vec<(String, Value)> {
    let mut parser = format.parser(&tools());
    let mut events = Vec::new();
    parser.push(text, &mut events);
    parser.finish(&mut events);
    let mut calls: Vec<(String, String, bool)> = Vec::new();
    for event in events {
        match event {
            OutputEvent::CallStart { name } => calls.push((name, String::new(), false)),
            OutputEvent::Arguments(text) => calls.last_mut().expect("a call").1 += &text,
            OutputEvent::CallEnd => calls.last_mut().expect("a call").2 = true,
            other => panic!("{}: {other:?} in {text:?}", format.name()),
        }
    }
    let parsed = calls.into_iter().map(|(name, arguments, complete)| {
        assert!(complete, "{}: {text:?}", format.name());
        // JSON, but more than a float holds: the generator knows no such limit.
        let value = serde_json::from_str(&arguments).unwrap_or_else(|error| {
            assert!(error.to_string().contains("out of range"), "{arguments}");
            json!({"unit": "celsius", "count": 1})
        });
        (name, value)
    });
    parsed.collect()
}

#[test]
fn what_a_grammar_lets_through_is_read_back_as_valid_calls() {
    for name in FORMATS {
        let format = by_name(name).expect("a format");
        let vocabulary = vocabulary(format);
        let tokens = vocabulary.tokens.clone();
        let compiler = Compiler::new(vocabulary, Limits::default()).expect("a vocabulary");
        let mut dice = Dice(name.len() as u64);
        let (mut ended, mut several) = (0, 0);
        for round in 0..16 {
            let parallel = round % 2 == 0;
            let grammar = format.grammar(&tools(), parallel).expect("a grammar");
            let trigger = &grammar.triggers[round % grammar.triggers.len()];
            let triggered = Grammar::Sequence(vec![
                Grammar::Literal(trigger.text.clone()),
                trigger.then.clone(),
            ]);
            for grammar in [&grammar.required, &triggered] {
                let Some(text) = walk(&compiler, grammar, &tokens, &mut dice) else { continue };
                let calls = calls(format, &text);
                assert!(!calls.is_empty() && (parallel || calls.len() == 1), "{name}: {text:?}");
                for (function, arguments) in &calls {
                    assert!(
                        satisfies(function, arguments),
                        "{name}: {function} {arguments} {text:?}"
                    );
                }
                ended += 1;
                several += usize::from(calls.len() > 1);
            }
        }
        println!("{name}: {ended} of 32 walks ended, {several} with several calls");
        assert!(ended > 10, "{name}: only {ended} of 32 walks ended");
    }
}

/// Whether a text is one that the tool's format allows.
type Holds = fn(&str) -> bool;

/// Letters, quotes and line ends, in the three ways to say what a custom tool's input is.
fn customs() -> Vec<(ToolSpec, Holds)> {
    let lark = "start: (WORD | \"\\\"\" | \"\\n\")~1..4\nWORD: /[a-c\\\\]{2}/".to_owned();
    vec![
        (CustomInput::Text.spec("any"), |_| true),
        (CustomInput::Regex("[a-c\"]{2,4}".to_owned()).spec("few"), |text| {
            (2..=4).contains(&text.len()) && text.chars().all(|c| "abc\"".contains(c))
        }),
        (CustomInput::Lark(lark).spec("words"), |text| {
            (1..=8).contains(&text.len()) && text.chars().all(|c| "abc\\\"\n".contains(c))
        }),
    ]
}

#[test]
fn the_input_of_custom_tools_is_in_its_format_or_the_format_is_refused() {
    let mut refusing = Vec::new();
    for name in FORMATS {
        let format = by_name(name).expect("a format");
        let vocabulary = vocabulary(format);
        let tokens = vocabulary.tokens.clone();
        let compiler = Compiler::new(vocabulary, Limits::default()).expect("a vocabulary");
        let mut dice = Dice(name.len() as u64);
        for (spec, holds) in customs() {
            let specs = [spec.clone()];
            let grammar = match format.grammar(&specs, false) {
                Ok(grammar) => grammar.required,
                Err(GrammarError::Unsupported { path, .. }) if spec.lark.is_some() => {
                    assert_eq!(path, spec.name);
                    refusing.push(*name);
                    continue;
                }
                Err(error) => panic!("{name}: {error}"),
            };
            let mut ended = 0;
            for _ in 0..12 {
                let Some(text) = walk(&compiler, &grammar, &tokens, &mut dice) else { continue };
                let inner = format.parser(&specs);
                let mut parser = CustomInputs::new(inner, vec![spec.name.clone()]);
                let (mut events, mut input) = (Vec::new(), String::new());
                parser.push(&text, &mut events);
                parser.finish(&mut events);
                for event in &events {
                    match event {
                        OutputEvent::Arguments(more) => input.push_str(more),
                        OutputEvent::CallStart { .. } | OutputEvent::CallEnd => {}
                        other => panic!("{name}: {other:?} in {text:?}"),
                    }
                }
                assert_eq!(events.last(), Some(&OutputEvent::CallEnd), "{name}: {text:?}");
                assert!(holds(&input), "{name}: {} got {input:?} of {text:?}", spec.name);
                ended += 1;
            }
            assert!(ended > 3, "{name}: {ended} of 12 walks ended for {}", spec.name);
        }
    }
    let quoting = FORMATS.iter().filter(|name| !refusing.contains(name)).count();
    assert!(quoting >= 16, "only {quoting} formats take grammars; {refusing:?} do not");
}

#[test]
fn what_a_format_cannot_write_is_refused_with_its_path() {
    let cases = [
        (json!({"type": "object", "anyOf": []}), "f.anyOf"),
        (
            json!({"properties": {"a": {"type": "string", "format": "idn-email"}}}),
            "f.properties.a.format",
        ),
        (json!({"properties": {"a\nb": {}}}), "f.properties.a\nb"),
        (json!({"required": ["a"], "additionalProperties": false}), "f.required"),
    ];
    for (parameters, path) in cases {
        let tool = ToolSpec { name: "f".to_owned(), parameters, lark: None };
        match by_name("qwen3_coder").expect("a format").grammar(std::slice::from_ref(&tool), true) {
            Err(
                GrammarError::Unsupported { path: found, .. }
                | GrammarError::Invalid { path: found, .. },
            ) => {
                assert_eq!(found, path);
            }
            other => panic!("{path}: {other:?}"),
        }
    }
}

#[test]
fn schemas_that_multiply_by_reference_are_answered_in_bounded_time() {
    // Each refers to the next a hundred times: there are 100^8 ways to the last.
    let mut definitions = serde_json::Map::new();
    // And this one to itself, which nests without an end.
    let tree = json!({"type": "object", "properties": {"a": {"$ref": "#/$defs/tree0"}}});
    definitions.insert("tree0".to_owned(), tree);
    for kind in ["object", "string", "tree"] {
        for level in (0..8).filter(|_| kind != "tree") {
            let next = json!({"$ref": format!("#/$defs/{kind}{}", level + 1)});
            let schema = match kind {
                "string" => json!({"type": "string", "anyOf": vec![next; 100]}),
                _ => {
                    let members = (0..100).map(|member| (format!("m{member}"), next.clone()));
                    json!({"type": "object", "properties": Value::Object(members.collect())})
                }
            };
            definitions.insert(format!("{kind}{level}"), schema);
        }
        definitions.insert(format!("{kind}8"), json!({"type": kind}));
        let parameters = json!({
            "type": "object",
            "properties": {"a": {"$ref": format!("#/$defs/{kind}0")}},
            "$defs": definitions.clone(),
        });
        let tools = [ToolSpec { name: "f".to_owned(), parameters, lark: None }];
        for format in formats() {
            let grammar = format.grammar(&tools, true);
            assert!(grammar.is_ok() || matches!(grammar, Err(GrammarError::TooComplex(_))));
            format.parser(&tools);
        }
    }
}
