//! Writing a GGUF file: the header at once, the tensors as a stream.
//!
//! Source: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::{
    f64::consts::TAU,
    io::{self, Write},
};

use super::{
    format::Format,
    tensor_data::{Recipe, write_matrix},
    vocabulary::{CHAT_TEMPLATE, CONTROLS, END_OF_TEXT, END_OF_TURN, Vocabulary},
};
use crate::bench::shape::{Family, RopeScaling, Shape, Size};

const ALIGNMENT: usize = 32;
/// `ggml_type` of norms and rotary factors.
const F32: u32 = 0;

/// The metadata as it stands in the file.
#[derive(Default)]
struct Metadata {
    bytes: Vec<u8>,
    pairs: u64,
}

impl Metadata {
    fn key(&mut self, key: &str, kind: u32) {
        put_text(&mut self.bytes, key);
        self.bytes.extend(kind.to_le_bytes());
        self.pairs += 1;
    }

    fn u32(&mut self, key: &str, value: usize) {
        self.key(key, 4);
        self.bytes.extend((value as u32).to_le_bytes());
    }

    fn f32(&mut self, key: &str, value: f64) {
        self.key(key, 6);
        self.bytes.extend((value as f32).to_le_bytes());
    }

    fn flag(&mut self, key: &str, value: bool) {
        self.key(key, 7);
        self.bytes.push(u8::from(value));
    }

    fn text(&mut self, key: &str, value: &str) {
        self.key(key, 8);
        put_text(&mut self.bytes, value);
    }

    /// An array of `len` elements of `kind`, which the caller appends.
    fn array(&mut self, key: &str, kind: u32, len: usize) {
        self.key(key, 9);
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend((len as u64).to_le_bytes());
    }
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// One entry of the tensor list, and where its bytes come from.
struct Entry {
    name: String,
    /// Innermost first.
    dims: Vec<usize>,
    ggml_type: u32,
    bytes: usize,
    source: Source,
}

enum Source {
    Plain(Vec<f32>),
    /// This many weights of the stream called so.
    Random(String, usize),
}

/// Writes the whole file.
pub(super) fn write(
    recipe: &Recipe<'_>,
    vocabulary: &Vocabulary,
    out: &mut impl Write,
) -> io::Result<()> {
    let entries = entries(recipe.shape, recipe.format);
    let head = head(recipe, vocabulary, &entries);
    out.write_all(&head)?;
    pad(head.len(), out)?;
    for entry in &entries {
        match &entry.source {
            Source::Plain(values) => {
                values.iter().try_for_each(|value| out.write_all(&value.to_le_bytes()))?;
            }
            Source::Random(stream, weights) => write_matrix(recipe, stream, *weights, out)?,
        }
        pad(entry.bytes, out)?;
    }
    Ok(())
}

fn pad(written: usize, out: &mut impl Write) -> io::Result<()> {
    out.write_all(&[0; ALIGNMENT][..written.next_multiple_of(ALIGNMENT) - written])
}

fn entries(shape: &Shape, format: Format) -> Vec<Entry> {
    let plain = |name: &str, values: Vec<f32>| Entry {
        name: name.to_owned(),
        dims: vec![values.len()],
        ggml_type: F32,
        bytes: 4 * values.len(),
        source: Source::Plain(values),
    };
    let factors = shape.rope_scaling.map(|scaling| rope_factors(shape, scaling));
    let factors = factors.map(|factors| plain("rope_freqs.weight", factors));
    let tensors = shape.tensors().into_iter().map(|tensor| match tensor.size {
        Size::Norm(len) => plain(&tensor.gguf, vec![1.0; len]),
        Size::Matrix(rows, cols) => Entry {
            name: tensor.gguf,
            dims: vec![cols, rows],
            ggml_type: format.ggml_type(),
            bytes: format.bytes(rows * cols),
            source: Source::Random(tensor.hugging_face, rows * cols),
        },
    });
    factors.into_iter().chain(tensors).collect()
}

/// Llama 3's scaling as divisors of the frequencies, the way GGUF files have it.
fn rope_factors(shape: &Shape, scaling: RopeScaling) -> Vec<f32> {
    let original = scaling.original_context as f64;
    let factor = |pair: usize| {
        let power = 2.0 * pair as f64 / shape.head_dim as f64;
        let wavelength = TAU * shape.rope_theta.powf(power);
        // 0 for the longest waves, which are stretched, 1 for the shortest, which are not.
        let smooth = (original / wavelength - scaling.low_freq_factor)
            / (scaling.high_freq_factor - scaling.low_freq_factor);
        let smooth = smooth.clamp(0.0, 1.0);
        (1.0 / ((1.0 - smooth) / scaling.factor + smooth)) as f32
    };
    (0..shape.head_dim / 2).map(factor).collect()
}

fn head(recipe: &Recipe<'_>, vocabulary: &Vocabulary, entries: &[Entry]) -> Vec<u8> {
    let mut metadata = Metadata::default();
    put_shape(&mut metadata, recipe);
    put_vocabulary(&mut metadata, recipe.shape, vocabulary);
    let mut head = Vec::from(b"GGUF");
    head.extend(3_u32.to_le_bytes());
    head.extend((entries.len() as u64).to_le_bytes());
    head.extend(metadata.pairs.to_le_bytes());
    head.extend(metadata.bytes);
    let mut offset = 0;
    for entry in entries {
        put_text(&mut head, &entry.name);
        head.extend((entry.dims.len() as u32).to_le_bytes());
        entry.dims.iter().for_each(|dim| head.extend((*dim as u64).to_le_bytes()));
        head.extend(entry.ggml_type.to_le_bytes());
        head.extend((offset as u64).to_le_bytes());
        offset += entry.bytes.next_multiple_of(ALIGNMENT);
    }
    head
}

fn put_shape(metadata: &mut Metadata, recipe: &Recipe<'_>) {
    let shape = recipe.shape;
    let architecture = match shape.family {
        Family::Llama => "llama",
        Family::Qwen3 => "qwen3",
    };
    let key = |name: &str| format!("{architecture}.{name}");
    metadata.text("general.architecture", architecture);
    metadata.text("general.name", &format!("{} (random weights)", shape.name));
    metadata.u32("general.file_type", recipe.format.file_type() as usize);
    for (name, value) in [
        ("block_count", shape.layers),
        ("context_length", shape.context),
        ("embedding_length", shape.hidden),
        ("feed_forward_length", shape.intermediate),
        ("attention.head_count", shape.heads),
        ("attention.head_count_kv", shape.kv_heads),
        ("attention.key_length", shape.head_dim),
        ("attention.value_length", shape.head_dim),
        ("rope.dimension_count", shape.head_dim),
        ("vocab_size", shape.vocab),
    ] {
        metadata.u32(&key(name), value);
    }
    metadata.f32(&key("attention.layer_norm_rms_epsilon"), shape.rms_norm_eps);
    metadata.f32(&key("rope.freq_base"), shape.rope_theta);
}

fn put_vocabulary(metadata: &mut Metadata, shape: &Shape, vocabulary: &Vocabulary) {
    const TEXT: u32 = 8;
    const I32: u32 = 5;
    const NORMAL: i32 = 1;
    const CONTROL: i32 = 3;
    metadata.text("tokenizer.ggml.model", "gpt2");
    let pre = match shape.family {
        Family::Llama => "llama-bpe",
        Family::Qwen3 => "qwen2",
    };
    metadata.text("tokenizer.ggml.pre", pre);
    metadata.array("tokenizer.ggml.tokens", TEXT, shape.vocab);
    vocabulary.all_texts().for_each(|text| put_text(&mut metadata.bytes, text));
    metadata.array("tokenizer.ggml.token_type", I32, shape.vocab);
    for kind in vocabulary.texts.iter().map(|_| NORMAL).chain(CONTROLS.map(|_| CONTROL)) {
        metadata.bytes.extend(kind.to_le_bytes());
    }
    metadata.array("tokenizer.ggml.merges", TEXT, vocabulary.merges.len());
    for (left, right) in &vocabulary.merges {
        put_text(&mut metadata.bytes, &format!("{left} {right}"));
    }
    metadata.u32("tokenizer.ggml.bos_token_id", vocabulary.control_id(END_OF_TEXT));
    metadata.u32("tokenizer.ggml.eos_token_id", vocabulary.control_id(END_OF_TURN));
    metadata.u32("tokenizer.ggml.padding_token_id", vocabulary.control_id(END_OF_TEXT));
    metadata.flag("tokenizer.ggml.add_bos_token", false);
    metadata.text("tokenizer.chat_template", CHAT_TEMPLATE);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::shape::LLAMA_3_2_1B;

    #[test]
    fn long_waves_are_stretched_and_short_ones_kept() {
        let shape = &LLAMA_3_2_1B;
        let factors = rope_factors(shape, shape.rope_scaling.unwrap());
        assert_eq!(factors.len(), 32);
        assert_eq!((factors[0], factors[31]), (1.0, 32.0));
        assert!(factors.is_sorted());
    }
}
