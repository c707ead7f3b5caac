//! Promises on the counters.
use crate::server::{TestServer, say, with};
use serde_json::json;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The sum of all samples whose name and labels begin with `name`.
fn sum(text: &str, name: &str) -> f64 {
    let lines = text.lines().filter(|line| line.starts_with(name));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn accepted_is_the_sum_of_stop_length_abort_and_error() {
    let server = TestServer::start().await;
    server.controls.delay.store(2, Ordering::SeqCst);
    server.chat(say("stops")).await;
    server.chat(with(say("by string"), json!({"stop": [" "]}))).await;
    server.chat(with(say("forever"), json!({"n": 3, "max_tokens": 4, "stream": true}))).await;
    server.chat(say("fail")).await;
    server.chat(with(say("panic"), json!({"stream": true}))).await;
    server.chat(with(say("x"), json!({"n": 0}))).await;
    for stream in [true, false] {
        let body = with(say("forever"), json!({"n": 2, "stream": stream}));
        let call = server.start_post("/v1/chat/completions", &body).await;
        while server.engine.stats().running < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(call);
        server.idle().await;
    }
    let answer = server.get("/metrics").await;
    assert_eq!(answer.status, 200);
    let text = answer.text();
    let finished = |reason: &str| {
        sum(text, &format!("vllm:request_success_total{{finished_reason=\"{reason}\"}}"))
    };
    assert_eq!(finished("stop"), 2.0, "{text}");
    assert_eq!(finished("length"), 3.0);
    assert_eq!(finished("error"), 2.0);
    assert_eq!(finished("abort"), 4.0);
    let accepted = sum(text, "wharf:requests_accepted_total");
    assert_eq!(accepted, sum(text, "vllm:request_success_total{"), "{text}");
    assert_eq!(accepted, 11.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn first_tokens_are_counted_once_for_each_choice_that_got_one() {
    let server = TestServer::start().await;
    server.chat(with(say("abc"), json!({"n": 2, "stream": true}))).await;
    server.chat(say("")).await;
    let text = server.get("/metrics").await.text().to_owned();
    assert_eq!(sum(&text, "vllm:time_to_first_token_seconds_count"), 2.0, "{text}");
    assert_eq!(sum(&text, "vllm:inter_token_latency_seconds_count"), 4.0);
    assert_eq!(sum(&text, "vllm:e2e_request_latency_seconds_count"), 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn vllms_names_are_there_where_the_meaning_is_the_same() {
    let server = TestServer::start().await;
    server.assert_serving().await;
    let answer = server.get("/metrics").await;
    let text = answer.text();
    assert!(answer.header("content-type").is_some_and(|kind| kind.contains("openmetrics")));
    for name in [
        "vllm:num_requests_running ",
        "vllm:num_requests_waiting ",
        "vllm:kv_cache_usage_perc ",
        "vllm:prefix_cache_queries_total ",
        "vllm:prefix_cache_hits_total ",
        "vllm:num_preemptions_total ",
        "vllm:prompt_tokens_total ",
        "vllm:generation_tokens_total ",
        "vllm:spec_decode_num_drafts_total ",
        "vllm:spec_decode_num_draft_tokens_total ",
        "vllm:spec_decode_num_accepted_tokens_total ",
        "vllm:request_success_total{",
        "vllm:time_to_first_token_seconds_bucket",
        "vllm:request_queue_time_seconds_bucket",
        "vllm:request_params_n_bucket",
    ] {
        assert!(text.lines().any(|line| line.starts_with(name)), "{name} is missing in {text}");
    }
    assert!(text.ends_with("# EOF\n"));
}
