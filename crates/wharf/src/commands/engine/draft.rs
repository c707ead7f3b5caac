//! The draft model: whether there is one, where it is, and that it speaks of the same tokens.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use wharf_model::Model;
use wharf_text::tokenizer::Tokenizer;

use crate::cli::{ComputeOptions, EngineOptions, HubArgs, SpeculativeMethod};
use crate::commands::{loading, model_source};

/// The path of the draft model, fetched when it is not here; `None` where there shall be none.
pub(crate) async fn fetch(options: &EngineOptions, hub: &HubArgs) -> Result<Option<PathBuf>> {
    match wanted(options)? {
        None => Ok(None),
        Some(name) => {
            let path = model_source::fetch(name, hub).await;
            path.map(Some).with_context(|| format!("--draft-model {name}"))
        }
    }
}

/// The draft model as it is named.
fn wanted(options: &EngineOptions) -> Result<Option<&str>> {
    match (options.speculative_method, options.draft_model.as_deref()) {
        (SpeculativeMethod::Off, _) => Ok(None),
        (SpeculativeMethod::Ngram, Some(_)) => bail!(
            "--speculative-method ngram has no use for a --draft-model: say auto, draft or off"
        ),
        (SpeculativeMethod::Draft, None) => {
            bail!("--speculative-method draft needs a --draft-model")
        }
        (_, draft) => Ok(draft),
    }
}

/// Refuses whatever would guess for a model that keeps a recurrent state of `state_bytes`: a wrong guess
/// could not be taken out of it again.
pub(super) fn check_recurrent(options: &EngineOptions, state_bytes: usize) -> Result<()> {
    if state_bytes == 0 {
        return Ok(());
    }
    match wanted(options)? {
        Some(draft) => bail!(
            "--draft-model {draft} cannot guess for the model: it has recurrent layers, whose states \
             can't be taken back"
        ),
        None if options.speculative_method == SpeculativeMethod::Ngram => bail!(
            "--speculative-method ngram cannot guess for the model: it has recurrent layers, whose \
             states can't be taken back (say auto or off)"
        ),
        None if options.speculative_method == SpeculativeMethod::Auto => {
            tracing::info!("nothing is guessed: the model has recurrent layers");
            Ok(())
        }
        None => Ok(()),
    }
}

/// Loads the draft model at `path` for `model`, whose tokenizer is `tokenizer`.
pub(super) fn load(
    path: &Path,
    options: &ComputeOptions,
    model: &Model,
    tokenizer: &dyn Tokenizer,
) -> Result<Model> {
    let named = || format!("--draft-model {}", path.display());
    let longest = Some(model.info().max_model_len);
    let draft = loading::draft_model(path, options, longest, model).with_context(named)?;
    if draft.info().state_bytes > 0 {
        let reason = "it cannot guess: it has recurrent layers, whose states can't be taken back";
        return Err(anyhow!(reason).context(named()));
    }
    let its_tokenizer = loading::tokenizer(&draft.info().tokenizer).with_context(named)?;
    check_vocabulary(tokenizer, its_tokenizer.as_ref()).with_context(named)?;
    tracing::info!(
        "{} guesses, {} MB of weights",
        path.display(),
        draft.info().weight_bytes / 1_000_000
    );
    Ok(draft)
}

/// Every id must mean the same to both, or the guesses would be of other tokens.
fn check_vocabulary(model: &dyn Tokenizer, draft: &dyn Tokenizer) -> Result<()> {
    let (ids, draft_ids) = (num_ids(model), num_ids(draft));
    if ids != draft_ids {
        bail!(
            "its vocabulary has {draft_ids} tokens, the model's {ids}: it must be the very same one"
        );
    }
    for id in 0..ids {
        // Files of two kinds may write the same token in two ways.
        let same = model.token_bytes(id) == draft.token_bytes(id)
            || model.id_to_token(id) == draft.id_to_token(id);
        if !same {
            let text = |tokenizer: &dyn Tokenizer| tokenizer.id_to_token(id).unwrap_or_default();
            bail!(
                "its token {id} is {:?}, the model's {:?}: the vocabulary must be the very same one",
                text(draft),
                text(model)
            );
        }
    }
    Ok(())
}

/// Ids but for those at the end that stand for nothing: GGUF files have as many tokens as the
/// output matrix has rows, and call those that the tokenizer lacks `[PAD7]`.
fn num_ids(tokenizer: &dyn Tokenizer) -> u32 {
    let count = u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX);
    let means = |id: &u32| match tokenizer.id_to_token(*id) {
        None => false,
        Some(text) => text != format!("[PAD{id}]"),
    };
    (0..count).rev().find(means).map_or(0, |last| last + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;
    use wharf_text::tokenizer::TokenizerError;

    struct Words(Vec<&'static str>);

    impl Tokenizer for Words {
        fn encode(&self, _: &str, _: bool) -> Result<Vec<u32>, TokenizerError> {
            Ok(Vec::new())
        }
        fn token_bytes(&self, id: u32) -> &[u8] {
            self.0.get(id as usize).map_or(&[], |text| text.as_bytes())
        }
        fn is_special(&self, _: u32) -> bool {
            false
        }
        fn decode(&self, _: &[u32], _: bool) -> String {
            String::new()
        }
        fn token_to_id(&self, _: &str) -> Option<u32> {
            None
        }
        fn id_to_token(&self, id: u32) -> Option<String> {
            self.0.get(id as usize).map(|text| (*text).to_owned())
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

    #[test]
    fn a_vocabulary_must_be_the_same_token_by_token() {
        let check = |a: &[&'static str], b: &[&'static str]| {
            let checked = check_vocabulary(&Words(a.to_vec()), &Words(b.to_vec()));
            checked.map_err(|error| error.to_string()).err().unwrap_or_default()
        };
        assert_eq!(check(&["a", "b"], &["a", "b"]), "");
        assert_eq!(check(&["a", "b"], &["a", "b", "[PAD2]", "[PAD3]"]), "");
        assert!(check(&["a", "b"], &["a"]).contains("has 1 tokens, the model's 2"));
        assert!(check(&["a", "b"], &["a", "b", "[PAD7]"]).contains("has 3 tokens"));
        let other = check(&["a", "b", "c"], &["a", "x", "c"]);
        assert!(other.contains(r#"its token 1 is "x", the model's "b""#), "{other}");
    }

    fn options(flags: &str) -> EngineOptions {
        let arguments = ["wharf", "engine"].into_iter().chain(flags.split_whitespace());
        let Command::Engine(args) = Cli::parse_from(arguments).command else { unreachable!() };
        args.engine
    }

    #[test]
    fn nothing_guesses_for_a_model_with_recurrent_states() {
        let check = |flags, state_bytes| {
            check_recurrent(&options(flags), state_bytes).map_err(|error| error.to_string())
        };
        for flags in ["", "--speculative-method off", "--draft-model d --speculative-method off"] {
            assert_eq!(check(flags, 1), Ok(()), "{flags}");
        }
        for flags in ["--draft-model d", "--draft-model d --speculative-method draft"] {
            assert!(check(flags, 1).unwrap_err().starts_with("--draft-model d"), "{flags}");
            assert_eq!(check(flags, 0), Ok(()), "{flags}");
        }
        let flags = "--speculative-method ngram";
        assert!(check(flags, 1).unwrap_err().starts_with(flags));
        assert_eq!(check(flags, 0), Ok(()));
    }

    #[test]
    fn the_method_and_the_draft_model_agree_or_are_refused() {
        let wanted = |flags: &str| {
            let options = options(flags);
            wanted(&options).map(|draft| draft.map(str::to_owned)).map_err(|e| e.to_string())
        };
        assert_eq!(wanted(""), Ok(None));
        assert_eq!(wanted("--speculative-method ngram"), Ok(None));
        assert_eq!(wanted("--draft-model d"), Ok(Some("d".into())));
        assert_eq!(wanted("--draft-model d --speculative-method draft"), Ok(Some("d".into())));
        assert_eq!(wanted("--draft-model d --speculative-method off"), Ok(None));
        assert!(wanted("--speculative-method draft").unwrap_err().contains("--draft-model"));
        assert!(wanted("--draft-model d --speculative-method ngram").is_err());
    }
}
