//! GGUF files written here, whole and broken.

use proptest::prelude::*;

use super::*;
use crate::{
    config::{Architecture, Bias},
    rope::Scaling,
};

/// Writes GGUF files, good and bad.
#[derive(Clone, Default)]
pub(crate) struct Writer {
    pairs: Vec<u8>,
    pair_count: u64,
    tensors: Vec<u8>,
    tensor_count: u64,
    data: Vec<u8>,
}

fn text_bytes(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

impl Writer {
    fn raw(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.pairs.extend(text_bytes(key));
        self.pairs.extend(kind.to_le_bytes());
        self.pairs.extend(value);
        self.pair_count += 1;
        self
    }

    fn u32(self, key: &str, value: u32) -> Self {
        self.raw(key, 4, &value.to_le_bytes())
    }

    fn f32(self, key: &str, value: f32) -> Self {
        self.raw(key, 6, &value.to_le_bytes())
    }

    fn text(self, key: &str, value: &str) -> Self {
        self.raw(key, 8, &text_bytes(value))
    }

    fn texts(self, key: &str, values: &[&str]) -> Self {
        let mut bytes = 8u32.to_le_bytes().to_vec();
        bytes.extend((values.len() as u64).to_le_bytes());
        values.iter().for_each(|value| bytes.extend(text_bytes(value)));
        self.raw(key, 9, &bytes)
    }

    fn i32s(self, key: &str, values: &[i32]) -> Self {
        let mut bytes = 5u32.to_le_bytes().to_vec();
        bytes.extend((values.len() as u64).to_le_bytes());
        values.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
        self.raw(key, 9, &bytes)
    }

    fn tensor(mut self, name: &str, dims: &[u64], kind: u32, offset: u64, data: &[u8]) -> Self {
        self.tensors.extend(text_bytes(name));
        self.tensors.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|dim| self.tensors.extend(dim.to_le_bytes()));
        self.tensors.extend(kind.to_le_bytes());
        self.tensors.extend(offset.to_le_bytes());
        self.tensor_count += 1;
        self.data.extend(data);
        self
    }

    fn finish(&self) -> Vec<u8> {
        let mut file = MAGIC.to_vec();
        file.extend(3u32.to_le_bytes());
        file.extend(self.tensor_count.to_le_bytes());
        file.extend(self.pair_count.to_le_bytes());
        file.extend(&self.pairs);
        file.extend(&self.tensors);
        file.resize(file.len().next_multiple_of(32), 0);
        file.extend(&self.data);
        file
    }

    /// The field that the file is refused for.
    fn refused(&self) -> String {
        let file = self.finish();
        let gguf = match parse(&file) {
            Ok(gguf) => gguf,
            Err(fault) => return fault.field,
        };
        match config(&gguf).map(drop).and_then(|()| vocabulary(&gguf).map(drop)) {
            Ok(()) => panic!("the file was accepted"),
            Err(fault) => fault.field,
        }
    }
}

/// A small valid file without tensors.
fn base() -> Writer {
    Writer::default()
        .text("general.architecture", "llama")
        .u32("llama.embedding_length", 64)
        .u32("llama.block_count", 2)
        .u32("llama.attention.head_count", 8)
        .u32("llama.attention.head_count_kv", 4)
        .u32("llama.feed_forward_length", 172)
        .u32("llama.context_length", 512)
        .f32("llama.attention.layer_norm_rms_epsilon", 1e-5)
        .text("tokenizer.ggml.model", "gpt2")
        .texts("tokenizer.ggml.tokens", &["a", "<|im_end|>", "<|endoftext|>"])
}

/// Texts used to be `&str`s into the mapped file, checked as UTF-8 once, at parsing.
#[cfg(target_os = "linux")]
#[test]
fn a_file_rewritten_under_us_is_no_text_rather_than_a_broken_one() {
    use std::{io::Write, os::unix::fs::FileExt};
    let bytes = base().text("tokenizer.chat_template", "{{ template }}").finish();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&bytes).unwrap();
    let map = crate::mmap::MappedFile::open(file.path()).unwrap();
    let gguf = parse(map.bytes()).unwrap();
    assert_eq!(chat_template(&gguf).unwrap().unwrap(), "{{ template }}");
    for text in ["{{ template }}", "<|im_end|>"] {
        let at = bytes.windows(text.len()).position(|window| window == text.as_bytes()).unwrap();
        file.as_file().write_all_at(&[0xff; 4], at as u64).unwrap();
    }
    assert_eq!(chat_template(&gguf).unwrap_err().field, "tokenizer.chat_template");
    assert_eq!(vocabulary(&gguf).unwrap_err().field, "tokenizer.ggml.tokens");
}

#[test]
fn a_small_llama() {
    let file = base()
        .u32("tokenizer.ggml.eos_token_id", 2)
        .i32s("tokenizer.ggml.token_type", &[1, 3, 1])
        .text("tokenizer.chat_template", "{{ x }}")
        .tensor("token_embd.weight", &[64, 3], 0, 0, &[0; 768])
        .finish();
    let gguf = parse(&file).unwrap();
    let config = config(&gguf).unwrap();
    assert_eq!(config.architecture, Architecture::Llama);
    assert_eq!((config.head_dim, config.num_kv_heads, config.vocab_size), (8, 4, 3));
    assert_eq!((config.qkv_bias, config.tied), (Bias::IfInFile, None));
    assert_eq!(config.rope.scaling, Scaling::None);
    // <|im_end|> is a control token that ends a turn; <|endoftext|> is an ordinary one, and the stated end.
    assert_eq!(config.eos_token_ids, [1, 2]);
    let vocabulary = vocabulary(&gguf).unwrap();
    assert_eq!((vocabulary.tokens.len(), vocabulary.eos), (3, Some(2)));
    assert_eq!(chat_template(&gguf).unwrap().as_deref(), Some("{{ x }}"));
    assert_eq!(gguf.tensors[0].shape, [3, 64]);
    assert_eq!(gguf.tensors[0].bytes.end, file.len());
}

#[test]
fn rope_scaling_keys() {
    let scaling = |writer: Writer| {
        let file = writer.finish();
        let config = config(&parse(&file).unwrap()).unwrap();
        (config.rope.scaling, config.max_model_len)
    };
    let linear = base().text("llama.rope.scaling.type", "linear");
    let (got, len) = scaling(linear.f32("llama.rope.scaling.factor", 4.0));
    assert_eq!((got, len), (Scaling::Linear { factor: 4.0 }, 2048));
    let (got, _) = scaling(base().f32("llama.rope.scale_linear", 2.0));
    assert_eq!(got, Scaling::Linear { factor: 2.0 });
    let yarn = base()
        .text("llama.rope.scaling.type", "yarn")
        .f32("llama.rope.scaling.factor", 4.0)
        .u32("llama.rope.scaling.original_context_length", 128);
    assert!(matches!(scaling(yarn), (Scaling::Yarn { .. }, 512)));
}

#[test]
fn what_is_not_supported_is_named() {
    let key = |key: &str| base().u32(key, 1).refused();
    assert_eq!(key("llama.new_invention"), "llama.new_invention");
    assert_eq!(key("llama.expert_used_count"), "llama.expert_used_count");
    let mixtral = base().u32("llama.expert_count", 2);
    assert_eq!(mixtral.refused(), "llama.expert_used_count");
    assert_eq!(mixtral.clone().u32("llama.expert_used_count", 3).refused(), "num_experts_per_tok");
    let sigmoid = mixtral.u32("llama.expert_gating_func", 2);
    assert_eq!(sigmoid.refused(), "llama.expert_gating_func");
    assert_eq!(key("llama.attention.value_length"), "llama.attention.value_length");
    assert_eq!(key("llama.rope.dimension_count"), "llama.rope.dimension_count");
    assert_eq!(base().u32("split.count", 2).refused(), "split.count");
    let longrope = base().text("llama.rope.scaling.type", "longrope");
    assert_eq!(longrope.refused(), "llama.rope.scaling.type");
    let granite = Writer::default()
        .text("general.architecture", "granite")
        .u32("granite.embedding_length", 64)
        .u32("granite.block_count", 2)
        .u32("granite.attention.head_count", 8)
        .u32("granite.context_length", 512)
        .raw("granite.rope.scaling.finetuned", 7, &[0]);
    assert_eq!(granite.refused(), "granite.rope.scaling.finetuned");
    let phi = Writer::default().text("general.architecture", "phi2");
    assert_eq!(phi.refused(), "general.architecture");
    let q2 = base().tensor("token_embd.weight", &[256, 3], 10, 0, &[0; 1000]);
    assert_eq!(q2.refused(), "token_embd.weight");
}

#[test]
fn wrong_metadata_is_named() {
    assert_eq!(Writer::default().refused(), "general.architecture");
    let llama = || Writer::default().text("general.architecture", "llama");
    assert_eq!(llama().refused(), "llama.embedding_length");
    assert_eq!(llama().u32("llama.embedding_length", 0).refused(), "llama.embedding_length");
    assert_eq!(llama().u32("llama.embedding_length", u32::MAX).refused(), "llama.embedding_length");
    assert_eq!(llama().text("llama.embedding_length", "x").refused(), "llama.embedding_length");
    assert_eq!(llama().i32s("llama.embedding_length", &[1]).refused(), "llama.embedding_length");
    let scores = base().i32s("tokenizer.ggml.token_type", &[1]);
    assert_eq!(scores.refused(), "tokenizer.ggml.token_type");
    assert_eq!(
        base().u32("tokenizer.ggml.bos_token_id", 3).refused(),
        "tokenizer.ggml.bos_token_id"
    );
    assert_eq!(base().raw("general.x", 7, &[2]).refused(), "general.x");
    assert_eq!(base().raw("general.x", 13, &[]).refused(), "general.x");
    assert_eq!(base().u32("llama.block_count", 2).refused(), "llama.block_count");
    assert_eq!(
        base().raw("general.x", 8, &[2, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]).refused(),
        "general.x"
    );
}

#[test]
fn counts_and_lengths_that_lie_are_refused_before_anything_is_allocated() {
    let lie = u64::MAX.to_le_bytes();
    assert_eq!(base().raw("general.x", 8, &lie).refused(), "general.x");
    for kind in [0u32, 8, 12] {
        let mut array = kind.to_le_bytes().to_vec();
        array.extend((1u64 << 60).to_le_bytes());
        assert_eq!(base().raw("general.x", 9, &array).refused(), "general.x");
    }
    let mut nested = 9u32.to_le_bytes().to_vec();
    nested.extend([0; 64]);
    assert_eq!(base().raw("general.x", 9, &nested).refused(), "general.x");
    let mut file = base().finish();
    file[8..16].copy_from_slice(&lie);
    assert_eq!(parse(&file).unwrap_err().field, "tensor count");
    file[8..16].fill(0);
    file[16..24].copy_from_slice(&lie);
    assert_eq!(parse(&file).unwrap_err().field, "metadata count");
    assert_eq!(base().u32("general.alignment", 3).refused(), "general.alignment");
    assert_eq!(base().u32("general.alignment", 0).refused(), "general.alignment");
    assert_eq!(base().u32("general.alignment", 1 << 31).refused(), "general.alignment");
}

#[test]
fn tensors_outside_the_file_or_each_other_are_refused() {
    let one = |dims: &[u64], kind, offset, len| {
        base().tensor("w", dims, kind, offset, &vec![0; len]).refused()
    };
    assert_eq!(one(&[64], 0, 0, 255), "w");
    assert_eq!(one(&[64], 0, 32, 256), "w");
    assert_eq!(one(&[64], 0, 4, 512), "w");
    assert_eq!(one(&[64], 0, u64::MAX - 31, 512), "w");
    assert_eq!(one(&[1 << 62, 1 << 62], 0, 0, 512), "w");
    assert_eq!(one(&[33], 2, 0, 512), "w");
    assert_eq!(one(&[1, 1, 1, 1, 1], 0, 0, 512), "w");
    assert_eq!(one(&[1], 99, 0, 512), "w");
    let overlap = base().tensor("a", &[64], 0, 0, &[0; 256]).tensor("b", &[64], 0, 32, &[0; 256]);
    assert_eq!(overlap.refused(), "b");
    let twice = base().tensor("a", &[8], 0, 0, &[0; 32]).tensor("a", &[8], 0, 32, &[0; 32]);
    assert_eq!(twice.refused(), "a");
}

#[test]
fn versions_and_byte_orders_we_do_not_read_are_named() {
    let mut file = base().finish();
    file[4..8].copy_from_slice(&1u32.to_le_bytes());
    assert_eq!(parse(&file).unwrap_err().field, "version");
    file[4..8].copy_from_slice(&3u32.to_be_bytes());
    assert!(parse(&file).unwrap_err().reason.contains("big endian"));
    file[4..8].copy_from_slice(&2u32.to_le_bytes());
    assert!(parse(&file).is_ok());
    assert_eq!(parse(b"GGU").unwrap_err().field, "magic");
    assert_eq!(parse(b"GGML0000").unwrap_err().field, "magic");
}

#[test]
fn every_prefix_of_a_file_is_refused_or_read() {
    let file = base().tensor("w", &[64], 0, 0, &[0; 256]).finish();
    for length in 0..file.len() {
        assert!(parse(&file[..length]).is_err(), "{length}");
    }
}

proptest! {
    #[test]
    fn any_bytes_give_an_answer(mut bytes in proptest::collection::vec(any::<u8>(), 24..400)) {
        let _ = parse(&bytes);
        bytes[..8].copy_from_slice(b"GGUF\x03\0\0\0");
        bytes[9..16].fill(0);
        bytes[17..24].fill(0);
        let _ = parse(&bytes);
    }

    #[test]
    fn a_good_file_changed_anywhere_gives_an_answer(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut file = base().tensor("w", &[64, 2], 8, 0, &[0; 136]).finish();
        for (at, to) in changes {
            let at = at.index(file.len());
            file[at] = to;
        }
        if let Ok(gguf) = parse(&file) {
            for tensor in &gguf.tensors {
                prop_assert!(file.get(tensor.bytes.clone()).is_some());
            }
            let _ = config(&gguf);
            let _ = vocabulary(&gguf);
            let _ = chat_template(&gguf);
        }
    }
}
