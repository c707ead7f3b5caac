//! The pipeline of one choice, on a vocabulary of bytes and a few longer tokens.

use super::*;
use proptest::prelude::*;
use wharf_text::tokenizer::TokenizerError;

/// Token `n` below 256 is byte `n`; 256 is special; the rest are of several bytes.
struct Bytes(Vec<Vec<u8>>);

impl Bytes {
    fn shared() -> Arc<dyn Tokenizer> {
        let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
        tokens.extend([b"<end>".to_vec(), "é".into(), b"ab".to_vec(), b"b\xC3".to_vec()]);
        Arc::new(Self(tokens))
    }
}

impl Tokenizer for Bytes {
    fn encode(&self, text: &str, _: bool) -> Result<Vec<u32>, TokenizerError> {
        Ok(text.bytes().map(u32::from).collect())
    }
    fn token_bytes(&self, id: u32) -> &[u8] {
        self.0.get(id as usize).map_or(&[], Vec::as_slice)
    }
    fn is_special(&self, id: u32) -> bool {
        id == 256
    }
    fn decode(&self, ids: &[u32], _: bool) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| self.token_bytes(id).to_vec()).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
    fn token_to_id(&self, _: &str) -> Option<u32> {
        None
    }
    fn id_to_token(&self, _: u32) -> Option<String> {
        None
    }
    fn vocab_size(&self) -> usize {
        self.0.len()
    }
    fn bos_token(&self) -> Option<&str> {
        None
    }
    fn eos_token(&self) -> Option<&str> {
        None
    }
}

/// All updates of a choice that is given `ids` and then ends by length.
fn updates(ids: &[u32], options: ChoiceOptions) -> Vec<Update> {
    let mut choice = Choice::new(Bytes::shared(), Arc::new(options));
    let mut updates = Vec::new();
    let logprob = || Some(TokenLogprob { logprob: -1.0, top: Vec::new() });
    let events = ids.iter().map(|&id| Event::Token { id, logprob: logprob(), complete: true });
    for event in events.chain([Event::Finished(EngineFinish::Length)]) {
        let update = choice.push(event).expect("no failure");
        let ended = update.finish.is_some();
        updates.push(update);
        if ended {
            break;
        }
    }
    updates
}

fn options(stops: Vec<String>, include_stop: bool) -> ChoiceOptions {
    ChoiceOptions {
        matcher: StopMatcher::new(&stops, include_stop),
        stops,
        include_stop,
        skip_special_tokens: true,
        logprobs: true,
        min_tokens: 0,
        stop_rule: StopRule::Anywhere,
        parts: Parts::plain(),
    }
}

fn whole(updates: Vec<Update>) -> Update {
    let mut whole = Update::default();
    updates.into_iter().for_each(|update| whole.append(update));
    whole
}

fn bytes_of(entries: &[LogprobEntry]) -> Vec<u8> {
    entries.iter().flat_map(|entry| entry.bytes.clone().unwrap_or_default()).collect()
}

#[test]
fn a_stop_string_cuts_the_bytes_of_the_token_it_begins_in() {
    // "é" in two tokens, then "ab", of which "b" begins the stop string.
    let ids = [u32::from(b'x'), 0xC3, 0xA9, 258, u32::from(b'!')];
    let whole = whole(updates(&ids, options(vec!["b!".into()], false)));
    assert_eq!(whole.content(), "xéa");
    let ids: Vec<u32> = whole.logprobs.iter().map(|entry| entry.id).collect();
    assert_eq!(ids, [u32::from(b'x'), 0xC3, 0xA9, 258]);
    assert_eq!(whole.logprobs[3].bytes.as_deref(), Some(&b"a"[..]));
    assert_eq!(whole.finish.and_then(|finish| finish.stop), Some(StopReason::Text("b!".into())));
    assert_eq!(whole.token_ids.len(), 5, "all that were generated");
}

#[test]
fn a_hidden_token_has_no_bytes_and_keeps_its_place() {
    let whole = whole(updates(&[u32::from(b'a'), 256, u32::from(b'b')], options(vec![], false)));
    assert_eq!(whole.content(), "ab");
    let bytes: Vec<_> = whole.logprobs.iter().map(|entry| entry.bytes.is_some()).collect();
    assert_eq!(bytes, [true, false, true]);
}

/// `<end>` (256) begins and ends reasoning; what `{` and `}` enclose is a call of `f`.
#[derive(Default)]
struct Braces {
    reasoning: bool,
    call: bool,
}

impl OutputParser for Braces {
    fn push(&mut self, text: &str, out: &mut Vec<OutputEvent>) {
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix("<end>") {
                (self.reasoning, rest) = (!self.reasoning, after);
                continue;
            }
            let (one, after) = rest.split_at(rest.chars().next().map_or(0, char::len_utf8));
            rest = after;
            match one {
                "{" => {
                    self.call = true;
                    out.push(OutputEvent::CallStart { name: "f".into() });
                }
                "}" if self.call => {
                    self.call = false;
                    out.push(OutputEvent::CallEnd);
                }
                _ if self.call => out.push(OutputEvent::Arguments(one.into())),
                _ if self.reasoning => out.push(OutputEvent::Reasoning(one.into())),
                _ => out.push(OutputEvent::Content(one.into())),
            }
        }
    }

    fn finish(&mut self, _: &mut Vec<OutputEvent>) {}

    fn is_reasoning(&self) -> bool {
        self.reasoning
    }
}

/// The updates, added up, of a choice that reads `text` by [`Braces`] (`$` is token 256) and
/// then ends; and how many tokens were reasoning.
fn parsed(text: &str, end: EngineFinish, options: ChoiceOptions) -> (Update, Option<usize>) {
    let parts = Parts {
        parser: Arc::new(|| Box::<Braces>::default()),
        shown: Arc::new([256]),
        reasons: true,
        ..options.parts.clone()
    };
    let mut choice = Choice::new(Bytes::shared(), Arc::new(ChoiceOptions { parts, ..options }));
    let ids = text.bytes().map(|byte| if byte == b'$' { 256 } else { u32::from(byte) });
    let events = ids.map(|id| Event::Token { id, logprob: None, complete: id != 256 });
    let mut all = Update::default();
    for event in events.chain([Event::Finished(end)]) {
        all.append(choice.push(event).expect("no failure"));
        if all.finish.is_some() {
            break;
        }
    }
    (all, choice.reasoned())
}

fn reason(update: &Update) -> Option<FinishReason> {
    update.finish.as_ref().map(|finish| finish.reason)
}

#[test]
fn an_answer_is_told_apart_and_its_reasoning_counted() {
    let (whole, reasoned) = parsed("$hm$a{1}", EngineFinish::Complete, options(vec![], false));
    let part = |text: &str| text.to_owned();
    assert_eq!(
        whole.parts,
        [
            OutputEvent::Reasoning(part("hm")),
            OutputEvent::Content(part("a")),
            OutputEvent::CallStart { name: part("f") },
            OutputEvent::Arguments(part("1")),
            OutputEvent::CallEnd,
        ]
    );
    assert_eq!(reason(&whole), Some(FinishReason::ToolCalls));
    assert_eq!(reasoned, Some(4), "the markers are tokens too");
}

#[test]
fn only_a_complete_call_ends_an_answer_with_tool_calls() {
    let end = |text, end| reason(&parsed(text, end, options(vec![], false)).0);
    assert_eq!(end("{1", EngineFinish::Length), Some(FinishReason::Length));
    assert_eq!(end("{1}", EngineFinish::Length), Some(FinishReason::Length));
    assert_eq!(end("{1", EngineFinish::Eos(0)), Some(FinishReason::Stop));
    assert_eq!(end("a", EngineFinish::Eos(0)), Some(FinishReason::Stop));
    assert_eq!(end("{1}", EngineFinish::Eos(0)), Some(FinishReason::ToolCalls));
}

#[test]
fn named_and_deprecated_calls_end_as_openai_s() {
    let end = |named, legacy| {
        let calls = crate::parts::Calls { named, legacy, short_ids: false };
        let parts = Parts { calls, ..Parts::plain() };
        let options = ChoiceOptions { parts, ..options(vec![], false) };
        reason(&parsed("{1}", EngineFinish::Complete, options).0)
    };
    assert_eq!(end(true, false), Some(FinishReason::Stop));
    assert_eq!(end(false, true), Some(FinishReason::FunctionCall));
}

#[test]
fn reasoning_that_is_not_wanted_is_counted_all_the_same() {
    let parts = Parts { include_reasoning: false, ..Parts::plain() };
    let options = ChoiceOptions { parts, ..options(vec![], false) };
    let (whole, reasoned) = parsed("$hm$a", EngineFinish::Complete, options);
    assert_eq!(whole.parts, [OutputEvent::Content("a".into())]);
    assert_eq!(reasoned, Some(4));
}

#[test]
fn a_marker_that_the_parser_leaves_is_not_shown() {
    // Everything is content to it, markers too.
    let parts = Parts { shown: Arc::new([256]), ..Parts::plain() };
    let mut choice =
        Choice::new(Bytes::shared(), Arc::new(ChoiceOptions { parts, ..options(vec![], false) }));
    let token = |id| Event::Token { id, logprob: None, complete: true };
    let update = choice.push(token(256)).expect("no failure");
    assert!(update.is_empty());
}

#[test]
fn a_stop_string_under_a_constraint_counts_only_where_the_answer_is_complete() {
    let rule = |stop_rule, stop: &str| {
        let options = ChoiceOptions { stop_rule, ..options(vec![stop.into()], false) };
        // Complete after every token but 256, which is shown as "<end>".
        parsed("a{b$c}d", EngineFinish::Length, options).0
    };
    // After 256 the answer is not complete: what stands before "c" would not do.
    assert_eq!(reason(&rule(StopRule::Complete, "c")), Some(FinishReason::Length));
    assert_eq!(reason(&rule(StopRule::Anywhere, "c")), Some(FinishReason::Stop));
    assert_eq!(reason(&rule(StopRule::Complete, "b")), Some(FinishReason::Stop));
}

proptest! {
    #[test]
    fn entries_are_the_text_whatever_stops_it(
        // Pieces of UTF-8 and tokens over their borders; "b\xC3" is always followed by its rest.
        pieces in prop::collection::vec(prop::sample::select(vec![
            vec![97u32], vec![98], vec![257], vec![258], vec![259, 0xA9], vec![0xC3, 0xA9], vec![256],
            vec![0xF0, 0x9F, 0x98, 0x80],
        ]), 0..24),
        stops in prop::collection::vec(prop::sample::select(vec![
            "ab", "b", "éa", "é", "aaa", "bé", "😀", "😀b", "aéb",
        ]), 0..3),
        include: bool,
    ) {
        let ids = pieces.concat();
        let stops: Vec<String> = stops.into_iter().map(str::to_owned).collect();
        let updates = updates(&ids, options(stops.clone(), include));
        let (mut text, mut told) = (0, 0);
        for update in &updates {
            let content = update.content();
            prop_assert!(!content.contains(char::REPLACEMENT_CHARACTER));
            text += content.len();
            told += bytes_of(&update.logprobs).len();
            prop_assert!(told <= text, "an entry came before its text");
        }
        let whole = whole(updates);
        prop_assert_eq!(bytes_of(&whole.logprobs), whole.content().into_bytes());
        // The oracle: the first end of any stop string in the whole text; of those that end
        // there, the longest.
        let shown: Vec<u32> = ids.iter().copied().filter(|&id| id != 256).collect();
        let full = Bytes::shared().decode(&shown, true);
        let ends = (0..=full.len()).filter(|&end| full.is_char_boundary(end));
        let hit = ends.filter_map(|end| {
            let stops = stops.iter().filter(|stop| full[..end].ends_with(stop.as_str()));
            stops.map(String::len).max().map(|length| (end, length))
        }).next();
        let expected = match hit {
            Some((end, length)) => &full[..if include { end } else { end - length }],
            None => full.as_str(),
        };
        prop_assert_eq!(whole.content(), expected);
    }

    #[test]
    fn no_tokens_make_it_panic(
        ids in prop::collection::vec(prop_oneof![0u32..270, 0x80u32..0xF8], 0..40),
        stops in prop::collection::vec("[ab\u{FFFD}é]{1,3}", 0..3),
        include: bool,
    ) {
        let whole = whole(updates(&ids, options(stops, include)));
        prop_assert!(whole.finish.is_some());
    }
}
