//! Promises on what a prompt may be, how long, and what was cached of it.
use crate::server::{MAX_MODEL_LEN, Setup, TestServer, say, with};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_that_is_too_long_is_refused_with_both_numbers() {
    let server = TestServer::start().await;
    let answer = server.chat(say(&"a".repeat(MAX_MODEL_LEN))).await;
    assert_eq!(answer.status, 400);
    let error = answer.error();
    assert_eq!(error["code"], "context_length_exceeded");
    assert_eq!(error["type"], "invalid_request_error");
    let message = error["message"].as_str().expect("text");
    let request = json!({"messages": say(&"a".repeat(MAX_MODEL_LEN))["messages"]});
    let count = server.post("/tokenize", &request).await.json()["count"].to_string();
    assert!(message.contains("512") && message.contains(&count), "{message}: {count}");
    // Far too long to even tokenise.
    let answer = server.chat(say(&"a b ".repeat(100_000))).await;
    assert_eq!(answer.error()["code"], "context_length_exceeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_of_a_prompt_is_dropped_in_silence() {
    let server = TestServer::start().await;
    for length in [1, 100, 400] {
        let text = "z".repeat(length);
        let request = with(say(&text), json!({"max_tokens": 1}));
        let rendered = json!({"messages": request["messages"]});
        let count = server.post("/tokenize", &rendered).await.json()["count"].clone();
        let answer = server.chat(request).await.json();
        assert_eq!(answer["usage"]["prompt_tokens"], count);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn max_tokens_is_clamped_to_the_room_that_is_left() {
    let server = TestServer::start().await;
    let prompt = format!("{}[forever]", "p".repeat(400));
    let request = json!({"messages": [{"role": "user", "content": prompt}], "max_tokens": 500});
    let (plain, _) = server.both(request.clone()).await;
    assert_eq!(plain.finish(0).0, "length");
    assert_eq!(plain.json()["usage"]["total_tokens"], MAX_MODEL_LEN);
    // Silent requests get all there is.
    let (plain, _) = server.both(json!({"messages": request["messages"]})).await;
    assert_eq!(plain.json()["usage"]["total_tokens"], MAX_MODEL_LEN);
    // What no prompt leaves room for is a mistake.
    let answer = server.chat(with(request, json!({"max_tokens": MAX_MODEL_LEN + 1}))).await;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.error()["param"], "max_tokens");
}

#[tokio::test(flavor = "multi_thread")]
async fn max_completion_tokens_beats_max_tokens() {
    let server = TestServer::start().await;
    let more = json!({"max_tokens": 5, "max_completion_tokens": 2});
    let (plain, _) = server.both(with(say("abcdef"), more)).await;
    assert_eq!(plain.content(0), "ab");
    assert_eq!(plain.finish(0).0, "length");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exception_of_the_template_is_a_400_with_its_text() {
    let server = TestServer::start().await;
    let answer = server.chat(json!({"messages": [{"role": "user", "content": "raise"}]})).await;
    assert_eq!(answer.status, 400);
    let message = answer.error()["message"].clone();
    assert!(message.as_str().is_some_and(|text| text.contains("Only good roles, please!")));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_template_chat_is_refused_and_completions_work() {
    let server = TestServer::with(Setup { template: false, ..Setup::default() }).await;
    let answer = server.chat(say("x")).await;
    assert_eq!(answer.status, 400);
    assert!(answer.error()["message"].as_str().is_some_and(|text| text.contains("chat template")));
    let answer = server.post("/v1/completions", &json!({"prompt": "[works]"})).await;
    assert_eq!(answer.content(0), "works");
}

#[tokio::test(flavor = "multi_thread")]
async fn legal_shapes_of_messages_are_accepted_and_rendered() {
    let server = TestServer::start().await;
    let call = json!({"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}});
    let parts = |text: &str| json!([{"type": "text", "text": text}, {"type": "text", "text": "+"}]);
    let messages = json!([
        {"role": "developer", "content": "be brief"},
        {"role": "system", "content": parts("sys")},
        {"role": "user", "content": parts("usr"), "name": "ann"},
        {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": parts("tool-result")},
        {"role": "assistant", "content": parts("asst")},
        {"role": "user", "content": ""},
        {"role": "assistant", "content": null, "function_call": {"name": "g", "arguments": ""}},
        {"role": "function", "name": "g", "content": "fn-result"},
        {"role": "assistant", "tool_calls": []},
        {"role": "user", "content": []},
        {"role": "user", "content": "[seen]"},
    ]);
    let (plain, _) = server.both(json!({"messages": messages})).await;
    assert_eq!(plain.content(0), "seen");
    let ids = server.post("/tokenize", &json!({"messages": messages})).await.json();
    let text = server.post("/detokenize", &json!({"tokens": ids["tokens"]})).await.json();
    let text = text["prompt"].as_str().expect("text");
    for part in ["be brief", "sys\n+", "usr\n+", "tool-result\n+", "asst\n+", "fn-result"] {
        assert!(text.contains(part), "{part:?} is missing in {text:?}");
    }
    assert!(!text.contains("None"), "{text}");
    assert!(text.ends_with("<|im_start|>assistant\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_final_message_can_be_continued() {
    let server = TestServer::start().await;
    let messages =
        json!([{"role": "user", "content": "[hello]"}, {"role": "assistant", "content": "hell"}]);
    let request = json!({"messages": messages, "continue_final_message": true});
    let (plain, _) = server.both(request.clone()).await;
    // The prefix was one token of the script; "o" was part of the next.
    assert!("hello".ends_with(&plain.content(0)), "{}", plain.content(0));
    let answer = server.chat(with(request, json!({"add_generation_prompt": true}))).await;
    assert_eq!(answer.error()["param"], "continue_final_message");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_turn_finds_the_first_in_the_cache() {
    let server = TestServer::start().await;
    let block = wharf_engine::model::BLOCK_TOKENS as u64;
    let mut messages = vec![json!({"role": "user", "content": "some longer question [an answer]"})];
    let first = server.chat(json!({"messages": messages})).await;
    let prompt = first.json()["usage"]["prompt_tokens"].as_u64().expect("a number");
    messages.push(json!({"role": "assistant", "content": first.content(0)}));
    messages.push(json!({"role": "user", "content": "[more]"}));
    let request = json!({"messages": messages});
    let warm = server.chat(request.clone()).await;
    let cached = |answer: &Value| {
        answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a number")
    };
    assert!(cached(&warm.json()) >= prompt / block * block, "{}", warm.text());
    // A salt of its own finds nothing, and answers the same.
    let cold = server.chat(with(request, json!({"cache_salt": "other"}))).await;
    assert_eq!(cached(&cold.json()), 0);
    assert_eq!(warm.content(0), cold.content(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_is_truncated_only_where_asked_for() {
    let server = TestServer::start().await;
    let long = format!("{}[cut]", "x".repeat(2 * MAX_MODEL_LEN));
    let request = json!({"prompt": long, "truncate_prompt_tokens": 20, "return_token_ids": true});
    let answer = server.post("/v1/completions", &request).await;
    assert_eq!(answer.content(0), "cut");
    assert_eq!(answer.json()["usage"]["prompt_tokens"], 20);
    let answer = server.post("/v1/completions", &json!({"prompt": long})).await;
    assert_eq!(answer.error()["code"], "context_length_exceeded");
    // Not without bounds: four sequences of nothing but the longest token, which has 12 bytes.
    let most = 4 * MAX_MODEL_LEN * "<|im_start|>".len();
    for (bytes, status) in [(most, 200), (most + 1, 400)] {
        let prompt = format!("{:x>bytes$}", "[cut]");
        let request = json!({"prompt": prompt, "truncate_prompt_tokens": 20});
        let answer = server.post("/v1/completions", &request).await;
        assert_eq!(answer.status, status, "{}", answer.text());
        if status == 400 {
            assert_eq!(answer.error()["param"], "truncate_prompt_tokens");
        }
    }
}
