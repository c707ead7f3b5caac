//! The promise that an answer depends on its request alone.
use crate::server::{Setup, TestServer, say, with};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_gives_the_same_bytes_alone_in_any_batch_cold_warm_and_preempted() {
    // So few blocks that eight of them at once cannot all stay.
    let mut setup = Setup::default();
    setup.engine.num_blocks = 32;
    setup.engine.max_batched_tokens = 24;
    let small = TestServer::with(setup).await;
    let roomy = TestServer::start().await;
    let prompt = format!("{} [random]", "x".repeat(50));
    let request = |seed: u64| -> Value {
        let messages = json!([{"role": "user", "content": prompt}]);
        json!({"messages": messages, "seed": seed, "temperature": 1.0, "max_tokens": 60, "n": 2,
            "logprobs": true, "top_logprobs": 2})
    };
    let choices = |answer: crate::client::Answer| answer.json()["choices"].clone();
    let alone = choices(roomy.chat(request(1)).await);
    assert_eq!(choices(roomy.chat(request(1)).await), alone, "warm");
    assert_eq!(choices(small.chat(request(1)).await), alone, "cold, in small chunks");
    for round in 0..2 {
        let crowd = (0..8).map(|seed| small.chat(request(seed)));
        let answers = futures_util::future::join_all(crowd).await;
        assert_eq!(choices(answers[1].clone()), alone, "in a crowd, round {round}");
    }
    assert!(small.engine.stats().preemptions > 0, "the crowd was meant to be preempted");
    let greedy = |text: &str| with(say(text), json!({"temperature": 0}));
    let (plain, _) = small.both(greedy("hello there")).await;
    assert_eq!(plain.content(0), "hello there");
}
