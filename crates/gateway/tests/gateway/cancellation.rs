//! Client gone: the engine's slot is free at once, whatever the request was waiting for.
//! The engine has one slot, so the next request proves it.

use std::time::Duration;

use http_body_util::BodyExt as _;

use crate::rig::{Rig, chat_body, text};

/// Sends a request, lets the client leave once the engine has it, and checks that the engine
/// notices and serves the next one.
async fn leaves_before_an_answer(rig: &Rig, stream: bool, fault: &str) {
    let aborted = rig.stats().await["aborted"].as_u64().unwrap();
    {
        let mut request = std::pin::pin!(async {
            let answer = rig.send(rig.chat_request(fault), chat_body(stream)).await;
            // A stream's headers come before its prefill is done.
            answer.into_body().frame().await
        });
        tokio::select! {
            answer = &mut request => panic!("answered: {answer:?}"),
            _ = rig.until("accepted", |stats| stats["in_flight"] == 1) => {}
        }
    }
    let stats = rig.until("aborted", |stats| stats["in_flight"] == 0).await;
    assert_eq!(stats["aborted"], aborted + 1, "{stats}");
    assert_eq!(stats["generated_tokens"], 0, "{stats}");
}

#[tokio::test]
async fn client_gone_during_prefill_frees_the_slot() {
    // 6 prompt tokens: an hour.
    let rig = Rig::start(&["--slots", "1", "--prefill-rate", "0.001"]).await;
    for stream in [true, false] {
        leaves_before_an_answer(&rig, stream, "").await;
    }
    rig.stop().await;
}

#[tokio::test]
async fn client_gone_before_the_headers_frees_the_slot() {
    let rig = Rig::start(&["--slots", "1"]).await;
    for stream in [true, false] {
        leaves_before_an_answer(&rig, stream, "hang").await;
        leaves_before_an_answer(&rig, stream, "slow-header=60000").await;
    }
    assert_eq!(rig.chat(true, "").await.status(), 200);
    rig.stop().await;
}

#[tokio::test]
async fn client_gone_mid_stream_stops_the_generation() {
    let rig =
        Rig::start(&["--slots", "1", "--decode-rate", "100", "--reply-tokens", "100000"]).await;
    let mut body = rig.chat(true, "").await.into_body();
    for _ in 0..5 {
        body.frame().await.unwrap().unwrap();
    }
    drop(body);
    let stats = rig.until("aborted", |stats| stats["in_flight"] == 0).await;
    assert_eq!(stats["aborted"], 1);
    let made = stats["generated_tokens"].clone();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(rig.stats().await["generated_tokens"], made);
    rig.stop().await;
}

#[tokio::test]
async fn client_gone_while_a_plain_answer_is_made_stops_the_generation() {
    let rig =
        Rig::start(&["--slots", "1", "--decode-rate", "100", "--reply-tokens", "100000"]).await;
    tokio::select! {
        answer = rig.chat(false, "") => panic!("answered: {answer:?}"),
        _ = rig.until("running", |stats| stats["generated_tokens"].as_u64() > Some(2)) => {}
    }
    let stats = rig.until("aborted", |stats| stats["in_flight"] == 0).await;
    assert_eq!(stats["aborted"], 1);
    rig.stop().await;
}

#[tokio::test]
async fn client_gone_while_the_engine_is_silent_frees_the_slot() {
    let rig = Rig::start(&["--slots", "1"]).await;
    let mut body = rig.chat(true, "hang-after=2").await.into_body();
    body.frame().await.unwrap().unwrap();
    drop(body);
    rig.until("aborted", |stats| stats["in_flight"] == 0).await;
    assert!(text(rig.chat(true, "").await).await.ends_with("[DONE]\n\n"));
    rig.stop().await;
}

#[tokio::test]
async fn client_gone_while_queued_leaves_the_queue() {
    let rig = Rig::start(&["--slots", "1"]).await;
    let mut first = rig.chat(true, "hang-after=1").await.into_body();
    first.frame().await.unwrap().unwrap();
    tokio::select! {
        answer = rig.chat(false, "") => panic!("answered: {answer:?}"),
        _ = rig.until("queued", |stats| stats["in_flight"] == 2) => {}
    }
    rig.until("only the first", |stats| stats["in_flight"] == 1 && stats["running"] == 1).await;
    drop(first);
    rig.until("none", |stats| stats["in_flight"] == 0).await;
    rig.stop().await;
}
