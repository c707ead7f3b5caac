//! The exact JSON of answers: what is `null`, what is absent.
use serde_json::json;
use wharf_api::*;

#[test]
fn a_chunk_says_null_where_clients_look_and_nothing_where_they_do_not() {
    let mut chunk = ChatChunk {
        id: "chatcmpl-1".into(),
        object: "chat.completion.chunk".into(),
        created: 7,
        model: "m".into(),
        choices: vec![ChatChunkChoice {
            index: 0,
            delta: ChatDelta {
                role: Some(Role::Assistant),
                content: Some(String::new()),
                ..ChatDelta::default()
            },
            logprobs: None,
            finish_reason: None,
            stop_reason: None,
            token_ids: None,
        }],
        system_fingerprint: None,
        usage: None,
        prompt_token_ids: None,
    };
    let base =
        json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "m"});
    let mut expected = base.clone();
    expected["choices"] = json!([{"index": 0, "delta": {"role": "assistant", "content": ""},
        "logprobs": null, "finish_reason": null}]);
    assert_eq!(serde_json::to_value(&chunk).expect("serialises"), expected);

    chunk.choices[0].delta = ChatDelta::default();
    chunk.choices[0].finish_reason = Some(FinishReason::Stop);
    chunk.choices[0].stop_reason = Some(StopReason::Token(5));
    expected["choices"] = json!([{"index": 0, "delta": {}, "logprobs": null,
        "finish_reason": "stop", "stop_reason": 5}]);
    assert_eq!(serde_json::to_value(&chunk).expect("serialises"), expected);
}

#[test]
fn an_error_always_has_its_four_fields() {
    let body = ErrorBody {
        error: ErrorObject {
            message: "no".into(),
            kind: "invalid_request_error".into(),
            param: None,
            code: None,
        },
    };
    let expected = json!({"error": {"message": "no", "type": "invalid_request_error",
        "param": null, "code": null}});
    assert_eq!(serde_json::to_value(body).expect("serialises"), expected);
}
