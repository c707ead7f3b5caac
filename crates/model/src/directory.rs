//! A Hugging Face directory: which of its files are read, in which order, and what they say together.
//!
//! config.json, the safetensors and tokenizer.json must be there; the others are read if they are.

use std::{
    collections::BTreeSet,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    config::{self, Config, Fields},
    error::{Malformed, ModelError},
    generation,
    info::{GenerationDefaults, TokenizerSource},
    mmap::MappedFile,
    safetensors,
    weights::{Naming, Weights},
};

/// A tokenizer.json past this is not what it says it is (the largest known has 35 MB).
const MAX_TOKENIZER_BYTES: u64 = 256 << 20;

/// The same of the other text files, which become trees of JSON values, many times their size (the
/// largest known, an index of shards, has 2 MB).
const MAX_TEXT_BYTES: u64 = 16 << 20;

/// A model's files, read but for the tensors' bytes.
pub(crate) struct Directory {
    pub(crate) config: Config,
    pub(crate) weights: Weights,
    pub(crate) tokenizer: TokenizerSource,
    pub(crate) chat_template: Option<String>,
    pub(crate) generation: GenerationDefaults,
}

/// Reads the directory at `path`.
pub(crate) fn open(path: &Path) -> Result<Directory, ModelError> {
    let config_path = path.join("config.json");
    let mut config =
        config::parse(&read(&config_path, MAX_TEXT_BYTES)?).map_err(|e| e.in_file(&config_path))?;

    let generation_path = path.join("generation_config.json");
    let mut generation = GenerationDefaults::default();
    if let Some(json) = read_if_there(&generation_path)? {
        let (defaults, eos) = generation::parse(&json).map_err(|e| e.in_file(&generation_path))?;
        generation = defaults;
        // Either file may name an end the other doesn't (Llama 3's <|eot_id|>); all of them end.
        config.eos_token_ids.extend(eos);
    }
    config.eos_token_ids.sort_unstable();
    config.eos_token_ids.dedup();

    let tokenizer_config = read_if_there(&path.join("tokenizer_config.json"))?;
    let chat_template = chat_template(path, tokenizer_config.as_deref())?;
    let tokenizer_json = read(&path.join("tokenizer.json"), MAX_TOKENIZER_BYTES)?;
    Ok(Directory {
        weights: weights(path, config.multimodal)?,
        config,
        tokenizer: TokenizerSource::HuggingFace { tokenizer_json, tokenizer_config },
        chat_template,
        generation,
    })
}

/// Reads a file of at most `most` bytes.
fn read(path: &Path, most: u64) -> Result<Vec<u8>, ModelError> {
    let io = |error| ModelError::io(path, error);
    let file = File::open(path).map_err(io)?;
    let mut bytes = Vec::new();
    // One more than allowed, to notice.
    file.take(most + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > most {
        let reason = format!("is longer than {most} bytes");
        return Err(Malformed::new("length", reason).in_file(path));
    }
    Ok(bytes)
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, ModelError> {
    match read(path, MAX_TEXT_BYTES) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(ModelError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The chat template, from the first place that has one, in transformers' order.
fn chat_template(
    path: &Path,
    tokenizer_config: Option<&[u8]>,
) -> Result<Option<String>, ModelError> {
    let jinja = path.join("chat_template.jinja");
    if let Some(text) = read_if_there(&jinja)? {
        let text = String::from_utf8(text)
            .map_err(|_| Malformed::new("template", "is not UTF-8").in_file(&jinja))?;
        return Ok(Some(text));
    }
    let legacy = path.join("chat_template.json");
    if let Some(json) = read_if_there(&legacy)? {
        return template_in(&json).map_err(|e| e.in_file(&legacy));
    }
    let in_config = tokenizer_config.map_or(Ok(None), template_in);
    in_config.map_err(|e| e.in_file(&path.join("tokenizer_config.json")))
}

/// The field `chat_template` of a JSON file: a text, or a list of named ones, of which "default".
fn template_in(json: &[u8]) -> Result<Option<String>, Malformed> {
    let value: Value =
        serde_json::from_slice(json).map_err(|e| Malformed::new("file", e.to_string()))?;
    let fields = Fields::new(&value)?;
    match fields.get("chat_template") {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Array(list)) => {
            let named = |name: &str| list.iter().find(|template| template["name"] == name);
            let Some(default) = named("default") else {
                return Err(fields.fault("chat_template", "has no template named \"default\""));
            };
            match &default["template"] {
                Value::String(text) => Ok(Some(text.clone())),
                _ => Err(fields.fault("chat_template", "the default template must be a string")),
            }
        }
        Some(_) => Err(fields.fault("chat_template", "must be a string or a list of templates")),
    }
}

/// Maps the safetensors: one file, or the shards that the index lists.
fn weights(path: &Path, multimodal: bool) -> Result<Weights, ModelError> {
    let single = path.join("model.safetensors");
    let index = path.join("model.safetensors.index.json");
    let mut weights = Weights::new(Naming::HuggingFace, multimodal);
    if single.exists() {
        add(&mut weights, single)?;
        return Ok(weights);
    }
    let Some(json) = read_if_there(&index)? else {
        let reason = "there is neither model.safetensors nor model.safetensors.index.json \
                      (other weight formats are not supported)";
        return Err(Malformed::new("weights", reason).in_file(path));
    };
    let listed = safetensors::parse_index(&json).map_err(|e| e.in_file(&index))?;
    let shards: BTreeSet<&str> = listed.iter().map(|(_, file)| file.as_str()).collect();
    for shard in shards {
        add(&mut weights, path.join(shard))?;
    }
    for (name, file) in &listed {
        let Some(own) = weights.own_name(name) else { continue };
        if weights.file_of(&own) != Some(&path.join(file)) {
            let reason = format!("the tensor is not in {file}");
            return Err(Malformed::new(format!("weight_map.{name}"), reason).in_file(&index));
        }
    }
    Ok(weights)
}

fn add(weights: &mut Weights, path: PathBuf) -> Result<(), ModelError> {
    let file = MappedFile::open(&path)?;
    let tensors = safetensors::parse_header(file.bytes()).map_err(|e| e.in_file(&path))?;
    weights.add(file, tensors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_found_in_each_shape_of_the_field() {
        assert_eq!(template_in(b"{}").unwrap(), None);
        let one = template_in(br#"{"chat_template": "{{ x }}"}"#).unwrap();
        assert_eq!(one.as_deref(), Some("{{ x }}"));
        let list = br#"{"chat_template": [{"name": "tool_use", "template": "a"},
            {"name": "default", "template": "b"}]}"#;
        assert_eq!(template_in(list).unwrap().as_deref(), Some("b"));
        for bad in [r#"{"chat_template": 3}"#, r#"{"chat_template": [3]}"#, "3", ""] {
            assert!(template_in(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_jinja_file_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        let config = br#"{"chat_template": "c"}"#;
        assert_eq!(chat_template(dir.path(), Some(config)).unwrap().as_deref(), Some("c"));
        std::fs::write(dir.path().join("chat_template.json"), r#"{"chat_template": "b"}"#).unwrap();
        assert_eq!(chat_template(dir.path(), Some(config)).unwrap().as_deref(), Some("b"));
        std::fs::write(dir.path().join("chat_template.jinja"), "a").unwrap();
        assert_eq!(chat_template(dir.path(), Some(config)).unwrap().as_deref(), Some("a"));
    }

    #[test]
    fn a_text_that_is_too_long_is_refused_unread() {
        let dir = tempfile::tempdir().unwrap();
        // A hole, not bytes: it takes no room on the disk.
        for (name, most) in
            [("config.json", MAX_TEXT_BYTES), ("chat_template.jinja", MAX_TEXT_BYTES)]
        {
            let path = dir.path().join(name);
            File::create(&path).unwrap().set_len(most + 1).unwrap();
            let error = read_if_there(&path).err().unwrap().to_string();
            assert!(error.contains(name) && error.contains("longer than 16777216"), "{error}");
        }
        assert!(open(dir.path()).err().unwrap().to_string().contains("config.json"));
    }

    #[test]
    fn a_directory_without_weights_says_what_was_looked_for() {
        let dir = tempfile::tempdir().unwrap();
        let error = weights(dir.path(), false).err().unwrap().to_string();
        assert!(error.contains("model.safetensors"), "{error}");
        std::fs::write(
            dir.path().join("model.safetensors.index.json"),
            r#"{"weight_map": {"w": "x.safetensors"}}"#,
        )
        .unwrap();
        let error = weights(dir.path(), false).err().unwrap().to_string();
        assert!(error.contains("x.safetensors"), "{error}");
    }
}
