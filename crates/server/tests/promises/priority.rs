//! Promises on priorities.
use crate::server::{Setup, TestServer, say, with};
use serde_json::json;
use std::sync::atomic::Ordering;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn the_more_important_request_is_answered_before_the_one_that_runs() {
    let mut setup = Setup::default();
    setup.engine.max_running = 1;
    setup.engine.num_speculative_tokens = 0;
    setup.config.priority_scheduling = true;
    let server = TestServer::with(setup).await;
    server.controls.delay.store(10, Ordering::SeqCst);
    let long = json!({"stream": true, "max_tokens": 150, "priority": 5});
    let mut first = server.start_post("/v1/chat/completions", &with(say("forever"), long)).await;
    assert!(first.wait_for("\"content\":\"a\"").await);
    let later = json!({"prompt": "[later]", "priority": 5});
    let waiting = server.start_post("/v1/completions", &later).await;
    while server.engine.stats().waiting < 1 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let urgent = server.chat(with(say("urgent"), json!({"priority": -3}))).await;
    assert_eq!(urgent.content(0), "urgent");
    let stats = server.engine.stats();
    assert_eq!((stats.preemptions, stats.waiting), (1, 1), "the others are not done");
    // And those that made way or waited lose nothing.
    assert_eq!(first.finish().await.content(0), "a".repeat(150));
    assert_eq!(waiting.finish().await.content(0), "later");
    server.assert_serving().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_priority_is_refused_where_requests_run_in_order_of_arrival() {
    let server = TestServer::start().await;
    let body = json!({"prompt": "[x]", "priority": 1});
    let answer = server.post("/v1/completions", &body).await;
    assert_eq!((answer.status, &answer.error()["param"]), (400, &json!("priority")));
    assert!(answer.text().contains("--scheduling-policy"), "{}", answer.text());
}
