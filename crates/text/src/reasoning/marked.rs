//! Formats that mark where reasoning begins and where it ends.
//!
//! They differ in the markers, and in whether the model writes the first one itself. What a
//! format's models do is in the table; the parser is one for all.
//!
//! Nothing inside of reasoning is a call: a model that thinks about `<tool_call>` has not called.

use super::{Opening, ReasoningFormat};
use crate::output::{
    OutputEvent, OutputParser,
    pending::{Beginning, Pending, whitespace},
};

/// A format with markers. See [`FORMATS`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Marked {
    name: &'static str,
    /// What begins reasoning and what ends it.
    markers: &'static [&'static str; 2],
    /// Other texts that begin it.
    other_starts: &'static [&'static str],
    /// Other texts that end it.
    other_ends: &'static [&'static str],
    /// The model omits the beginning, whatever the prompt's template does.
    omits_start: bool,
    /// Reasoning may come in the middle of content too: its markers are special tokens.
    anywhere: bool,
    /// What content is wrapped in: its beginning, and its ends.
    wrapping: Option<(&'static str, &'static [&'static str])>,
    /// Reasoning is shown as content, markers and all.
    shown: bool,
}

impl Marked {
    const fn new(name: &'static str, markers: &'static [&'static str; 2]) -> Self {
        Self {
            name,
            markers,
            other_starts: &[],
            other_ends: &[],
            omits_start: false,
            anywhere: false,
            wrapping: None,
            shown: false,
        }
    }

    fn starts(&self) -> Vec<&'static str> {
        [&self.markers[..1], self.other_starts].concat()
    }

    fn ends(&self) -> Vec<&'static str> {
        [&self.markers[1..], self.other_ends].concat()
    }
}

const THINK: &[&str; 2] = &["<think>", "</think>"];

/// All formats with markers.
pub(super) static FORMATS: &[Marked] = &[
    Marked { omits_start: true, ..Marked::new("deepseek_r1", THINK) },
    Marked::new("deepseek_v3", THINK),
    Marked::new("qwen3", THINK),
    Marked::new("glm45", THINK),
    Marked::new("kimi_k2", THINK),
    Marked::new("kimi_vl", &["◁think▷", "◁/think▷"]),
    Marked::new("ernie45", THINK),
    Marked::new("holo2", THINK),
    Marked::new("hy_v3", THINK),
    Marked::new("nemotron_v3", THINK),
    Marked::new("olmo3", THINK),
    Marked::new("poolside_v1", THINK),
    Marked { omits_start: true, ..Marked::new("minimax_m2", THINK) },
    Marked { omits_start: true, shown: true, ..Marked::new("minimax_m2_append_think", THINK) },
    Marked::new("minimax_m3", &["<mm:think>", "</mm:think>"]),
    Marked { omits_start: true, ..Marked::new("step3", THINK) },
    Marked { omits_start: true, other_ends: &["\n</think>"], ..Marked::new("step3p5", THINK) },
    Marked::new("seed_oss", &["<seed:think>", "</seed:think>"]),
    Marked::new("mistral", &["[THINK]", "[/THINK]"]),
    Marked::new("cohere_command3", &["<|START_THINKING|>", "<|END_THINKING|>"]),
    Marked::new("apertus", &["<|inner_prefix|>", "<|inner_suffix|>"]),
    Marked {
        other_starts: &["Here's my thought process:"],
        other_ends: &["Here's my response:"],
        ..Marked::new("granite", &["Here is my thought process:", "Here is my response:"])
    },
    Marked {
        wrapping: Some(("<response>", &["</response>"])),
        ..Marked::new("granite_3_3", THINK)
    },
    Marked {
        other_starts: &["<think>\n"],
        other_ends: &["\n</think>"],
        wrapping: Some(("<answer>", &["</answer>", "\n</answer>"])),
        ..Marked::new("hunyuan_a13b", THINK)
    },
    Marked {
        other_starts: &["<|channel>thought\n"],
        anywhere: true,
        ..Marked::new("gemma4", &["<|channel>", "<channel|>"])
    },
];

impl ReasoningFormat for Marked {
    fn name(&self) -> &'static str {
        self.name
    }

    fn markers(&self) -> &'static [&'static str] {
        self.markers
    }

    fn start(&self) -> &'static str {
        self.markers[0]
    }

    fn end(&self) -> &'static str {
        self.markers[1]
    }

    fn opening(&self, prompt: &str) -> Opening {
        let prompt = prompt.trim_end();
        let ends_with = |markers: Vec<&str>| markers.iter().any(|m| prompt.ends_with(m.trim_end()));
        let opened = self.wrapping.is_some_and(|(open, _)| prompt.ends_with(open));
        if opened || ends_with(self.ends()) {
            Opening::Content
        } else if self.omits_start || ends_with(self.starts()) {
            Opening::Reasoning
        } else {
            Opening::Undecided
        }
    }

    fn parser(&self, opening: Opening, content: Box<dyn OutputParser>) -> Box<dyn OutputParser> {
        let mut in_content = Vec::new();
        if self.anywhere && opening != Opening::Content {
            in_content = [self.ends(), self.starts()].concat();
        }
        if let Some((_, closes)) = self.wrapping {
            in_content.extend(closes);
        }
        Box::new(MarkedParser {
            format: *self,
            starts: self.starts(),
            ends: self.ends(),
            in_content,
            state: match opening {
                Opening::Undecided => State::Undecided,
                Opening::Reasoning => State::Begun,
                Opening::Content => State::Content,
            },
            pending: Pending::default(),
            content,
        })
    }
}

/// Where the text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before anything but white space.
    Undecided,
    /// In reasoning that the prompt began, before anything but white space.
    Begun,
    /// In reasoning.
    Reasoning,
    /// Between reasoning and content.
    Ended,
    /// In content.
    Content,
}

/// Reads answers of one [`Marked`] format.
struct MarkedParser {
    format: Marked,
    starts: Vec<&'static str>,
    ends: Vec<&'static str>,
    /// Markers in content: those of reasoning, where it may come anywhere, and the wrapping's end.
    in_content: Vec<&'static str>,
    state: State,
    pending: Pending,
    content: Box<dyn OutputParser>,
}

impl OutputParser for MarkedParser {
    fn push(&mut self, text: &str, out: &mut Vec<OutputEvent>) {
        if self.state == State::Content && self.in_content.is_empty() {
            return self.content.push(text, out);
        }
        self.pending.push(text);
        while self.step(out) {}
    }

    fn finish(&mut self, out: &mut Vec<OutputEvent>) {
        self.pending.end();
        while self.step(out) {}
        self.content.finish(out);
    }

    fn is_reasoning(&self) -> bool {
        matches!(self.state, State::Begun | State::Reasoning) || self.content.is_reasoning()
    }
}

impl MarkedParser {
    /// Reads on; whether there may be more to read.
    fn step(&mut self, out: &mut Vec<OutputEvent>) -> bool {
        match self.state {
            State::Undecided => self.undecided(),
            State::Begun => self.begun(out),
            State::Reasoning => self.reasoning(out),
            State::Ended => self.ended(),
            State::Content => self.content(out),
        }
    }

    /// The first text decides whether there is reasoning.
    fn undecided(&mut self) -> bool {
        let space = whitespace(self.pending.text());
        if space == self.pending.text().len() && !self.pending.ended() {
            return false;
        }
        let markers = [self.starts.as_slice(), &self.ends].concat();
        match self.after(space, &markers) {
            Beginning::Unsure => return false,
            Beginning::Other if self.format.wrapping.is_some() => self.state = State::Ended,
            Beginning::Other => self.state = State::Content,
            Beginning::Marker(index) => {
                self.pending.skip(space + markers[index].len());
                let begins = index < self.starts.len();
                self.state = if begins { State::Reasoning } else { State::Ended };
            }
        }
        true
    }

    /// Models repeat the beginning that the prompt has given them.
    fn begun(&mut self, out: &mut Vec<OutputEvent>) -> bool {
        let space = whitespace(self.pending.text());
        if space == self.pending.text().len() && !self.pending.ended() {
            return false;
        }
        let beginning = self.after(space, &self.starts);
        if beginning == Beginning::Unsure {
            return false;
        }
        if self.format.shown && !self.pending.is_empty() {
            out.push(OutputEvent::Content(self.format.start().to_owned()));
        }
        if let Beginning::Marker(index) = beginning {
            let space = self.pending.take(space).to_owned();
            self.pending.skip(self.starts[index].len());
            self.thought(&space, out);
        }
        self.state = State::Reasoning;
        true
    }

    fn reasoning(&mut self, out: &mut Vec<OutputEvent>) -> bool {
        let (before, end) = self.pending.take_before(&self.ends);
        let before = before.to_owned();
        self.thought(&before, out);
        let Some(end) = end else { return false };
        self.state = State::Ended;
        if self.format.shown {
            out.push(OutputEvent::Content(self.ends[end].to_owned()));
            self.state = State::Content;
        }
        true
    }

    fn ended(&mut self) -> bool {
        if !self.pending.skip_whitespace() {
            return false;
        }
        if let Some((open, _)) = self.format.wrapping {
            match self.pending.beginning(&[open]) {
                Beginning::Unsure => return false,
                Beginning::Marker(_) => {
                    self.pending.skip(open.len());
                    // Once only: `<answer>` in the answer is content.
                    self.format.wrapping = None;
                    return true;
                }
                Beginning::Other => {}
            }
        }
        self.state = State::Content;
        true
    }

    fn content(&mut self, out: &mut Vec<OutputEvent>) -> bool {
        let (before, marker) = self.pending.take_before(&self.in_content);
        if !before.is_empty() {
            self.content.push(before, out);
        }
        let Some(marker) = marker else { return false };
        if self.starts.contains(&self.in_content[marker]) {
            self.state = State::Reasoning;
        }
        true
    }

    fn thought(&self, text: &str, out: &mut Vec<OutputEvent>) {
        if text.is_empty() {
            return;
        }
        let text = text.to_owned();
        out.push(match self.format.shown {
            true => OutputEvent::Content(text),
            false => OutputEvent::Reasoning(text),
        });
    }

    /// What follows the first `space` bytes.
    fn after(&self, space: usize, markers: &[&str]) -> Beginning {
        let mut rest = Pending::default();
        rest.push(&self.pending.text()[space..]);
        if self.pending.ended() {
            rest.end();
        }
        rest.beginning(markers)
    }
}
