//! Start, restart, drain and end.

use std::{path::Path, process::Stdio, time::Duration};

use http_body_util::BodyExt as _;
use tokio::{net::UnixStream, process::Command};
use wharf_gateway::{Gateway, GatewayError};

use crate::rig::{GATEWAY_STATE, Rig, chat_body, config, engine, error, json, text};

#[tokio::test]
async fn the_default_instance_keeps_its_id_over_restarts() {
    let state = tempfile::tempdir().unwrap();
    let mut ids = Vec::new();
    for _ in 0..2 {
        let gateway = Gateway::start(config(state.path().to_owned()), engine(&[])).await.unwrap();
        gateway.ready().await.unwrap();
        ids.push(gateway.default_instance());
    }
    assert_eq!(ids[0], ids[1]);
}

#[tokio::test]
async fn a_second_gateway_on_the_same_state_is_refused() {
    let rig = Rig::start(&[]).await;
    let second = Gateway::start(config(rig.state.path().to_owned()), engine(&[])).await;
    assert!(matches!(second, Err(GatewayError::InUse(_))), "{second:?}");
    assert_eq!(rig.chat(false, "").await.status(), 200, "the first one is unharmed");
    rig.stop().await;
}

#[tokio::test]
async fn an_engine_that_cannot_start_is_told_with_its_last_words_to_the_operator_alone() {
    let (rig, ready) = Rig::launch(&["--fail-start", "tensor blk.0 is missing"], |_| {}).await;
    let reason = ready.unwrap_err();
    assert!(reason.contains("tensor blk.0 is missing"), "{reason}");
    let answer = rig.chat(false, "").await;
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    let (message, code) = error(answer).await;
    assert!(message.contains("log") && !message.contains("blk.0"), "{message}");
    assert_eq!(code, "instance_failed");
    let health = rig.get("/health").await;
    assert_eq!(health.status(), 503);
    let health = json(health).await;
    assert_eq!(health["default_instance"]["state"], "failed");
    // Nobody has to show a key for these two: what the engine said may have paths in it.
    let reason = health["default_instance"]["reason"].as_str().unwrap();
    assert!(reason.contains("log") && !reason.contains("blk.0"), "{reason}");
    rig.stop().await;
}

#[tokio::test]
async fn while_the_model_is_loaded_requests_are_told_to_come_back() {
    let (rig, readiness) = Rig::begin(&["--start-delay-ms", "700"], |_| {}).await;
    let answer = rig.chat(false, "").await;
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.headers()["retry-after"], "1");
    let (message, code) = error(answer).await;
    assert!(message.contains("being loaded"), "{message}");
    assert_eq!(code, "instance_not_ready");
    assert_eq!(rig.get("/health").await.status(), 503);
    // A page is let through to read that answer; a refused preflight would hide it.
    let preflight = rig
        .request("OPTIONS", &rig.path("/v1/chat/completions"))
        .header("origin", "http://page.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization, content-type");
    let preflight = rig.send(preflight, "").await;
    assert_eq!(preflight.status(), 204);
    assert_eq!(preflight.headers()["access-control-allow-origin"], "*");
    assert_eq!(preflight.headers()["access-control-allow-methods"], "POST");
    let allowed = &preflight.headers()["access-control-allow-headers"];
    assert_eq!(allowed, "authorization, content-type");
    let refused = rig.chat(false, "").await;
    let exposed = refused.headers()["access-control-expose-headers"].to_str().unwrap().to_owned();
    assert!(exposed.contains("retry-after") && exposed.contains("x-request-id"), "{exposed}");
    // A large request gets the same answer, not a broken connection.
    let large = rig.send(rig.chat_request(""), vec![b'x'; 16 << 20]).await;
    assert_eq!(large.status(), 503);
    readiness.await.unwrap();
    assert_eq!(rig.chat(false, "").await.status(), 200);
    assert_eq!(rig.get("/health").await.status(), 200);
    rig.stop().await;
}

#[tokio::test]
async fn a_drain_lets_running_streams_finish_and_refuses_new_requests() {
    let mut rig = Rig::start(&["--decode-rate", "16"]).await;
    let mut body = rig.chat(true, "").await.into_body();
    body.frame().await.unwrap().unwrap();
    rig.signal();
    // The signal is taken by another task.
    while rig.get("/health").await.status() != 503 {}
    let refused = rig.send(rig.request("POST", "/v1/chat/completions"), chat_body(true)).await;
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    let (message, _) = error(refused).await;
    assert!(message.contains("shutting down"), "{message}");
    let rest = body.collect().await.unwrap().to_bytes();
    let rest = std::str::from_utf8(&rest).unwrap();
    assert!(rest.ends_with("data: [DONE]\n\n") && !rest.contains("error"), "{rest}");
    rig.ended().await;
    assert!(tokio::net::TcpStream::connect(rig.address).await.is_err());
    assert!(UnixStream::connect(socket(rig.state.path())).await.is_err());
}

#[tokio::test]
async fn a_stream_that_outlasts_the_drain_ends_with_an_error_event() {
    let short = Duration::from_millis(100);
    let (mut rig, ready) = Rig::launch(&[], |config| config.drain_timeout = short).await;
    ready.unwrap();
    let answer = rig.chat(true, "hang-after=2").await;
    rig.signal();
    let stream = text(answer).await;
    let mut events = stream.trim_end().rsplit("\n\n");
    assert_eq!(events.next(), Some("data: [DONE]"));
    assert!(events.next().unwrap().contains("\"error\""), "{stream}");
    rig.ended().await;
}

#[tokio::test]
async fn a_gateway_that_is_killed_takes_its_engine_along() {
    let state = tempfile::tempdir().unwrap();
    let mut gateway = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "gateway_process", "--ignored", "--nocapture"])
        .env(GATEWAY_STATE, state.path())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let socket = socket(state.path());
    let connects = || async { UnixStream::connect(&socket).await.is_ok() };
    eventually("the engine listens", &connects).await;
    gateway.kill().await.unwrap();
    eventually("the engine is gone", &async || !connects().await).await;
    // The lock went with the process.
    let next = Gateway::start(config(state.path().to_owned()), engine(&[])).await.unwrap();
    next.ready().await.unwrap();
}

/// The socket of the first engine that a gateway launches.
fn socket(state: &Path) -> std::path::PathBuf {
    state.join("run/0.sock")
}

async fn eventually(what: &str, condition: &impl AsyncFn() -> bool) {
    for _ in 0..2000 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {what}");
}
