//! The files are what our own readers expect, and the same every time.

use std::num::NonZeroUsize;

use clap::ValueEnum;
use wharf_model::{Isa, LoadOptions, Model, TokenizerSource};

use super::*;
use crate::bench::shape::{Family, LLAMA_3_2_1B, TINY};

/// Llama's names, rotary factors and tokenizer, as small as [`TINY`].
const TINY_LLAMA: Shape = Shape {
    name: "tiny-llama",
    family: Family::Llama,
    rope_scaling: LLAMA_3_2_1B.rope_scaling,
    rope_theta: LLAMA_3_2_1B.rope_theta,
    ..TINY
};

fn load(path: &Path) -> Model {
    let options = LoadOptions::exact(Isa::detect(), NonZeroUsize::MIN);
    Model::load(path, &options).unwrap()
}

#[test]
fn every_format_of_every_family_loads() {
    for shape in [&TINY, &TINY_LLAMA] {
        for &format in Format::value_variants() {
            let dir = tempfile::tempdir().unwrap();
            let gguf = make(shape, format, 1, dir.path()).unwrap();
            let mut models = vec![load(&gguf)];
            if format == Format::Bf16 {
                models.push(load(dir.path()));
            }
            for model in models {
                let info = model.info();
                assert_eq!(info.vocab_size, shape.vocab);
                assert_eq!((info.num_layers, info.head_dim), (shape.layers, shape.head_dim));
                assert_eq!(info.eos_token_ids.last(), Some(&(shape.vocab as u32 - 1)));
                assert!(info.chat_template.as_deref().unwrap().contains("<|im_start|>"));
                if let TokenizerSource::Gguf(vocabulary) = &info.tokenizer {
                    assert_eq!(vocabulary.tokens.len(), shape.vocab);
                }
            }
        }
    }
}

#[test]
fn a_seed_gives_the_same_bytes_and_what_is_there_stays() {
    let dirs = [0, 1, 2].map(|_| tempfile::tempdir().unwrap());
    let written = |dir: &tempfile::TempDir, seed| {
        let gguf = make(&TINY, Format::Q8_0, seed, dir.path()).unwrap();
        fs::read(gguf).unwrap()
    };
    let first = written(&dirs[0], 1);
    assert!(first == written(&dirs[1], 1));
    assert!(first != written(&dirs[2], 2));
    // Another seed in the same place is made; the same one isn't.
    assert!(written(&dirs[0], 2) == written(&dirs[2], 2));
    let gguf = dirs[0].path().join("tiny-q8_0.gguf");
    fs::write(&gguf, "mine").unwrap();
    assert_eq!(written(&dirs[0], 2), b"mine");
}
