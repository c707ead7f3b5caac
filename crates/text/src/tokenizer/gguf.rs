//! A tokenizer from the vocabulary inside a GGUF file (`tokenizer.ggml.*`).
//!
//! Two kinds: `gpt2` is byte-level BPE with explicit merges, cut into words by a named
//! pre-tokenizer; `llama` is SentencePiece's BPE, which has no merges but a score per
//! token. For the latter the merges are derived from the scores, as transformers'
//! converter does, so that one library serves both. Other kinds (`bert`, `t5`, `rwkv`, …)
//! are refused by name.
//!
//! A GGUF file is untrusted: sizes and ids are checked before anything is built of them.

use std::collections::HashMap;
use std::sync::Arc;

use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::{Prepend, Replace, Sequence};
use tokenizers::{AddedToken, NormalizerWrapper};

use super::library::{LibraryTokenizer, guarded};
use super::pre_tokenizer::PreTokenizerKind;
use super::token_table::{ByteRule, SPACE_MARK, TableEntry, TokenTable, byte_token};
use super::{MAX_VOCAB_SIZE, SharedTokenizer, Tokenizer, TokenizerError};

/// Token types as GGUF numbers them (`tokenizer.ggml.token_type`).
mod token_type {
    pub(super) const NORMAL: u32 = 1;
    pub(super) const UNKNOWN: u32 = 2;
    pub(super) const CONTROL: u32 = 3;
    pub(super) const USER_DEFINED: u32 = 4;
    pub(super) const UNUSED: u32 = 5;
}

/// A token longer than this takes no part in merging; SentencePiece's own limit is far
/// lower. It bounds the work that a hostile vocabulary can ask for.
const MAX_MERGED_BYTES: usize = 512;

/// A GGUF vocabulary (see the GGUF specification, `tokenizer.ggml.*`).
#[derive(Debug, Clone, Default)]
pub struct GgufVocabulary {
    /// `tokenizer.ggml.model`: `gpt2` or `llama`.
    pub model: String,
    /// `tokenizer.ggml.pre`: the pre-tokenizer's name, for `gpt2`. Absent means `default`.
    pub pre: Option<String>,
    /// `tokenizer.ggml.tokens`: the text of each id.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.scores`: one per token, for `llama`.
    pub scores: Vec<f32>,
    /// `tokenizer.ggml.token_type`: one per token, or empty (all normal).
    pub token_types: Vec<u32>,
    /// `tokenizer.ggml.merges`: `left right`, best first, for `gpt2`.
    pub merges: Vec<String>,
    /// `tokenizer.ggml.bos_token_id`.
    pub bos: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`.
    pub eos: Option<u32>,
    /// `tokenizer.ggml.unknown_token_id`.
    pub unk: Option<u32>,
    /// `tokenizer.ggml.add_bos_token`.
    pub add_bos: Option<bool>,
    /// `tokenizer.ggml.add_eos_token`.
    pub add_eos: Option<bool>,
    /// `tokenizer.ggml.add_space_prefix`.
    pub add_space_prefix: Option<bool>,
}

/// From a GGUF file's vocabulary.
///
/// # Errors
/// [`TokenizerError::Invalid`], naming the field, for a broken vocabulary, an unknown
/// `tokenizer.ggml.model` or an unknown `tokenizer.ggml.pre`.
pub fn from_gguf(vocabulary: GgufVocabulary) -> Result<Arc<dyn Tokenizer>, TokenizerError> {
    check(&vocabulary)?;
    let (library, rule, adds_bos, leading_spaces_dropped) = match vocabulary.model.as_str() {
        "gpt2" => {
            let name = vocabulary.pre.as_deref().unwrap_or("default");
            let kind = PreTokenizerKind::named(name)?;
            (byte_level_bpe(&vocabulary, &kind)?, ByteRule::ByteLevel, kind.adds_bos, 0)
        }
        "llama" => {
            let add_space_prefix = vocabulary.add_space_prefix.unwrap_or(true);
            let library = sentence_piece_bpe(&vocabulary, add_space_prefix)?;
            (library, ByteRule::sentence_piece(), true, usize::from(add_space_prefix))
        }
        unknown => {
            return Err(invalid(
                "model",
                format!("{unknown:?} is not a supported kind of vocabulary"),
            ));
        }
    };
    let table = TokenTable::new(&rule, entries(&vocabulary))?;
    let add_bos = vocabulary.add_bos.unwrap_or(adds_bos);
    let add_eos = vocabulary.add_eos.unwrap_or(false);
    let tokenizer: SharedTokenizer = Arc::new(LibraryTokenizer {
        library,
        prefix: boundary_ids(add_bos, vocabulary.bos, vocabulary.add_bos, "bos_token_id")?,
        suffix: boundary_ids(add_eos, vocabulary.eos, vocabulary.add_eos, "eos_token_id")?,
        leading_spaces_dropped,
        bos: text_of(&vocabulary, vocabulary.bos),
        eos: text_of(&vocabulary, vocabulary.eos),
        table,
    });
    Ok(tokenizer)
}

fn invalid(field: &str, reason: impl std::fmt::Display) -> TokenizerError {
    TokenizerError::Invalid(format!("tokenizer.ggml.{field}: {reason}"))
}

/// Lengths agree, ids are in range.
fn check(vocabulary: &GgufVocabulary) -> Result<(), TokenizerError> {
    let count = vocabulary.tokens.len();
    if count == 0 || count > MAX_VOCAB_SIZE {
        return Err(invalid("tokens", format!("{count} tokens; 1 to {MAX_VOCAB_SIZE} are valid")));
    }
    for (field, len) in
        [("token_type", vocabulary.token_types.len()), ("scores", vocabulary.scores.len())]
    {
        if len != 0 && len != count {
            return Err(invalid(field, format!("{len} entries for {count} tokens")));
        }
    }
    let ids = [
        ("bos_token_id", vocabulary.bos),
        ("eos_token_id", vocabulary.eos),
        ("unknown_token_id", vocabulary.unk),
    ];
    for (field, id) in ids {
        if id.is_some_and(|id| id as usize >= count) {
            return Err(invalid(field, format!("{id:?} is past the {count} tokens")));
        }
    }
    Ok(())
}

fn type_of(vocabulary: &GgufVocabulary, id: usize) -> u32 {
    vocabulary.token_types.get(id).copied().unwrap_or(token_type::NORMAL)
}

fn text_of(vocabulary: &GgufVocabulary, id: Option<u32>) -> Option<String> {
    vocabulary.tokens.get(id? as usize).cloned()
}

/// The ids added at one end of a text. `stated`: the file says so itself, so that a missing
/// id is its fault; where it says nothing, nothing is added.
fn boundary_ids(
    add: bool,
    id: Option<u32>,
    stated: Option<bool>,
    field: &str,
) -> Result<Vec<u32>, TokenizerError> {
    match (add, id) {
        (true, Some(id)) => Ok(vec![id]),
        (true, None) if stated.is_some() => Err(invalid(field, "missing, but is to be added")),
        _ => Ok(Vec::new()),
    }
}

fn entries(vocabulary: &GgufVocabulary) -> impl ExactSizeIterator<Item = Option<TableEntry<'_>>> {
    vocabulary.tokens.iter().enumerate().map(|(id, text)| {
        let kind = type_of(vocabulary, id);
        let special = matches!(kind, token_type::CONTROL | token_type::UNKNOWN);
        let added = special || kind == token_type::USER_DEFINED;
        Some(TableEntry { text, added, special })
    })
}

/// The text of every id, as the library wants it.
fn vocab(vocabulary: &GgufVocabulary) -> Result<Vocab, TokenizerError> {
    let mut vocab = Vocab::with_capacity(vocabulary.tokens.len());
    for (id, text) in vocabulary.tokens.iter().enumerate() {
        if text.is_empty() {
            continue; // A hole in the numbering: no text becomes this id.
        }
        // `check` holds ids below MAX_VOCAB_SIZE.
        if let Some(other) = vocab.insert(text.clone(), id as u32) {
            return Err(invalid("tokens", format!("{text:?} is both {other} and {id}")));
        }
    }
    Ok(vocab)
}

/// Tells the library which tokens are matched as a whole, before anything is cut.
fn add_tokens(
    library: &mut tokenizers::Tokenizer,
    vocabulary: &GgufVocabulary,
) -> Result<(), TokenizerError> {
    let added = entries(vocabulary)
        .flatten()
        .filter(|entry| entry.added && !entry.text.is_empty())
        .map(|entry| AddedToken::from(entry.text, entry.special).normalized(false))
        .collect::<Vec<_>>();
    guarded(|| library.add_tokens(added)).map_err(|error| invalid("token_type", error))?;
    Ok(())
}

fn byte_level_bpe(
    vocabulary: &GgufVocabulary,
    kind: &PreTokenizerKind,
) -> Result<tokenizers::Tokenizer, TokenizerError> {
    let vocab = vocab(vocabulary)?;
    let mut merges: Merges = Vec::with_capacity(vocabulary.merges.len());
    let mut merged = String::new();
    for (rank, merge) in vocabulary.merges.iter().enumerate() {
        let Some((left, right)) = merge.split_once(' ') else {
            return Err(invalid("merges", format!("number {rank}, {merge:?}, has no space")));
        };
        merged.clear();
        merged.push_str(left);
        merged.push_str(right);
        // The library would panic on a merged text longer than any token.
        if let Some(missing) =
            [left, right, &merged].into_iter().find(|part| !vocab.contains_key(*part))
        {
            let reason = format!("number {rank}, {merge:?}: {missing:?} is not a token");
            return Err(invalid("merges", reason));
        }
        merges.push((left.to_owned(), right.to_owned()));
    }
    let model = guarded(|| {
        BPE::builder().vocab_and_merges(vocab, merges).ignore_merges(kind.ignore_merges).build()
    })
    .map_err(|error| invalid("merges", error))?;
    let mut library = tokenizers::Tokenizer::new(model);
    if let Some(normalizer) = kind.normalizer() {
        set_normalizer(&mut library, normalizer)?;
    }
    library.with_pre_tokenizer(Some(kind.pre_tokenizer()?));
    add_tokens(&mut library, vocabulary)?;
    Ok(library)
}

fn set_normalizer(
    library: &mut tokenizers::Tokenizer,
    normalizer: NormalizerWrapper,
) -> Result<(), TokenizerError> {
    guarded(|| library.with_normalizer(Some(normalizer)).map(|_| ()))
        .map_err(TokenizerError::Invalid)
}

fn sentence_piece_bpe(
    vocabulary: &GgufVocabulary,
    add_space_prefix: bool,
) -> Result<tokenizers::Tokenizer, TokenizerError> {
    if vocabulary.scores.is_empty() {
        return Err(invalid("scores", "missing; a \"llama\" vocabulary needs them"));
    }
    let merges = merges_by_score(vocabulary);
    let byte_tokens = vocabulary.tokens.iter().filter(|text| byte_token(text).is_some()).count();
    // Without an unknown token and without bytes, unknown characters would vanish.
    let unk = text_of(vocabulary, vocabulary.unk.or_else(|| first_unknown(vocabulary)));
    if byte_tokens < 256 && unk.is_none() {
        return Err(invalid("tokens", "neither all 256 byte tokens nor an unknown token"));
    }
    let mut builder = BPE::builder()
        .vocab_and_merges(vocab(vocabulary)?, merges)
        .fuse_unk(true)
        .byte_fallback(byte_tokens >= 256);
    if let Some(unk) = unk {
        builder = builder.unk_token(unk);
    }
    let model = guarded(|| builder.build()).map_err(|error| invalid("tokens", error))?;
    let mut library = tokenizers::Tokenizer::new(model);
    let mark = SPACE_MARK.to_string();
    let mut steps: Vec<NormalizerWrapper> = Vec::with_capacity(2);
    if add_space_prefix {
        steps.push(Prepend::new(mark.clone()).into());
    }
    let spaces = Replace::new(" ", mark).map_err(|error| invalid("model", error))?;
    steps.push(spaces.into());
    set_normalizer(&mut library, Sequence::new(steps).into())?;
    add_tokens(&mut library, vocabulary)?;
    Ok(library)
}

fn first_unknown(vocabulary: &GgufVocabulary) -> Option<u32> {
    let unknown = |&id: &usize| type_of(vocabulary, id) == token_type::UNKNOWN;
    (0..vocabulary.token_types.len()).find(unknown).map(|id| id as u32)
}

/// A merge that the scores allow.
struct ScoredMerge<'a> {
    left: &'a str,
    right: &'a str,
    /// (left id, right id): the last tie-break but one.
    ids: (u32, u32),
    /// Of the merged token.
    score: f32,
}

/// The merges that SentencePiece's scores amount to: every way to put a token together from
/// two others, the best-scored token first; ties go to the longer left part, then to the
/// longer right part, then to the smaller ids, as in transformers' converter.
fn merges_by_score(vocabulary: &GgufVocabulary) -> Merges {
    let mergeable = |id: usize| {
        matches!(
            type_of(vocabulary, id),
            token_type::NORMAL | token_type::USER_DEFINED | token_type::UNUSED
        )
    };
    let ids: HashMap<&str, u32> = (0..vocabulary.tokens.len())
        .filter(|&id| mergeable(id))
        .map(|id| (vocabulary.tokens[id].as_str(), id as u32))
        .collect();
    let mut merges = Vec::new();
    for (id, text) in vocabulary.tokens.iter().enumerate() {
        if !mergeable(id) || text.len() > MAX_MERGED_BYTES {
            continue;
        }
        let first = merges.len();
        for (at, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(at);
            if let (Some(&left_id), Some(&right_id)) = (ids.get(left), ids.get(right)) {
                let score = vocabulary.scores[id];
                merges.push(ScoredMerge { left, right, ids: (left_id, right_id), score });
            }
        }
        merges[first..].sort_by_key(|merge| merge.ids);
    }
    let lengths =
        |merge: &ScoredMerge<'_>| (merge.left.chars().count(), merge.right.chars().count());
    merges.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| lengths(b).cmp(&lengths(a))));
    merges.iter().map(|merge| (merge.left.to_owned(), merge.right.to_owned())).collect()
}

#[cfg(test)]
mod tests;
