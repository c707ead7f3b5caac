//! Promises on `/v1/completions`, `/tokenize`, `/detokenize` and `/v1/models`.
use crate::server::{TestServer, with};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn completions_take_texts_ids_and_lists_of_either() {
    let server = TestServer::start().await;
    let ids: Vec<u32> = "[three]".bytes().map(u32::from).collect();
    for (prompt, expected) in [
        (json!("[one]"), vec!["one"]),
        (json!(["[one]", "[two]"]), vec!["one", "two"]),
        (json!(ids), vec!["three"]),
        (json!([ids, ids]), vec!["three", "three"]),
    ] {
        let request = json!({"prompt": prompt, "n": 2});
        let plain = server.post("/v1/completions", &request).await;
        let stream = server.post("/v1/completions", &with(request, json!({"stream": true}))).await;
        for (index, expected) in expected.iter().flat_map(|text| [text, text]).enumerate() {
            assert_eq!(plain.content(index), **expected);
            assert_eq!(stream.content(index), **expected);
            assert_eq!(stream.finish(index).0, "stop");
        }
        assert_eq!(plain.json()["object"], "text_completion");
        assert_eq!(plain.json()["choices"].as_array().map(Vec::len), Some(2 * expected.len()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn echo_puts_the_prompt_before_the_answer() {
    let server = TestServer::start().await;
    let request = json!({"prompt": ["[one]", "[two]"], "echo": true});
    let plain = server.post("/v1/completions", &request).await;
    assert_eq!(plain.content(0), "[one]one");
    let stream = server.post("/v1/completions", &with(request, json!({"stream": true}))).await;
    assert_eq!(stream.content(1), "[two]two");
}

#[tokio::test(flavor = "multi_thread")]
async fn max_tokens_is_16_where_a_completion_is_silent() {
    let server = TestServer::start().await;
    let answer = server.post("/v1/completions", &json!({"prompt": "[forever]"})).await.json();
    assert_eq!(answer["usage"]["completion_tokens"], 16);
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
}

#[tokio::test(flavor = "multi_thread")]
async fn legacy_logprobs_are_four_lists_of_one_length() {
    let server = TestServer::start().await;
    let request = json!({"prompt": "[é ok]", "logprobs": 2});
    let plain = server.post("/v1/completions", &request).await.json();
    let logprobs = &plain["choices"][0]["logprobs"];
    assert_eq!(logprobs["text_offset"], json!([0, 1, 1, 2, 3]), "characters: é is two tokens");
    for field in ["tokens", "token_logprobs", "top_logprobs"] {
        assert_eq!(logprobs[field].as_array().map(Vec::len), Some(5), "{field}");
    }
    assert_eq!(logprobs["tokens"][3], "o");
    assert!(logprobs["top_logprobs"][3]["o"].is_number());
    let request = with(request, json!({"stream": true}));
    let stream = server.post("/v1/completions", &request).await.events();
    let offsets: Vec<Value> = stream
        .iter()
        .flat_map(|event| event["choices"][0]["logprobs"]["text_offset"].as_array().cloned())
        .flatten()
        .collect();
    assert_eq!(json!(offsets), logprobs["text_offset"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokenize_and_detokenize_are_inverse() {
    let server = TestServer::start().await;
    let text = "hello 😀 <|im_end|>";
    let request = json!({"prompt": text, "return_token_strs": true});
    let answer = server.post("/tokenize", &request).await.json();
    let tokens = answer["tokens"].as_array().expect("a list");
    assert_eq!(answer["count"], tokens.len());
    assert_eq!(answer["max_model_len"], 512);
    assert_eq!(answer["token_strs"][0], "hello");
    assert_eq!(tokens.last(), Some(&json!(257)));
    let back = server.post("/detokenize", &json!({"tokens": tokens})).await.json();
    assert_eq!(back["prompt"], text);
    for (path, bad) in [
        ("/tokenize", json!({})),
        ("/tokenize", json!({"prompt": "a", "messages": []})),
        ("/tokenize", json!({"messages": []})),
        ("/detokenize", json!({})),
        ("/detokenize", json!({"tokens": [99_999_999]})),
        ("/detokenize", json!({"tokens": [-1]})),
        ("/detokenize", json!({"tokens": vec![97; 4 * 512 + 1]})),
    ] {
        let answer = server.post(path, &bad).await;
        assert_eq!(answer.status, 400, "{bad}");
        answer.error();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_listed_and_found_by_any_of_their_names() {
    let server = TestServer::start().await;
    let list = server.get("/v1/models").await.json();
    assert_eq!(list["object"], "list");
    assert_eq!(list["data"][0]["id"], "script");
    assert_eq!(list["data"][1]["id"], "org/other");
    assert_eq!(list["data"][0]["max_model_len"], 512);
    assert_eq!(server.get("/v1/models/org/other").await.json()["id"], "org/other");
    assert_eq!(server.get("/v1/models/org%2Fother").await.json()["id"], "org/other");
    for unknown in ["/v1/models/nope", "/v1/models/a/b/c"] {
        let answer = server.get(unknown).await;
        assert_eq!(answer.status, 404);
        assert_eq!(answer.error()["code"], "model_not_found");
    }
    assert_eq!(server.get("/v1/models/%FF").await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_prompts_with_long_lists_of_ids_are_refused_before_they_are_copied() {
    let server = TestServer::start().await;
    // Each copy would be small; the engine would be handed all of them.
    let words: Vec<String> = (0..128).map(|at| format!("{at:0>1000}")).collect();
    let request = json!({"prompt": vec!["[a]"; 9], "bad_words": words, "max_tokens": 1});
    let answer = server.post("/v1/completions", &request).await;
    assert_eq!((answer.status, &answer.error()["param"]), (400, &json!("prompt")));
    let answer = server.post("/v1/completions", &with(request, json!({"prompt": "[a]"}))).await;
    assert_eq!(answer.content(0), "a");
}

/// A 429 would be tried again for ever.
#[tokio::test(flavor = "multi_thread")]
async fn more_prompts_than_the_queue_can_hold_are_refused_for_good() {
    let server = TestServer::start().await;
    let request = |count: usize| json!({"prompt": vec!["[a]"; count], "max_tokens": 1});
    let answer = server.post("/v1/completions", &request(257)).await;
    assert_eq!((answer.status, &answer.error()["param"]), (400, &json!("prompt")));
    let answer = server.post("/v1/completions", &request(256)).await;
    assert_eq!(answer.json()["choices"].as_array().map(Vec::len), Some(256));
}
