//! Promises on how the server ends.
use crate::client::PATIENCE;
use crate::server::{Setup, TestServer, say, with};
use serde_json::json;
use std::sync::atomic::Ordering;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn while_it_drains_it_is_not_ready_refuses_what_comes_and_finishes_what_runs() {
    let mut server = TestServer::start().await;
    server.controls.delay.store(20, Ordering::SeqCst);
    let body = with(say("forever"), json!({"stream": true, "max_tokens": 60}));
    let mut running = server.start_post("/v1/chat/completions", &body).await;
    assert!(running.wait_for("\"content\":\"a\"").await);
    assert_eq!(server.get("/health").await.status, 200);
    server.shut_down();
    let not_ready = async {
        while server.get("/health").await.status == 200 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, not_ready).await.expect("503 soon");
    for path in ["/health", "/v1/health", "/ping"] {
        let health = server.get(path).await;
        assert_eq!(health.status, 503);
        health.error();
    }
    let refused = server.chat(say("late")).await;
    assert_eq!(refused.status, 503);
    assert_eq!(refused.error()["code"], "draining");
    assert!(refused.header("retry-after").is_some());
    let answer = running.finish().await;
    assert_eq!(answer.content(0), "a".repeat(60));
    assert_eq!(answer.finish(0).0, "length");
    let ended = tokio::time::timeout(PATIENCE, &mut server.task).await.expect("it ends");
    ended.expect("no panic").expect("no error");
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_deadline_running_requests_end_with_an_error() {
    let mut setup = Setup::default();
    setup.config.drain_timeout = Duration::from_millis(100);
    let mut server = TestServer::with(setup).await;
    server.controls.delay.store(50, Ordering::SeqCst);
    let body = with(say("forever"), json!({"stream": true}));
    let mut stream = server.start_post("/v1/chat/completions", &body).await;
    assert!(stream.wait_for("\"content\":\"a\"").await);
    let plain = server.start_post("/v1/chat/completions", &say("forever")).await;
    while server.engine.stats().running < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    server.shut_down();
    let events = stream.finish().await.events();
    let error = &events.last().expect("events")["error"];
    assert_eq!(error["code"], "draining");
    assert_eq!(error["type"], "server_error");
    let plain = plain.finish().await;
    assert_eq!(plain.status, 503);
    assert!(plain.header("retry-after").is_some());
    let ended = tokio::time::timeout(PATIENCE, &mut server.task).await.expect("it ends");
    ended.expect("no panic").expect("no error");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_also_listens_on_a_unix_socket() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let directory = std::env::temp_dir().join(format!("wharf-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let path = directory.join("socket");
    let listener = tokio::net::UnixListener::bind(&path).expect("binds");
    let setup = Setup::default();
    let runner =
        crate::script::ScriptRunner::new(setup.engine.num_blocks, std::sync::Arc::default());
    let engine = wharf_engine::Engine::start(Box::new(runner), setup.engine).expect("starts");
    let model = wharf_server::ServedModel {
        names: vec!["script".into()],
        tokenizer: crate::script::tokenizer(),
        template: None,
        defaults: setup.defaults,
        max_model_len: 64,
        engine,
        tool_format: wharf_text::tool_calls::by_name("hermes").expect("hermes"),
        reasoning_format: None,
    };
    let listener = wharf_server::Listener::Unix(listener);
    let task =
        tokio::spawn(wharf_server::serve(listener, model, setup.config, std::future::pending()));
    let mut stream = tokio::net::UnixStream::connect(&path).await.expect("connects");
    let request = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.expect("writes");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("reads");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    task.abort();
    std::fs::remove_dir_all(&directory).expect("cleans up");
}
