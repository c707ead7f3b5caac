//! Grammars on a vocabulary of bytes, a few words and two special tokens.

#![allow(clippy::expect_used, clippy::panic)]

use proptest::prelude::*;
use serde_json::json;
use wharf_grammar::{
    Compiler, Grammar, GrammarError, JsonStyle, Limits, Matcher, Trigger, Vocabulary,
};

/// `<|call|>`.
const CALL: u32 = 256;
/// End of sequence: two of them.
const ENDS: [u32; 2] = [257, 258];
const WORDS: [&str; 5] = ["{\"", "\": ", "name", "<think>", "hello"];

/// Longest words first, then bytes; `<|call|>` is its token.
fn tokenize(text: &str) -> Vec<u32> {
    let (mut ids, mut rest) = (Vec::new(), text);
    'text: while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("<|call|>") {
            ids.push(CALL);
            rest = after;
            continue;
        }
        for (id, word) in (259..).zip(WORDS) {
            if let Some(after) = rest.strip_prefix(word) {
                ids.push(id);
                rest = after;
                continue 'text;
            }
        }
        let length = rest.chars().next().map_or(0, char::len_utf8);
        ids.extend(rest[..length].bytes().map(u32::from));
        rest = &rest[length..];
    }
    ids
}

fn compiler() -> Compiler {
    let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    tokens.extend(["<|call|>", "<|end|>", "</s>"].map(|text| text.as_bytes().to_vec()));
    tokens.extend(WORDS.map(|word| word.as_bytes().to_vec()));
    let special = (0..tokens.len()).map(|id| (256..259).contains(&id)).collect();
    let vocabulary =
        Vocabulary { tokens, special, eos_token_ids: ENDS.to_vec(), tokenize: Box::new(tokenize) };
    Compiler::new(vocabulary, Limits::default()).expect("a sound vocabulary")
}

/// Follows `text`; how many bytes of it were taken before one was refused, and the matcher.
fn follow(compiler: &Compiler, grammar: &Grammar, text: &str) -> (usize, Matcher) {
    let mut matcher = compiler.compile(grammar).expect("compiles").matcher();
    let mut taken = 0;
    for id in tokenize(text) {
        let length = if id == CALL {
            8
        } else if id < 256 {
            1
        } else {
            WORDS[id as usize - 259].len()
        };
        let mask = matcher.mask().expect("a mask");
        let complete = matcher.is_complete();
        for end in ENDS {
            assert_eq!(mask.contains(end), complete, "the end goes with completeness at {taken}");
        }
        if !mask.contains(id) {
            return (taken, matcher);
        }
        matcher.consume(id).expect("it was in the mask");
        taken += length;
    }
    (taken, matcher)
}

fn accepts(compiler: &Compiler, grammar: &Grammar, text: &str) -> bool {
    let (taken, mut matcher) = follow(compiler, grammar, text);
    taken == text.len() && matcher.is_complete()
}

fn literal(text: &str) -> Grammar {
    Grammar::Literal(text.into())
}

fn spaced(schema: serde_json::Value) -> Grammar {
    Grammar::Json { schema, style: JsonStyle::spaced() }
}

/// A text that a grammar accepts as a whole or refuses.
struct Case {
    grammar: Grammar,
    yes: &'static [&'static str],
    no: &'static [&'static str],
}

fn cases() -> Vec<Case> {
    let call = |text: &str, then| Trigger { text: text.into(), at_start: false, then };
    let free = Grammar::free;
    let number = || spaced(json!({"type": "integer"}));
    let person = json!({"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}, "required": ["name"], "additionalProperties": false});
    vec![
        Case { grammar: literal("a\"b\\n\n/"), yes: &["a\"b\\n\n/"], no: &["a", ""] },
        Case { grammar: literal("x<|call|>y"), yes: &["x<|call|>y"], no: &["xy"] },
        Case { grammar: literal(""), yes: &[""], no: &["a"] },
        Case { grammar: Grammar::Regex("a+/b".into()), yes: &["a/b", "aaa/b"], no: &["/b", "a/"] },
        Case {
            grammar: Grammar::choice(&["yes".into(), "no".into()]),
            yes: &["yes", "no"],
            no: &["y", "yesno"],
        },
        Case {
            grammar: spaced(person.clone()),
            yes: &[r#"{"name": "a"}"#, r#"{"name": "a", "age": 3}"#],
            no: &[
                r#"{"age": 3}"#,
                r#"{"name":"a"}"#,
                r#"{"name":  "a"}"#,
                r#"{"name": "a", "b": 1}"#,
            ],
        },
        Case {
            grammar: Grammar::Json { schema: person, style: JsonStyle::compact() },
            yes: &[r#"{"name":"a","age":3}"#],
            no: &[r#"{"name": "a"}"#],
        },
        Case {
            grammar: Grammar::Repeat {
                item: Box::new(literal("ab")),
                separator: ",".into(),
                min: 1,
                max: Some(2),
            },
            yes: &["ab", "ab,ab"],
            no: &["", "ab,", "ab,ab,ab"],
        },
        Case {
            grammar: Grammar::Repeat {
                item: Box::new(literal("ab")),
                separator: String::new(),
                min: 0,
                max: None,
            },
            yes: &["", "ab", "ababab"],
            no: &["a"],
        },
        Case {
            grammar: Grammar::Sequence(vec![
                Grammar::until(vec!["</think>".into()], None),
                literal("ok"),
            ]),
            yes: &["</think>ok", "a < b\n</think>ok"],
            no: &["ok", "</think>no", "a</think> ok"],
        },
        Case {
            grammar: Grammar::Sequence(vec![
                Grammar::until(vec!["<|call|>".into()], None),
                literal("ok"),
            ]),
            yes: &["<|call|>ok", "text<|call|>ok"],
            no: &["ok", "<|call|>no"],
        },
        Case { grammar: free(vec![], None), yes: &["", "any\nthing é"], no: &["<|call|>"] },
        Case {
            grammar: free(
                vec![call("<f>", Grammar::Sequence(vec![number(), literal("</f>")]))],
                None,
            ),
            yes: &["", "text", "<f>1</f>", "a <f>1</f> b <f>2</f>", "a < b <g>"],
            no: &["<f>", "<f>x", "a<f>1</f><f>"],
        },
        Case {
            grammar: free(vec![call("<f>", number())], Some(1)),
            yes: &["text", "a<f>1"],
            no: &["a<f>1 b", "<f>1<f>2"],
        },
        Case {
            grammar: free(vec![call("<|call|>", number())], None),
            yes: &["text", "a<|call|>1", "<|call|>1<|call|>2"],
            no: &["<|call|>", "<|call|>x"],
        },
        Case {
            grammar: free(
                vec![Trigger { text: "{".into(), at_start: true, then: literal("1}") }],
                None,
            ),
            yes: &["", "a {x}", "{1}", "\n{1}"],
            no: &["{x}", "{", " {x"],
        },
        Case { grammar: Grammar::from_user_text("start: \"a\" /[0-9]/"), yes: &["a1"], no: &["a"] },
        Case {
            grammar: Grammar::from_user_text(
                "# c\nroot ::= (\"a\" | b-c)+ [^x\\]-]{2}\nb-c ::= \"\\x41\"\n  | \"é\"",
            ),
            yes: &["aAéyy", "A!!"],
            no: &["yy", "ax", "a]]"],
        },
    ]
}

#[test]
fn grammars_accept_what_they_say_and_nothing_else() {
    let compiler = compiler();
    for Case { grammar, yes, no } in cases() {
        for text in yes {
            assert!(accepts(&compiler, &grammar, text), "{grammar:?} must accept {text:?}");
        }
        for text in no {
            assert!(!accepts(&compiler, &grammar, text), "{grammar:?} must refuse {text:?}");
        }
    }
}

#[test]
fn structural_tags_are_grammars() {
    let compiler = compiler();
    let number = json!({"type": "json_schema", "json_schema": {"type": "integer"}});
    let tag = json!({"type": "tag", "begin": "<f=a>", "content": number, "end": "</f>"});
    let tagged = json!({"type": "triggered_tags", "triggers": ["<f"], "tags": [tag]});
    let once = json!({"type": "triggered_tags", "triggers": ["<f"], "tags": [tag], "at_least_one": true, "stop_after_first": true});
    let thought =
        json!({"type": "tag", "begin": "<t>", "content": {"type": "any_text"}, "end": "</t>"});
    let after = json!({"type": "sequence", "elements": [{"type": "optional", "content": thought}, {"type": "const_string", "value": "ok"}]});
    let several = json!({"type": "tags_with_separator", "separator": ";", "tags": [tag], "at_least_one": true});
    let old = json!({"type": "structural_tag", "triggers": ["<f"], "structures": [{"begin": "<f=a>", "schema": {"type": "integer"}, "end": "</f>"}]});
    let new = |format: &serde_json::Value| json!({"type": "structural_tag", "format": format});
    let cases: [(serde_json::Value, &[&str], &[&str]); 5] = [
        (new(&tagged), &["", "x", "x<f=a>1</f>y"], &["<f=b>", "<f=a>x</f>"]),
        (new(&once), &["x<f=a>1</f>"], &["x", "<f=a>1</f>y"]),
        (new(&after), &["ok", "<t>any <b></t>ok"], &["<t>x</t>no"]),
        (new(&several), &["<f=a>1</f>", "<f=a>1</f>;<f=a>2</f>"], &["", "<f=a>1</f><f=a>2</f>"]),
        (old, &["x<f=a>1</f>y", "x"], &["<f=a>x"]),
    ];
    for (value, yes, no) in cases {
        let grammar = structural_tag(&value).expect("a structural tag");
        assert!(yes.iter().all(|text| accepts(&compiler, &grammar, text)), "{value}: {yes:?}");
        assert!(!no.iter().any(|text| accepts(&compiler, &grammar, text)), "{value}: {no:?}");
    }
    for (value, wanted) in [
        (json!({"format": {"type": "wish"}}), "format.type"),
        (
            json!({"format": {"type": "sequence", "elements": [{"type": "regex"}]}}),
            "format.elements[0].pattern",
        ),
        (json!({"triggers": ["x"], "structures": [{"begin": "y", "end": "z"}]}), "triggers[0]"),
        (json!({}), "structures"),
        (json!({"format": {"type": "any_text", "excludes": ["x", ""]}}), "format.excludes[1]"),
        (json!({"format": {"type": "any_text", "excludes": "x"}}), "format.excludes"),
        (json!({"format": {"type": "any_text", "max_tokens": 5}}), "format.max_tokens"),
        (
            json!({"format": {"type": "json_schema", "json_schema": {}, "excludes": ["x"]}}),
            "format.excludes",
        ),
        (
            json!({"format": {"type": "json_schema", "json_schema": {}, "style": "cuneiform"}}),
            "format.style",
        ),
        (
            json!({"format": {"type": "json_schema", "json_schema": {}, "any_order": true}}),
            "format.any_order",
        ),
        (
            json!({"format": {"type": "json_schema", "json_schema": {}, "max_whitespace_cnt": -1}}),
            "format.max_whitespace_cnt",
        ),
        (
            json!({"format": {"type": "regex", "pattern": "a", "excludes": ["x"]}}),
            "format.excludes",
        ),
    ] {
        match structural_tag(&value).expect_err("refused") {
            GrammarError::Unsupported { path, .. } | GrammarError::Invalid { path, .. } => {
                assert_eq!(path, wanted);
            }
            other => panic!("{other:?}"),
        }
    }
}

fn structural_tag(value: &serde_json::Value) -> Result<Grammar, GrammarError> {
    let none = |_: &str, _: &serde_json::Value, _: &str| None;
    Grammar::from_structural_tag(value, &JsonStyle::spaced(), &none)
}

#[test]
fn excluded_texts_do_not_stand_in_free_text() {
    let compiler = compiler();
    let any = |excludes: serde_json::Value| json!({"type": "any_text", "excludes": excludes});
    let number = json!({"type": "json_schema", "json_schema": {}});
    let tag = json!({"type": "tag", "begin": "<f>", "content": number, "end": "</f>"});
    let tagged = |more: serde_json::Value| {
        let mut format = json!({"type": "triggered_tags", "triggers": ["<f"], "tags": [tag], "excludes": ["</f>", "hello"]});
        format.as_object_mut().expect("an object").extend(more.as_object().expect("one").clone());
        format
    };
    let within = |begin: &str, content: &serde_json::Value, end: &str| json!({"type": "tag", "begin": begin, "content": content, "end": end});
    let cases: Vec<(serde_json::Value, &[&str], &[&str])> = vec![
        (any(json!([])), &["", "ab"], &["<|call|>"]),
        (
            any(json!(["ab", "é", "a\"\n/"])),
            &["", "a", "a b", "ba", "aa", "e", "a\"/", "a\n"],
            &["ab", "xaby", "aab", "é", "a\"\n/", "aba"],
        ),
        // What overlaps itself.
        (any(json!(["aab"])), &["aa", "aaa", "aba"], &["aaab", "aab", "baaaab"]),
        // Whatever tokens spell it, the model's own words among them.
        (any(json!(["hello"])), &["hell", "hellhell"], &["hello", "ahellohello"]),
        (any(json!(["e\""])), &["name", "name "], &["name\"", "namename\": "]),
        // A special token is no text.
        (any(json!(["<|call|>"])), &["a", "<|", "call"], &["<|call|>", "a<|call|>b"]),
        (any(json!(["a<|call|>"])), &["a", "<|"], &["a<|call|>", "<|call|>"]),
        (
            within("<t>", &any(json!(["<t>", "</t>"])), "</t>"),
            &["<t></t>", "<t>a</t>", "<t>a<t</t>"],
            &["<t><t></t>", "<t>a</t>b", "<t>a"],
        ),
        (
            within("<t>", &any(json!(["hello"])), "<|call|>"),
            &["<t><|call|>", "<t>hell<|call|>"],
            &["<t>hello<|call|>", "<t>hello"],
        ),
        // The end is no part of the text, though it has what is excluded.
        (within("<|call|>", &any(json!(["end", "<|call|>"])), "end"), &["<|call|>xend"], &[]),
        (
            tagged(json!({})),
            &["", "hell", "a<f>1</f>b", "<f>\"hello</f>\"</f>", "<f>1</f><f>2</f>"],
            &["hello", "</f>", "a</f>b", "<f>1</f>hello", "hello<f>1</f>", "<f>1</f>a</f>"],
        ),
        (
            tagged(json!({"at_least_one": true})),
            &["a<f>1</f>", "<f>1</f>hell<f>2</f>"],
            &["hello<f>1</f>", "a", "<f>1</f>hello", "</f><f>1</f>"],
        ),
        (
            tagged(json!({"stop_after_first": true})),
            &["a<f>1</f>", "hell"],
            &["hello", "hello<f>1</f>", "a<f>1</f>b"],
        ),
    ];
    for (format, yes, no) in cases {
        let grammar = structural_tag(&json!({"format": format})).expect("a structural tag");
        for text in yes {
            assert!(accepts(&compiler, &grammar, text), "{format} must accept {text:?}");
        }
        for text in no {
            assert!(!accepts(&compiler, &grammar, text), "{format} must refuse {text:?}");
        }
    }
}

#[test]
fn special_tokens_that_other_tokens_spell_are_excluded_too() {
    let compiler = compiler();
    let grammar =
        Grammar::Free { triggers: Vec::new(), max: None, excludes: vec!["<|call|>".into()] };
    let mut matcher = compiler.compile(&grammar).expect("compiles").matcher();
    for byte in "a<|call|".bytes() {
        matcher.consume(u32::from(byte)).expect("not yet excluded");
    }
    let mask = matcher.mask().expect("a mask");
    assert!(!mask.contains(u32::from(b'>')) && !mask.contains(CALL));
    assert!(mask.contains(u32::from(b'x')) && matcher.is_complete());
}

#[test]
fn a_structural_tag_is_written_in_the_style_that_is_asked_for() {
    let compiler = compiler();
    let format = |count: serde_json::Value| json!({"format": {"type": "json_schema", "json_schema": {}, "max_whitespace_cnt": count}});
    for (count, style, yes, no) in [
        (json!(null), JsonStyle::spaced(), "[1, 2]", "[1,2]"),
        (json!(null), JsonStyle::compact(), "[1,2]", "[1, 2]"),
        (json!(1), JsonStyle::spaced(), "[1, 2]", "[1,2]"),
        (json!(0), JsonStyle::spaced(), "[1,2]", "[1, 2]"),
    ] {
        let none = |_: &str, _: &serde_json::Value, _: &str| None;
        let grammar = Grammar::from_structural_tag(&format(count), &style, &none).expect("a tag");
        assert!(accepts(&compiler, &grammar, yes), "{yes}");
        assert!(!accepts(&compiler, &grammar, no), "{no}");
    }
}

#[test]
fn what_must_follow_is_told_at_once() {
    let compiler = compiler();
    let schema = json!({"type": "object", "properties": {"name": {"const": "hello"}}, "required": ["name"], "additionalProperties": false});
    let mut matcher = compiler.compile(&spaced(schema)).expect("compiles").matcher();
    let forced = matcher.forced();
    assert_eq!(forced, tokenize(r#"{"name": "hello"}"#));
    for &token in &forced {
        assert!(matcher.mask().expect("a mask").contains(token));
        assert!(!matcher.is_finished());
        matcher.consume(token).expect("forced");
    }
    assert!(matcher.is_finished() && matcher.is_complete());
    assert!(matcher.forced().is_empty());
}

#[test]
fn a_budget_forces_the_end_of_the_reasoning() {
    let compiler = compiler();
    let until = || Grammar::until(vec!["</t>".into()], Some(3));
    let grammar = Grammar::Sequence(vec![until(), literal("ok")]);
    let (taken, mut matcher) = follow(&compiler, &grammar, "abcd");
    assert_eq!(taken, 3);
    assert_eq!(matcher.forced(), tokenize("</t>"));
    for token in tokenize("</t>") {
        matcher.consume(token).expect("forced");
    }
    assert_eq!(matcher.forced(), tokenize("ok"));
    // Who ends before is left alone.
    assert!(accepts(&compiler, &grammar, "</t>ok"));
    // Where reasoning is a choice, only who begins it has the budget.
    let body = Grammar::Regex("[a-z]{9}".into());
    let thought = Grammar::Sequence(vec![literal("<think>"), until(), body.clone()]);
    let choice = Grammar::AnyOf(vec![thought, body]);
    assert!(accepts(&compiler, &choice, "abcdefghi"));
    assert!(!accepts(&compiler, &choice, "<think>abcdef</t>abcdefghi"));
    assert!(accepts(&compiler, &choice, "<think>ab</t>abcdefghi"));
}

#[test]
fn what_cannot_be_enforced_is_refused_with_its_place() {
    let compiler = compiler();
    let refused = |grammar: &Grammar| compiler.compile(grammar).expect_err("refused");
    let tags =
        json!({"type": "object", "properties": {"tags": {"type": "array", "uniqueItems": true}}});
    let GrammarError::Unsupported { path, keyword, .. } = refused(&spaced(tags)) else {
        panic!("not unsupported");
    };
    assert_eq!((path.as_str(), keyword.as_str()), ("properties.tags.uniqueItems", "uniqueItems"));
    for grammar in [
        spaced(json!(3)),
        spaced(json!(false)),
        spaced(json!({"type": "strin"})),
        spaced(json!({"$ref": "#/nothing"})),
        Grammar::Regex("(a".into()),
        Grammar::Regex("a(?=b)".into()),
        Grammar::Regex("a\\".into()),
        Grammar::Lark("start: nothing".into()),
        Grammar::Lark(String::new()),
        Grammar::Gbnf("root ::= [a".into()),
        Grammar::Gbnf("a ::= \"b\"".into()),
        Grammar::AnyOf(vec![]),
    ] {
        let error = refused(&grammar);
        assert!(matches!(error, GrammarError::Invalid { .. }), "{grammar:?}: {error:?}");
        assert!(!error.to_string().is_empty());
    }
    // And the compiler still works.
    assert!(accepts(&compiler, &literal("a"), "a"));
}

/// The first of its keyword used to be blamed, and a pattern's place was not told at all.
#[test]
fn the_value_that_is_refused_is_the_one_that_is_named() {
    let compiler = compiler();
    let object = |b: serde_json::Value| {
        json!({"type": "object", "properties": {
            "a": {"type": "string", "format": "date", "minLength": 1},
            "b": b, "c": {"type": "string", "pattern": "^a$"}}})
    };
    for (b, wanted) in [
        (json!({"type": "string", "format": "no-such"}), "properties.b.format"),
        (json!({"type": "string", "pattern": "a(?=b)"}), "properties.b.pattern"),
        (json!({"type": "string", "pattern": "(a"}), "properties.b.pattern"),
        (json!({"type": "string", "pattern": 3}), "properties.b.pattern"),
        (json!({"type": "strin"}), "properties.b.type"),
        (json!({"type": ["string", 3]}), "properties.b.type"),
        (json!({"type": "object", "properties": []}), "properties.b.properties"),
        (json!({"type": "object", "required": "x"}), "properties.b.required"),
        (json!({"type": "string", "minLength": -1}), "properties.b.minLength"),
        (json!({"type": "string", "maxLength": 2.5}), "properties.b.maxLength"),
        (json!({"anyOf": []}), "properties.b.anyOf"),
        (json!({"enum": "x"}), "properties.b.enum"),
        (json!({"$ref": "#/nothing"}), "properties.b.$ref"),
    ] {
        match compiler.compile(&spaced(object(b.clone()))).expect_err("refused") {
            GrammarError::Unsupported { path, .. } | GrammarError::Invalid { path, .. } => {
                assert_eq!(path, wanted, "{b}");
            }
            other => panic!("{b}: {other:?}"),
        }
    }
}

#[test]
fn a_grammar_that_explodes_costs_itself_only() {
    let compiler = compiler();
    let deep = (0..120)
        .fold(json!({"type": "string"}), |inner, _| json!({"type": "array", "items": inner}));
    let _ = compiler.compile(&spaced(deep));
    let huge = Grammar::Regex("(a{1,1000}){1,1000}b{1,100000}".into());
    if let Ok(huge) = compiler.compile(&huge) {
        let mut matcher = huge.matcher();
        // Each step works or says that it does not; none takes for ever.
        for _ in 0..50 {
            let _ = matcher.mask();
            let _ = matcher.consume(u32::from(b'a'));
        }
    }
    let long = Grammar::Literal("x".repeat(2 << 20));
    assert!(matches!(compiler.compile(&long), Err(GrammarError::TooComplex(_))));
    assert!(accepts(&compiler, &literal("a"), "a"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_literal_accepts_itself(text in "\\PC{0,12}", other in "\\PC{0,12}") {
        let compiler = compiler();
        prop_assert!(accepts(&compiler, &literal(&text), &text));
        prop_assert_eq!(accepts(&compiler, &literal(&text), &other), text == other);
    }
}
