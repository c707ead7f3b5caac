//! What the request parser takes, what it refuses, and how it says where.
use proptest::prelude::*;
use serde_json::{Value, json};
use wharf_api::{
    ContentPart, Integer, MessageContent, ParseError, Prompt, Role, parse_chat_request,
    parse_completion_request, parse_detokenize_request, parse_tokenize_request,
};

fn chat(body: Value) -> Result<wharf_api::ChatCompletionRequest, ParseError> {
    parse_chat_request(body.to_string().as_bytes())
}

/// The path that `body` is refused with.
fn path_of(body: Value) -> Option<String> {
    match chat(body) {
        Err(error) => error.path,
        Ok(request) => panic!("accepted: {request:?}"),
    }
}

#[test]
fn a_wrong_type_names_its_path() {
    let cases = [
        (json!({"messages": [{"role": "user", "content": "x"}, {"role": 3}]}), "messages[1].role"),
        (json!({"messages": [{"role": "wizard"}]}), "messages[0].role"),
        (json!({"messages": [{"role": "user", "content": 5}]}), "messages[0].content"),
        (
            json!({"messages": [{"role": "user", "content": [{"type": 1}]}]}),
            "messages[0].content[0].type",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "text", "text": {}}]}]}),
            "messages[0].content[0].text",
        ),
        (json!({"messages": ["hello"]}), "messages[0]"),
        (json!({"messages": null}), "messages"),
        (json!({"temperature": "hot"}), "temperature"),
        (json!({"n": 1.5}), "n"),
        (json!({"n": true}), "n"),
        (json!({"max_tokens": "8"}), "max_tokens"),
        (json!({"seed": 9_223_372_036_854_775_808u64}), "seed"),
        (json!({"stop": ["a", 1]}), "stop[1]"),
        (json!({"stop": 7}), "stop"),
        (json!({"logit_bias": {"5": "x"}}), "logit_bias.5"),
        (json!({"logit_bias": [1]}), "logit_bias"),
        (json!({"stream": "yes"}), "stream"),
        (json!({"stream_options": {"include_usage": 1}}), "stream_options.include_usage"),
        (json!({"response_format": {"type": "grammar"}}), "response_format.type"),
        (
            json!({"tool_choice": {"type": "function", "function": {"name": 1}}}),
            "tool_choice.function.name",
        ),
        (json!({"tools": [{"type": "function", "function": {}}]}), "tools[0].function.name"),
        (json!({"stop_token_ids": [1, "2"]}), "stop_token_ids[1]"),
    ];
    for (body, path) in cases {
        let got = path_of(body.clone());
        // A missing field is reported at the object that lacks it.
        let parent = path.rsplit_once('.').map(|(parent, _)| parent);
        assert!(
            got.as_deref() == Some(path) || got.as_deref() == parent,
            "{body}: {got:?}, not {path}"
        );
    }
}

#[test]
fn null_is_absent_and_unknown_fields_are_ignored() {
    let body = json!({
        "messages": [{"role": "user", "content": "x", "mood": {"a": [1]}}],
        "temperature": null, "n": null, "stop": null, "tools": null, "stream_options": null,
        "logit_bias": null, "tool_choice": null, "no_such_field": {"deep": [1, 2, {"x": null}]},
    });
    let request = chat(body).expect("accepted");
    assert_eq!(request.generation, wharf_api::GenerationFields::default());
    assert_eq!(request.messages.len(), 1);
}

#[test]
fn content_is_a_string_or_parts_or_null() {
    let request = chat(json!({"messages": [
        {"role": "developer", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "image_url", "image_url": {"url": "x"}}]},
        {"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "1", "content": []},
    ]}))
    .expect("accepted");
    assert_eq!(request.messages[0].role, Role::Developer);
    let parts = vec![
        ContentPart { kind: "text".into(), text: Some("b".into()), refusal: None },
        ContentPart { kind: "image_url".into(), text: None, refusal: None },
    ];
    assert_eq!(request.messages[1].content, Some(MessageContent::Parts(parts)));
    assert_eq!(request.messages[2].content, None);
    assert_eq!(request.messages[3].content, Some(MessageContent::Parts(vec![])));
}

#[test]
fn integers_may_be_written_with_a_fraction_of_zero() {
    let request = chat(json!({"n": 2.0, "seed": -1, "top_k": -1})).expect("accepted");
    assert_eq!(request.generation.n, Some(Integer(2)));
    assert_eq!(request.generation.seed, Some(Integer(-1)));
}

#[test]
fn what_is_not_json_has_no_path() {
    let deep = "[".repeat(100_000);
    let nested = format!("{{\"metadata\": {deep}}}");
    for body in [
        &b"{\"messages\": [}"[..],
        b"",
        b"[]",
        b"null",
        b"\"x\"",
        b"{\"a\": 1} x",
        b"\xff\xfe",
        b"{\"temperature\": NaN}",
        b"{\"temperature\": 1e999}",
        b"{\"user\": \"\\ud800\"}",
        nested.as_bytes(),
    ] {
        let error = parse_chat_request(body).expect_err("must be refused");
        assert!(!error.message.is_empty());
    }
    assert!(parse_chat_request(b"\xef\xbb\xbf{\"messages\": []}").is_ok(), "byte order mark");
}

#[test]
fn of_a_key_that_comes_twice_the_last_counts() {
    let request = parse_chat_request(br#"{"n": 1, "n": 3}"#).expect("accepted");
    assert_eq!(request.generation.n, Some(Integer(3)));
}

#[test]
fn a_prompt_is_text_texts_ids_or_lists_of_ids() {
    let prompt = |value: Value| {
        parse_completion_request(json!({"prompt": value}).to_string().as_bytes()).map(|r| r.prompt)
    };
    assert_eq!(prompt(json!("a")), Ok(Some(Prompt::Text("a".into()))));
    assert_eq!(prompt(json!(["a", "b"])), Ok(Some(Prompt::Texts(vec!["a".into(), "b".into()]))));
    assert_eq!(prompt(json!([1, 2])), Ok(Some(Prompt::Tokens(vec![1, 2]))));
    assert_eq!(prompt(json!([[1], []])), Ok(Some(Prompt::TokenLists(vec![vec![1], vec![]]))));
    assert_eq!(prompt(json!(null)), Ok(None));
    assert_eq!(prompt(json!([1, "b"])).expect_err("mixed").path.as_deref(), Some("prompt[1]"));
    assert_eq!(prompt(json!([-1])).expect_err("negative").path.as_deref(), Some("prompt[0]"));
    assert_eq!(
        prompt(json!([[1], [-2]])).expect_err("negative").path.as_deref(),
        Some("prompt[1][0]")
    );
}

/// JSON of every shape, with the names of real fields among its keys so that values of the wrong
/// type meet real readers.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
        prop::sample::select(vec!["user", "assistant", "text", "function", "auto"])
            .prop_map(Value::from),
    ];
    let key = prop::sample::select(vec![
        "messages",
        "role",
        "content",
        "type",
        "text",
        "stop",
        "n",
        "tools",
        "tool_choice",
        "function",
        "name",
        "arguments",
        "tool_calls",
        "prompt",
        "logit_bias",
        "logprobs",
        "response_format",
        "json_schema",
        "stream_options",
        "seed",
        "other",
        "tokens",
    ]);
    leaf.prop_recursive(5, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..6).prop_map(|pairs| {
                Value::Object(pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
            }),
        ]
    })
}

proptest! {
    #[test]
    fn no_json_makes_the_parsers_panic(value in any_json()) {
        let body = value.to_string();
        for key in ["messages", "prompt", "tokens", "tool_choice", "stop"] {
            let body = format!("{{\"{key}\": {body}}}");
            let _ = parse_chat_request(body.as_bytes());
            let _ = parse_completion_request(body.as_bytes());
            let _ = parse_tokenize_request(body.as_bytes());
            let _ = parse_detokenize_request(body.as_bytes());
        }
        let _ = parse_chat_request(body.as_bytes());
    }

    #[test]
    fn no_bytes_make_the_parser_panic(body in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = parse_chat_request(&body);
    }
}
