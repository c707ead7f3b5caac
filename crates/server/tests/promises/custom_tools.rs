//! Tools of type `custom`: their input is text, and what it must look like holds.
use crate::client::{Answer, choices};
use crate::server::{Setup, TestServer, say, with};
use serde_json::{Value, json};
use wharf_engine::EngineConfig;

/// A custom tool; `format` may be null.
fn custom(name: &str, format: Value) -> Value {
    let mut tool = json!({"type": "custom", "custom": {"name": name, "description": "runs it"}});
    if !format.is_null() {
        tool["custom"]["format"] = format;
    }
    tool
}

fn grammar(syntax: &str, definition: &str) -> Value {
    json!({"type": "grammar", "grammar": {"syntax": syntax, "definition": definition}})
}

/// `lines`: letters, each line ended by a line end, quotes among them.
const LINES: &str = "start: LINE~1..2\nLINE: /[a-c\"\\\\]{1,3}/ \"\\n\"";

fn tools() -> Value {
    json!([
        custom("any", Value::Null),
        custom("plate", grammar("regex", "[A-C]{2}\\n?\"[0-9]")),
        custom("lines", grammar("lark", LINES)),
        {"type": "function", "function": {"name": "f"}},
    ])
}

async fn start_with(tool_format: &'static str) -> TestServer {
    let setup = Setup { tool_format, ..Setup::default() };
    let engine = EngineConfig { max_model_len: 4096, ..setup.engine };
    TestServer::with(Setup { engine, ..setup }).await
}

async fn start() -> TestServer {
    start_with("hermes").await
}

fn ask(script: &str, more: Value) -> Value {
    with(with(say(script), json!({"tools": tools(), "max_tokens": 300})), more)
}

fn choose(name: &str) -> Value {
    json!({"tool_choice": {"type": "custom", "custom": {"name": name}}})
}

/// What a call is named by and what it carries, by its type.
fn parts(kind: &str) -> (&'static str, &'static str) {
    match kind {
        "custom" => ("custom", "input"),
        "function" => ("function", "arguments"),
        other => panic!("{other} is no type of a call"),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

type Call = (String, String, String);

/// Type, name and input (or arguments) of each call of a whole answer.
fn calls(answer: &Answer) -> Vec<Call> {
    let message = &answer.json()["choices"][0]["message"];
    let calls = message["tool_calls"].as_array().cloned().unwrap_or_default();
    let call = |call: &Value| {
        let kind = text(&call["type"]);
        let (key, carried) = parts(&kind);
        assert_eq!(call.as_object().expect("an object").len(), 3, "id, type and {key}: {call}");
        assert!(!text(&call["id"]).is_empty());
        (kind, text(&call[key]["name"]), text(&call[key][carried]))
    };
    calls.iter().map(call).collect()
}

/// The same of a stream, added up as clients do.
fn added(answer: &Answer) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    let mut ids = Vec::new();
    for choice in choices(&answer.events(), 0) {
        for part in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
            let index = part["index"].as_u64().expect("an index") as usize;
            let members = part.as_object().expect("an object").len();
            if index == calls.len() {
                let kind = text(&part["type"]);
                let (key, carried) = parts(&kind);
                assert_eq!(members, 4, "{part}");
                assert_eq!(part[key][carried], "", "the first part only names the call");
                ids.push(text(&part["id"]));
                calls.push((kind, text(&part[key]["name"]), String::new()));
                continue;
            }
            assert_eq!(index + 1, calls.len(), "calls come in order, without gaps");
            let (key, carried) = parts(&calls[index].0);
            assert_eq!(members, 2, "only the index and what is new: {part}");
            let more = part[key].as_object().expect("an object");
            assert_eq!(more.len(), 1, "clients would join names: {part}");
            let more = text(&more[carried]);
            assert!(!more.is_empty());
            calls[index].2.push_str(&more);
        }
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), calls.len(), "ids are unique");
    calls
}

/// The calls of an answer, which must be the same whole and streamed.
async fn both(server: &TestServer, request: Value) -> (Answer, Vec<Call>) {
    let plain = server.chat(request.clone()).await;
    assert_eq!(plain.status, 200, "{}", plain.text());
    let streamed = server.chat(with(request, json!({"stream": true}))).await;
    assert_eq!(calls(&plain), added(&streamed));
    assert_eq!(plain.finish(0), streamed.finish(0));
    let calls = calls(&plain);
    (plain, calls)
}

fn is_plate(text: &str) -> bool {
    let rest = text.trim_start_matches(['A', 'B', 'C']);
    let number = rest.trim_start_matches('\n').strip_prefix('"');
    text.len() - rest.len() == 2
        && number.is_some_and(|n| n.len() == 1 && n.bytes().all(|b| b.is_ascii_digit()))
}

fn is_lines(text: &str) -> bool {
    let line =
        |line: &str| (1..=3).contains(&line.len()) && line.chars().all(|c| "abc\"\\".contains(c));
    text.strip_suffix('\n').is_some_and(|lines| {
        (1..=2).contains(&lines.split('\n').count()) && lines.split('\n').all(line)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_custom_tool_gets_text_in_its_format_whatever_the_model_would_say() {
    let server = start().await;
    for (name, holds) in
        [("plate", is_plate as fn(&str) -> bool), ("lines", is_lines), ("any", |_: &str| true)]
    {
        for seed in 0..4 {
            let script = if seed == 0 { "no" } else { "random" };
            let more = with(choose(name), json!({"temperature": 1, "seed": seed}));
            let (answer, calls) = both(&server, ask(script, more)).await;
            let [(kind, called, input)] = calls.as_slice() else { panic!("{calls:?}") };
            assert_eq!((kind.as_str(), called.as_str()), ("custom", name));
            // Random bytes may not find the end of any text.
            let reason = answer.finish(0).0;
            assert!(reason == "stop" || name == "any", "as of a function that is named");
            assert!(holds(input), "{name}: {input:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_takes_the_text_out_of_the_call_and_functions_stay_as_they_are() {
    let server = start().await;
    let input = "say \\\"hi\\\"\\n\\\\ {}";
    let script = format!(
        "Hi <tool_call>\n{{\"name\": \"any\", \"arguments\": {{\"input\": \"{input}\"}}}}\n\
         </tool_call>\n<tool_call>\n{{\"name\": \"f\", \"arguments\": {{}}}}\n</tool_call>"
    );
    let (answer, calls) = both(&server, ask(&script, json!({}))).await;
    assert_eq!(calls, [("custom".into(), "any".into(), "say \"hi\"\n\\ {}".into())]);
    assert_eq!(answer.finish(0).0, "tool_calls");
    assert_eq!(answer.content(0), "Hi");
    // A function's arguments stay JSON beside them.
    let required = json!({"tool_choice": {"type": "allowed_tools", "allowed_tools":
        {"mode": "required", "tools": [{"type": "function", "function": {"name": "f"}}]}}});
    let (_, calls) =
        both(&server, ask("no", with(required, json!({"parallel_tool_calls": false})))).await;
    assert_eq!(calls, [("function".into(), "f".into(), "{}".into())]);
    let allowed = json!({"tool_choice": {"type": "allowed_tools", "allowed_tools":
        {"mode": "required", "tools": [{"type": "custom", "custom": {"name": "plate"}}]}},
        "parallel_tool_calls": false});
    let (answer, calls) = both(&server, ask("no", allowed)).await;
    assert!(calls[0].1 == "plate" && is_plate(&calls[0].2), "{calls:?}");
    assert_eq!(answer.finish(0).0, "tool_calls");
}

#[tokio::test(flavor = "multi_thread")]
async fn input_cut_by_max_tokens_has_whole_characters_and_ends_with_length() {
    let server = start().await;
    let (whole, calls) = both(&server, ask("no", choose("lines"))).await;
    let input = calls[0].2.clone();
    let total = whole.json()["usage"]["completion_tokens"].as_u64().expect("a count");
    for max_tokens in 1..total {
        let request = with(ask("no", choose("lines")), json!({"max_tokens": max_tokens}));
        let (answer, calls) = both(&server, request).await;
        assert_eq!(answer.finish(0).0, "length", "{max_tokens}");
        let cut = calls.first().map_or("", |call| &call.2);
        assert!(input.starts_with(cut), "{cut:?} is no beginning of {input:?}");
        let content = answer.json()["choices"][0]["message"]["content"].clone();
        assert_eq!(content.as_str().unwrap_or_default(), "", "markup leaked at {max_tokens}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_custom_tools_are_taken_back_in_messages() {
    let server = start().await;
    let call =
        json!({"id": "call_1", "type": "custom", "custom": {"name": "any", "input": "a\"b\n"}});
    let conversation = |call: Value| {
        json!({"tools": tools(), "messages": [
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": null, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "done"},
            {"role": "user", "content": "[thanks]"},
        ]})
    };
    let answer = server.chat(conversation(call.clone())).await;
    assert_eq!((answer.status, answer.content(0)), (200, "thanks".to_owned()), "{}", answer.text());
    // It reads as the model wrote it: as the function's call that says the same.
    let function = json!({"id": "call_1", "type": "function", "function":
        {"name": "any", "arguments": "{\"input\": \"a\\\"b\\n\"}"}});
    let same = server.chat(conversation(function)).await;
    let prompt = |answer: &Answer| answer.json()["usage"]["prompt_tokens"].clone();
    assert_eq!(prompt(&answer), prompt(&same));
    for (call, param) in [
        (json!({"type": "custom"}), "messages[1].tool_calls[0].custom"),
        (json!({"type": "function"}), "messages[1].tool_calls[0].function"),
        (json!({"id": "x"}), "messages[1].tool_calls[0].function"),
        (json!({"type": "wish", "custom": call["custom"]}), "messages[1].tool_calls[0].type"),
    ] {
        let answer = server.chat(conversation(call)).await;
        assert_eq!((answer.status, &answer.error()["param"]), (400, &json!(param)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn custom_tools_that_make_no_sense_are_a_400_with_their_path() {
    let server = start().await;
    let one = |tool: Value| json!({"tools": [tool]});
    let of = |format: Value| one(custom("t", format));
    let choice = |choice: Value| json!({"tools": tools(), "tool_choice": choice});
    let definition = "tools[0].custom.format.grammar.definition";
    let cases = [
        (one(json!({"type": "custom"})), "tools[0].custom"),
        (one(json!({"type": "custom", "function": {"name": "t"}})), "tools[0].custom"),
        (one(json!({"type": "function", "custom": {"name": "t"}})), "tools[0].function"),
        (one(custom("a b", Value::Null)), "tools[0].custom.name"),
        (of(json!({"type": "wish"})), "tools[0].custom.format.type"),
        (of(json!({"type": "grammar"})), "tools[0].custom.format.grammar"),
        (
            of(json!({"type": "text", "grammar": {"syntax": "lark", "definition": ""}})),
            "tools[0].custom.format.grammar",
        ),
        (of(grammar("gbnf", "root ::= \"a\"")), "tools[0].custom.format.grammar.syntax"),
        (of(grammar("regex", "(a")), definition),
        (of(grammar("regex", "a)|(?:b")), definition),
        (of(grammar("regex", "a(?!b)")), definition),
        (of(grammar("lark", "start: nothing")), definition),
        (of(grammar("lark", "root ::= [")), definition),
        // Sound by itself, but not inside of a JSON string.
        (of(grammar("lark", "start: A\nA: /[a-z]+/ & ~\"b\"")), definition),
        (of(grammar("lark", "start: %json {\"type\": \"integer\"}")), definition),
        (
            json!({"tools": [custom("t", Value::Null), {"type": "function", "function": {"name": "t"}}]}),
            "tools[1].function.name",
        ),
        (
            json!({"tools": [custom("t", Value::Null), custom("t", Value::Null)]}),
            "tools[1].custom.name",
        ),
        (choice(json!({"type": "custom"})), "tool_choice.custom"),
        (choice(json!({"type": "custom", "custom": {"name": "f"}})), "tool_choice.custom.name"),
        (
            choice(json!({"type": "function", "function": {"name": "any"}})),
            "tool_choice.function.name",
        ),
        (
            choice(json!({"type": "allowed_tools", "allowed_tools":
                {"mode": "auto", "tools": [{"type": "custom", "custom": {"name": "f"}}]}})),
            "tool_choice.allowed_tools.tools[0].custom.name",
        ),
        (
            choice(json!({"type": "allowed_tools", "allowed_tools":
                {"mode": "auto", "tools": [{"type": "wish", "custom": {"name": "any"}}]}})),
            "tool_choice.allowed_tools.tools[0].type",
        ),
    ];
    for (more, param) in cases {
        let answer = server.chat(with(say("x"), more.clone())).await;
        assert_eq!(answer.status, 400, "{more}: {}", answer.text());
        assert_eq!(answer.error()["param"], param, "{more}: {}", answer.text());
    }
    server.assert_serving().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_format_without_quotes_holds_texts_and_regular_expressions_and_refuses_grammars() {
    let server = start_with("qwen3_coder").await;
    let answer = server.chat(ask("x", choose("lines"))).await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert_eq!(answer.error()["param"], "tools[2].custom.format.grammar.definition");
    let tools =
        json!([custom("any", Value::Null), custom("plate", grammar("regex", "[A-C]{2}\"[0-9]"))]);
    let more = with(json!({"tools": tools, "temperature": 1, "seed": 1}), choose("plate"));
    let (answer, calls) = both(&server, ask("random", more)).await;
    assert!(calls[0].1 == "plate" && is_plate(&calls[0].2), "{calls:?}");
    assert_eq!(answer.finish(0).0, "stop");
    let script = "<tool_call>\n<function=any>\n<parameter=input>\n\"a\" & {1}\n</parameter>\n\
        </function>\n</tool_call>";
    let (_, calls) = both(&server, ask(script, json!({"tools": tools}))).await;
    assert_eq!(calls, [("custom".into(), "any".into(), "\"a\" & {1}".into())]);
}
