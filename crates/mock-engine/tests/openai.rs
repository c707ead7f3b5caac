//! The mock engine speaks the protocol its users rely on.
#![expect(clippy::unwrap_used, reason = "a test's way to fail")]

use axum::{
    body::Body,
    http::{Request, StatusCode},
    response::Response,
};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;
use wharf_mock_engine::{FAULT_HEADER, MockConfig, MockEngine};

async fn post(engine: &MockEngine, body: Value, fault: Option<&str>) -> Response {
    let mut request = Request::post("/v1/chat/completions");
    if let Some(fault) = fault {
        request = request.header(FAULT_HEADER, fault);
    }
    engine.router().oneshot(request.body(Body::from(body.to_string())).unwrap()).await.unwrap()
}

async fn text(response: Response) -> String {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

fn hello() -> Value {
    json!({"model": "mock", "messages": [{"role": "user", "content": "hello there"}]})
}

#[tokio::test]
async fn a_plain_answer_is_deterministic_and_counts_its_tokens() {
    let engine = MockEngine::new(MockConfig::default());
    let mut answers = Vec::new();
    for _ in 0..2 {
        let answer: Value =
            serde_json::from_str(&text(post(&engine, hello(), None).await).await).unwrap();
        assert_eq!(answer["usage"]["prompt_tokens"], 6);
        assert_eq!(answer["usage"]["completion_tokens"], 16);
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
        answers.push(answer["choices"][0]["message"]["content"].clone());
    }
    assert_eq!(answers[0], answers[1]);
}

#[tokio::test]
async fn a_stream_has_the_order_of_the_protocol() {
    let engine = MockEngine::new(MockConfig::default());
    let mut request = hello();
    request["stream"] = json!(true);
    request["max_tokens"] = json!(2);
    request["n"] = json!(2);
    request["stream_options"] = json!({"include_usage": true});
    let stream = text(post(&engine, request, None).await).await;
    let mut events: Vec<&str> = stream.split_terminator("\n\n").collect();
    assert_eq!(events.pop(), Some("data: [DONE]"));
    let chunks: Vec<Value> = events
        .iter()
        .map(|e| serde_json::from_str(e.strip_prefix("data: ").unwrap()).unwrap())
        .collect();
    assert_eq!(chunks.len(), 2 + 4 + 2 + 1);
    for (index, chunk) in chunks[..2].iter().enumerate() {
        assert_eq!(chunk["choices"][0]["index"], index);
        assert_eq!(chunk["choices"][0]["delta"]["role"], "assistant");
    }
    assert_eq!(chunks[6]["choices"][0]["finish_reason"], "length");
    assert_eq!(chunks[8]["choices"], json!([]));
    assert_eq!(chunks[8]["usage"]["completion_tokens"], 4);
    assert!(chunks.iter().all(|chunk| chunk["id"] == chunks[0]["id"]));
}

#[tokio::test]
async fn faults_come_as_ordered() {
    let engine = MockEngine::new(MockConfig::default());
    let refused = post(&engine, hello(), Some("status=503")).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    let unknown = post(&engine, hello(), Some("explode")).await;
    assert_eq!(unknown.status(), StatusCode::BAD_REQUEST);
    let malformed = text(post(&engine, hello(), Some("malformed")).await).await;
    assert!(serde_json::from_str::<Value>(&malformed).is_err());
    let mut streamed = hello();
    streamed["stream"] = json!(true);
    let cut = post(&engine, streamed, Some("cut-after=2")).await;
    assert!(cut.into_body().collect().await.is_err());
}

#[tokio::test]
async fn a_request_that_never_fits_is_refused() {
    let engine = MockEngine::new(MockConfig { kv_tokens: 10, ..MockConfig::default() });
    assert_eq!(post(&engine, hello(), None).await.status(), StatusCode::BAD_REQUEST);
    assert_eq!(engine.stats().accepted, 0);
}
