//! gpt-oss's calls: messages to `functions.NAME`. See [`crate::harmony`].

use wharf_grammar::{Grammar, GrammarError, Trigger};

use super::{CallGrammar, ToolFormat, ToolSpec, custom::json_arguments};
use crate::{
    harmony::{HarmonyParser, MARKERS},
    output::OutputParser,
};

/// Calls of gpt-oss.
#[derive(Debug)]
pub(super) struct Harmony;

impl ToolFormat for Harmony {
    fn name(&self) -> &'static str {
        "openai"
    }

    fn markers(&self) -> &'static [&'static str] {
        MARKERS
    }

    /// Reads the whole answer, reasoning too: in harmony neither comes without the other's markers.
    fn parser(&self, _tools: &[ToolSpec]) -> Box<dyn OutputParser> {
        Box::new(HarmonyParser::new(None))
    }

    /// One call at most: `<|call|>`, which follows it, is a token that ends the answer, and so it
    /// is not in the grammar.
    fn grammar(&self, tools: &[ToolSpec], _parallel: bool) -> Result<CallGrammar, GrammarError> {
        // The recipient stands before the channel or after it.
        let calls = |after_name: &str| {
            let call = |tool: &ToolSpec| {
                Ok(Grammar::Sequence(vec![
                    Grammar::Literal(format!("{}{after_name}", tool.name)),
                    json_arguments(tool)?,
                ]))
            };
            tools.iter().map(call).collect::<Result<_, GrammarError>>().map(Grammar::AnyOf)
        };
        let after_channel = "<|channel|>commentary to=functions.";
        let after = calls(" <|constrain|>json<|message|>")?;
        let before = calls("<|channel|>commentary <|constrain|>json<|message|>")?;
        let trigger =
            |text: &str, then: Grammar| Trigger { text: text.to_owned(), at_start: false, then };
        Ok(CallGrammar {
            required: Grammar::Sequence(vec![
                Grammar::Literal(after_channel.to_owned()),
                after.clone(),
            ]),
            triggers: vec![
                trigger(after_channel, after),
                trigger("<|start|>assistant to=functions.", before.clone()),
                Trigger { text: "to=functions.".to_owned(), at_start: true, then: before },
            ],
            max_triggers: Some(1),
        })
    }
}
