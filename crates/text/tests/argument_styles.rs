//! The styles of a structural tag's `json_schema` that are not JSON: what is let through and what
//! is not.

#![expect(clippy::expect_used, reason = "a helper of a test may fail the test")]

use serde_json::{Value, json};
use wharf_grammar::{Compiler, Grammar, JsonStyle, Limits, Vocabulary};
use wharf_text::tool_calls::arguments_in_style;

/// Bytes and an end.
fn compiler() -> Compiler {
    let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    tokens.push(b"<end>".to_vec());
    let vocabulary = Vocabulary {
        tokens,
        special: (0..=256).map(|id| id == 256).collect(),
        eos_token_ids: vec![256],
        tokenize: Box::new(|text| text.bytes().map(u32::from).collect()),
    };
    Compiler::new(vocabulary, Limits::default()).expect("a sound vocabulary")
}

fn accepts(compiler: &Compiler, grammar: &Grammar, text: &str) -> bool {
    let mut matcher = compiler.compile(grammar).expect("compiles").matcher();
    for byte in text.bytes() {
        if !matcher.mask().expect("a mask").contains(u32::from(byte)) {
            return false;
        }
        matcher.consume(u32::from(byte)).expect("it was in the mask");
    }
    matcher.is_complete()
}

/// A text, a number that is required, and a truth.
fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {"a": {"type": "string"}, "b": {"type": "integer"}, "c": {"type": "boolean"}},
        "required": ["b"],
    })
}

#[test]
fn each_style_writes_members_in_order_and_leaves_out_only_what_may_be() {
    let compiler = compiler();
    let styles = [
        ("qwen_xml", ["<parameter=", ">\n", "", "\n</parameter>", "\n"], ["", ""]),
        ("glm_xml", ["<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", ""], ["", ""]),
        ("minimax_xml", ["<parameter name=\"", "\">", "", "</parameter>\n", ""], ["", ""]),
        (
            "deepseek_xml",
            ["<｜DSML｜parameter name=\"", "", "", "</｜DSML｜parameter>\n", ""],
            ["\" string=\"true\">", "\" string=\"false\">"],
        ),
        (
            "deepseek_v4_1_xml",
            ["<｜DSML｜ parameter name=\"", "", "", "</｜DSML｜ parameter>\n", ""],
            ["\" string=\"true\">", "\" string=\"false\">"],
        ),
    ];
    for (name, [key, key_end, value, end, separator], kinds) in styles {
        let grammar = |schema: Value| {
            let format = json!({"type": "json_schema", "json_schema": schema, "style": name});
            let tag = json!({"format": format});
            Grammar::from_structural_tag(&tag, &JsonStyle::spaced(), &arguments_in_style)
                .expect("a structural tag")
        };
        let member = |name: &str, text: &str, kind: &str| {
            format!("{key}{name}{key_end}{kind}{value}{text}{end}")
        };
        let [a, b, c] = [
            member("a", "x <y>\"", kinds[0]),
            member("b", "-12", kinds[1]),
            member("c", "true", kinds[1]),
        ];
        let joined = |members: &[&str]| members.join(separator);
        let bound = grammar(schema());
        for text in [joined(&[&b]), joined(&[&a, &b]), joined(&[&b, &c]), joined(&[&a, &b, &c])] {
            assert!(accepts(&compiler, &bound, &text), "{name} must accept {text:?}");
        }
        for text in [
            String::new(),
            joined(&[&a]),
            joined(&[&c]),
            joined(&[&a, &c]),
            joined(&[&b, &a]),
            joined(&[&b, &b]),
            joined(&[&b, &member("d", "x", kinds[0])]),
            format!("{b} {c}"),
            format!("{b}\n"),
            member("b", "x", kinds[1]),
            member("b", "1.5", kinds[1]),
            member("b", "\"1\"", kinds[1]),
            joined(&[&b, &member("c", "True", kinds[1])]),
        ] {
            assert!(!accepts(&compiler, &bound, &text), "{name} must refuse {text:?}");
        }
        let mut loose = schema();
        loose["required"] = json!([]);
        let loose = grammar(loose);
        for text in [String::new(), joined(&[&a]), joined(&[&a, &c]), joined(&[&c])] {
            assert!(accepts(&compiler, &loose, &text), "{name} must accept {text:?}");
        }
        for text in [joined(&[&c, &a]), joined(&[&c, &c]), format!("{separator}{a}x")] {
            assert!(!accepts(&compiler, &loose, &text), "{name} must refuse {text:?}");
        }
    }
}

#[test]
fn what_tells_texts_from_json_must_be_right() {
    let compiler = compiler();
    let tag = json!({"format": {
        "type": "json_schema", "style": "deepseek_xml",
        "json_schema": {"properties": {"b": {"type": "integer"}}, "required": ["b"]},
    }});
    let grammar = Grammar::from_structural_tag(&tag, &JsonStyle::spaced(), &arguments_in_style)
        .expect("a structural tag");
    let text = |kind: &str| {
        format!("<｜DSML｜parameter name=\"b\" string=\"{kind}\">1</｜DSML｜parameter>\n")
    };
    assert!(accepts(&compiler, &grammar, &text("false")));
    assert!(!accepts(&compiler, &grammar, &text("true")));
}
