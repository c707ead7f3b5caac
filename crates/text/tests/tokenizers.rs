//! Tokenizers against Hugging Face's ids and texts.
//!
//! The reference cases lie beside the checkout (`<repo>/../shared/fixtures`); where they are
//! not, each test says so and passes. Tests with vocabularies of our own are next to the
//! code.

#![expect(clippy::unwrap_used, reason = "a helper of a test may fail the test")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value as Json;
use wharf_text::detokenizer::Detokenizer;
use wharf_text::tokenizer::{GgufVocabulary, Tokenizer, from_gguf, from_hugging_face};

const NAMES: [&str; 6] = ["gpt-2", "mistral-v3", "llama-3.1", "phi-3", "qwen3", "smollm2"];

fn fixtures(part: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/fixtures").join(part);
    if !folder.exists() {
        eprintln!("skipped: {} is not there", folder.display());
        return None;
    }
    Some(folder)
}

fn json(path: &Path) -> Json {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn ids(value: &Json) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// The tokenizer of `folder` by its `tokenizer.json` alone, as the reference was made.
fn load(folder: &Path) -> Arc<dyn Tokenizer> {
    from_hugging_face(&std::fs::read(folder.join("tokenizer.json")).unwrap(), None).unwrap()
}

#[test]
fn ids_and_texts_equal_hugging_faces() {
    let Some(folder) = fixtures("tokenizers") else {
        return;
    };
    for name in NAMES {
        let tokenizer = load(&folder.join(name));
        let cases = json(&folder.join(name).join("cases_hf.json"));
        for case in cases["cases"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let (plain, special) = (ids(&case["ids"]), ids(&case["ids_with_special"]));
            assert_eq!(tokenizer.encode(text, false).unwrap(), plain, "{name}: {text:?}");
            assert_eq!(tokenizer.encode(text, true).unwrap(), special, "{name}: {text:?}");
            let decoded = case["decoded"].as_str().unwrap();
            let skipped = case["decoded_skip_special"].as_str().unwrap();
            assert_eq!(tokenizer.decode(&plain, false), decoded, "{name}: {text:?}");
            assert_eq!(tokenizer.decode(&special, true), skipped, "{name}: {text:?}");
        }
    }
}

#[test]
fn ids_equal_the_independent_reference() {
    let Some(folder) = fixtures("tokenizers") else {
        return;
    };
    for name in NAMES {
        let path = folder.join(name).join("cases.json");
        if !path.exists() {
            continue;
        }
        let tokenizer = load(&folder.join(name));
        let cases = json(&path);
        let special = cases["add_special_tokens"].as_bool().unwrap();
        for case in cases["cases"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            assert_eq!(
                tokenizer.encode(text, special).unwrap(),
                ids(&case["ids"]),
                "{name}: {text:?}"
            );
        }
    }
}

#[test]
fn tokenizer_config_gives_special_texts() {
    let Some(folder) = fixtures("tokenizers") else {
        return;
    };
    for name in NAMES {
        let read = |file: &str| std::fs::read(folder.join(name).join(file)).unwrap();
        let config: Json = serde_json::from_slice(&read("tokenizer_config.json")).unwrap();
        let tokenizer =
            from_hugging_face(&read("tokenizer.json"), Some(&read("tokenizer_config.json")))
                .unwrap();
        assert_eq!(tokenizer.bos_token(), config["bos_token"].as_str(), "{name}");
        assert_eq!(tokenizer.eos_token(), config["eos_token"].as_str(), "{name}");
        if let Some(add_bos) = config["add_bos_token"].as_bool() {
            let first = tokenizer.encode("a", true).unwrap()[0];
            let bos = tokenizer.bos_token().and_then(|bos| tokenizer.token_to_id(bos));
            assert_eq!(Some(first) == bos, add_bos, "{name}");
        }
    }
}

/// A GGUF vocabulary with what `tokenizer.json` says, as converters write it. `pre`: the
/// pre-tokenizer's name, or `None` for SentencePiece.
fn gguf(tokenizer_json: &Json, pre: Option<&str>) -> GgufVocabulary {
    let vocab = tokenizer_json["model"]["vocab"].as_object().unwrap();
    let added = tokenizer_json["added_tokens"].as_array().unwrap();
    let mut by_id: HashMap<u64, (&str, u32)> = HashMap::new();
    for (text, id) in vocab {
        let byte = text.len() == 6 && text.starts_with("<0x");
        by_id.insert(id.as_u64().unwrap(), (text, if byte && pre.is_none() { 6 } else { 1 }));
    }
    for token in added {
        let kind = match token["content"].as_str().unwrap() {
            "<unk>" => 2,
            _ if token["special"].as_bool().unwrap() => 3,
            _ => 4,
        };
        by_id.insert(token["id"].as_u64().unwrap(), (token["content"].as_str().unwrap(), kind));
    }
    let count = by_id.keys().max().unwrap() + 1;
    let mut vocabulary = GgufVocabulary {
        model: if pre.is_some() { "gpt2" } else { "llama" }.to_owned(),
        pre: pre.map(str::to_owned),
        ..GgufVocabulary::default()
    };
    for id in 0..count {
        let (text, kind) = by_id.get(&id).copied().unwrap_or(("", 5));
        vocabulary.tokens.push(text.to_owned());
        vocabulary.token_types.push(kind);
    }
    let merges = tokenizer_json["model"]["merges"].as_array().unwrap().iter();
    vocabulary.merges = merges
        .map(|merge| match merge {
            Json::String(merge) => merge.clone(),
            pair => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
        })
        .collect();
    if pre.is_none() {
        // SentencePiece has no merges but scores: a piece's is the higher, the sooner the
        // first of the merges that make it comes.
        vocabulary.scores = vec![-1e9; vocabulary.tokens.len()];
        for (rank, merge) in std::mem::take(&mut vocabulary.merges).iter().enumerate().rev() {
            let id = vocab[&merge.replacen(' ', "", 1)].as_u64().unwrap();
            vocabulary.scores[id as usize] = -(rank as f32);
        }
    }
    vocabulary
}

#[test]
fn a_gguf_vocabulary_gives_the_same_ids() {
    let Some(folder) = fixtures("tokenizers") else {
        return;
    };
    let kinds = [
        ("gpt-2", Some("gpt-2")),
        ("llama-3.1", Some("llama-bpe")),
        ("qwen3", Some("qwen2")),
        ("smollm2", Some("smollm")),
        ("mistral-v3", None),
        ("phi-3", None),
    ];
    for (name, pre) in kinds {
        let vocabulary = gguf(&json(&folder.join(name).join("tokenizer.json")), pre);
        let vocabulary = GgufVocabulary { add_bos: Some(false), ..vocabulary };
        let tokenizer = from_gguf(vocabulary).unwrap();
        let cases = json(&folder.join(name).join("cases_hf.json"));
        for case in cases["cases"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let want = ids(&case["ids"]);
            assert_eq!(tokenizer.encode(text, false).unwrap(), want, "{name}: {text:?}");
            assert_eq!(
                tokenizer.decode(&want, false),
                case["decoded"].as_str().unwrap(),
                "{name}: {text:?}"
            );
        }
    }
}

#[test]
fn pieces_of_random_ids_are_the_decoded_whole() {
    let Some(folder) = fixtures("tokenizers") else {
        return;
    };
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    for name in NAMES {
        let tokenizer = load(&folder.join(name));
        for round in 0..300 {
            let skip = round % 2 == 0;
            let mut detokenizer = Detokenizer::at_text_start(tokenizer.clone(), skip);
            let mut answer = Detokenizer::new(tokenizer.clone(), skip);
            let (mut text, mut answered, mut all) = (String::new(), String::new(), Vec::new());
            for _ in 0..24 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                // Often from the first ids, where the bytes are.
                let range = if random & 1 == 0 { 400 } else { tokenizer.vocab_size() as u64 + 5 };
                let id = ((random >> 33) % range) as u32;
                all.push(id);
                detokenizer.push(id, &mut text);
                answer.push(id, &mut answered);
            }
            detokenizer.finish(&mut text);
            answer.finish(&mut answered);
            assert_eq!(text, tokenizer.decode(&all, skip), "{name}: {all:?}");
            let shown = all.iter().filter(|&&id| !(skip && tokenizer.is_special(id)));
            let bytes: Vec<u8> = shown.flat_map(|&id| tokenizer.token_bytes(id).to_vec()).collect();
            assert_eq!(answered, String::from_utf8_lossy(&bytes), "{name}: {all:?}");
        }
    }
}

#[test]
fn trained_story_models_tokenize_as_their_goldens_say() {
    let Some(folder) = fixtures("models") else {
        return;
    };
    for name in ["stories260k", "stories3m"] {
        let golden = json(&folder.join(name).join("golden_greedy.json"));
        let tokenizer = load(&folder.join(name));
        let vocabulary = gguf(&json(&folder.join(name).join("tokenizer.json")), None);
        let from_gguf = from_gguf(GgufVocabulary { bos: Some(1), ..vocabulary }).unwrap();
        let cases = golden["cases"].as_array().or_else(|| golden["prompts"].as_array());
        for case in cases.into_iter().flatten() {
            let (Some(text), Some(want)) = (case["prompt"].as_str(), case.get("prompt_ids")) else {
                continue;
            };
            let want = ids(want);
            assert_eq!(tokenizer.encode(text, true).unwrap(), want, "{name}: {text:?}");
            assert_eq!(from_gguf.encode(text, true).unwrap(), want, "{name}: {text:?}");
        }
    }
}
