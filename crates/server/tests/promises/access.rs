//! Promises on keys, web pages and request ids.
use crate::server::{Setup, TestServer, say};

async fn locked() -> TestServer {
    let mut setup = Setup::default();
    setup.config.api_key = Some("sk-test".into());
    TestServer::with(setup).await
}

const JSON: &str = "Content-Type: application/json\r\nOrigin: https://page.example\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_preflight_without_the_key_is_answered_and_allows_authorization() {
    let server = locked().await;
    let headers = "Origin: https://page.example\r\nAccess-Control-Request-Method: POST\r\n\
        Access-Control-Request-Headers: authorization,content-type\r\n";
    let answer = server.call("OPTIONS", "/v1/chat/completions", headers, b"").await.finish().await;
    assert!((200..300).contains(&answer.status));
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    let allowed = answer.header("access-control-allow-headers").expect("allowed headers");
    assert!(allowed.contains("authorization"));
    assert!(
        answer
            .header("access-control-allow-methods")
            .is_some_and(|methods| methods.contains("POST"))
    );
    assert!(answer.header("x-request-id").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_key_it_is_a_401_in_the_error_shape_with_cors_headers() {
    let server = locked().await;
    let stream = crate::server::with(say("x"), serde_json::json!({"stream": true})).to_string();
    for (path, body) in [
        ("/v1/chat/completions", stream.as_str()),
        ("/v1/chat/completions", "{broken"),
        ("/tokenize", "{}"),
        ("/no/such/route", "{}"),
    ] {
        for key in ["", "Authorization: Bearer sk-wrong\r\n", "Authorization: Basic sk-test\r\n"] {
            let headers = format!("{JSON}{key}");
            let answer = server.call("POST", path, &headers, body.as_bytes()).await.finish().await;
            assert_eq!(answer.status, 401, "{path}");
            assert_eq!(answer.error()["code"], "invalid_api_key");
            assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
            assert!(answer.header("www-authenticate").is_some());
            assert!(answer.header("x-request-id").is_some());
        }
    }
    for open in ["/health", "/v1/health", "/ping", "/version", "/metrics"] {
        assert_eq!(server.get(open).await.status, 200, "{open}");
    }
    let headers = format!("{JSON}Authorization: Bearer sk-test\r\n");
    for body in [say("yes").to_string(), stream] {
        let call = server.call("POST", "/v1/chat/completions", &headers, body.as_bytes()).await;
        let answer = call.finish().await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"), "on streams too");
        assert!(answer.header("access-control-expose-headers").is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_configured_origins_are_allowed_where_there_are_any() {
    let mut setup = Setup::default();
    setup.config.cors_origins = vec!["https://page.example".into()];
    let server = TestServer::with(setup).await;
    for (origin, allowed) in [("https://page.example", true), ("https://evil.example", false)] {
        let headers = format!("Content-Type: application/json\r\nOrigin: {origin}\r\n");
        let body = say("x").to_string();
        let call = server.call("POST", "/v1/chat/completions", &headers, body.as_bytes()).await;
        let answer = call.finish().await;
        let header = answer.header("access-control-allow-origin");
        assert_eq!(header, allowed.then_some(origin));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_has_a_request_id_and_a_sound_one_is_the_clients() {
    let server = TestServer::start().await;
    let body = say("x").to_string();
    let ask = async |headers: &str| {
        let headers = format!("Content-Type: application/json\r\n{headers}");
        server.call("POST", "/v1/chat/completions", &headers, body.as_bytes()).await.finish().await
    };
    let answer = ask("X-Request-Id: my-id-1\r\n").await;
    assert_eq!(answer.header("x-request-id"), Some("my-id-1"));
    assert_eq!(answer.json()["id"], "chatcmpl-my-id-1");
    let long = format!("X-Request-Id: {}\r\n", "x".repeat(1000));
    for headers in ["", "X-Request-Id: with space\r\n", "X-Request-Id: \r\n", &long] {
        let answer = ask(headers).await;
        let id = answer.header("x-request-id").expect("an id");
        assert_eq!(id.len(), 32, "{headers:?}");
        assert_eq!(answer.json()["id"], format!("chatcmpl-{id}"));
    }
    for path in ["/health", "/nope", "/metrics", "/v1/chat/completions"] {
        assert!(server.get(path).await.header("x-request-id").is_some(), "{path}");
    }
}
