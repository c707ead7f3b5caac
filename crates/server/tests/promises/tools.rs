//! Tool calling. The script of the model is the markup of its call; the format is hermes.
use crate::client::Answer;
use crate::server::{Setup, TestServer, say, with};
use serde_json::{Value, json};
use wharf_engine::EngineConfig;

/// `f(a: integer)`, and `g` without parameters.
fn tools() -> Value {
    json!([
        {"type": "function", "function": {"name": "f", "parameters": {"type": "object",
            "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["a"]}}},
        {"type": "function", "function": {"name": "g"}},
    ])
}

fn ask(script: &str, more: Value) -> Value {
    with(with(say(script), json!({"tools": tools(), "max_tokens": 200})), more)
}

/// Name and arguments of each call of choice 0, streamed or not, with the rules of streams checked.
fn calls(answer: &Answer) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if !answer.header("content-type").is_some_and(|kind| kind.starts_with("text/event")) {
        let message = &answer.json()["choices"][0]["message"];
        let calls = message["tool_calls"].as_array().cloned().unwrap_or_default();
        return calls
            .iter()
            .map(|call| (text(&call["function"]["name"]), text(&call["function"]["arguments"])))
            .collect();
    }
    let mut calls: Vec<(String, String)> = Vec::new();
    let mut ids = Vec::new();
    for choice in crate::client::choices(&answer.events(), 0) {
        for part in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
            let index = part["index"].as_u64().expect("an index") as usize;
            if index == calls.len() {
                assert_eq!(part["type"], "function");
                ids.push(text(&part["id"]));
                calls.push((text(&part["function"]["name"]), String::new()));
            } else {
                assert_eq!(index + 1, calls.len(), "calls come in order, without gaps");
                assert!(part.get("id").is_none() && part.get("type").is_none());
                assert!(part["function"].get("name").is_none(), "clients would join names");
            }
            calls[index].1.push_str(&text(&part["function"]["arguments"]));
        }
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), calls.len(), "ids are unique");
    assert!(ids.iter().all(|id| !id.is_empty()));
    calls
}

fn call(name: &str, arguments: &str) -> (String, String) {
    (name.into(), arguments.into())
}

/// With room for what the model is told of its tools: here a token is a byte.
async fn start(reasoning: Option<&'static str>) -> TestServer {
    let setup = Setup { reasoning, ..Setup::default() };
    let engine = EngineConfig { max_model_len: 2048, ..setup.engine };
    TestServer::with(Setup { engine, ..setup }).await
}

/// Both forms of the answer, which must tell the same.
async fn both(server: &TestServer, request: Value) -> Answer {
    let plain = server.chat(request.clone()).await;
    assert_eq!(plain.status, 200, "{}", plain.text());
    let streamed = server.chat(with(request, json!({"stream": true}))).await;
    assert_eq!(calls(&plain), calls(&streamed));
    assert_eq!(plain.finish(0), streamed.finish(0));
    let content = plain.json()["choices"][0]["message"]["content"].clone();
    assert_eq!(content.as_str().unwrap_or_default(), streamed.content(0));
    plain
}

/// With a template that knows tools, so that one answer may have several calls.
async fn start_parallel() -> TestServer {
    let setup = Setup { knows_tools: true, ..Setup::default() };
    let engine = EngineConfig { max_model_len: 2048, ..setup.engine };
    TestServer::with(Setup { engine, ..setup }).await
}

const TWO_CALLS: &str = "Hi <tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 7}}\n</tool_call>\n\
    <tool_call>\n{\"name\": \"g\", \"arguments\": {}}\n</tool_call>";

#[tokio::test(flavor = "multi_thread")]
async fn several_calls_are_counted_from_0_without_gaps_and_have_ids_of_their_own() {
    let server = start_parallel().await;
    let answer = both(&server, ask(TWO_CALLS, json!({}))).await;
    assert_eq!(calls(&answer), [call("f", "{\"a\": 7}"), call("g", "{}")]);
    assert_eq!((answer.finish(0).0.as_str(), answer.content(0).as_str()), ("tool_calls", "Hi"));
    let required = json!({"tool_choice": "required"});
    let answer = both(&server, ask(TWO_CALLS.trim_start_matches("Hi "), required.clone())).await;
    assert_eq!(calls(&answer), [call("f", "{\"a\": 7}"), call("g", "{}")]);
    assert_eq!(answer.finish(0).0, "tool_calls");
    // Ids of all choices differ: clients put them into one conversation.
    let request = ask(TWO_CALLS.trim_start_matches("Hi "), with(required, json!({"n": 2})));
    let answer = server.chat(request).await.json();
    let made = answer["choices"].as_array().expect("choices").iter();
    let made = made.flat_map(|choice| choice["message"]["tool_calls"].as_array().expect("calls"));
    let mut ids: Vec<String> = made.map(|call| call["id"].to_string()).collect();
    assert_eq!(ids.len(), 4);
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 4, "ids are unique");
    let one = json!({"parallel_tool_calls": false});
    let answer = both(&server, ask(TWO_CALLS, one)).await;
    assert_eq!(calls(&answer), [call("f", "{\"a\": 7}")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_the_model_may_make_are_cut_with_length_in_both_forms() {
    let server = start_parallel().await;
    let whole = both(&server, ask(TWO_CALLS, json!({}))).await;
    let total = whole.json()["usage"]["completion_tokens"].as_u64().expect("a count");
    let all = calls(&whole);
    // Every third place, but for the last ones: of the second call none is complete yet.
    for max_tokens in (1..total - 1).step_by(3) {
        let answer = both(&server, ask(TWO_CALLS, json!({"max_tokens": max_tokens}))).await;
        assert_eq!(answer.finish(0).0, "length", "{max_tokens}: {}", answer.text());
        let content = answer.json()["choices"][0]["message"]["content"].clone();
        let content = content.as_str().unwrap_or_default();
        for markup in ["<tool_call>", "</tool_call>", "name", "{"] {
            assert!(!content.contains(markup), "markup leaked at {max_tokens}: {content:?}");
        }
        for (cut, whole) in calls(&answer).iter().zip(&all) {
            assert_eq!(cut.0, whole.0, "{max_tokens}");
            assert!(whole.1.starts_with(&cut.1), "{max_tokens}: {cut:?} of {whole:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn required_calls_whatever_the_model_would_say() {
    let server = start(None).await;
    for script in ["no", "random"] {
        let more = json!({"tool_choice": "required", "temperature": 1, "seed": 2, "parallel_tool_calls": false});
        let answer = both(&server, ask(script, more)).await;
        assert_eq!(answer.finish(0).0, "tool_calls");
        assert!(answer.json()["choices"][0]["message"]["content"].is_null());
        for (name, arguments) in calls(&answer) {
            let arguments: Value = serde_json::from_str(&arguments).expect("JSON");
            match name.as_str() {
                "f" => assert!((0..10).contains(&arguments["a"].as_i64().expect("a"))),
                "g" => assert_eq!(arguments, json!({})),
                other => panic!("{other} is no tool"),
            }
        }
        assert_eq!(calls(&answer).len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn named_calls_that_function_and_ends_with_stop() {
    let server = start(None).await;
    let named = json!({"tool_choice": {"type": "function", "function": {"name": "g"}}});
    let answer = both(&server, ask("no", named)).await;
    assert_eq!(calls(&answer), [call("g", "{}")]);
    assert_eq!(answer.finish(0).0, "stop");
    let allowed = json!({"tool_choice": {"type": "allowed_tools", "allowed_tools":
        {"mode": "required", "tools": [{"type": "function", "function": {"name": "g"}}]}},
        "parallel_tool_calls": false});
    let answer = both(&server, ask("no", allowed)).await;
    assert_eq!(calls(&answer), [call("g", "{}")]);
    assert_eq!(answer.finish(0).0, "tool_calls");
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_leaves_the_model_its_choice_and_holds_a_call_to_its_schema() {
    let server = start(None).await;
    let answer = both(&server, ask("just text", json!({}))).await;
    assert_eq!(answer.content(0), "just text");
    assert_eq!((answer.finish(0).0.as_str(), calls(&answer).len()), ("stop", 0));
    // What is no call of the tools cannot be written: from the marker on the grammar leads. (A
    // script ends at `]` and the scripted model goes by position.)
    let script = "Hi <tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 7}}\n</tool_call>";
    let answer = both(&server, ask(script, json!({}))).await;
    assert_eq!(calls(&answer), [call("f", "{\"a\": 7}")]);
    assert_eq!(answer.content(0), "Hi");
    assert_eq!(answer.finish(0).0, "tool_calls");
    let wrong = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"x\"}}\n</tool_call>";
    let answer = both(&server, ask(wrong, json!({}))).await;
    for (_, arguments) in calls(&answer) {
        let arguments: Value = serde_json::from_str(&arguments).expect("JSON");
        assert!(arguments["a"].is_i64() || arguments == json!({}));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn none_is_text_even_where_it_looks_like_a_call() {
    let server = start(None).await;
    let script = "<tool_call>{}</tool_call>";
    let answer = both(&server, ask(script, json!({"tool_choice": "none"}))).await;
    assert_eq!(answer.content(0), script);
    assert_eq!(answer.finish(0).0, "stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_cut_by_max_tokens_ends_with_length_in_both_forms() {
    let server = start(None).await;
    let named = json!({"tool_choice": {"type": "function", "function": {"name": "f"}}});
    let whole = both(&server, ask("x", named.clone())).await;
    let total = whole.json()["usage"]["completion_tokens"].as_u64().expect("a count");
    for max_tokens in 1..total {
        let request = with(ask("x", named.clone()), json!({"max_tokens": max_tokens}));
        let answer = both(&server, request).await;
        assert_eq!(answer.finish(0).0, "length", "{max_tokens}");
        let content = answer.json()["choices"][0]["message"]["content"].clone();
        assert_eq!(content.as_str().unwrap_or_default(), "", "markup leaked at {max_tokens}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_and_a_form_give_a_call_or_the_form() {
    let server = start(None).await;
    let form = json!({"guided_regex": "yes|no"});
    for script in ["yes", "random", "<tool_call>\n{\"name\": \"g\"", "maybe"] {
        let more =
            with(form.clone(), json!({"temperature": 1, "seed": 1, "parallel_tool_calls": false}));
        let answer = both(&server, ask(script, more)).await;
        if calls(&answer).is_empty() {
            assert!(["yes", "no"].contains(&answer.content(0).as_str()), "{}", answer.text());
        } else {
            assert_eq!(answer.finish(0).0, "tool_calls");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deprecated_functions_answer_in_their_own_form() {
    let server = start(None).await;
    let request = with(
        say("x"),
        json!({"functions": [{"name": "g"}], "function_call": {"name": "g"}, "max_tokens": 100}),
    );
    let answer = server.chat(request.clone()).await;
    let choice = answer.json()["choices"][0].clone();
    assert_eq!(choice["message"]["function_call"], json!({"name": "g", "arguments": "{}"}));
    assert!(choice["message"].get("tool_calls").is_none());
    let streamed = server.chat(with(request, json!({"stream": true}))).await;
    let mut joined = String::new();
    for choice in crate::client::choices(&streamed.events(), 0) {
        joined.push_str(choice["delta"]["function_call"]["arguments"].as_str().unwrap_or_default());
    }
    assert_eq!(joined, "{}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_that_make_no_sense_are_a_400_with_their_path() {
    let server = start(None).await;
    let function = |function: Value| json!({"tools": [{"type": "function", "function": function}]});
    let choice = |choice: Value| json!({"tools": tools(), "tool_choice": choice});
    let unique =
        json!({"type": "object", "properties": {"t": {"type": "array", "uniqueItems": true}}});
    let cases = [
        (json!({"tool_choice": "auto"}), "tool_choice"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"function_call": "auto"}), "function_call"),
        (choice(json!("sometimes")), "tool_choice"),
        (choice(json!({})), "tool_choice"),
        (choice(json!({"type": "function"})), "tool_choice.function"),
        (
            choice(json!({"type": "function", "function": {"name": "h"}})),
            "tool_choice.function.name",
        ),
        (choice(json!({"type": "wish", "function": {"name": "f"}})), "tool_choice.type"),
        (choice(json!({"type": "allowed_tools"})), "tool_choice.allowed_tools"),
        (
            choice(json!({"type": "allowed_tools", "allowed_tools": {"mode": "x", "tools": []}})),
            "tool_choice.allowed_tools.mode",
        ),
        (
            choice(
                json!({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"name": "h"}]}}),
            ),
            "tool_choice.allowed_tools.tools[0].function.name",
        ),
        (function(json!({"name": "a b"})), "tools[0].function.name"),
        (function(json!({"name": ""})), "tools[0].function.name"),
        (function(json!({"name": "f", "parameters": 5})), "tools[0].function.parameters"),
        (
            function(json!({"name": "f", "parameters": {"type": "array"}})),
            "tools[0].function.parameters.type",
        ),
        (
            function(
                json!({"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "strin"}}}}),
            ),
            "tools[0].function.parameters.properties.a.type",
        ),
        (
            function(json!({"name": "f", "parameters": unique})),
            "tools[0].function.parameters.properties.t.uniqueItems",
        ),
        (json!({"tools": [{"type": "function"}]}), "tools[0].function"),
        (json!({"tools": [{"type": "wish"}]}), "tools[0].type"),
        (json!({"tools": [tools()[0], tools()[0]]}), "tools[1].function.name"),
        (json!({"tools": tools(), "functions": [{"name": "f"}]}), "functions"),
        (json!({"tools": tools(), "tool_choice": "required", "guided_regex": "a"}), "guided_regex"),
    ];
    for (more, param) in cases {
        let answer = server.chat(with(say("x"), more.clone())).await;
        assert_eq!(answer.status, 400, "{more}: {}", answer.text());
        assert_eq!(answer.error()["param"], param, "{more}: {}", answer.text());
    }
    server.assert_serving().await;
}

/// A server whose model thinks between `<think>` and `</think>`.
async fn thinking() -> TestServer {
    start(Some("qwen3")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn reasoning_comes_by_both_names_and_is_counted() {
    let server = thinking().await;
    let request = say("<think>hm</think>\n\nyes");
    let (plain, streamed) = server.both(request.clone()).await;
    let message = plain.json()["choices"][0]["message"].clone();
    assert_eq!(message["content"], "yes");
    assert_eq!(
        (&message["reasoning"], &message["reasoning_content"]),
        (&json!("hm"), &json!("hm"))
    );
    let tokens = plain.json()["usage"]["completion_tokens_details"]["reasoning_tokens"].clone();
    assert!(tokens.as_u64().is_some_and(|count| (2..=20).contains(&count)), "{tokens}");
    let mut reasoning = String::new();
    for choice in crate::client::choices(&streamed.events(), 0) {
        assert_eq!(choice["delta"]["reasoning"], choice["delta"]["reasoning_content"]);
        reasoning.push_str(choice["delta"]["reasoning"].as_str().unwrap_or_default());
    }
    assert_eq!(reasoning, "hm");
    let hidden = server.chat(with(request, json!({"include_reasoning": false}))).await;
    let message = hidden.json()["choices"][0]["message"].clone();
    assert_eq!(message["content"], "yes");
    assert!(message.get("reasoning").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_constraint_begins_where_reasoning_ends_or_at_once() {
    let server = thinking().await;
    for script in ["<think>I may say what I like</think>anything", "yes", "<think>x</think>\n\nno"]
    {
        let (plain, _) =
            server.both(with(say(script), json!({"guided_choice": ["yes", "no"]}))).await;
        assert!(["yes", "no"].contains(&plain.content(0).as_str()), "{}", plain.text());
        let reasoning = plain.json()["choices"][0]["message"]["reasoning"].clone();
        assert_eq!(reasoning.is_string(), script.starts_with("<think>"), "{}", plain.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thinking_budget_ends_the_reasoning() {
    let server = thinking().await;
    let request = with(
        say("<think>aaaaaaaaaaaaaaaaaaaaaaaaaa"),
        json!({"thinking_token_budget": 12, "max_tokens": 60}),
    );
    let (plain, _) = server.both(request).await;
    let message = plain.json()["choices"][0]["message"].clone();
    let reasoning = message["reasoning"].as_str().unwrap_or_default().to_owned();
    assert!(!reasoning.is_empty() && reasoning.len() <= 12, "{reasoning:?}");
    let refused = server.chat(with(say("x"), json!({"thinking_token_budget": -1}))).await;
    assert_eq!((refused.status, &refused.error()["param"]), (400, &json!("thinking_token_budget")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_after_reasoning_is_a_call() {
    let server = thinking().await;
    let script =
        "<think>g it is</think>\n\n<tool_call>\n{\"name\": \"g\", \"arguments\": {}}\n</tool_call>";
    let answer = both(&server, ask(script, json!({}))).await;
    assert_eq!(calls(&answer), [call("g", "{}")]);
    assert_eq!(answer.json()["choices"][0]["message"]["reasoning"], "g it is");
    let answer = both(
        &server,
        ask("<think>no</think>", json!({"tool_choice": "required", "parallel_tool_calls": false})),
    )
    .await;
    assert_eq!(calls(&answer).len(), 1);
    assert_eq!(answer.finish(0).0, "tool_calls");
}
