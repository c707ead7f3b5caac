//! Promises on the order and shape of answers: streams, usage, several choices.
use crate::client::choices;
use crate::server::{Setup, TestServer, say, with};
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_roles_then_content_then_finishes_then_usage_then_done() {
    let server = TestServer::start().await;
    let more = json!({"n": 3, "stream": true, "stream_options": {"include_usage": true}});
    let answer = server.chat(with(say("hello!"), more)).await;
    assert_eq!(answer.header("content-type"), Some("text/event-stream; charset=utf-8"));
    let events = answer.events();
    let (usage, chunks) = events.split_last().expect("events");
    for event in &events {
        for field in ["id", "created", "model"] {
            assert_eq!(event[field], events[0][field], "{field} is the same everywhere");
        }
        assert_eq!(event["object"], "chat.completion.chunk");
    }
    for (index, event) in events[..3].iter().enumerate() {
        let choice = &event["choices"][0];
        assert_eq!(choice["index"], index);
        assert_eq!(choice["delta"], json!({"role": "assistant", "content": ""}));
        assert_eq!(choice["finish_reason"], Value::Null);
    }
    for index in 0..3 {
        let of_choice = choices(&events, index);
        let roles = of_choice.iter().filter(|choice| choice["delta"].get("role").is_some());
        assert_eq!(roles.count(), 1, "the role comes once");
        let (last, rest) = of_choice.split_last().expect("chunks");
        assert_eq!(last["delta"], json!({}));
        assert_eq!(last["finish_reason"], "stop");
        assert!(rest.iter().all(|choice| choice["finish_reason"].is_null()));
        assert_eq!(answer.content(index), "hello!");
    }
    assert!(chunks.iter().all(|event| event.get("usage").is_none_or(Value::is_null)));
    assert_eq!(usage["choices"], json!([]));
    assert!(usage["usage"]["total_tokens"].is_u64());
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_the_prompt_and_the_sum_over_the_choices() {
    let server = TestServer::start().await;
    let tokens = |answer: &Value| {
        let usage = &answer["usage"];
        let field = |name: &str| usage[name].as_u64().expect("a number");
        let (prompt, completion) = (field("prompt_tokens"), field("completion_tokens"));
        assert_eq!(field("total_tokens"), prompt + completion, "{usage}");
        assert!(usage["prompt_tokens_details"]["cached_tokens"].is_u64(), "{usage}");
        (prompt, completion)
    };
    let prompt = "<|im_start|>user\n[abc]<|im_end|>\n<|im_start|>assistant\n";
    let counted = server.post("/tokenize", &json!({"prompt": prompt})).await.json();
    let length = counted["count"].as_u64().expect("a count");
    // "abc" and the end-of-sequence token, three times.
    let stop = json!({"n": 3});
    let cut = json!({"n": 2, "max_tokens": 2});
    let by_stop = json!({"n": 2, "stop": ["b"]});
    for (more, completion) in [(stop, 12), (cut, 4), (by_stop, 4)] {
        let request = with(say("abc"), more);
        let plain = server.chat(request.clone()).await.json();
        assert_eq!(tokens(&plain), (length, completion));
        let more = json!({"stream": true, "stream_options": {"include_usage": true}});
        let stream = server.chat(with(request, more)).await;
        assert_eq!(tokens(stream.events().last().expect("usage")), (length, completion));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn continuous_usage_is_in_every_chunk() {
    let server = TestServer::start().await;
    let options = json!({"include_usage": true, "continuous_usage_stats": true});
    let more = json!({"stream": true, "stream_options": options});
    let events = server.chat(with(say("hello"), more)).await.events();
    assert!(events.iter().all(|event| event["usage"]["prompt_tokens"].is_u64()));
    assert_eq!(events[0]["usage"]["completion_tokens"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn n_choices_have_indices_and_a_seed_makes_them_reproducible_and_not_all_equal() {
    let server = TestServer::start().await;
    let more = json!({"n": 4, "seed": 7, "temperature": 1.0, "max_tokens": 12});
    let request = with(say("random"), more);
    let (first, _) = server.both(request.clone()).await;
    let (second, _) = server.both(request).await;
    let contents: Vec<String> = (0..4).map(|index| first.content(index)).collect();
    for (index, content) in contents.iter().enumerate() {
        assert_eq!(first.json()["choices"][index]["index"], index);
        assert_eq!(second.content(index), *content);
    }
    assert!(contents.iter().any(|content| *content != contents[0]), "{contents:?}");
    // Greedy choices are allowed, and equal.
    let (greedy, _) = server.both(with(say("same"), json!({"n": 2, "temperature": 0}))).await;
    assert_eq!(greedy.content(0), greedy.content(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_come_at_once_and_a_comment_while_there_is_nothing_to_send() {
    let mut setup = Setup::default();
    setup.config.sse_keep_alive = Duration::from_millis(50);
    let server = TestServer::with(setup).await;
    server.controls.hold.store(true, Ordering::SeqCst);
    let body = with(say("late"), json!({"stream": true}));
    let mut call = server.start_post("/v1/chat/completions", &body).await;
    // The engine has not run a step for it.
    assert!(call.wait_for("text/event-stream").await);
    assert!(call.wait_for("\"role\":\"assistant\"").await);
    assert!(call.wait_for(": keep-alive\n\n").await);
    assert_eq!(server.engine.stats().generation_tokens, 0);
    server.controls.hold.store(false, Ordering::SeqCst);
    let answer = call.finish().await;
    assert_eq!(answer.content(0), "late");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_body_ends_after_done() {
    let server = TestServer::start().await;
    let body = with(say("hello"), json!({"stream": true})).to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nContent-Type: application/json\r\nX-Connection: keep\r\nContent-Length: {}",
        body.len()
    );
    let mut call = crate::client::Call::send(server.address, &head, body.as_bytes()).await;
    let started = Instant::now();
    assert!(call.wait_for("[DONE]\n\n").await);
    // The last chunk of the encoding: the client need not wait for the connection to close.
    assert!(call.wait_for("\r\n0\r\n\r\n").await);
    assert!(started.elapsed() < crate::client::PATIENCE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validation_error_is_a_4xx_even_where_a_stream_was_asked_for() {
    let server = TestServer::start().await;
    for more in [json!({"temperature": 3}), json!({"n": 0}), json!({"messages": []})] {
        let answer = server.chat(with(with(say("x"), json!({"stream": true})), more)).await;
        assert_eq!(answer.status, 400, "{}", answer.text());
        assert_eq!(answer.header("content-type"), Some("application/json"));
        answer.error();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_error_is_an_error_event_and_the_end_of_the_body() {
    let server = TestServer::start().await;
    for script in ["fail", "panic"] {
        let stream = server.chat(with(say(script), json!({"stream": true, "n": 2}))).await;
        let events = stream.events();
        let error = &events.last().expect("events")["error"];
        assert_eq!(error["type"], "server_error");
        assert_eq!(error["code"], "engine_failed");
        assert!(error["message"].is_string() && error.get("param").is_some());
        assert_eq!(events.iter().filter(|event| event.get("error").is_some()).count(), 1);
        let plain = server.chat(say(script)).await;
        assert_eq!(plain.status, 500);
        assert_eq!(plain.error()["type"], "server_error");
        server.assert_serving().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn token_ids_are_returned_where_asked_for() {
    let server = TestServer::start().await;
    let request = with(say("a😀"), json!({"return_token_ids": true, "stop": ["zz"]}));
    let (plain, stream) = server.both(request).await;
    let whole = plain.json();
    let ids: Vec<u64> = "a😀".bytes().map(u64::from).chain([257]).collect();
    assert_eq!(whole["choices"][0]["token_ids"], json!(ids));
    assert!(whole["prompt_token_ids"].as_array().is_some_and(|ids| !ids.is_empty()));
    let events = stream.events();
    assert_eq!(events[0]["prompt_token_ids"], whole["prompt_token_ids"]);
    let streamed: Vec<u64> = choices(&events, 0)
        .iter()
        .flat_map(|choice| choice["token_ids"].as_array().cloned().unwrap_or_default())
        .filter_map(|id| id.as_u64())
        .collect();
    assert_eq!(streamed, ids);
}
