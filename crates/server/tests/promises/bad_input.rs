//! The promise that no input makes the server anything but answer and go on.
use crate::client::Call;
use crate::script::END;
use crate::server::{Setup, TestServer, say, with};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

const JSON: &str = "Content-Type: application/json\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_not_a_request_is_a_4xx_in_the_error_shape() {
    let server = TestServer::start().await;
    let deep = format!("{{\"metadata\": {}", "[".repeat(100_000));
    let deep_closed = format!("{{\"messages\": {}{}}}", "[".repeat(5000), "]".repeat(5000));
    let stops = format!(
        "{{\"messages\":[{{\"role\":\"user\",\"content\":\"x\"}}],\"stop\":[{}\"x\"]}}",
        "\"x\",".repeat(100_000)
    );
    let bodies: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"{".to_vec(),
        b"null".to_vec(),
        b"[]".to_vec(),
        b"\"text\"".to_vec(),
        b"{\"messages\": NaN}".to_vec(),
        b"{\"temperature\": 1e999}".to_vec(),
        b"\xff\xfe\x00".to_vec(),
        b"{\"user\": \"\xc3\x28\"}".to_vec(),
        br#"{"messages":[{"role":"user","content":"\ud800"}]}"#.to_vec(),
        br#"{"messages":[{"role":"user","content":"x"}],}"#.to_vec(),
        deep.into_bytes(),
        deep_closed.into_bytes(),
        stops.into_bytes(),
        vec![0; 10_000],
    ];
    for path in ["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"] {
        for body in &bodies {
            if path == "/tokenize" && body.ends_with(b"\"x\"]}") {
                // A sound request to a route that has no `stop`.
                continue;
            }
            let answer = server.call("POST", path, JSON, body).await.finish().await;
            let shown = String::from_utf8_lossy(&body[..body.len().min(60)]);
            assert_eq!(answer.status, 400, "{path} {shown:?}: {}", answer.text());
            answer.error();
        }
    }
    server.assert_serving().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_out_of_its_range_is_refused_by_name() {
    let server = TestServer::start().await;
    let many: Vec<String> = (0..129).map(|number| number.to_string()).collect();
    let cases = [
        (json!({"temperature": -0.1}), "temperature"),
        (json!({"temperature": 2.1}), "temperature"),
        (json!({"top_p": 0}), "top_p"),
        (json!({"top_p": 1.1}), "top_p"),
        (json!({"n": 0}), "n"),
        (json!({"n": -1}), "n"),
        (json!({"n": 129}), "n"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"max_completion_tokens": -5}), "max_completion_tokens"),
        (json!({"frequency_penalty": 2.5}), "frequency_penalty"),
        (json!({"presence_penalty": -2.5}), "presence_penalty"),
        (json!({"repetition_penalty": 0}), "repetition_penalty"),
        (json!({"repetition_penalty": 1e300}), "repetition_penalty"),
        (json!({"repetition_penalty": 1e-38}), "repetition_penalty"),
        (json!({"min_p": 1.5}), "min_p"),
        (json!({"top_k": -2}), "top_k"),
        (json!({"min_tokens": -1}), "min_tokens"),
        (json!({"min_tokens": 9, "max_tokens": 8}), "min_tokens"),
        (json!({"top_logprobs": 21, "logprobs": true}), "top_logprobs"),
        (json!({"top_logprobs": -1, "logprobs": true}), "top_logprobs"),
        (json!({"top_logprobs": 2}), "top_logprobs"),
        (json!({"stop": ["a", ""]}), "stop[1]"),
        (json!({"stop": ["a", "b", "c", "d", "e"]}), "stop"),
        (json!({"logit_bias": {"5": 101}}), "logit_bias.5"),
        (json!({"logit_bias": {"999999": 1}}), "logit_bias.999999"),
        (json!({"logit_bias": {"-1": 1}}), "logit_bias.-1"),
        (json!({"logit_bias": {"word": 1}}), "logit_bias.word"),
        (json!({"logit_bias": {"01": 1}}), "logit_bias.01"),
        (json!({"logit_bias": {"+1": 1}}), "logit_bias.+1"),
        (json!({"logit_bias": {"00": 1}}), "logit_bias.00"),
        (json!({"stop_token_ids": [1, 999_999]}), "stop_token_ids[1]"),
        (json!({"allowed_token_ids": []}), "allowed_token_ids"),
        (json!({"allowed_token_ids": [-1]}), "allowed_token_ids[0]"),
        (json!({"bad_words": ["ok", ""]}), "bad_words[1]"),
        (json!({"bad_words": many}), "bad_words"),
        (json!({"bad_words": ["x".repeat(1025)]}), "bad_words[0]"),
        (json!({"stream_options": {"include_usage": true}}), "stream_options"),
        (json!({"cache_salt": ""}), "cache_salt"),
        (json!({"request_id": "a b"}), "request_id"),
        (json!({"truncate_prompt_tokens": -2}), "truncate_prompt_tokens"),
        (json!({"truncation_side": "middle"}), "truncation_side"),
        (json!({"messages": []}), "messages"),
        (json!({"messages": [{"role": "user"}]}), "messages[0].content"),
        (json!({"messages": [{"role": "tool", "content": null}]}), "messages[0].content"),
        (
            json!({"messages": [{"role": "user", "content": "a"}, {"role": "wizard", "content": "b"}]}),
            "messages[1].role",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "text"}]}]}),
            "messages[0].content[0].text",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "poem"}]}]}),
            "messages[0].content[0].type",
        ),
        (json!({"chat_template_kwargs": {"messages": []}}), "chat_template_kwargs.messages"),
        (json!({"reasoning_effort": "banana"}), "reasoning_effort"),
        (json!({"reasoning_effort": ""}), "reasoning_effort"),
        (
            json!({"chat_template_kwargs": {"reasoning_effort": "banana"}}),
            "chat_template_kwargs.reasoning_effort",
        ),
        (
            json!({"chat_template_kwargs": {"reasoning_effort": 3}}),
            "chat_template_kwargs.reasoning_effort",
        ),
        (json!({"tool_choice": "auto"}), "tool_choice"),
        (json!({"tool_choice": "sometimes"}), "tool_choice"),
        (json!({"model": 5}), "model"),
        (json!({"seed": 9_223_372_036_854_775_808u64}), "seed"),
    ];
    for (more, param) in cases {
        let answer = server.chat(with(say("x"), more.clone())).await;
        assert_eq!(answer.status, 400, "{more}: {}", answer.text());
        let error = answer.error();
        assert_eq!(error["param"], param, "{more}");
        assert_eq!(error["type"], "invalid_request_error");
    }
    server.assert_serving().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_yet_is_refused_and_never_ignored() {
    let server = TestServer::start().await;
    let cases = [
        (json!({"guided_json": {"uniqueItems": true}}), "guided_json.uniqueItems"),
        (json!({"structural_tag": {"format": {"type": "wish"}}}), "structural_tag.format.type"),
        (json!({"use_beam_search": true}), "use_beam_search"),
        (json!({"best_of": 3}), "best_of"),
        (json!({"prompt_logprobs": 1}), "prompt_logprobs"),
        (json!({"logprob_token_ids": [1]}), "logprob_token_ids"),
        (json!({"length_penalty": 2.0}), "length_penalty"),
        (json!({"echo": true}), "echo"),
        (json!({"priority": 1}), "priority"),
        (json!({"priority": i64::MIN}), "priority"),
        (json!({"kv_transfer_params": {}}), "kv_transfer_params"),
        (json!({"chat_template": "x"}), "chat_template"),
        (json!({"thinking_token_budget": 5}), "thinking_token_budget"),
        (json!({"stream_interval": 5}), "stream_interval"),
        (json!({"return_prompt_text": true}), "return_prompt_text"),
        (json!({"modalities": ["text", "audio"]}), "modalities[1]"),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}),
            "messages[0].content[0]",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "input_audio"}]}]}),
            "messages[0].content[1]",
        ),
    ];
    for (more, param) in cases {
        for stream in [false, true] {
            let request = with(with(say("x"), more.clone()), json!({"stream": stream}));
            let answer = server.chat(request).await;
            assert_eq!(answer.status, 400, "{more}: {}", answer.text());
            let error = answer.error();
            assert_eq!(error["param"], param, "{more}");
            assert_eq!(error["code"], "unsupported_value", "{more}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_nothing_is_accepted() {
    let server = TestServer::start().await;
    let request = with(
        say("fine"),
        json!({
            "tools": [], "tool_choice": "none", "functions": [], "function_call": "none",
            "response_format": {"type": "text"}, "use_beam_search": false, "best_of": 1,
            "length_penalty": 1.0, "store": true, "metadata": {"a": "b"}, "user": "u",
            "service_tier": "auto", "parallel_tool_calls": true, "reasoning_effort": "none",
            "verbosity": "low", "prediction": {"type": "content", "content": "x"},
            "modalities": ["text"], "safety_identifier": "s", "prompt_cache_key": "k",
            "include_reasoning": true, "session_id": "s", "priority": 0, "cache_salt": "s",
            "request_id": "mine", "stream_options": null, "logit_bias": {}, "seed": -1,
            "top_k": -1, "max_tokens": 8.0, "chat_template_kwargs": {"enable_thinking": false},
            "documents": [{"title": "t", "text": "x"}], "an_unknown_field": {"x": [1]},
        }),
    );
    let (plain, _) = server.both(request).await;
    assert_eq!(plain.content(0), "fine");
    assert_eq!(plain.json()["id"], "chatcmpl-mine");
    for model in [json!(null), json!(""), json!("org/other")] {
        let answer = server.chat(with(say("x"), json!({"model": model}))).await;
        let name = if model == "org/other" { "org/other" } else { "script" };
        assert_eq!(answer.json()["model"], name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sampling_controls_reach_the_engine() {
    let server = TestServer::start().await;
    let content = async |more: Value| server.chat(with(say("abc"), more)).await.content(0);
    assert_eq!(content(json!({"bad_words": ["b"], "max_tokens": 2})).await.find('b'), None);
    let only_z = json!({"allowed_token_ids": [u32::from(b'z')], "max_tokens": 3});
    assert_eq!(content(only_z).await, "zzz");
    let bias = json!({"logit_bias": {(b'q'.to_string()): 100}, "max_tokens": 2});
    assert_eq!(content(bias).await, "qq");
    let longer = server.chat(with(say("abc"), json!({"min_tokens": 6, "max_tokens": 6}))).await;
    assert_eq!(longer.json()["usage"]["completion_tokens"], 6);
    let endless = server.chat(with(say("abc"), json!({"ignore_eos": true, "max_tokens": 7}))).await;
    assert_eq!(endless.json()["usage"]["completion_tokens"], 7);
}

/// SDKs try a 500 again, and this would fail again.
#[tokio::test(flavor = "multi_thread")]
async fn parameters_that_leave_no_token_are_the_requests_fault() {
    let server = TestServer::start().await;
    let nothing = json!({"allowed_token_ids": [END], "min_tokens": 1});
    let answer = server.chat(with(say("x"), nothing.clone())).await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    let error = answer.error();
    assert_eq!(error["type"], "invalid_request_error");
    assert!(error["message"].as_str().is_some_and(|text| text.contains("allowed_token_ids")));
    let stream = server.chat(with(with(say("x"), nothing), json!({"stream": true}))).await;
    let events = stream.events();
    assert_eq!(events.last().expect("events")["error"]["type"], "invalid_request_error");
    server.assert_serving().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_models_own_defaults_hold_where_a_request_is_silent() {
    let mut setup = Setup::default();
    setup.defaults.max_tokens = Some(3);
    setup.defaults.temperature = Some(0.0);
    let server = TestServer::with(setup).await;
    assert_eq!(server.chat(say("abcdef")).await.content(0), "abc");
    let answer = server.chat(with(say("abcdef"), json!({"max_tokens": 5}))).await;
    assert_eq!(answer.content(0), "abcde");
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_models_and_routes_and_methods_say_so() {
    let server = TestServer::start().await;
    for path in ["/v1/chat/completions", "/v1/completions", "/tokenize"] {
        let body =
            json!({"model": "nope", "prompt": "x", "messages": [{"role": "user", "content": "x"}]});
        let answer = server.post(path, &body).await;
        assert_eq!(answer.status, 404);
        let error = answer.error();
        assert_eq!((&error["code"], &error["param"]), (&json!("model_not_found"), &json!("model")));
    }
    for path in ["/", "/v1", "/v1/nope", "/v1/chat/completions/", "/%ff", "//", "/v1/embeddings"] {
        let answer = server.get(path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert_eq!(answer.error()["code"], "unknown_url");
    }
    for (method, path, allow) in [
        ("GET", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/models", "GET,HEAD"),
        ("PUT", "/tokenize", "POST"),
        ("PATCH", "/health", "GET,HEAD"),
        ("BREW", "/v1/completions", "POST"),
    ] {
        let answer = server.call(method, path, JSON, b"{}").await.finish().await;
        assert_eq!(answer.status, 405, "{method} {path}");
        answer.error();
        assert_eq!(answer.header("allow"), Some(allow));
    }
    let head = Call::send(server.address, "HEAD /health HTTP/1.1", b"").await.finish().await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    let version = server.get("/version").await.json();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_no_json_or_too_large_says_so() {
    let mut setup = Setup::default();
    setup.config.max_body_bytes = 1000;
    let server = TestServer::with(setup).await;
    let body = say("x").to_string();
    for headers in [
        "",
        "Content-Type: text/plain\r\n",
        "Content-Type: multipart/form-data\r\n",
        "Content-Type: application/json\r\nContent-Encoding: gzip\r\n",
    ] {
        let call = server.call("POST", "/v1/chat/completions", headers, body.as_bytes()).await;
        let answer = call.finish().await;
        assert_eq!(answer.status, 415, "{headers:?}");
        answer.error();
    }
    let headers = "Content-Type: application/json; charset=utf-8\r\n";
    let call = server.call("POST", "/v1/chat/completions", headers, body.as_bytes()).await;
    assert_eq!(call.finish().await.status, 200);
    let large = say(&"x".repeat(1000)).to_string();
    let answer =
        server.call("POST", "/v1/chat/completions", JSON, large.as_bytes()).await.finish().await;
    assert_eq!(answer.status, 413);
    assert_eq!(answer.error()["code"], "body_too_large");
    // So large that it is still on its way when the server has decided.
    let huge = vec![b' '; 20 << 20];
    let answer = server.call("POST", "/v1/chat/completions", JSON, &huge).await.finish().await;
    assert_eq!(answer.status, 413);
    // The same without a length up front.
    let head = "POST /v1/chat/completions HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked";
    let chunked = format!("{:x}\r\n{large}\r\n0\r\n\r\n", large.len());
    let answer = Call::send(server.address, head, chunked.as_bytes()).await.finish().await;
    assert_eq!(answer.status, 413);
    server.assert_serving().await;
}

/// Fields with values that are nearly right.
fn fields() -> impl Strategy<Value = Vec<(&'static str, Value)>> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop::sample::select(vec![-1i64, 0, 1, 2, 300, i64::MAX, i64::MIN]).prop_map(Value::from),
        prop::sample::select(vec![-1.5, 0.0, 0.5, 1e308, -0.0]).prop_map(Value::from),
        prop::sample::select(vec!["", "a", "[x]", "text", "none", "left", "\u{0}", "é"])
            .prop_map(Value::from),
    ];
    let value = leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z_]{1,6}|[0-9]{1,3}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    });
    let field = prop::sample::select(vec![
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "n",
        "max_tokens",
        "min_tokens",
        "stop",
        "seed",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "stream",
        "stream_options",
        "bad_words",
        "allowed_token_ids",
        "stop_token_ids",
        "truncate_prompt_tokens",
        "repetition_penalty",
        "cache_salt",
        "priority",
        "documents",
        "chat_template_kwargs",
        "messages",
        "echo",
        "presence_penalty",
        "include_stop_str_in_output",
        "skip_special_tokens",
        "ignore_eos",
        "return_token_ids",
        "continue_final_message",
        "add_special_tokens",
        "tool_choice",
    ]);
    prop::collection::vec((field, value), 1..4)
}

/// JSON that is nearly a request, sent in earnest.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_whatever_ends_the_process() {
    let server = TestServer::start().await;
    let handle = tokio::runtime::Handle::current();
    let address = server.address;
    let checked = tokio::task::spawn_blocking(move || {
        let mut runner = TestRunner::new(Config { cases: 300, ..Config::default() });
        runner.run(&fields(), |fields| {
            let mut body = with(say("hello"), json!({"max_tokens": 4}));
            for (field, value) in fields {
                body[field] = value;
            }
            let text = body.to_string();
            let head = format!(
                "POST /v1/chat/completions HTTP/1.1\r\n{JSON}Content-Length: {}",
                text.len()
            );
            let answer = handle.block_on(async {
                Call::send(address, &head, text.as_bytes()).await.finish().await
            });
            prop_assert!(matches!(answer.status, 200 | 400), "{}: {}", body, answer.text());
            if answer.status == 400 {
                answer.error();
            } else if answer.text().starts_with("data:") {
                let events = answer.events();
                prop_assert!(events.iter().all(|event| event.get("error").is_none()), "{}", body);
            }
            Ok(())
        })
    });
    checked.await.expect("no panic").expect("every answer is 200 or 400");
    server.assert_serving().await;
    server.idle().await;
}
