//! Fuzz targets: every parser of bytes from outside, as `fn(&[u8])`.
//!
//! A target fails by panicking (or by taking too long or too much memory, which libFuzzer
//! watches). `cargo xtask fuzz` runs them.

use std::sync::{Arc, LazyLock};

use wharf_grammar::{Compiler, Grammar, JsonStyle, Limits, Vocabulary};
use wharf_text::{
    detokenizer::Detokenizer,
    output::{OutputEvent, OutputParser, PlainText},
    reasoning::{self, Opening},
    stop::{StopMatcher, StopOutcome},
    template::{ChatTemplate, RenderInput},
    tokenizer::{GgufVocabulary, Tokenizer, from_gguf},
    tool_calls::{self, custom::CustomInputs},
};

/// A fuzz target.
pub type Target = fn(&[u8]);

/// Every target, by name. `cargo xtask fuzz` knows the same names.
pub const TARGETS: &[(&str, Target)] = &[
    ("request", request),
    ("gguf", gguf),
    ("safetensors", safetensors),
    ("config", config),
    ("template", template),
    ("stop", stop),
    ("detokenizer", detokenizer),
    ("reasoning", reasoning),
    ("tool_calls", tool_calls),
    ("schema", schema),
    ("grammar", grammar),
];

/// The target called `name`.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}

fn request(data: &[u8]) {
    let _ = wharf_api::parse_chat_request(data);
    let _ = wharf_api::parse_completion_request(data);
    let _ = wharf_api::parse_tokenize_request(data);
    let _ = wharf_api::parse_detokenize_request(data);
}

fn gguf(data: &[u8]) {
    let Ok(gguf) = wharf_model::gguf::parse(data) else { return };
    let _ = wharf_model::gguf::config(&gguf);
    let _ = wharf_model::gguf::vocabulary(&gguf);
    let _ = wharf_model::gguf::chat_template(&gguf);
}

fn safetensors(data: &[u8]) {
    let _ = wharf_model::safetensors::parse_header(data);
    let _ = wharf_model::safetensors::parse_index(data);
}

fn config(data: &[u8]) {
    let _ = wharf_model::config::parse(data);
}

/// The template is the input; the conversation is fixed.
fn template(data: &[u8]) {
    let Ok(source) = std::str::from_utf8(data) else { return };
    let Ok(template) = ChatTemplate::new(source, Some("<s>"), Some("</s>")) else { return };
    let messages = vec![
        serde_json::json!({"role": "system", "content": "You are terse."}),
        serde_json::json!({"role": "user", "content": [{"type": "text", "text": "Hi {{ 1 }}"}]}),
    ];
    let input = RenderInput { messages, add_generation_prompt: true, ..RenderInput::default() };
    let _ = template.render(&input);
}

/// First byte: the number of stop strings and whether to include them; then the stop strings,
/// each ended by a zero byte; the rest is text, fed in pieces whose lengths the bytes give.
/// The same text fed at once must give the same.
fn stop(data: &[u8]) {
    let Some((&head, mut rest)) = data.split_first() else { return };
    let mut stops = Vec::new();
    for _ in 0..=head % 4 {
        let Some(end) = rest.iter().position(|byte| *byte == 0) else { return };
        stops.push(String::from_utf8_lossy(&rest[..end]).into_owned());
        rest = &rest[end + 1..];
    }
    stops.retain(|stop| !stop.is_empty());
    let include = head & 0x80 != 0;
    let text = String::from_utf8_lossy(rest);
    let whole = fed(&stops, include, std::iter::once(text.as_ref()));
    assert_eq!(whole, fed(&stops, include, pieces(&text)));
}

/// Cuts a text into pieces whose lengths its bytes give.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let left = text.get(at..).filter(|left| !left.is_empty())?;
        let wish = usize::from(left.as_bytes()[0] % 7) + 1;
        let length = (wish..left.len()).find(|&n| left.is_char_boundary(n)).unwrap_or(left.len());
        at += length;
        Some(&left[..length])
    })
}

/// What comes out of a matcher that is fed `pieces`, and which stop string ended it.
fn fed<'a>(
    stops: &[String],
    include: bool,
    pieces: impl Iterator<Item = &'a str>,
) -> (String, Option<usize>) {
    let mut matcher = StopMatcher::new(stops, include);
    let mut out = String::new();
    for piece in pieces {
        if let StopOutcome::Matched { index } = matcher.push(piece, &mut out) {
            return (out, Some(index));
        }
    }
    matcher.finish(&mut out);
    (out, None)
}

/// First byte: the format; second: where the answer begins; the rest is the answer, in which each
/// control character stands for a marker. Fed in pieces it gives what it gives at once.
fn reasoning(data: &[u8]) {
    let [format, opening, text @ ..] = data else { return };
    let formats = reasoning::formats();
    let format = formats[usize::from(*format) % formats.len()];
    let opening =
        [Opening::Undecided, Opening::Reasoning, Opening::Content][usize::from(*opening) % 3];
    let mut answer = String::new();
    for c in String::from_utf8_lossy(text).chars() {
        match format.markers().get(c as usize) {
            Some(marker) => answer.push_str(marker),
            None => answer.push(c),
        }
    }
    let parser = || format.parser(opening, Box::new(PlainText));
    let whole = parts(parser(), std::iter::once(answer.as_str()));
    assert_eq!(whole, parts(parser(), pieces(&answer)));
}

/// First byte: the format; the rest is the answer, in which each control character stands for a
/// marker. Fed in pieces it gives what it gives at once.
fn tool_calls(data: &[u8]) {
    let [format, text @ ..] = data else { return };
    let formats = tool_calls::formats();
    let format = formats[usize::from(*format) % formats.len()];
    let mut answer = String::new();
    for c in String::from_utf8_lossy(text).chars() {
        match format.markers().get(c as usize) {
            Some(marker) => answer.push_str(marker),
            None => answer.push(c),
        }
    }
    let whole = parts(format.parser(&[]), std::iter::once(answer.as_str()));
    assert_eq!(whole, parts(format.parser(&[]), pieces(&answer)));
    // And the same where all of it calls custom tools.
    let names = whole.iter().filter_map(|event| match event {
        OutputEvent::CallStart { name } => Some(name.clone()),
        _ => None,
    });
    let names: Vec<String> = names.collect();
    let custom = || Box::new(CustomInputs::new(format.parser(&[]), names.clone()));
    let whole = parts(custom(), std::iter::once(answer.as_str()));
    assert_eq!(whole, parts(custom(), pieces(&answer)));
}

/// A JSON schema; an answer that its masks allow is JSON.
fn schema(data: &[u8]) {
    let Ok(schema) = serde_json::from_slice(data) else { return };
    follow(&Grammar::Json { schema, style: JsonStyle::spaced() });
}

/// First byte: which kind of grammar; the rest is its text.
fn grammar(data: &[u8]) {
    let [kind, text @ ..] = data else { return };
    let text = String::from_utf8_lossy(text).into_owned();
    follow(&match kind % 5 {
        0 => Grammar::Regex(text),
        1 => Grammar::Lark(text),
        2 => Grammar::Gbnf(text),
        3 => match Grammar::lark_in_json(&text) {
            Ok(grammar) => grammar,
            Err(_) => return,
        },
        _ => Grammar::Literal(text),
    });
}

/// Compiles, and walks a few tokens of what is allowed. Errors are fine, panics are not.
fn follow(grammar: &Grammar) {
    static COMPILER: LazyLock<Option<Compiler>> = LazyLock::new(|| {
        let vocabulary = Vocabulary {
            tokens: (0..=255).map(|byte| vec![byte]).chain([b"<end>".to_vec()]).collect(),
            special: (0..257).map(|id| id == 256).collect(),
            eos_token_ids: vec![256],
            tokenize: Box::new(|text| text.bytes().map(u32::from).collect()),
        };
        let limits = Limits { cached: 0, source_bytes: 4096, ..Limits::default() };
        Compiler::new(vocabulary, limits).ok()
    });
    let Some(Ok(constraint)) = COMPILER.as_ref().map(|compiler| compiler.compile(grammar)) else {
        return;
    };
    let mut matcher = constraint.matcher();
    for step in 0..24u32 {
        let Ok(mask) = matcher.mask() else { return };
        let _ = matcher.forced();
        let allowed = (0..256).cycle().skip(step as usize * 37).take(256);
        let Some(token) = allowed.into_iter().find(|&token| mask.contains(token)) else { return };
        assert!(matcher.consume(token).is_ok(), "a token of the mask was refused");
    }
}

/// What a parser makes of `pieces`: neighbours of one kind are one event.
fn parts<'a>(
    mut parser: Box<dyn OutputParser>,
    pieces: impl Iterator<Item = &'a str>,
) -> Vec<OutputEvent> {
    let mut events = Vec::new();
    for piece in pieces {
        parser.push(piece, &mut events);
    }
    parser.finish(&mut events);
    let mut merged: Vec<OutputEvent> = Vec::new();
    for event in events {
        match (merged.last_mut(), &event) {
            (Some(OutputEvent::Reasoning(all)), OutputEvent::Reasoning(text))
            | (Some(OutputEvent::Content(all)), OutputEvent::Content(text))
            | (Some(OutputEvent::Arguments(all)), OutputEvent::Arguments(text)) => {
                all.push_str(text)
            }
            _ => merged.push(event),
        }
    }
    merged
}

/// A token per byte value, and one special token.
static BYTES: LazyLock<Option<Arc<dyn Tokenizer>>> = LazyLock::new(|| {
    let mut tokens: Vec<String> = (0u8..=255).map(|byte| format!("<0x{byte:02X}>")).collect();
    let mut token_types = vec![6; 256];
    tokens.push("</s>".to_owned());
    token_types.push(3);
    let scores = vec![0.0; tokens.len()];
    let vocabulary = GgufVocabulary {
        model: "llama".to_owned(),
        tokens,
        scores,
        token_types,
        eos: Some(256),
        add_space_prefix: Some(false),
        ..GgufVocabulary::default()
    };
    from_gguf(vocabulary).ok()
});

/// Bytes are token ids: what comes out piece by piece is what decoding them at once gives.
fn detokenizer(data: &[u8]) {
    let Some(tokenizer) = BYTES.as_ref() else { panic!("the fuzz vocabulary does not load") };
    let ids: Vec<u32> = data.iter().map(|byte| u32::from(*byte)).collect();
    let mut detokenizer = Detokenizer::new(Arc::clone(tokenizer), true);
    let mut out = String::new();
    for id in &ids {
        detokenizer.push(*id, &mut out);
    }
    detokenizer.finish(&mut out);
    assert_eq!(out, tokenizer.decode(&ids, true));
}
