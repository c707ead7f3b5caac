//! Loading whole models that are broken: each fault is an error that names the file and the field.
//!
//! The files are those of `tests/golden`, changed here.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests may panic, helpers included")]

use std::{
    fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;
use wharf_model::{
    Batch, BatchSequence, Isa, KvFormat, LoadOptions, Model, ModelError, Quantization, StateSlots,
    TokenizerSource,
};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn load(path: &Path) -> Result<Model, ModelError> {
    let threads = NonZeroUsize::new(2).unwrap();
    Model::load(path, &LoadOptions::exact(Isa::detect(), threads))
}

/// A copy of a golden checkpoint, to be changed.
fn copy_of(name: &str) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden(name)).unwrap() {
        let path = entry.unwrap().path();
        fs::write(copy.path().join(path.file_name().unwrap()), fs::read(&path).unwrap()).unwrap();
    }
    copy
}

fn change_json(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// Rewrites the header of a safetensors file; its data stays.
fn change_header(path: &Path, change: impl FnOnce(&mut Value)) {
    let file = fs::read(path).unwrap();
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let mut header = serde_json::from_slice(&file[8..8 + length]).unwrap();
    change(&mut header);
    let header = header.to_string();
    let mut changed = (header.len() as u64).to_le_bytes().to_vec();
    changed.extend_from_slice(header.as_bytes());
    changed.extend_from_slice(&file[8 + length..]);
    fs::write(path, changed).unwrap();
}

/// (file's name, field) that loading is refused for.
fn refused(path: &Path) -> (String, String) {
    match load(path).err().expect("the model was accepted") {
        ModelError::Invalid { file, field, .. } => {
            (file.file_name().unwrap().to_string_lossy().into_owned(), field)
        }
        other => panic!("{other}"),
    }
}

fn pair(file: &str, field: &str) -> (String, String) {
    (file.to_owned(), field.to_owned())
}

#[test]
fn what_a_directory_says_of_itself() {
    let model = load(&golden("llama-sharded")).unwrap();
    let info = model.info();
    assert_eq!(info.architecture, "LlamaForCausalLM");
    assert_eq!((info.vocab_size, info.num_layers, info.num_kv_heads), (320, 2, 2));
    assert!(matches!(&info.tokenizer, TokenizerSource::HuggingFace { tokenizer_json, .. }
        if !tokenizer_json.is_empty()));
    assert!(info.chat_template.is_some() && !info.eos_token_ids.is_empty());
    assert!(info.weight_bytes > 0);
}

#[test]
fn what_a_gguf_file_says_of_itself() {
    let model = load(&golden("gguf-qwen3").join("model.gguf")).unwrap();
    assert_eq!(model.info().architecture, "Qwen3ForCausalLM");
    let TokenizerSource::Gguf(vocabulary) = &model.info().tokenizer else { panic!() };
    assert_eq!(vocabulary.tokens.len(), model.info().vocab_size);
}

#[test]
fn a_path_that_is_no_model() {
    let empty = tempfile::tempdir().unwrap();
    let error = load(empty.path()).err().unwrap().to_string();
    assert!(error.contains("config.json"), "{error}");
    assert!(load(&empty.path().join("none")).is_err());
    assert_eq!(refused(&golden("qwen2").join("config.json")), pair("config.json", "magic"));
}

#[test]
fn missing_files_are_named() {
    for file in ["config.json", "tokenizer.json"] {
        let copy = copy_of("qwen2");
        fs::remove_file(copy.path().join(file)).unwrap();
        let error = load(copy.path()).err().unwrap().to_string();
        assert!(error.contains(file), "{error}");
    }
    let copy = copy_of("llama-sharded");
    fs::remove_file(copy.path().join("model-00002-of-00004.safetensors")).unwrap();
    let error = load(copy.path()).err().unwrap().to_string();
    assert!(error.contains("model-00002-of-00004.safetensors"), "{error}");
}

#[test]
fn a_config_that_the_tensors_contradict() {
    let cases = [
        (json!({"num_hidden_layers": 3}), "model.layers.2.self_attn.q_proj.weight"),
        (json!({"num_hidden_layers": 4000}), "model.layers.2.self_attn.q_proj.weight"),
        (json!({"vocab_size": 1_000_000}), "model.embed_tokens.weight"),
        (json!({"hidden_size": 200_000, "head_dim": 8}), "model.embed_tokens.weight"),
        (json!({"intermediate_size": 2_000}), "model.layers.0.mlp.gate_proj.weight"),
        (json!({"num_hidden_layers": 1}), "model.layers.1.input_layernorm.weight"),
    ];
    for (fields, field) in cases {
        let copy = copy_of("llama-rope-dynamic");
        change_json(&copy.path().join("config.json"), |config| {
            for (name, value) in fields.as_object().unwrap() {
                config[name] = value.clone();
            }
        });
        assert_eq!(refused(copy.path()), pair("model.safetensors", field), "{fields}");
    }
}

#[test]
fn experts_that_the_tensors_contradict() {
    let cases = [
        ("qwen3-moe", json!({"num_experts": 7}), "model.layers.0.mlp.gate.weight"),
        ("qwen3-moe", json!({"num_experts": 5}), "model.layers.0.mlp.gate.weight"),
        (
            "mixtral",
            json!({"intermediate_size": 40}),
            "model.layers.0.block_sparse_moe.experts.0.w1.weight",
        ),
    ];
    for (golden, fields, field) in cases {
        let copy = copy_of(golden);
        change_json(&copy.path().join("config.json"), |config| {
            for (name, value) in fields.as_object().unwrap() {
                config[name] = value.clone();
            }
        });
        assert_eq!(refused(copy.path()), pair("model.safetensors", field), "{fields}");
    }
}

#[test]
fn an_untied_model_without_an_output_matrix() {
    let copy = copy_of("llama-rope-dynamic");
    change_json(&copy.path().join("config.json"), |config| {
        config["tie_word_embeddings"] = false.into();
    });
    assert_eq!(refused(copy.path()), pair("model.safetensors", "lm_head.weight"));
}

#[test]
fn a_bias_that_the_config_does_not_mention() {
    let copy = copy_of("llama-bias");
    change_json(&copy.path().join("config.json"), |config| {
        config["mlp_bias"] = false.into();
    });
    let (_, field) = refused(copy.path());
    assert!(field.contains("mlp") && field.ends_with(".bias"), "{field}");
}

#[test]
fn headers_that_lie_are_refused() {
    let embedding = "model.embed_tokens.weight";
    let changes: [fn(&mut Value); 4] = [
        |header| header["model.embed_tokens.weight"]["shape"] = json!([320, 33]),
        |header| header["model.embed_tokens.weight"]["dtype"] = json!("I8"),
        |header| header["model.embed_tokens.weight"]["data_offsets"] = json!([0, 1u64 << 60]),
        |header| header["model.embed_tokens.weight"]["shape"] = json!([1u64 << 40, 1u64 << 40]),
    ];
    for change in changes {
        let copy = copy_of("llama-rope-dynamic");
        change_header(&copy.path().join("model.safetensors"), change);
        assert_eq!(refused(copy.path()), pair("model.safetensors", embedding));
    }
    let copy = copy_of("llama-rope-dynamic");
    let path = copy.path().join("model.safetensors");
    let file = fs::read(&path).unwrap();
    fs::write(&path, &file[..file.len() - 1]).unwrap();
    assert_eq!(refused(copy.path()).0, "model.safetensors");
}

/// Renames a tensor in the header.
fn rename(header: &mut Value, from: &str, to: &str) {
    let tensor = header.as_object_mut().unwrap().remove(from).unwrap();
    header[to] = tensor;
}

#[test]
fn quantised_layers_that_lack_a_tensor() {
    let cases = [
        ("qwen3-fp8-block", "mlp.up_proj", "weight_scale_inv", "weight_scale_inv"),
        ("phi3-awq", "mlp.down_proj", "scales", "scales"),
        ("phi3-awq", "mlp.down_proj", "qzeros", "qzeros"),
        // Neither codes nor weights.
        ("phi3-awq", "mlp.down_proj", "qweight", "weight"),
        ("llama-gptq-v2", "self_attn.o_proj", "qzeros", "qzeros"),
        ("llama-int4", "mlp.up_proj", "weight_scale", "weight_scale"),
        ("llama-int4", "mlp.up_proj", "weight_shape", "weight_shape"),
        ("llama-int8-zeros", "mlp.up_proj", "weight_zero_point", "weight_zero_point"),
    ];
    for (golden, layer, kind, missing) in cases {
        let copy = copy_of(golden);
        let stem = format!("model.layers.0.{layer}");
        change_header(&copy.path().join("model.safetensors"), |header| {
            rename(header, &format!("{stem}.{kind}"), "other");
        });
        let want = pair("model.safetensors", &format!("{stem}.{missing}"));
        assert_eq!(refused(copy.path()), want, "{golden} without {kind}");
    }
}

#[test]
fn quantised_layers_that_the_config_contradicts() {
    let weights = "/config_groups/group_0/weights";
    let cases = [
        ("qwen3-fp8-block", "/weight_block_size", json!([32, 32]), "q_proj.weight_scale_inv"),
        ("phi3-awq", "/group_size", json!(64), "qkv_proj.scales"),
        ("phi3-awq", "/group_size", json!(48), "qkv_proj.qweight"),
        ("llama-gptq-v2", "/bits", json!(8), "q_proj.qweight"),
        ("llama-gptq-act-order", "/group_size", json!(64), "q_proj.scales"),
        ("llama-int4", &format!("{weights}/num_bits"), json!(8), "q_proj.weight_packed"),
        ("llama-int4", &format!("{weights}/symmetric"), json!(false), "q_proj.weight_zero_point"),
    ];
    for (golden, place, value, field) in cases {
        let copy = copy_of(golden);
        change_json(&copy.path().join("config.json"), |config| {
            let place = format!("/quantization_config{place}");
            *config.pointer_mut(&place).unwrap() = value.clone();
        });
        let field = format!("model.layers.0.self_attn.{field}");
        assert_eq!(refused(copy.path()), pair("model.safetensors", &field), "{golden} {place}");
    }
    // Without the field the types of the tensors mean nothing.
    let copy = copy_of("qwen3-fp8-block");
    change_json(&copy.path().join("config.json"), |config| {
        config["quantization_config"] = Value::Null;
    });
    let (_, field) = refused(copy.path());
    assert_eq!(field, "model.layers.0.self_attn.q_proj.weight");
}

#[test]
fn experts_in_one_tensor_that_lack_something() {
    let cases = [
        ("gpt-oss", "mlp.experts.gate_up_proj_blocks"),
        ("gpt-oss", "mlp.experts.down_proj_scales"),
        ("gpt-oss", "mlp.experts.gate_up_proj_bias"),
        ("gpt-oss", "mlp.router.bias"),
        ("gpt-oss", "self_attn.sinks"),
        ("gpt-oss", "self_attn.o_proj.bias"),
    ];
    for (golden, tensor) in cases {
        let copy = copy_of(golden);
        let name = format!("model.layers.1.{tensor}");
        change_header(&copy.path().join("model.safetensors"), |header| {
            rename(header, &name, "other");
        });
        assert_eq!(refused(copy.path()), pair("model.safetensors", &name));
    }
    let copy = copy_of("gpt-oss-bf16");
    change_json(&copy.path().join("config.json"), |config| {
        config["intermediate_size"] = 16.into();
    });
    let field = "model.layers.0.mlp.experts.gate_up_proj";
    assert_eq!(refused(copy.path()), pair("model.safetensors", field));
}

/// The bytes of a tensor of a safetensors file, to be changed.
fn change_tensor(path: &Path, name: &str, change: impl FnOnce(&mut [u8])) {
    let mut file = fs::read(path).unwrap();
    let start = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&file[8..start]).unwrap();
    let offset = |i: usize| header[name]["data_offsets"][i].as_u64().unwrap() as usize;
    change(&mut file[start + offset(0)..start + offset(1)]);
    fs::write(path, file).unwrap();
}

#[test]
fn gptq_may_have_biases_of_zeros_and_groups_of_one_size() {
    for (kind, value) in [("bias", 0x3c), ("g_idx", 1)] {
        let copy = copy_of("llama-gptq-act-order");
        let name = format!("model.layers.0.mlp.up_proj.{kind}");
        change_tensor(&copy.path().join("model.safetensors"), &name, |bytes| bytes.fill(value));
        assert_eq!(refused(copy.path()), pair("model.safetensors", &name));
    }
}

/// The logits that follow some tokens, and the bytes of the weights.
fn logits(name: &str, quantization: Option<Quantization>) -> (Vec<f32>, usize) {
    let threads = NonZeroUsize::new(2).unwrap();
    let options = LoadOptions { quantization, ..LoadOptions::exact(Isa::detect(), threads) };
    let mut model = Model::load(&golden(name), &options).unwrap();
    model.allocate_kv(1, KvFormat::F32);
    let (block_table, state) = (vec![0], None);
    let sequence = BatchSequence { first_row: 0, num_rows: 9, start: 0, block_table, state };
    let batch =
        Batch { tokens: (40..49).collect(), sequences: vec![sequence], logits_rows: vec![8] };
    let mut logits = Vec::new();
    model.forward(&batch, &mut logits).unwrap();
    (logits, model.info().weight_bytes)
}

#[test]
fn fp8_takes_8_bits_or_is_widened() {
    for name in ["qwen3-fp8-block", "llama-fp8-tensor", "phi3-fp8-channel"] {
        let (exact, wide) = logits(name, None);
        let (auto, narrow) = logits(name, Some(Quantization::Auto));
        let largest = exact.iter().zip(&auto).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let size = exact.iter().copied().fold(0.0, f32::max);
        assert!(largest > 0.0 && largest < 0.02 * size, "{name}: {largest} of {size}");
        assert!(narrow < wide * 3 / 4, "{name}: {narrow} of {wide} bytes");
        let (_, int4) = logits(name, Some(Quantization::Int4));
        assert!(int4 < narrow);
    }
}

#[test]
fn codes_are_quantised_to_fewer_bits_only() {
    let all = ["phi3-awq", "qwen3-moe-awq", "llama-gptq-act-order", "llama-int4", "llama-int8"];
    for name in all.into_iter().chain(["gpt-oss", "gpt-oss-bf16"]) {
        let of = |quantization| logits(name, quantization);
        assert_eq!(of(None), of(Some(Quantization::Auto)), "{name}");
    }
    let of = |quantization| logits("qwen2-gptq-int8", Some(quantization));
    assert!(of(Quantization::Int4).1 < of(Quantization::Int8).1);
}

#[test]
fn an_index_that_lies_is_refused() {
    let index = "model.safetensors.index.json";
    let copy = copy_of("llama-sharded");
    change_json(&copy.path().join(index), |value| {
        let map = value["weight_map"].as_object_mut().unwrap();
        map["model.norm.weight"] = "../../etc/passwd".into();
    });
    assert_eq!(refused(copy.path()), pair(index, "weight_map.model.norm.weight"));
    let copy = copy_of("llama-sharded");
    change_json(&copy.path().join(index), |value| {
        let map = value["weight_map"].as_object_mut().unwrap();
        map.insert("new".into(), "model-00001-of-00004.safetensors".into());
    });
    assert_eq!(refused(copy.path()), pair(index, "weight_map.new"));
}

#[test]
fn a_step_that_makes_no_sense_is_an_error() {
    let mut model = load(&golden("qwen2")).unwrap();
    let step = |token, start, block| Batch {
        tokens: vec![token],
        sequences: vec![BatchSequence {
            first_row: 0,
            num_rows: 1,
            start,
            block_table: vec![block],
            state: None,
        }],
        logits_rows: vec![0],
    };
    let mut logits = Vec::new();
    assert!(model.forward(&step(1, 0, 0), &mut logits).is_err(), "no cache");
    model.allocate_kv(1, KvFormat::F32);
    assert!(model.forward(&step(u32::MAX, 0, 0), &mut logits).is_err());
    assert!(model.forward(&step(1, usize::MAX, 0), &mut logits).is_err());
    assert!(model.forward(&step(1, 0, 1), &mut logits).is_err());
    assert!(model.forward(&Batch::default(), &mut logits).is_ok());
    assert!(logits.is_empty());
    assert!(model.forward(&step(1, 0, 0), &mut logits).is_ok());
    assert_eq!(logits.len(), model.info().vocab_size);
    model.allocate_kv(0, KvFormat::F16);
    assert!(model.forward(&step(1, 0, 0), &mut logits).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_quantised_checkpoint_changed_anywhere_loads_or_is_refused(
        name in prop::sample::select(vec![
            "qwen3-fp8-block", "phi3-awq", "llama-gptq-act-order", "llama-int8-zeros", "llama-int8",
            "gpt-oss",
        ]),
        changes in proptest::collection::vec((0usize..100_000, any::<u8>()), 1..4),
    ) {
        let copy = copy_of(name);
        let path = copy.path().join("model.safetensors");
        let mut file = fs::read(&path).unwrap();
        for (at, to) in changes {
            let at = at % file.len();
            file[at] = to;
        }
        fs::write(&path, file).unwrap();
        let _ = load(copy.path());
    }

    #[test]
    fn a_gguf_file_changed_anywhere_loads_or_is_refused(
        name in prop::sample::select(vec![
            "gguf-llama-q4_0", "gguf-phi3-longrope-long", "gguf-gemma3", "gguf-qwen3moe",
            "gguf-gpt-oss",
        ]),
        changes in proptest::collection::vec((0usize..20_000, any::<u8>()), 1..4),
    ) {
        let mut file = fs::read(golden(name).join("model.gguf")).unwrap();
        for (at, to) in changes {
            let at = at % file.len();
            file[at] = to;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        fs::write(&path, file).unwrap();
        if let Ok(mut model) = load(&path) {
            model.allocate(1, KvFormat::F32, 1);
            let batch = Batch {
                tokens: vec![0, 1],
                sequences: vec![BatchSequence {
                    first_row: 0, num_rows: 2, start: 0, block_table: vec![0],
                    state: Some(StateSlots { slot: 0, restore: None, save: None }),
                }],
                logits_rows: vec![1],
            };
            let _ = model.forward(&batch, &mut Vec::new());
        }
    }
}
