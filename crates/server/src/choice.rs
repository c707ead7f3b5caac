//! One choice's pipeline: engine events → detokeniser → stop strings → reasoning, content and tool
//! calls → what the client may see.
//!
//! Plain and streaming answers both go through here, so they cannot differ: a plain answer is the
//! updates added up. Text is held back in three places: unfinished characters in the detokeniser,
//! possible beginnings of stop strings in the matcher, and those of markers in the parser. A token's
//! log-probability comes with the update that completes its text, and where a stop string cuts a
//! token, its bytes are cut too. So the `bytes` of all entries, joined, are the bytes of the text
//! that the parser reads; of the content, where it is all content.
use crate::completeness::{Completeness, StopRule};
use crate::parts::Parts;
use std::collections::VecDeque;
use std::sync::Arc;
use wharf_api::{FinishReason, StopReason};
use wharf_engine::{Event, Failure, FinishReason as EngineFinish, TokenLogprob};
use wharf_text::detokenizer::{Detokenizer, token_text};
use wharf_text::output::{OutputEvent, OutputParser};
use wharf_text::stop::{StopMatcher, StopOutcome};
use wharf_text::tokenizer::Tokenizer;

/// How a choice's tokens become text. The same for all choices of a request.
#[derive(Debug)]
pub(crate) struct ChoiceOptions {
    /// Of `stops`, at its beginning. Made once for each request, on the compute pool: choices clone
    /// it, and clones share the automaton.
    pub(crate) matcher: StopMatcher,
    /// Stop strings, none empty.
    pub(crate) stops: Vec<String>,
    /// Leave the stop string (or the text of the stop token) in the text.
    pub(crate) include_stop: bool,
    /// Hide special tokens.
    pub(crate) skip_special_tokens: bool,
    /// Hand out [`LogprobEntry`]s.
    pub(crate) logprobs: bool,
    /// Stop strings count only after this many tokens, as in vLLM.
    pub(crate) min_tokens: usize,
    /// And only where this allows it.
    pub(crate) stop_rule: StopRule,
    /// What the text is made of.
    pub(crate) parts: Parts,
}

/// What an event brings. Empty where everything it brings is held back.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Update {
    /// What to append, in order; whole characters, and no two neighbours of the same kind.
    pub(crate) parts: Vec<OutputEvent>,
    /// The tokens whose text is now complete. Empty where log-probabilities are not wanted.
    pub(crate) logprobs: Vec<LogprobEntry>,
    /// All ids that were generated since the last update, seen or not.
    pub(crate) token_ids: Vec<u32>,
    /// Set in the last update.
    pub(crate) finish: Option<Finish>,
}

impl Update {
    /// Nothing for a client to see.
    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.logprobs.is_empty() && self.finish.is_none()
    }

    /// The content alone.
    pub(crate) fn content(&self) -> String {
        let mut content = String::new();
        for part in &self.parts {
            if let OutputEvent::Content(text) = part {
                content.push_str(text);
            }
        }
        content
    }

    /// Adds what came later.
    pub(crate) fn append(&mut self, later: Self) {
        later.parts.into_iter().for_each(|part| append_part(&mut self.parts, part));
        self.logprobs.extend(later.logprobs);
        self.token_ids.extend(later.token_ids);
        self.finish = later.finish.or(self.finish.take());
    }
}

/// Appends `part`, to the last one if it goes on with it.
fn append_part(parts: &mut Vec<OutputEvent>, part: OutputEvent) {
    use OutputEvent::{Arguments, Content, Reasoning};
    match (parts.last_mut(), part) {
        (Some(Reasoning(text)), Reasoning(more))
        | (Some(Content(text)), Content(more))
        | (Some(Arguments(text)), Arguments(more)) => text.push_str(&more),
        (_, part) => parts.push(part),
    }
}

/// How a choice ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Finish {
    pub(crate) reason: FinishReason,
    /// The stop string or token; `None` for end-of-sequence, as in vLLM.
    pub(crate) stop: Option<StopReason>,
}

/// A token with its log-probabilities.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LogprobEntry {
    pub(crate) id: u32,
    /// The bytes it added to the content; `None` for a hidden token.
    pub(crate) bytes: Option<Vec<u8>>,
    pub(crate) logprob: TokenLogprob,
}

/// A token whose text is not completely sent.
struct Pending {
    id: u32,
    hidden: bool,
    logprob: TokenLogprob,
    /// Where it ends, in bytes as the tokens have them.
    raw_end: usize,
    /// Where it ends, in bytes of the text; `None` while that ends in the middle of a character.
    text_end: Option<usize>,
}

/// The pipeline of one choice.
pub(crate) struct Choice {
    tokenizer: Arc<dyn Tokenizer>,
    options: Arc<ChoiceOptions>,
    detokenizer: Detokenizer,
    matcher: StopMatcher,
    completeness: Completeness,
    parser: Box<dyn OutputParser>,
    /// Texts of the special tokens that only the parser may see.
    unseen: Vec<String>,
    /// Complete tool calls.
    calls: usize,
    /// Tokens generated, the one that ended the choice included.
    generated: usize,
    /// Those of them that were reasoning, its markers included.
    reasoned: usize,
    /// Bytes of all tokens shown so far.
    raw: usize,
    /// Bytes of text that the detokeniser gave.
    decoded: usize,
    /// Bytes of text that the matcher let through.
    sent: usize,
    /// Text end of the last token handed out.
    released: usize,
    pending: VecDeque<Pending>,
}

impl Choice {
    pub(crate) fn new(tokenizer: Arc<dyn Tokenizer>, options: Arc<ChoiceOptions>) -> Self {
        let shown = options.parts.shown.iter().filter(|_| options.skip_special_tokens);
        let unseen = shown.map(|&id| token_text(tokenizer.as_ref(), id)).collect();
        let longest_stop = options.stops.iter().map(String::len).max().unwrap_or(0);
        Self {
            // What is hidden is not pushed.
            detokenizer: Detokenizer::new(Arc::clone(&tokenizer), false),
            matcher: options.matcher.clone(),
            completeness: Completeness::new(options.stop_rule, longest_stop),
            parser: (options.parts.parser)(),
            unseen,
            calls: 0,
            tokenizer,
            options,
            generated: 0,
            reasoned: 0,
            raw: 0,
            decoded: 0,
            sent: 0,
            released: 0,
            pending: VecDeque::new(),
        }
    }

    /// Tokens generated so far, the one that ended the choice included.
    pub(crate) fn generated(&self) -> usize {
        self.generated
    }

    /// Those of them that were reasoning; `None` where the model is not known to reason.
    pub(crate) fn reasoned(&self) -> Option<usize> {
        self.options.parts.reasons.then_some(self.reasoned)
    }

    /// What `event` brings.
    ///
    /// # Errors
    /// The engine's own words, where the choice failed.
    pub(crate) fn push(&mut self, event: Event) -> Result<Update, Failure> {
        match event {
            Event::Started { .. } => Ok(Update::default()),
            Event::Token { id, logprob, complete } => Ok(self.push_token(id, logprob, complete)),
            Event::Finished(EngineFinish::Eos(id)) => {
                self.generated += 1;
                Ok(self.end(Some(id), FinishReason::Stop, None))
            }
            Event::Finished(EngineFinish::StopToken(id)) => {
                self.generated += 1;
                let mut update = Update::default();
                if self.options.include_stop {
                    self.show(id, true, &mut update);
                }
                if update.finish.is_some() {
                    // The token's own text completed a stop string.
                    update.token_ids.push(id);
                    return Ok(update);
                }
                let end = self.end(Some(id), FinishReason::Stop, Some(StopReason::Token(id)));
                update.append(end);
                Ok(update)
            }
            Event::Finished(EngineFinish::Complete) => Ok(self.end(None, FinishReason::Stop, None)),
            Event::Finished(EngineFinish::Length) => Ok(self.end(None, FinishReason::Length, None)),
            Event::Failed(failure) => Err(failure),
        }
    }

    fn push_token(&mut self, id: u32, logprob: Option<TokenLogprob>, complete: bool) -> Update {
        self.generated += 1;
        let before = self.parser.is_reasoning();
        let mut update = Update { token_ids: vec![id], ..Update::default() };
        if let Some(logprob) = logprob.filter(|_| self.options.logprobs) {
            let hidden = self.is_hidden(id);
            let bytes = if hidden { 0 } else { self.tokenizer.token_bytes(id).len() };
            let raw_end = self.raw + bytes;
            self.pending.push_back(Pending { id, hidden, logprob, raw_end, text_end: None });
        }
        self.show(id, complete, &mut update);
        self.reasoned += usize::from(before || self.parser.is_reasoning());
        if update.finish.is_none() {
            self.release_sent(&mut update.logprobs);
        }
        update
    }

    /// Neither the client nor the parser sees the token.
    fn is_hidden(&self, id: u32) -> bool {
        let Parts { shown, .. } = &self.options.parts;
        self.options.skip_special_tokens && self.tokenizer.is_special(id) && !shown.contains(&id)
    }

    /// Turns a token into text and sends what may be sent.
    fn show(&mut self, id: u32, complete: bool, update: &mut Update) {
        let mut text = String::new();
        if !self.is_hidden(id) {
            self.raw += self.tokenizer.token_bytes(id).len();
            self.detokenizer.push(id, &mut text);
        }
        self.locate(text.len());
        self.completeness.token(self.decoded, complete);
        self.send(&text, update);
    }

    /// Works out where the pending tokens end in the text, which has just grown by `grown` bytes.
    fn locate(&mut self, grown: usize) {
        self.decoded += grown;
        let certain = self.raw - self.detokenizer.held_back().min(self.raw);
        for token in self.pending.iter_mut().rev() {
            if token.text_end.is_some() {
                break;
            }
            if token.raw_end <= certain {
                // Exact for valid UTF-8. Invalid bytes become U+FFFD, of another length, and then
                // it is the nearest place inside of what has just come.
                token.text_end = Some(self.decoded - (certain - token.raw_end).min(grown));
            }
        }
    }

    /// Passes text through the matcher and the parser.
    fn send(&mut self, text: &str, update: &mut Update) {
        let mut sent = String::new();
        let outcome = if self.generated <= self.options.min_tokens {
            sent.push_str(text);
            StopOutcome::Continue
        } else {
            let (known, end) = (&self.completeness, self.decoded);
            self.matcher.push_where(text, &mut sent, |cut| known.may_end_at(end - cut))
        };
        self.parse(&sent, update);
        if let StopOutcome::Matched { index } = outcome {
            let stop = self.options.stops.get(index).cloned().map(StopReason::Text);
            self.release_cut(&mut update.logprobs);
            self.finish(FinishReason::Stop, stop, update);
        }
    }

    /// Passes text through the parser.
    fn parse(&mut self, text: &str, update: &mut Update) {
        self.sent += text.len();
        let mut parts = Vec::new();
        self.parser.push(text, &mut parts);
        self.take_parts(parts, update);
    }

    fn take_parts(&mut self, parts: Vec<OutputEvent>, update: &mut Update) {
        for mut part in parts {
            match &mut part {
                OutputEvent::Reasoning(_) if !self.options.parts.include_reasoning => continue,
                OutputEvent::Content(_) if self.options.parts.only_calls => continue,
                OutputEvent::Reasoning(text) | OutputEvent::Content(text) => {
                    for unseen in self.unseen.iter().filter(|unseen| !unseen.is_empty()) {
                        if text.contains(unseen.as_str()) {
                            *text = text.replace(unseen.as_str(), "");
                        }
                    }
                    if text.is_empty() {
                        continue;
                    }
                }
                OutputEvent::CallEnd => self.calls += 1,
                OutputEvent::CallStart { .. } | OutputEvent::Arguments(_) => {}
            }
            append_part(&mut update.parts, part);
        }
    }

    /// Ends the choice: what the parser still held back, and why it ended.
    fn finish(&mut self, reason: FinishReason, stop: Option<StopReason>, update: &mut Update) {
        let mut parts = Vec::new();
        self.parser.finish(&mut parts);
        self.take_parts(parts, update);
        let reason = match reason {
            FinishReason::Stop if self.calls > 0 => self.options.parts.calls.finish_reason(),
            reason => reason,
        };
        update.finish = Some(Finish { reason, stop });
    }

    /// Hands out the tokens whose text is completely sent.
    fn release_sent(&mut self, out: &mut Vec<LogprobEntry>) {
        while let Some(token) = self.pending.front()
            && token.text_end.is_some_and(|end| end <= self.sent)
            && let Some(token) = self.pending.pop_front()
        {
            self.released = token.text_end.unwrap_or(self.released);
            out.push(self.entry(token, usize::MAX));
        }
    }

    /// Hands out the tokens before the cut that a stop string made, the last of them shortened.
    fn release_cut(&mut self, out: &mut Vec<LogprobEntry>) {
        while self.released < self.sent
            && let Some(token) = self.pending.pop_front()
        {
            let room = self.sent - self.released;
            self.released = token.text_end.unwrap_or(usize::MAX);
            out.push(self.entry(token, room));
        }
        self.pending.clear();
    }

    fn entry(&self, token: Pending, most_bytes: usize) -> LogprobEntry {
        let bytes = (!token.hidden).then(|| {
            let bytes = self.tokenizer.token_bytes(token.id);
            bytes[..bytes.len().min(most_bytes)].to_vec()
        });
        LogprobEntry { id: token.id, bytes, logprob: token.logprob }
    }

    /// The last update: everything that was held back.
    fn end(&mut self, id: Option<u32>, reason: FinishReason, stop: Option<StopReason>) -> Update {
        let mut update = Update { token_ids: id.into_iter().collect(), ..Update::default() };
        let mut text = String::new();
        self.detokenizer.finish(&mut text);
        self.locate(text.len());
        self.completeness.token(self.decoded, reason == FinishReason::Stop);
        self.send(&text, &mut update);
        if update.finish.is_none() {
            let mut rest = String::new();
            self.matcher.finish(&mut rest);
            self.parse(&rest, &mut update);
            while let Some(token) = self.pending.pop_front() {
                update.logprobs.push(self.entry(token, usize::MAX));
            }
            self.finish(reason, stop, &mut update);
        }
        update
    }
}

#[cfg(test)]
mod tests;
