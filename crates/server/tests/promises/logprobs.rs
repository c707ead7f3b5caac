//! Promises on log-probabilities.
use crate::client::{Answer, choices};
use crate::server::{TestServer, say, with};
use serde_json::{Value, json};

/// All entries of choice 0, streamed or not.
fn entries(answer: &Answer) -> Vec<Value> {
    let all = if answer.text().starts_with("data:") {
        choices(&answer.events(), 0)
    } else {
        vec![answer.json()["choices"][0].clone()]
    };
    all.iter()
        .flat_map(|choice| choice["logprobs"]["content"].as_array().cloned().unwrap_or_default())
        .collect()
}

/// The bytes of all entries, joined.
fn bytes(entries: &[Value]) -> Vec<u8> {
    entries
        .iter()
        .flat_map(|entry| entry["bytes"].as_array().cloned().unwrap_or_default())
        .map(|byte| u8::try_from(byte.as_u64().expect("a byte")).expect("a byte"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bytes_of_all_entries_are_the_bytes_of_the_content() {
    let server = TestServer::start().await;
    let cases = [
        ("hello 😀 été", json!({})),
        ("hello 😀 été", json!({"max_tokens": 6})),
        ("one ENDtwo", json!({"stop": ["END"]})),
        ("hello", json!({"stop": ["ell"]})),
        ("EN EN ENx", json!({"stop": ["END"]})),
        ("one ENDtwo", json!({"stop": ["ND"], "include_stop_str_in_output": true})),
        ("a漢字b", json!({"stop": ["字"]})),
    ];
    for (script, more) in cases {
        let request = with(say(script), json!({"logprobs": true, "top_logprobs": 3}));
        let (plain, stream) = server.both(with(request, more)).await;
        assert_eq!(bytes(&entries(&plain)), plain.content(0).as_bytes(), "{script}");
        assert_eq!(entries(&plain), entries(&stream), "{script}");
        // In a stream, no entry comes before its text.
        let (mut text, mut told) = (0, 0);
        for choice in choices(&stream.events(), 0) {
            text += choice["delta"]["content"].as_str().unwrap_or("").len();
            told +=
                bytes(choice["logprobs"]["content"].as_array().map_or(&[], Vec::as_slice)).len();
            assert!(told <= text, "{script}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_likely_tokens_as_asked_for_and_the_sampled_one_listed() {
    let server = TestServer::start().await;
    for count in [0, 1, 5, 20] {
        let more = json!({"logprobs": true, "top_logprobs": count});
        let (plain, _) = server.both(with(say("hi"), more)).await;
        let entries = entries(&plain);
        assert_eq!(entries.len(), 2);
        for (entry, token) in entries.iter().zip(["h", "i"]) {
            assert_eq!(entry["token"], token);
            let logprob = entry["logprob"].as_f64().expect("a number");
            assert!(logprob <= 0.0);
            let top = entry["top_logprobs"].as_array().expect("a list");
            assert_eq!(top.len(), count);
            if count > 0 {
                assert_eq!(top[0]["token"], token, "greedy: the best");
                assert_eq!(top[0]["logprob"], entry["logprob"]);
                assert!(
                    top.windows(2)
                        .all(|pair| pair[0]["logprob"].as_f64() >= pair[1]["logprob"].as_f64())
                );
                assert!(top.iter().all(|token| token["bytes"].is_array()));
            }
        }
        assert_eq!(plain.json()["choices"][0]["logprobs"]["refusal"], Value::Null);
    }
    let (plain, _) = server.both(say("hi")).await;
    assert_eq!(plain.json()["choices"][0]["logprobs"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_written_as_ids_where_asked_for() {
    let server = TestServer::start().await;
    let more = json!({"logprobs": true, "top_logprobs": 1, "return_tokens_as_token_ids": true});
    let (plain, _) = server.both(with(say("h"), more)).await;
    assert_eq!(entries(&plain)[0]["token"], format!("token_id:{}", b'h'));
    assert_eq!(entries(&plain)[0]["top_logprobs"][0]["token"], format!("token_id:{}", b'h'));
}
