//! Structured outputs: what is constrained holds, and what cannot be is refused.
//!
//! The scripted model would say anything; its vocabulary is bytes, so `random` is the worst case.
use crate::server::{TestServer, say, with};
use serde_json::{Value, json};

const NAME: fn() -> Value = || {
    json!({"type": "object", "properties": {"name": {"enum": ["a", "b"]}}, "required": ["name"],
        "additionalProperties": false})
};

#[tokio::test(flavor = "multi_thread")]
async fn a_constraint_holds_whatever_the_model_would_say_and_by_each_of_its_names() {
    let server = TestServer::start().await;
    let object = ["{\"name\": \"a\"}", "{\"name\": \"b\"}"];
    let schema = |name: &str| json!({name: {"name": "n", "schema": NAME()}, "type": "json_schema"});
    let tag = json!({"type": "const_string", "value": "t"});
    let open = json!({"properties": {"a": {"const": 1}}, "required": ["a"], "type": "object"});
    let cases: [(Value, &[&str]); 14] = [
        (
            json!({"structured_outputs": {"json": open, "disable_additional_properties": true}}),
            &["{\"a\": 1}"],
        ),
        (
            json!({"structured_outputs": {
                "structural_tag": {"format": {"type": "tag", "begin": "<", "end": ">", "content": {
                    "type": "json_schema", "json_schema": open,
                }}},
                "disable_additional_properties": true, "disable_any_whitespace": true,
            }}),
            &["<{\"a\":1}>"],
        ),
        (json!({"response_format": {"type": "structural_tag", "format": tag}}), &["t"]),
        (json!({"structured_outputs": {"structural_tag": {"format": tag}}}), &["t"]),
        (
            json!({"structural_tag": {"format": {
                "type": "json_schema", "json_schema": open, "style": "glm_xml",
            }}}),
            &["<arg_key>a</arg_key><arg_value>1</arg_value>"],
        ),
        (json!({"guided_json": NAME()}), &object),
        (json!({"guided_json": NAME().to_string()}), &object),
        (json!({"response_format": schema("json_schema")}), &object),
        (json!({"structured_outputs": {"json": NAME()}}), &object),
        (json!({"guided_choice": ["yes", "no"]}), &["yes", "no"]),
        (json!({"guided_regex": "[xy]z"}), &["xz", "yz"]),
        (json!({"guided_grammar": "start: \"p\" \"q\""}), &["pq"]),
        (json!({"guided_grammar": "root ::= \"p\" | \"q\""}), &["p", "q"]),
        (
            json!({"guided_json": NAME(), "guided_whitespace_pattern": ""}),
            &["{\"name\":\"a\"}", "{\"name\":\"b\"}"],
        ),
    ];
    for (constraint, allowed) in cases {
        for script in ["something else", "random", ""] {
            let sampled = json!({"temperature": 1, "seed": 3, "n": 3});
            let request = with(with(say(script), constraint.clone()), sampled);
            let (plain, _) = server.both(request).await;
            for index in 0..3 {
                let content = plain.content(index);
                assert!(allowed.contains(&content.as_str()), "{constraint}: {content:?}");
                assert_eq!(plain.finish(index).0, "stop");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_completion_is_constrained_too() {
    let server = TestServer::start().await;
    let request = json!({"prompt": "[anything]", "guided_choice": ["left", "right"]});
    let answer = server.post("/v1/completions", &request).await;
    let text = answer.json()["choices"][0]["text"].clone();
    assert!(text == "left" || text == "right", "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_only_writes_spaces_still_finishes() {
    let server = TestServer::start().await;
    let schema = json!({"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "maxItems": 3});
    let bias = json!({"guided_json": schema, "logit_bias": {"32": 100, "10": 100, "9": 100}});
    let (plain, _) = server.both(with(say("        "), bias)).await;
    assert_eq!(plain.finish(0).0, "stop");
    assert!(!plain.content(0).contains("  "), "{}", plain.content(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_string_does_not_cut_a_constrained_answer_in_half() {
    let server = TestServer::start().await;
    for stop in ["}", "name", "\"", "a"] {
        let request = with(say("a"), json!({"guided_json": NAME(), "stop": [stop]}));
        let (plain, _) = server.both(request).await;
        let content: Value = serde_json::from_str(&plain.content(0)).expect("JSON");
        assert!(content["name"].is_string());
    }
    // Where the answer is complete it ends it.
    let request = with(say("aaab"), json!({"guided_regex": "a+b?", "stop": ["b"]}));
    let (plain, _) = server.both(request).await;
    assert_eq!(plain.content(0), "aaa");
    assert_eq!(plain.finish(0), ("stop".into(), "b".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn log_probabilities_do_not_change_what_is_generated() {
    let server = TestServer::start().await;
    let request = with(say("random"), json!({"guided_json": NAME(), "temperature": 1, "seed": 5}));
    let (plain, _) = server.both(request.clone()).await;
    let (told, _) = server.both(with(request, json!({"logprobs": true, "top_logprobs": 1}))).await;
    assert_eq!(told.content(0), plain.content(0));
    let entries = told.json()["choices"][0]["logprobs"]["content"].clone();
    let bytes: Vec<u8> = entries
        .as_array()
        .expect("entries")
        .iter()
        .flat_map(|entry| entry["bytes"].as_array().expect("bytes").clone())
        .map(|byte| u8::try_from(byte.as_u64().expect("a byte")).expect("a byte"))
        .collect();
    assert_eq!(bytes, told.content(0).into_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_enforced_is_a_400_with_its_place_and_the_server_goes_on() {
    let server = TestServer::start().await;
    let format = |format: Value| json!({"response_format": format});
    let outputs = |outputs: Value| json!({"structured_outputs": outputs});
    let tags =
        json!({"type": "object", "properties": {"tags": {"type": "array", "uniqueItems": true}}});
    let cases = [
        (json!({"guided_json": tags}), "guided_json.properties.tags.uniqueItems"),
        (
            format(json!({"type": "json_schema", "json_schema": {"name": "n", "schema": tags}})),
            "response_format.json_schema.schema.properties.tags.uniqueItems",
        ),
        (outputs(json!({"json": tags})), "structured_outputs.json.properties.tags.uniqueItems"),
        (json!({"guided_json": {"type": "strin"}}), "guided_json.type"),
        (json!({"guided_json": 5}), "guided_json"),
        (json!({"guided_json": "{"}), "guided_json"),
        (json!({"guided_json": "3"}), "guided_json"),
        (json!({"guided_json": {"$ref": "https://example.com/x"}}), "guided_json.$ref"),
        (json!({"guided_regex": "(a"}), "guided_regex"),
        (json!({"guided_regex": "a(?!b)"}), "guided_regex"),
        (json!({"guided_regex": 5}), "guided_regex"),
        (json!({"guided_choice": []}), "guided_choice"),
        (json!({"guided_choice": ["a", 5]}), "guided_choice[1]"),
        (json!({"guided_choice": "a"}), "guided_choice"),
        (json!({"guided_grammar": "start: nothing"}), "guided_grammar"),
        (json!({"guided_grammar": "root ::= ["}), "guided_grammar"),
        (json!({"guided_json": {}, "guided_regex": "a"}), "guided_regex"),
        (
            json!({"guided_json": {}, "structured_outputs": {"regex": "a"}}),
            "structured_outputs.regex",
        ),
        (
            json!({"guided_regex": "a", "guided_whitespace_pattern": " "}),
            "guided_whitespace_pattern",
        ),
        (json!({"guided_decoding_backend": 5}), "guided_decoding_backend"),
        (format(json!({"type": "json_schema"})), "response_format.json_schema"),
        (
            format(json!({"type": "json_schema", "json_schema": {"name": "n"}})),
            "response_format.json_schema.schema",
        ),
        (
            format(json!({"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}})),
            "response_format.json_schema.name",
        ),
        (outputs(json!({})), "structured_outputs"),
        (outputs(json!("x")), "structured_outputs"),
        (outputs(json!({"yaml": "x"})), "structured_outputs.yaml"),
        (outputs(json!({"json": {}, "regex": "a"})), "structured_outputs.regex"),
        (
            outputs(json!({
                "json": {"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]},
                "disable_additional_properties": true,
            })),
            "structured_outputs.json.allOf",
        ),
        (
            json!({"structural_tag": {"format": {
                "type": "json_schema", "json_schema": {"minProperties": 1}, "style": "glm_xml",
            }}}),
            "structural_tag.format.json_schema.minProperties",
        ),
        (
            outputs(json!({"json": {}, "disable_additional_properties": 1})),
            "structured_outputs.disable_additional_properties",
        ),
        (
            outputs(json!({"regex": "a", "whitespace_pattern": " "})),
            "structured_outputs.whitespace_pattern",
        ),
    ];
    for (more, param) in cases {
        for stream in [false, true] {
            let request = with(with(say("x"), more.clone()), json!({"stream": stream}));
            let answer = server.chat(request).await;
            assert_eq!(answer.status, 400, "{more}: {}", answer.text());
            assert_eq!(answer.error()["param"], param, "{more}: {}", answer.text());
        }
    }
    server.assert_serving().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn constraint_and_bans_that_leave_nothing_fail_this_request_only() {
    let server = TestServer::start().await;
    let request = with(say("x"), json!({"guided_regex": "ab", "allowed_token_ids": [97]}));
    let answer = server.chat(request).await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert!(answer.text().contains("constraint"), "{}", answer.text());
    server.assert_serving().await;
}
