//! Promises on the text of an answer: stop strings, whole characters, special tokens.
use crate::client::choices;
use crate::script::END;
use crate::server::{TestServer, say, with};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn no_prefix_of_a_matched_stop_string_is_ever_sent() {
    let server = TestServer::start().await;
    // Each byte is a token here but "EN", "xE", "hello", ...: matches begin and end within tokens.
    let cases = [
        ("one ENDtwo", vec!["END"], "one ", "END"),
        ("EEENDtwo", vec!["END"], "EE", "END"),
        ("hello xENDy", vec!["ENDy"], "hello x", "ENDy"),
        ("hello", vec!["ell"], "h", "ell"),
        ("aab", vec!["ab", "b"], "a", "ab"),
        ("ENDthen", vec!["zzz", "END"], "", "END"),
        ("été ENDé", vec!["é E"], "ét", "é E"),
    ];
    for (script, stops, expected, reason) in cases {
        let (plain, stream) = server.both(with(say(script), json!({"stop": stops}))).await;
        assert_eq!(plain.content(0), expected, "{script}");
        assert_eq!(plain.finish(0), ("stop".into(), json!(reason)), "{script}");
        let mut sent = String::new();
        for choice in choices(&stream.events(), 0) {
            sent.push_str(choice["delta"]["content"].as_str().unwrap_or(""));
            assert!(expected.starts_with(&sent), "{script}: {sent:?} was sent");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_text_that_is_a_proper_prefix_of_a_stop_string_is_held_back() {
    let server = TestServer::start().await;
    let request = with(say("one EN two E"), json!({"stop": "END", "stream": true}));
    let stream = server.chat(request).await;
    assert_eq!(stream.content(0), "one EN two E");
    let deltas: Vec<String> = choices(&stream.events(), 0)
        .iter()
        .filter_map(|choice| choice["delta"]["content"].as_str().map(str::to_owned))
        .collect();
    // What cannot begin "END" comes token by token; "EN" waits for the space that ends the hope.
    assert!(deltas.contains(&"EN ".to_owned()), "{deltas:?}");
    // The last "E" comes when there is nothing more to wait for.
    let (last, rest) = deltas.split_last().expect("deltas");
    assert_eq!(last, "E");
    assert!(!rest.iter().any(|delta| delta == "E" || delta == "EN"), "{deltas:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_string_stays_where_it_was_asked_to() {
    let server = TestServer::start().await;
    let more = json!({"stop": ["ND"], "include_stop_str_in_output": true});
    let (plain, _) = server.both(with(say("one ENDtwo"), more)).await;
    assert_eq!(plain.content(0), "one END");
    let stop = u32::from(b'!');
    let more = json!({"stop_token_ids": [stop]});
    let (plain, _) = server.both(with(say("hey! you"), more.clone())).await;
    assert_eq!(plain.content(0), "hey");
    assert_eq!(plain.finish(0), ("stop".into(), json!(stop)));
    let more = with(more, json!({"include_stop_str_in_output": true}));
    let (plain, _) = server.both(with(say("hey! you"), more)).await;
    assert_eq!(plain.content(0), "hey!");
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_strings_count_only_after_min_tokens() {
    let server = TestServer::start().await;
    let more = json!({"stop": ["a"], "min_tokens": 3});
    let (plain, _) = server.both(with(say("abcabc"), more)).await;
    assert_eq!(plain.content(0), "abc");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_delta_is_whole_characters() {
    let server = TestServer::start().await;
    let script = "naïve 😀 e\u{301} 漢字 ok";
    let (_, stream) = server.both(say(script)).await;
    assert_eq!(stream.content(0), script);
    for choice in choices(&stream.events(), 0) {
        let delta = choice["delta"]["content"].as_str().unwrap_or("");
        assert!(!delta.contains('\u{FFFD}'), "{delta:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replacement_character_comes_only_of_invalid_bytes() {
    let server = TestServer::start().await;
    // The script as token ids, so that it need not be UTF-8: "a", half of "é", "b".
    let prompt = [b'[', b'a', 0xC3, b'b', b']'].map(u32::from);
    let request = json!({"prompt": prompt, "max_tokens": 9});
    let plain = server.post("/v1/completions", &request).await;
    assert_eq!(plain.content(0), "a\u{FFFD}b");
    let stream = server.post("/v1/completions", &with(request, json!({"stream": true}))).await;
    assert_eq!(stream.content(0), "a\u{FFFD}b");
    // Cut in the middle of a character by max_tokens.
    let (plain, _) = server.both(with(say("x😀"), json!({"max_tokens": 3}))).await;
    assert_eq!(plain.content(0), "x\u{FFFD}");
    assert_eq!(plain.finish(0).0, "length");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_special_token_text_is_in_the_content() {
    let server = TestServer::start().await;
    let script: Vec<u32> =
        vec![u32::from(b'['), u32::from(b'h'), END, u32::from(b'i'), u32::from(b']')];
    let request = json!({"prompt": script, "max_tokens": 3, "ignore_eos": true});
    let answer = server.post("/v1/completions", &request).await;
    assert_eq!(answer.content(0), "hi");
    let shown = with(request, json!({"skip_special_tokens": false}));
    let answer = server.post("/v1/completions", &shown).await;
    assert_eq!(answer.content(0), "h<|im_end|>i");
    // Of a chat, whole and streamed.
    let request = with(say("h<|im_end|>i"), json!({"max_tokens": 3, "ignore_eos": true}));
    let (plain, _) = server.both(request.clone()).await;
    assert_eq!(plain.content(0), "hi");
    let (plain, _) = server.both(with(request, json!({"skip_special_tokens": false}))).await;
    assert_eq!(plain.content(0), "h<|im_end|>i");
}
