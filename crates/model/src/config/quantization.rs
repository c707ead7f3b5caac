//! `quantization_config`: how a checkpoint's linear layers were quantised, as the tools that did it
//! write it down.
//!
//! Read are the layouts that published models come in: FP8 (DeepSeek's and Qwen's blocks, scales for a
//! row or a tensor, fbgemm's), AWQ, GPTQ and compressed-tensors. Which layers are quantised is not read
//! here (`modules_to_not_convert`, `ignore`, …): each layer's tensors say so themselves, and a tensor
//! that is of no layer is refused. How activations were to be rounded is not read either: ours are
//! rounded as they come, or not at all, whatever scales were measured for them.

use serde_json::Value;

use super::{Fields, TensorNames, Traits};
use crate::error::Malformed;

/// Largest group, block or width.
const WIDEST: usize = 1 << 21;

/// The layout of quantised layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredQuantization {
    /// `weight` in F8_E4M3 with scales in `weight_scale_inv` or `weight_scale`.
    Fp8 {
        /// Rows and columns that share a scale; `None`: one for a row, or for all.
        block: Option<[usize; 2]>,
    },
    /// gpt-oss's experts in E2M1, with a power of two for each 32; all else in plain numbers.
    Mxfp4,
    /// Integer codes with scales (and zeros) for groups.
    Codes {
        /// Whose.
        layout: CodeLayout,
        /// Of a code: 4 or 8.
        bits: usize,
        /// Columns that share a scale; `None`: all.
        group: Option<usize>,
    },
}

/// Where the codes lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeLayout {
    /// AutoAWQ's "gemm": `qweight[in, out / 8]`, features in an order of their own.
    Awq,
    /// GPTQ's: `qweight[in / 8, out]`.
    Gptq {
        /// What is added to a stored zero: 1 in the first format, which stores them less 1.
        zero_offset: u8,
    },
    /// compressed-tensors' "pack-quantized": `weight_packed[out, in / 8]`.
    PackQuantized {
        /// Whether groups have no zeros of their own.
        symmetric: bool,
    },
    /// compressed-tensors' "int-quantized": `weight[out, in]` in I8.
    IntQuantized,
}

/// Reads the field, if it is there.
pub(super) fn parse(
    outer: &Fields<'_>,
    traits: &Traits,
) -> Result<Option<StoredQuantization>, Malformed> {
    let (name, prefix) = ("quantization_config", "quantization_config.");
    if outer.get(name).is_none() {
        return Ok(None);
    }
    let Some(fields) = outer.object(name, prefix)? else {
        return Err(outer.fault(name, "is empty"));
    };
    let method = fields.text("quant_method")?;
    let parsed = match method {
        Some("mxfp4") if traits.names == TensorNames::GptOss => StoredQuantization::Mxfp4,
        Some(other) if traits.names == TensorNames::GptOss => {
            let reason = format!("{other:?} is not supported with {} (mxfp4 is)", traits.name);
            return Err(fields.fault("quant_method", reason));
        }
        Some("fp8") => fp8(&fields)?,
        Some("fbgemm_fp8") => StoredQuantization::Fp8 { block: None },
        Some("awq") => awq(&fields)?,
        Some("gptq") => gptq(&fields)?,
        Some("compressed-tensors") => compressed_tensors(&fields)?,
        Some(other) => {
            let known = "fp8, fbgemm_fp8, awq, gptq, compressed-tensors";
            let reason = format!("{other:?} is not supported ({known} are)");
            return Err(fields.fault("quant_method", reason));
        }
        None => return Err(fields.fault("quant_method", "is missing")),
    };
    Ok(Some(parsed))
}

/// Refuses a text that is there and another than `known`.
fn only(fields: &Fields<'_>, name: &str, known: &[&str]) -> Result<(), Malformed> {
    match fields.text(name)? {
        Some(text) if !known.contains(&text.to_lowercase().as_str()) => {
            let reason = format!("{text:?} is not supported ({} is)", known.join(", "));
            Err(fields.fault(name, reason))
        }
        _ => Ok(()),
    }
}

/// Refuses a field that is there and not empty.
fn absent(fields: &Fields<'_>, name: &str) -> Result<(), Malformed> {
    let empty = |value: &Value| {
        value.as_object().is_some_and(serde_json::Map::is_empty)
            || value.as_array().is_some_and(Vec::is_empty)
            || value == &Value::Bool(false)
    };
    match fields.get(name) {
        Some(value) if !empty(value) => Err(fields.fault(name, "is not supported")),
        _ => Ok(()),
    }
}

fn fp8(fields: &Fields<'_>) -> Result<StoredQuantization, Malformed> {
    only(fields, "fmt", &["e4m3", "float8_e4m3fn"])?;
    Ok(StoredQuantization::Fp8 { block: block(fields, "weight_block_size")? })
}

/// Two whole numbers, if the field is there.
fn block(fields: &Fields<'_>, name: &str) -> Result<Option<[usize; 2]>, Malformed> {
    let Some(value) = fields.get(name) else { return Ok(None) };
    let size =
        |value: &Value| value.as_u64().map(|n| n as usize).filter(|n| (1..=WIDEST).contains(n));
    let sizes: Option<Vec<usize>> =
        value.as_array().and_then(|list| list.iter().map(size).collect());
    match sizes.as_deref() {
        Some(&[rows, cols]) => Ok(Some([rows, cols])),
        _ => Err(fields.fault(name, format!("{value} is no block of rows and columns"))),
    }
}

/// Columns of a group; -1 or none: all.
fn group_size(fields: &Fields<'_>) -> Result<Option<usize>, Malformed> {
    if fields.get("group_size").and_then(Value::as_i64) == Some(-1) {
        return Ok(None);
    }
    fields.count("group_size", WIDEST)
}

fn bits(fields: &Fields<'_>, name: &str, known: &[usize]) -> Result<usize, Malformed> {
    let bits = fields.required_count(name, 64)?;
    if known.contains(&bits) {
        return Ok(bits);
    }
    let known: Vec<String> = known.iter().map(usize::to_string).collect();
    let reason = format!("{bits} is not supported ({} is)", known.join(", "));
    Err(fields.fault(name, reason))
}

fn awq(fields: &Fields<'_>) -> Result<StoredQuantization, Malformed> {
    only(fields, "version", &["gemm"])?;
    if fields.flag("zero_point")? == Some(false) {
        return Err(fields.fault("zero_point", "false is not supported"));
    }
    Ok(StoredQuantization::Codes {
        layout: CodeLayout::Awq,
        bits: bits(fields, "bits", &[4])?,
        group: group_size(fields)?,
    })
}

fn gptq(fields: &Fields<'_>) -> Result<StoredQuantization, Malformed> {
    only(fields, "checkpoint_format", &["gptq", "gptq_v2"])?;
    only(fields, "quant_type", &["gptq"])?;
    only(fields, "pack_dtype", &["int32"])?;
    absent(fields, "is_marlin_format")?;
    // Other bits or groups for some layers.
    absent(fields, "dynamic")?;
    let second = fields.text("checkpoint_format")? == Some("gptq_v2");
    Ok(StoredQuantization::Codes {
        layout: CodeLayout::Gptq { zero_offset: u8::from(!second) },
        bits: bits(fields, "bits", &[4, 8])?,
        group: group_size(fields)?,
    })
}

fn compressed_tensors(fields: &Fields<'_>) -> Result<StoredQuantization, Malformed> {
    absent(fields, "kv_cache_scheme")?;
    absent(fields, "transform_config")?;
    if let Some(sparsity) =
        fields.object("sparsity_config", "quantization_config.sparsity_config.")?
    {
        only(&sparsity, "format", &["dense"])?;
    }
    let name = "config_groups";
    let Some(groups) = fields.object(name, "quantization_config.config_groups.")? else {
        return Err(fields.fault(name, "is missing"));
    };
    let mut names = groups.names();
    let (Some(group), None) = (names.next(), names.next()) else {
        return Err(fields.fault(name, "more groups than one are not supported"));
    };
    let group = groups.object(group, "quantization_config.config_groups.*.")?;
    let prefix = "quantization_config.config_groups.*.weights.";
    let weights = group.as_ref().map(|group| group.object("weights", prefix)).transpose()?;
    let Some(weights) = weights.flatten() else {
        return Err(fields.fault(name, "says nothing of weights"));
    };
    // The group's own format counts before that of all.
    let outer = fields.text("format")?;
    let format = group.as_ref().map(|group| group.text("format")).transpose()?.flatten().or(outer);
    let float = weights.text("type")? == Some("float");
    let symmetric = weights.flag("symmetric")?.unwrap_or(true);
    match format {
        Some("float-quantized" | "naive-quantized") if float => {
            bits(&weights, "num_bits", &[8])?;
            only(&weights, "strategy", &["tensor", "channel", "block"])?;
            let block = match weights.text("strategy")? {
                Some("block") => block(&weights, "block_structure")?,
                _ => None,
            };
            Ok(StoredQuantization::Fp8 { block })
        }
        Some("int-quantized" | "naive-quantized") if !float => {
            only(&weights, "strategy", &["channel", "group"])?;
            if !symmetric {
                return Err(weights.fault("symmetric", "false is not supported"));
            }
            let bits = bits(&weights, "num_bits", &[8])?;
            let group = group_size(&weights)?;
            Ok(StoredQuantization::Codes { layout: CodeLayout::IntQuantized, bits, group })
        }
        Some("pack-quantized") if !float => {
            only(&weights, "strategy", &["channel", "group"])?;
            let bits = bits(&weights, "num_bits", &[4, 8])?;
            let layout = CodeLayout::PackQuantized { symmetric };
            Ok(StoredQuantization::Codes { layout, bits, group: group_size(&weights)? })
        }
        Some(other) => {
            let known = "float-quantized, int-quantized, naive-quantized, pack-quantized";
            let kind = if float { "floats" } else { "integers" };
            let reason = format!("{other:?} of {kind} is not supported ({known} are)");
            Err(fields.fault("format", reason))
        }
        None => Err(fields.fault("format", "is missing")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::Architecture;

    fn read_of(
        architecture: Architecture,
        config: &Value,
    ) -> Result<Option<StoredQuantization>, Malformed> {
        let json = json!({ "quantization_config": config });
        parse(&Fields::new(&json).unwrap(), &architecture.traits())
    }

    fn read(config: Value) -> Result<Option<StoredQuantization>, Malformed> {
        read_of(Architecture::Llama, &config)
    }

    fn compressed(format: &str, weights: &Value) -> Value {
        json!({
            "quant_method": "compressed-tensors", "format": format, "ignore": ["lm_head"],
            "config_groups": {"group_0": {
                "targets": ["Linear"], "weights": weights, "input_activations": {"num_bits": 8},
            }},
            "kv_cache_scheme": null, "sparsity_config": {}, "transform_config": {},
        })
    }

    #[test]
    fn published_configs() {
        let fp8 = |block| StoredQuantization::Fp8 { block };
        let codes = |layout, bits, group| StoredQuantization::Codes { layout, bits, group };
        let cases = [
            // Qwen3-8B-FP8
            (
                json!({"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                       "modules_to_not_convert": ["lm_head"], "weight_block_size": [128, 128]}),
                fp8(Some([128, 128])),
            ),
            (json!({"quant_method": "fp8", "activation_scheme": "static"}), fp8(None)),
            (
                json!({"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0,
                       "modules_to_not_convert": ["lm_head"]}),
                fp8(None),
            ),
            (
                compressed(
                    "float-quantized",
                    &json!({"num_bits": 8, "type": "float",
                    "strategy": "channel", "symmetric": true, "group_size": null}),
                ),
                fp8(None),
            ),
            (
                compressed(
                    "float-quantized",
                    &json!({"num_bits": 8, "type": "float",
                    "strategy": "block", "block_structure": [128, 128]}),
                ),
                fp8(Some([128, 128])),
            ),
            (
                compressed(
                    "pack-quantized",
                    &json!({"num_bits": 4, "type": "int",
                    "strategy": "group", "symmetric": true, "group_size": 128}),
                ),
                codes(CodeLayout::PackQuantized { symmetric: true }, 4, Some(128)),
            ),
            (
                compressed(
                    "int-quantized",
                    &json!({"num_bits": 8, "type": "int",
                    "strategy": "channel", "symmetric": true}),
                ),
                codes(CodeLayout::IntQuantized, 8, None),
            ),
            // Qwen2.5-7B-Instruct-AWQ
            (
                json!({"bits": 4, "group_size": 128, "modules_to_not_convert": null,
                       "quant_method": "awq", "version": "gemm", "zero_point": true}),
                codes(CodeLayout::Awq, 4, Some(128)),
            ),
            // Qwen2.5-7B-Instruct-GPTQ-Int8
            (
                json!({"bits": 8, "damp_percent": 0.01, "desc_act": false, "group_size": 128,
                       "quant_method": "gptq", "sym": true, "static_groups": false}),
                codes(CodeLayout::Gptq { zero_offset: 1 }, 8, Some(128)),
            ),
            (
                json!({"bits": 4, "group_size": -1, "checkpoint_format": "gptq_v2", "dynamic": {},
                       "quant_method": "gptq", "desc_act": true, "is_marlin_format": false}),
                codes(CodeLayout::Gptq { zero_offset: 0 }, 4, None),
            ),
        ];
        for (config, want) in cases {
            assert_eq!(read(config.clone()), Ok(Some(want)), "{config}");
        }
        assert_eq!(read(Value::Null), Ok(None));
        let mxfp4 = json!({"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]});
        let gpt_oss = |config| read_of(Architecture::GptOss, config);
        assert_eq!(gpt_oss(&mxfp4), Ok(Some(StoredQuantization::Mxfp4)));
        assert!(gpt_oss(&json!({"quant_method": "gptq", "bits": 4})).is_err());
    }

    #[test]
    fn what_is_not_read_is_refused_by_its_field() {
        let int4 = json!({"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128});
        let with = |name: &str, value: Value| {
            let mut config = compressed("pack-quantized", &int4);
            config[name] = value;
            config
        };
        let cases = [
            (json!({"bits": 4}), "quant_method"),
            (json!({"quant_method": "bitsandbytes", "load_in_4bit": true}), "quant_method"),
            (json!({"quant_method": "mxfp4"}), "quant_method"),
            (json!({"quant_method": "fp8", "fmt": "e5m2"}), "fmt"),
            (json!({"quant_method": "fp8", "weight_block_size": [128]}), "weight_block_size"),
            (json!({"quant_method": "awq", "bits": 3, "group_size": 128}), "bits"),
            (json!({"quant_method": "awq", "bits": 4, "version": "gemv"}), "version"),
            (json!({"quant_method": "awq", "bits": 4, "zero_point": false}), "zero_point"),
            (json!({"quant_method": "gptq", "bits": 3}), "bits"),
            (json!({"quant_method": "gptq", "bits": 4, "group_size": 0}), "group_size"),
            (
                json!({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}),
                "checkpoint_format",
            ),
            (json!({"quant_method": "gptq", "bits": 4, "dynamic": {"x": {}}}), "dynamic"),
            (with("kv_cache_scheme", json!({"num_bits": 8})), "kv_cache_scheme"),
            (with("sparsity_config", json!({"format": "sparse-24"})), "sparsity_config.format"),
            (with("config_groups", json!({"a": {}, "b": {}})), "config_groups"),
            (with("format", json!("nvfp4-pack-quantized")), "format"),
            (
                compressed("pack-quantized", &json!({"num_bits": 3})),
                "config_groups.*.weights.num_bits",
            ),
            (
                compressed(
                    "float-quantized",
                    &json!({"num_bits": 8, "type": "float",
                    "strategy": "attn_head"}),
                ),
                "config_groups.*.weights.strategy",
            ),
        ];
        for (config, field) in cases {
            let fault = read(config.clone()).unwrap_err();
            assert_eq!(fault.field, format!("quantization_config.{field}"), "{config}");
        }
    }
}
