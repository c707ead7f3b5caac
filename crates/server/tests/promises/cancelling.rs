//! Promises on clients that leave and queues that are full.
use crate::client::Call;
use crate::server::{Setup, TestServer, say, with};
use serde_json::json;
use std::sync::atomic::Ordering;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_frees_its_blocks_streaming_or_not() {
    let server = TestServer::start().await;
    server.controls.delay.store(5, Ordering::SeqCst);
    for stream in [true, false] {
        let body = with(say("forever"), json!({"stream": stream, "n": 2, "max_tokens": 400}));
        let mut call = server.start_post("/v1/chat/completions", &body).await;
        if stream {
            assert!(call.wait_for("\"content\":\"a\"").await);
        }
        while server.engine.stats().running < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let generated = server.engine.stats().generation_tokens;
        drop(call);
        server.idle().await;
        let more = server.engine.stats().generation_tokens - generated;
        assert!(more < 400, "{more} tokens were generated for nobody");
    }
    // In the queue, before it ever ran.
    server.controls.hold.store(true, Ordering::SeqCst);
    let body = with(say("forever"), json!({"stream": true}));
    let mut call = server.start_post("/v1/chat/completions", &body).await;
    assert!(call.wait_for("assistant").await);
    drop(call);
    server.controls.hold.store(false, Ordering::SeqCst);
    server.idle().await;
    server.assert_serving().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_string_ends_the_work_of_the_engine() {
    let server = TestServer::start().await;
    server.controls.delay.store(2, Ordering::SeqCst);
    let (plain, _) = server.both(with(say("forever"), json!({"stop": ["aaa"]}))).await;
    assert_eq!(plain.content(0), "");
    server.idle().await;
    assert!(server.engine.stats().generation_tokens < 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_the_limit_is_a_429_with_retry_after_at_once_and_the_others_go_on() {
    let mut setup = Setup::default();
    setup.engine.max_running = 1;
    setup.engine.max_waiting = 2;
    let server = TestServer::with(setup).await;
    server.controls.hold.store(true, Ordering::SeqCst);
    let mut calls = Vec::new();
    // One that the engine may have taken out of the queue already, and two that wait.
    for _ in 0..3 {
        let body = with(say("mine"), json!({"stream": true}));
        let mut call = server.start_post("/v1/chat/completions", &body).await;
        assert!(call.wait_for("\r\n\r\n").await);
        calls.push(call);
    }
    let filled = server.engine.stats().waiting;
    let steps = server.controls.steps.load(Ordering::SeqCst);
    let mut refused = None;
    for _ in 0..3 {
        let body = with(say("late"), json!({"stream": true}));
        let mut call = server.start_post("/v1/chat/completions", &body).await;
        assert!(call.wait_for("\r\n\r\n").await);
        if call.seen().starts_with("HTTP/1.1 429") {
            refused = Some(call.finish().await);
            break;
        }
    }
    let refused = refused.unwrap_or_else(|| panic!("never refused; {filled} waited"));
    let more = server.controls.steps.load(Ordering::SeqCst) - steps;
    assert_eq!(more, 0, "at once, not when there is room");
    let seconds: u32 =
        refused.header("retry-after").and_then(|value| value.parse().ok()).expect("seconds");
    assert!((1..=120).contains(&seconds));
    assert_eq!(refused.error()["type"], "rate_limit_error");
    server.controls.hold.store(false, Ordering::SeqCst);
    for call in calls {
        let seen = call.seen();
        if seen.starts_with("HTTP/1.1 200") {
            assert_eq!(call.finish().await.content(0), "mine");
        }
    }
    server.idle().await;
    server.assert_serving().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_only_send_their_body_count_too() {
    let mut setup = Setup::default();
    setup.engine.max_running = 1;
    setup.engine.max_waiting = 1;
    let server = TestServer::with(setup).await;
    let head = |path: &str| {
        format!("POST {path} HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 100")
    };
    // More than two for the engine and 64 on their way.
    let mut calls = Vec::new();
    for at in 0..80 {
        let path = if at % 2 == 0 { "/v1/completions" } else { "/tokenize" };
        calls.push(Call::send(server.address, &head(path), b"{").await);
    }
    // The server may still be accepting them, and one may be refused for a question of ours: send and
    // ask until all places are taken.
    let refused = loop {
        calls.push(Call::send(server.address, &head("/tokenize"), b"{").await);
        let answer = server.post("/tokenize", &json!({"prompt": "x"})).await;
        if answer.status != 200 {
            break answer;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    assert_eq!(refused.status, 429, "{}", refused.text());
    assert_eq!(refused.error()["code"], "too_many_requests");
    assert!(refused.header("retry-after").is_some());
    drop(calls);
    while server.chat(say("fine")).await.status != 200 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
