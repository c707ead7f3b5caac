//! What paths mean.

use uuid::Uuid;

use crate::rig::{Rig, chat_body, error, json};

#[tokio::test]
async fn a_chat_completion_comes_through_the_instance_and_through_the_default_path() {
    let rig = Rig::start(&[]).await;
    let mut texts = Vec::new();
    for path in [rig.path("/v1/chat/completions"), "/v1/chat/completions".to_owned()] {
        let answer = rig.send(rig.request("POST", &path), chat_body(false)).await;
        assert_eq!(answer.status(), 200);
        let answer = json(answer).await;
        assert_eq!(answer["object"], "chat.completion");
        texts.push(answer["choices"][0]["message"]["content"].clone());
    }
    assert_eq!(texts[0], texts[1]);
    assert_eq!(json(rig.get("/v1/models").await).await["data"][0]["id"], "mock");
    assert_eq!(rig.get("/metrics").await.status(), 200);
    let head = rig.send(rig.request("HEAD", "/v1/models"), "").await;
    assert_eq!(head.status(), 200);
    assert_ne!(head.headers()["content-length"], "0");
    rig.stop().await;
}

#[tokio::test]
async fn what_is_not_registered_is_a_404_that_says_what_is_wrong() {
    let rig = Rig::start(&[]).await;
    let (id, other) = (rig.id, Uuid::new_v4());
    for (path, part, code) in [
        (format!("/{other}/3900/v1/models"), other.to_string(), "instance_not_found"),
        ("/nonsense/3900/v1/models".to_owned(), "`nonsense`".to_owned(), "instance_not_found"),
        (format!("/{id}/3901/v1/models"), "3901".to_owned(), "port_not_found"),
        (format!("/{id}/80/v1/models"), "`80`".to_owned(), "port_not_found"),
        (format!("/{id}"), "no port".to_owned(), "port_not_found"),
        ("/favicon.ico".to_owned(), "`/favicon.ico`".to_owned(), "path_not_found"),
    ] {
        let answer = rig.get(&path).await;
        assert_eq!(answer.status(), 404, "{path}");
        assert_eq!(answer.headers()["access-control-allow-origin"], "*");
        let (message, found) = error(answer).await;
        assert!(message.contains(&part), "{path}: {message}");
        assert_eq!(found, code, "{path}");
    }
    // What the engine does not know, the engine answers.
    let answer = rig.get(&rig.path("/v1/nothing")).await;
    assert_eq!(answer.status(), 404);
    assert!(json(answer).await["error"]["message"].as_str().unwrap().contains("mock engine"));
    rig.stop().await;
}

#[tokio::test]
async fn the_gateway_tells_what_it_is_and_how_it_is() {
    let rig = Rig::start(&[]).await;
    let index = json(rig.get("/").await).await;
    let base_url = format!("http://{}/{}/3900/v1", rig.address, rig.id);
    assert_eq!(index["base_url"], base_url);
    let health = rig.get("/health").await;
    assert_eq!(health.status(), 200);
    let health = json(health).await;
    assert_eq!(health["default_instance"]["state"], "ready");
    assert_eq!(health["default_instance"]["id"], rig.id.to_string());
    let refused = rig.send(rig.request("DELETE", "/health"), "").await;
    assert_eq!(refused.status(), 405);
    assert_eq!(refused.headers()["allow"], "GET, HEAD");
    error(refused).await;
    rig.stop().await;
}

#[tokio::test]
async fn an_error_keeps_the_request_id_of_the_client() {
    let rig = Rig::start(&[]).await;
    let request = rig.request("GET", "/nowhere").header("x-request-id", "mine-7");
    assert_eq!(rig.send(request, "").await.headers()["x-request-id"], "mine-7");
    rig.stop().await;
}
