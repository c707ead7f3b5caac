//! Writing a Hugging Face directory: config.json, the tokenizer's two files, model.safetensors.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::Path,
};

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::{
    tensor_data::{Recipe, write_matrix},
    vocabulary::{CHAT_TEMPLATE, CONTROLS, END_OF_TEXT, END_OF_TURN, Vocabulary},
};
use crate::bench::shape::{Family, Shape, Size};

/// 1 as bf16.
const ONE: [u8; 2] = [0x80, 0x3F];
const BF16_BYTES: usize = 2;

/// Writes the files into `dir`, which is there.
pub(super) fn write(recipe: &Recipe<'_>, vocabulary: &Vocabulary, dir: &Path) -> Result<()> {
    let shape = recipe.shape;
    let json = [
        ("config.json", config(shape, vocabulary)),
        ("tokenizer.json", tokenizer(shape, vocabulary)),
        ("tokenizer_config.json", tokenizer_config()),
    ];
    for (name, value) in json {
        fs::write(dir.join(name), serde_json::to_vec_pretty(&value)?)?;
    }
    let mut file = BufWriter::new(File::create(dir.join("model.safetensors"))?);
    safetensors(recipe, &mut file)?;
    file.flush()?;
    Ok(())
}

fn config(shape: &Shape, vocabulary: &Vocabulary) -> Value {
    let (class, model_type) = match shape.family {
        Family::Llama => ("LlamaForCausalLM", "llama"),
        Family::Qwen3 => ("Qwen3ForCausalLM", "qwen3"),
    };
    let mut config = json!({
        "architectures": [class],
        "model_type": model_type,
        "torch_dtype": "bfloat16",
        "hidden_act": "silu",
        "attention_bias": false,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab,
        "max_position_embeddings": shape.context,
        "rms_norm_eps": shape.rms_norm_eps,
        "rope_theta": shape.rope_theta,
        "tie_word_embeddings": true,
        "bos_token_id": vocabulary.control_id(END_OF_TEXT),
        "eos_token_id": vocabulary.control_id(END_OF_TURN),
    });
    if let Some(scaling) = shape.rope_scaling {
        config["rope_scaling"] = json!({
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_context,
        });
    }
    config
}

fn tokenizer(shape: &Shape, vocabulary: &Vocabulary) -> Value {
    // What `qwen2` and `llama-bpe` stand for in the GGUF file.
    let (digits, normalizer) = match shape.family {
        Family::Llama => (r"\p{N}{1,3}", Value::Null),
        Family::Qwen3 => (r"\p{N}", json!({"type": "NFC"})),
    };
    let words = format!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    );
    let ids: Map<String, Value> =
        vocabulary.all_texts().zip(0..).map(|(text, id)| (text.to_owned(), id.into())).collect();
    let merges: Vec<[&String; 2]> = vocabulary.merges.iter().map(|(l, r)| [l, r]).collect();
    let added = CONTROLS.map(|text| {
        json!({
            "id": vocabulary.control_id(text), "content": text, "special": true,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        })
    });
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false,
    });
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": words}, "behavior": "Isolated", "invert": false},
            byte_level,
        ]},
        "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "ignore_merges": shape.family == Family::Llama,
            "vocab": ids,
            "merges": merges,
        },
    })
}

fn tokenizer_config() -> Value {
    json!({
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TURN,
        "add_bos_token": false,
        "chat_template": CHAT_TEMPLATE,
    })
}

/// Writes the weights as bf16.
fn safetensors(recipe: &Recipe<'_>, out: &mut impl Write) -> io::Result<()> {
    let tensors = recipe.shape.tensors();
    let mut header = Map::new();
    let mut offset = 0;
    for tensor in &tensors {
        let shape = match tensor.size {
            Size::Norm(len) => vec![len],
            Size::Matrix(rows, cols) => vec![rows, cols],
        };
        let end = offset + BF16_BYTES * tensor.size.weights();
        let entry = json!({"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]});
        header.insert(tensor.hugging_face.clone(), entry);
        offset = end;
    }
    let mut header = serde_json::to_vec(&header)?;
    // As the format asks: the data begin at a multiple of 8.
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    for tensor in &tensors {
        match tensor.size {
            Size::Norm(len) => out.write_all(&ONE.repeat(len))?,
            Size::Matrix(rows, cols) => {
                write_matrix(recipe, &tensor.hugging_face, rows * cols, out)?;
            }
        }
    }
    Ok(())
}
