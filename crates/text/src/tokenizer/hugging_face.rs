//! A tokenizer from Hugging Face's files: `tokenizer.json` and `tokenizer_config.json`.
//!
//! `tokenizer.json` is read by the library. From `tokenizer_config.json` come what
//! transformers takes from it: the BOS and EOS texts, `add_bos_token` and `add_eos_token`
//! (which overrule what `tokenizer.json` adds), and tokens that only it lists.
//!
//! Two things that a `tokenizer.json` may carry are switched off, as transformers does:
//! truncation (a prompt is never cut in silence) and padding.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::AddedToken;

use super::library::{LibraryTokenizer, guarded};
use super::token_table::{ByteRule, TableEntry, TokenTable};
use super::{MAX_VOCAB_SIZE, SharedTokenizer, Tokenizer, TokenizerError};

/// What we read of `tokenizer_config.json`.
#[derive(Debug, Default, Deserialize)]
struct TokenizerConfig {
    bos_token: Option<TokenText>,
    eos_token: Option<TokenText>,
    add_bos_token: Option<bool>,
    add_eos_token: Option<bool>,
    #[serde(default)]
    added_tokens_decoder: std::collections::BTreeMap<u32, AddedTokenConfig>,
}

/// A token in `tokenizer_config.json`: its text, or an object with it.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum TokenText {
    Text(String),
    Object { content: String },
}

impl TokenText {
    fn into_text(self) -> String {
        match self {
            Self::Text(text) | Self::Object { content: text } => text,
        }
    }
}

/// One of `added_tokens_decoder`.
#[derive(Debug, Deserialize)]
struct AddedTokenConfig {
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    special: bool,
}

/// A tokenizer from the bytes of `tokenizer.json` and, where there is one,
/// `tokenizer_config.json`.
///
/// # Errors
/// [`TokenizerError::Invalid`] for a broken file, a decoder whose bytes per token cannot be
/// told, or ids past what a vocabulary may have.
pub fn from_hugging_face(
    tokenizer_json: &[u8],
    tokenizer_config: Option<&[u8]>,
) -> Result<Arc<dyn Tokenizer>, TokenizerError> {
    let mut library = guarded(|| tokenizers::Tokenizer::from_bytes(tokenizer_json))
        .map_err(|error| TokenizerError::Invalid(format!("tokenizer.json: {error}")))?;
    guarded(|| library.with_truncation(None).map(|_| ()))
        .map_err(|error| TokenizerError::Invalid(format!("tokenizer.json: {error}")))?;
    library.with_padding(None);
    let config: TokenizerConfig = match tokenizer_config {
        Some(bytes) => serde_json::from_slice(bytes)
            .map_err(|error| TokenizerError::Invalid(format!("tokenizer_config.json: {error}")))?,
        None => TokenizerConfig::default(),
    };
    add_listed_tokens(&mut library, &config)?;
    let decoder = serde_json::to_value(library.get_decoder())
        .map_err(|error| TokenizerError::Invalid(format!("tokenizer.json: decoder: {error}")))?;
    let decoding = Decoding::from_json(&decoder)?;
    let table = table(&library, &decoding.rule)?;

    let bos = config.bos_token.map(TokenText::into_text);
    let eos = config.eos_token.map(TokenText::into_text);
    let (prefix, suffix) = if config.add_bos_token.is_some() || config.add_eos_token.is_some() {
        // Either key says all, as in transformers: what is not added is not added.
        let id_of = |add: Option<bool>, token: &Option<String>| {
            let token = token.as_deref().filter(|_| add == Some(true));
            token.and_then(|token| library.token_to_id(token)).into_iter().collect()
        };
        (id_of(config.add_bos_token, &bos), id_of(config.add_eos_token, &eos))
    } else {
        surrounding_ids(&library)?
    };
    let leading_spaces_dropped = decoding.leading_spaces_dropped;
    let tokenizer: SharedTokenizer = Arc::new(LibraryTokenizer {
        library,
        table,
        prefix,
        suffix,
        leading_spaces_dropped,
        bos,
        eos,
    });
    Ok(tokenizer)
}

/// Adds the tokens that only `tokenizer_config.json` lists, in the order of their ids.
fn add_listed_tokens(
    library: &mut tokenizers::Tokenizer,
    config: &TokenizerConfig,
) -> Result<(), TokenizerError> {
    for (&id, token) in &config.added_tokens_decoder {
        let known = library.get_added_vocabulary().get_added_tokens_decoder().get(&id);
        if known.is_some_and(|known| known.content == token.content) {
            continue;
        }
        let added = AddedToken::from(token.content.clone(), token.special)
            .single_word(token.single_word)
            .lstrip(token.lstrip)
            .rstrip(token.rstrip)
            .normalized(token.normalized);
        guarded(|| library.add_tokens([added]))
            .map_err(|error| TokenizerError::Invalid(format!("added token {id}: {error}")))?;
        let got = library.token_to_id(&token.content);
        if got != Some(id) {
            return Err(TokenizerError::Invalid(format!(
                "tokenizer_config.json gives {:?} the id {id}, tokenizer.json {got:?}",
                token.content
            )));
        }
    }
    Ok(())
}

/// How the decoder of a `tokenizer.json` turns tokens into text.
struct Decoding {
    rule: ByteRule,
    leading_spaces_dropped: usize,
}

impl Decoding {
    /// From the `decoder` object.
    fn from_json(decoder: &Value) -> Result<Self, TokenizerError> {
        let steps = match decoder["type"].as_str() {
            Some("Sequence") => decoder["decoders"].as_array().map_or(&[][..], Vec::as_slice),
            _ => std::slice::from_ref(decoder),
        };
        if let [step] = steps
            && step["type"] == "ByteLevel"
        {
            return Ok(Self { rule: ByteRule::ByteLevel, leading_spaces_dropped: 0 });
        }
        let mut replacements = Vec::new();
        let mut byte_fallback = false;
        let mut leading_spaces_dropped = 0;
        for step in steps {
            match step["type"].as_str() {
                Some("Replace") => replacements.push(replacement(step)?),
                Some("ByteFallback") => byte_fallback = true,
                Some("Fuse") => {}
                Some("Strip") if step["content"] == " " && step["stop"] == 0 => {
                    leading_spaces_dropped = step["start"].as_u64().map_or(0, |n| n as usize);
                }
                Some("Metaspace") => {
                    let mark = step["replacement"].as_str().unwrap_or("▁").to_owned();
                    replacements.push((mark, " ".to_owned()));
                    leading_spaces_dropped = usize::from(step["prepend_scheme"] != "never");
                }
                _ => return Err(unsupported(step)),
            }
        }
        let rule = ByteRule::Replaced { replacements, byte_fallback };
        Ok(Self { rule, leading_spaces_dropped })
    }
}

/// What a `Replace` step replaces: (written, meant).
fn replacement(step: &Value) -> Result<(String, String), TokenizerError> {
    match (step["pattern"]["String"].as_str(), step["content"].as_str()) {
        (Some(written), Some(meant)) if !written.is_empty() => {
            Ok((written.to_owned(), meant.to_owned()))
        }
        _ => Err(unsupported(step)),
    }
}

fn unsupported(step: &Value) -> TokenizerError {
    TokenizerError::Invalid(format!("tokenizer.json: the decoder {step} is not supported"))
}

/// The byte table of everything the library knows.
fn table(library: &tokenizers::Tokenizer, rule: &ByteRule) -> Result<TokenTable, TokenizerError> {
    let vocabulary = library.get_vocab(true);
    let size = vocabulary.values().max().map_or(0, |&largest| largest as usize + 1);
    if size > MAX_VOCAB_SIZE {
        return Err(TokenizerError::Invalid(format!(
            "tokenizer.json: token id {}; at most {MAX_VOCAB_SIZE} ids are supported",
            size - 1
        )));
    }
    let added = library.get_added_vocabulary().get_added_tokens_decoder();
    let mut entries: Vec<Option<TableEntry<'_>>> = Vec::with_capacity(size);
    entries.resize_with(size, || None);
    for (text, &id) in &vocabulary {
        entries[id as usize] = Some(TableEntry { text, added: false, special: false });
    }
    for (&id, token) in added {
        if let Some(entry) = entries.get_mut(id as usize) {
            let special = token.special;
            *entry = Some(TableEntry { text: &token.content, added: true, special });
        }
    }
    TokenTable::new(rule, entries.into_iter())
}

/// The ids that the file's post-processor puts before and after a text.
fn surrounding_ids(
    library: &tokenizers::Tokenizer,
) -> Result<(Vec<u32>, Vec<u32>), TokenizerError> {
    let ids = |add_special_tokens| {
        guarded(|| library.encode_fast("a", add_special_tokens))
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|error| TokenizerError::Invalid(format!("tokenizer.json: {error}")))
    };
    let (alone, surrounded) = (ids(false)?, ids(true)?);
    if alone.is_empty() {
        return Ok((surrounded, Vec::new()));
    }
    let start = surrounded.windows(alone.len()).position(|window| window == alone);
    let start = start.ok_or_else(|| {
        TokenizerError::Invalid("tokenizer.json: its post-processor changes the text".to_owned())
    })?;
    Ok((surrounded[..start].to_vec(), surrounded[start + alone.len()..].to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoding(json: &str) -> Result<Decoding, TokenizerError> {
        Decoding::from_json(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn decoders_become_byte_rules() {
        assert_eq!(decoding(r#"{"type":"ByteLevel"}"#).unwrap().rule, ByteRule::ByteLevel);
        let sequence = r#"{"type":"Sequence","decoders":[
            {"type":"Replace","pattern":{"String":"▁"},"content":" "},
            {"type":"ByteFallback"},{"type":"Fuse"},
            {"type":"Strip","content":" ","start":1,"stop":0}]}"#;
        let decoding_of_sequence = decoding(sequence).unwrap();
        assert_eq!(decoding_of_sequence.rule, ByteRule::sentence_piece());
        assert_eq!(decoding_of_sequence.leading_spaces_dropped, 1);
        let never = r#"{"type":"Metaspace","replacement":"▁","prepend_scheme":"never"}"#;
        assert_eq!(decoding(never).unwrap().leading_spaces_dropped, 0);
    }

    #[test]
    fn an_unknown_decoder_is_named() {
        let error = decoding(r###"{"type":"WordPiece","prefix":"##"}"###).err().unwrap();
        assert!(error.to_string().contains("WordPiece"), "{error}");
        assert!(decoding("null").is_err());
    }
}
