//! What goes through unchanged, and what happens when the engine breaks.

use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::rig::{MAX_BODY, Rig, chat_body, error, json, text};

#[tokio::test]
async fn a_request_arrives_as_it_was_sent() {
    let rig = Rig::start(&[]).await;
    let path = rig.path("/mock/echo/a%2Fb//c/../%zz?q=%20&&r");
    let request = rig
        .request("PATCH", &path)
        .header("authorization", "Bearer key")
        .header("x-twice", "1")
        .header("x-twice", "2")
        .header("connection", "x-hop")
        .header("x-hop", "gone");
    let answer = rig.send(request, "{\"a\":  1}\n").await;
    assert_eq!(answer.headers()["x-mock-echo"], "1");
    let seen = json(answer).await;
    assert_eq!(seen["method"], "PATCH");
    assert_eq!(seen["uri"], "/mock/echo/a%2Fb//c/../%zz?q=%20&&r");
    assert_eq!(seen["body"], "{\"a\":  1}\n");
    let headers: Vec<(&str, &str)> = seen["headers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| (pair[0].as_str().unwrap(), pair[1].as_str().unwrap()))
        .collect();
    let host = rig.address.to_string();
    for header in [
        ("authorization", "Bearer key"),
        ("x-twice", "1"),
        ("x-twice", "2"),
        ("content-length", "10"),
        ("host", host.as_str()),
    ] {
        assert!(headers.contains(&header), "{header:?} in {headers:?}");
    }
    assert!(!headers.iter().any(|(name, _)| ["x-hop", "connection"].contains(name)));
    rig.stop().await;
}

#[tokio::test]
async fn a_stream_comes_through_event_by_event_and_ends() {
    let rig = Rig::start(&["--decode-rate", "200"]).await;
    let answer = rig.chat(true, "").await;
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut body = answer.into_body();
    let mut frames = Vec::new();
    while let Some(frame) = body.frame().await {
        frames.push(String::from_utf8(frame.unwrap().into_data().unwrap().to_vec()).unwrap());
    }
    assert!(frames.len() > 10, "frames are not merged: {}", frames.len());
    let stream = frames.concat();
    assert!(stream.ends_with("data: [DONE]\n\n"));
    assert_eq!(stream.matches("[DONE]").count(), 1);
    assert_eq!(stream.split_terminator("\n\n").count(), 1 + 16 + 1 + 1);
    rig.stop().await;
}

#[tokio::test]
async fn the_engines_own_errors_are_relayed_as_they_are() {
    let rig = Rig::start(&[]).await;
    let answer = rig.chat(true, "status=418").await;
    assert_eq!(answer.status(), 418);
    assert_eq!(json(answer).await["error"]["message"], "a fault was asked for");
    assert_eq!(text(rig.chat(false, "malformed").await).await, "{\"id\":");
    rig.stop().await;
}

#[tokio::test]
async fn a_body_up_to_the_limit_passes_and_a_larger_one_is_a_413() {
    let rig = Rig::start(&[]).await;
    let echo = rig.path("/mock/echo");
    let answer = rig.send(rig.request("POST", &echo), vec![b'x'; MAX_BODY]).await;
    assert_eq!(json(answer).await["body"].as_str().unwrap().len(), MAX_BODY);
    let answer = rig.send(rig.request("POST", &echo), vec![b'x'; MAX_BODY + 1]).await;
    assert_eq!(answer.status(), 413);
    let (message, code) = error(answer).await;
    assert!(message.contains(&MAX_BODY.to_string()), "{message}");
    assert_eq!(code, "body_too_large");
    rig.stop().await;
}

#[tokio::test]
async fn a_body_of_unknown_length_is_cut_off_at_the_limit() {
    let rig = Rig::start(&[]).await;
    let mut stream = tokio::net::TcpStream::connect(rig.address).await.unwrap();
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n",
        rig.path("/mock/echo")
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("100000\r\n{}\r\n", "x".repeat(1 << 20));
    for _ in 0..6 {
        // The gateway may have answered and closed already.
        let _ = stream.write_all(chunk.as_bytes()).await;
    }
    let mut answer = vec![0; 64];
    let count = stream.read(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..count]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    rig.stop().await;
}

#[tokio::test]
async fn a_broken_body_is_the_clients_fault_and_not_to_be_sent_again() {
    let rig = Rig::start(&[]).await;
    for body in ["Transfer-Encoding: chunked\r\n\r\nzz\r\n", "Content-Length: 1000\r\n\r\n{"] {
        let mut stream = tokio::net::TcpStream::connect(rig.address).await.unwrap();
        let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n\
                    Content-Type: application/json\r\n";
        stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        // Whether the connection then ends cleanly is the client's concern alone.
        let _ = stream.read_to_string(&mut answer).await;
        let is_client_error = answer.is_empty() || answer.starts_with("HTTP/1.1 4");
        assert!(is_client_error, "{body:?}: {answer}");
    }
    assert_eq!(rig.get("/v1/models").await.status(), 200);
    rig.stop().await;
}

#[tokio::test]
async fn an_engine_that_dies_before_it_answers_is_a_503_and_comes_back() {
    let rig = Rig::start(&[]).await;
    for stream in [true, false] {
        let answer = rig.chat(stream, "die").await;
        assert_eq!(answer.status(), 503);
        let seconds: u64 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((1..=120).contains(&seconds));
        error(answer).await;
        // As a client would: again after a while, until it is served.
        loop {
            let answer = rig.chat(stream, "").await;
            if answer.status() == 200 {
                text(answer).await;
                break;
            }
            assert_eq!(answer.status(), 503);
            assert!(answer.headers().contains_key("retry-after"));
            error(answer).await;
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
    rig.stop().await;
}

/// The events of a stream, without `data: `.
async fn events(rig: &Rig, fault: &str) -> Vec<String> {
    let stream = text(rig.chat(true, fault).await).await;
    assert!(stream.ends_with("\n\n"), "{stream:?}");
    stream
        .split_terminator("\n\n")
        .map(|event| event.strip_prefix("data: ").unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_stream_whose_engine_dies_ends_with_an_error_event() {
    let rig = Rig::start(&[]).await;
    for fault in ["cut-after=3", "die-after=3"] {
        let mut events = events(&rig, fault).await;
        assert_eq!(events.pop().unwrap(), "[DONE]");
        let last: Value = serde_json::from_str(&events.pop().unwrap()).unwrap();
        assert_eq!(last["error"]["code"], "engine_lost");
        assert_eq!(last["error"]["type"], "server_error");
        assert_eq!(events.len(), 1 + 3, "{fault}");
        for event in events {
            let event: Value = serde_json::from_str(&event).unwrap();
            assert_eq!(event["object"], "chat.completion.chunk");
        }
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_stream_that_breaks_inside_an_event_is_broken_off() {
    let rig = Rig::start(&[]).await;
    let answer = rig.chat(true, "cut-inside=3").await;
    assert_eq!(answer.status(), 200);
    assert!(answer.into_body().collect().await.is_err());
    rig.stop().await;
}

#[tokio::test]
async fn a_plain_answer_that_breaks_is_broken_off() {
    let rig = Rig::start(&[]).await;
    let answer = rig.try_send(rig.chat_request("cut-after=3"), chat_body(false)).await;
    let whole = match answer {
        Ok(answer) => answer.into_body().collect().await.is_ok(),
        Err(_) => false,
    };
    assert!(!whole);
    rig.stop().await;
}

#[tokio::test]
async fn requests_run_side_by_side_and_in_turn_over_pooled_connections() {
    let rig = std::sync::Arc::new(Rig::start(&["--slots", "4"]).await);
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..8 {
        let rig = std::sync::Arc::clone(&rig);
        tasks.spawn(async move {
            for round in 0..25 {
                let answer = rig.chat((task + round) % 2 == 0, "").await;
                assert_eq!(answer.status(), 200);
                text(answer).await;
            }
        });
    }
    while let Some(result) = tasks.join_next().await {
        result.unwrap();
    }
    let stats = rig.stats().await;
    assert_eq!((&stats["finished"], &stats["aborted"]), (&200.into(), &0.into()));
    assert_eq!(json(rig.get("/health").await).await["default_instance"]["requests_in_flight"], 0);
}
