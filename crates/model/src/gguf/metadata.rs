//! What a GGUF file's metadata says: the network's shape, the vocabulary, the chat template.
//!
//! Keys: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md> and llama.cpp's `llama-arch.cpp`.
//! Every key under the architecture's own prefix is either understood here or refused: one that we
//! passed over could be one that changes the result.

use std::collections::BTreeSet;

use wharf_kernels::delta_rule::HeadOrder;

use super::{Array, Gguf, Value};
use crate::{
    GgufVocabulary,
    config::{
        Architecture, AttentionBias, Bias, Config, ExpertsConfig, HybridTraits,
        LinearAttentionConfig, NormTopkProb, TensorNames, Traits, Windows, inverse_sqrt, limits,
        nope_layers, scaled_context,
    },
    error::Malformed,
    rope::{RopeConfig, Scaling, yarn_mscale},
};

/// Texts of control tokens that end a turn. Older files name one end token only, where the model was
/// trained to end with any of these; llama.cpp finds them by their text too.
const END_TEXTS: [&str; 7] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|end_of_text|>",
    "<|endoftext|>",
];

/// `tokenizer.ggml.token_type` of a control token.
const CONTROL: u32 = 3;

/// Typed access to the keys under one prefix; remembers which were asked for.
struct Keys<'g, 'a> {
    gguf: &'g Gguf<'a>,
    prefix: String,
    asked: BTreeSet<String>,
}

impl<'g, 'a> Keys<'g, 'a> {
    fn new(gguf: &'g Gguf<'a>, prefix: &str) -> Self {
        Self { gguf, prefix: prefix.to_owned(), asked: BTreeSet::new() }
    }

    fn get(&mut self, name: &str) -> (String, Option<&'g Value<'a>>) {
        let key = format!("{}.{name}", self.prefix);
        self.asked.insert(key.clone());
        let value = self.gguf.get(&key);
        (key, value)
    }

    /// A whole number of at most `most`; `None` if there is no such key.
    fn whole(&mut self, name: &str, most: usize) -> Result<Option<usize>, Malformed> {
        let (key, value) = self.get(name);
        let Some(value) = value else { return Ok(None) };
        match value.as_u64() {
            Some(n) if n <= most as u64 => Ok(Some(n as usize)),
            _ if matches!(value, Value::Array(_)) => {
                Err(Malformed::new(key, "a value per layer is not supported"))
            }
            _ => Err(Malformed::new(key, format!("must be a whole number of at most {most}"))),
        }
    }

    /// As [`Keys::whole`], at least 1.
    fn count(&mut self, name: &str, most: usize) -> Result<Option<usize>, Malformed> {
        match self.whole(name, most)? {
            Some(0) => Err(Malformed::new(self.get(name).0, "must not be 0")),
            count => Ok(count),
        }
    }

    fn required_count(&mut self, name: &str, most: usize) -> Result<usize, Malformed> {
        let count = self.count(name, most)?;
        count.ok_or_else(|| Malformed::new(self.get(name).0, "is missing"))
    }

    fn number(&mut self, name: &str) -> Result<Option<f64>, Malformed> {
        let (key, value) = self.get(name);
        let Some(value) = value else { return Ok(None) };
        match value.as_f64() {
            Some(number) if number.is_finite() => Ok(Some(number)),
            _ => Err(Malformed::new(key, "must be a finite number")),
        }
    }

    fn text(&mut self, name: &str) -> Result<Option<String>, Malformed> {
        let (key, value) = self.get(name);
        let Some(value) = value else { return Ok(None) };
        value.as_text().map(Some).ok_or_else(|| Malformed::new(key, "must be a string"))
    }

    fn flag(&mut self, name: &str) -> Result<Option<bool>, Malformed> {
        let (key, value) = self.get(name);
        match value {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(Malformed::new(key, "must be a truth value")),
        }
    }

    fn id(&mut self, name: &str) -> Result<Option<u32>, Malformed> {
        Ok(self.whole(name, u32::MAX as usize)?.map(|id| id as u32))
    }

    fn array(&mut self, name: &str) -> Result<Option<Array<'a>>, Malformed> {
        let (key, value) = self.get(name);
        match value {
            None => Ok(None),
            Some(Value::Array(array)) => Ok(Some(*array)),
            Some(_) => Err(Malformed::new(key, "must be an array")),
        }
    }

    /// The elements of an array, each turned by `read`; empty if there is no such key.
    fn list<T>(
        &mut self,
        name: &str,
        what: &str,
        read: impl Fn(Value<'a>) -> Option<T>,
    ) -> Result<Vec<T>, Malformed> {
        let Some(array) = self.array(name)? else { return Ok(Vec::new()) };
        let list: Option<Vec<T>> = array.values().map(read).collect();
        // It is shorter only where the file has been rewritten since it was parsed.
        let list = list.filter(|list| list.len() == array.len());
        list.ok_or_else(|| Malformed::new(self.get(name).0, format!("must hold {what} only")))
    }

    /// Refuses keys under the prefix that nobody has asked for.
    fn refuse_others(&self) -> Result<(), Malformed> {
        let prefix = format!("{}.", self.prefix);
        let other =
            self.gguf.keys().find(|key| key.starts_with(&prefix) && !self.asked.contains(*key));
        match other {
            Some(key) => Err(Malformed::new(key, "is not supported")),
            None => Ok(()),
        }
    }
}

fn architecture(gguf: &Gguf<'_>) -> Result<(Architecture, &'static str), Malformed> {
    let key = "general.architecture";
    let Some(name) = gguf.get(key).and_then(Value::as_text) else {
        return Err(Malformed::new(key, "is missing"));
    };
    let known = || Architecture::ALL.into_iter().filter_map(|of| Some((of, of.traits().gguf?)));
    // Mixtral's files are called llama's.
    let experts = gguf.get("llama.expert_count").and_then(Value::as_u64);
    if name == "llama" && experts.is_some_and(|count| count > 0) {
        return Ok((Architecture::Mixtral, "llama"));
    }
    known().find(|(_, known)| *known == name).ok_or_else(|| {
        let known: Vec<&str> = known().map(|(_, known)| known).collect();
        Malformed::new(key, format!("{name:?} is not supported ({} are)", known.join(", ")))
    })
}

/// The network's shape, and the ids that end a generation.
///
/// The vocabulary's size is 0 where the file leaves it to the embedding tensor.
pub fn config(gguf: &Gguf<'_>) -> Result<Config, Malformed> {
    if gguf.get("split.count").and_then(Value::as_u64).is_some_and(|parts| parts > 1) {
        let reason = "a model split into several GGUF files is not supported (merge them first)";
        return Err(Malformed::new("split.count", reason));
    }
    let (architecture, prefix) = architecture(gguf)?;
    let traits = architecture.traits();
    let mut keys = Keys::new(gguf, prefix);
    let hidden_size = keys.required_count("embedding_length", limits::HIDDEN)?;
    let (num_layers, mtp_layers) = num_layers(&mut keys, &traits)?;
    let num_heads = keys.required_count("attention.head_count", limits::HEADS)?;
    let head_dim = head_dim(&mut keys, hidden_size, num_heads)?;
    let trained = keys.required_count("context_length", limits::CONTEXT)?;
    let rotary_dim = rotary_dim(&mut keys, &traits, head_dim)?;
    let longrope = gguf.tensors.iter().any(|tensor| tensor.name == "rope_factors_long.weight");
    let rope = rope(&mut keys, &traits, trained, longrope)?;
    let local_rope = local_rope(&mut keys, &traits)?;
    let max_model_len =
        if traits.local_rope { trained } else { scaled_context(trained, &rope.scaling) };
    if architecture == Architecture::Granite && keys.flag("rope.scaling.finetuned")? == Some(false)
    {
        let reason = "false is not supported (Granite without rotation)";
        return Err(Malformed::new(keys.get("rope.scaling.finetuned").0, reason));
    }
    let linear_attention =
        traits.hybrid.map(|of| linear_attention(&mut keys, of, num_layers, mtp_layers));
    let linear_attention = linear_attention.transpose()?;
    let windows = windows(&mut keys, architecture, num_layers)?;
    let experts = experts(&mut keys, &traits)?;
    // Qwen's files have a width for all layers beside that of the experts.
    keys.count("feed_forward_length", limits::INTERMEDIATE)?;
    let width = match traits.experts {
        Some(of) if of.intermediate_size != "intermediate_size" => "expert_feed_forward_length",
        // The same number twice, or once.
        Some(_)
            if traits.names == TensorNames::GptOss
                && keys.count("expert_feed_forward_length", limits::INTERMEDIATE)?.is_some() =>
        {
            "expert_feed_forward_length"
        }
        _ => "feed_forward_length",
    };
    if keys.flag("attention.causal")? == Some(false) {
        let reason = "attention that is not causal is not supported";
        return Err(Malformed::new(keys.get("attention.causal").0, reason));
    }
    // How the converter laid the file out, of which there is one way today.
    keys.text("tensor_data_layout")?;
    // `query_pre_attn_scalar` is not in these files: it is the width of a head, but in both 27B models.
    let query_scalar = match (architecture, num_layers) {
        (Architecture::Gemma2, 46) | (Architecture::Gemma3, 62) => hidden_size / num_heads,
        _ => head_dim,
    };
    let mut multiplier = |name: &str, missing: f32| -> Result<f32, Malformed> {
        if !traits.multipliers {
            return Ok(missing);
        }
        Ok(keys.number(name)?.map_or(missing, |number| number as f32))
    };
    let root = if traits.gemma { (hidden_size as f32).sqrt() } else { 1.0 };
    let embedding_multiplier = multiplier("embedding_scale", root)?;
    let residual_multiplier = multiplier("residual_scale", 1.0)?;
    let attention_multiplier = multiplier("attention.scale", inverse_sqrt(query_scalar))?;
    let logits_scaling = multiplier("logit_scale", 1.0)?;
    let mut capping = |name: &str, there: bool, missing| -> Result<Option<f32>, Malformed> {
        let cap = if there { keys.number(name)?.or(missing) } else { None };
        Ok(cap.filter(|cap| *cap != 0.0).map(|cap| cap as f32))
    };
    let missing = traits.defaults;
    let attn_logit_softcapping =
        capping("attn_logit_softcapping", traits.capped_scores, missing.attn_logit_softcapping)?;
    let final_logit_softcapping =
        capping("final_logit_softcapping", traits.gemma, missing.final_logit_softcapping)?;
    let if_in_file = |optional| if optional { Bias::IfInFile } else { Bias::Absent };
    let attention_bias = if_in_file(traits.attention_bias == AttentionBias::Optional);
    let config = Config {
        architecture,
        // Images have files of their own.
        multimodal: false,
        hidden_size,
        intermediate_size: keys.required_count(width, limits::INTERMEDIATE)?,
        experts,
        linear_attention,
        num_layers,
        mtp_layers,
        num_heads,
        num_kv_heads: keys.count("attention.head_count_kv", limits::HEADS)?.unwrap_or(num_heads),
        head_dim,
        rotary_dim,
        vocab_size: vocab_size(gguf, &mut keys)?,
        max_model_len,
        rms_norm_eps: keys.number("attention.layer_norm_rms_epsilon")?.ok_or_else(|| {
            Malformed::new(keys.get("attention.layer_norm_rms_epsilon").0, "is missing")
        })? as f32,
        embedding_multiplier,
        residual_multiplier,
        attention_multiplier,
        logits_scaling,
        attn_logit_softcapping,
        final_logit_softcapping,
        activation: traits.activation,
        rope,
        local_rope,
        qkv_bias: match traits.attention_bias {
            AttentionBias::Qkv | AttentionBias::Usual => Bias::Present,
            _ => attention_bias,
        },
        o_bias: match traits.attention_bias {
            AttentionBias::Usual => Bias::Present,
            _ => attention_bias,
        },
        mlp_bias: match traits.names {
            TensorNames::GptOss => Bias::Present,
            _ => if_in_file(traits.optional_mlp_bias),
        },
        qk_norm: traits.qk_norm,
        norms: traits.norms,
        tied: None,
        windows,
        nope_layers: nope_layers(traits.nope_interval, num_layers),
        stored_quantization: None,
        eos_token_ids: end_of_generation(gguf)?,
    };
    keys.refuse_others()?;
    config.check()?;
    Ok(config)
}

/// The mixture of experts, if the architecture has one.
fn experts(keys: &mut Keys<'_, '_>, traits: &Traits) -> Result<Option<ExpertsConfig>, Malformed> {
    let Some(of) = &traits.experts else {
        for name in ["expert_count", "expert_used_count"] {
            if keys.whole(name, usize::MAX)?.is_some_and(|count| count > 0) {
                return Err(Malformed::new(keys.get(name).0, "experts are not supported"));
            }
        }
        return Ok(None);
    };
    // 1 is the softmax of all experts, and what a file means that does not say; 3 that of the chosen.
    let chosen = matches!(of.norm_topk_prob, NormTopkProb::Always);
    let known = |function: usize| function <= 1 || function == 3 && chosen;
    if keys.whole("expert_gating_func", usize::MAX)?.is_some_and(|function| !known(function)) {
        let key = keys.get("expert_gating_func").0;
        return Err(Malformed::new(key, "is supported as 1 (softmax) only"));
    }
    Ok(Some(ExpertsConfig {
        num_experts: keys.required_count("expert_count", limits::EXPERTS)?,
        num_experts_per_tok: keys.required_count("expert_used_count", limits::EXPERTS)?,
        norm_topk_prob: match of.norm_topk_prob {
            NormTopkProb::Always => true,
            // As llama.cpp, which takes it for granted: it is so of all published models.
            NormTopkProb::Field(_) => keys.flag("expert_weights_norm")?.unwrap_or(true),
        },
        shared_intermediate_size: match of.shared_intermediate_size {
            None => None,
            Some(_) => Some(
                keys.required_count("expert_shared_feed_forward_length", limits::INTERMEDIATE)?,
            ),
        },
    }))
}

/// Decoder layers, and those after them that guess tokens ahead, which llama.cpp counts among them.
fn num_layers(keys: &mut Keys<'_, '_>, traits: &Traits) -> Result<(usize, usize), Malformed> {
    let all = keys.required_count("block_count", limits::LAYERS)?;
    if traits.hybrid.is_none() {
        return Ok((all, 0));
    }
    let mtp = keys.whole("nextn_predict_layers", limits::LAYERS)?.unwrap_or(0);
    match all.checked_sub(mtp) {
        None | Some(0) => {
            let reason = format!("{mtp} of {all} layers leave none");
            Err(Malformed::new(keys.get("nextn_predict_layers").0, reason))
        }
        Some(layers) => Ok((layers, mtp)),
    }
}

/// The layers of linear attention, and their shape. Their value heads are in another order than in
/// Hugging Face's files, but for those of Qwen3-Next.
fn linear_attention(
    keys: &mut Keys<'_, '_>,
    traits: HybridTraits,
    num_layers: usize,
    mtp_layers: usize,
) -> Result<LinearAttentionConfig, Malformed> {
    let key_dim = keys.required_count("ssm.state_size", limits::HEAD_DIM)?;
    let value_heads = keys.required_count("ssm.time_step_rank", limits::HEADS)?;
    let inner = keys.required_count("ssm.inner_size", limits::HEADS * limits::HEAD_DIM)?;
    let value_dim = inner / value_heads;
    if !inner.is_multiple_of(value_heads) || value_dim > limits::HEAD_DIM {
        let reason = format!("{inner} is not as wide as {value_heads} heads");
        return Err(Malformed::new(keys.get("ssm.inner_size").0, reason));
    }
    // How positions in images are rotated; for those of text all parts are the same.
    keys.array("rope.dimension_sections")?;
    let interval = keys.count("full_attention_interval", usize::MAX)?;
    let interval = interval.unwrap_or(traits.full_attention_interval);
    let by_rule = || (0..num_layers).map(|layer| !(layer + 1).is_multiple_of(interval)).collect();
    let flag = |value: Value<'_>| match value {
        Value::Bool(flag) => Some(flag),
        _ => None,
    };
    let listed = keys.list("attention.recurrent_layers", "truth values", flag)?;
    if !listed.is_empty() && listed.len() != num_layers + mtp_layers {
        let reason = format!("lists {} layers of {}", listed.len(), num_layers + mtp_layers);
        return Err(Malformed::new(keys.get("attention.recurrent_layers").0, reason));
    }
    let layers = if listed.is_empty() { by_rule() } else { listed[..num_layers].to_vec() };
    Ok(LinearAttentionConfig {
        key_heads: keys.required_count("ssm.group_count", limits::HEADS)?,
        value_heads,
        key_dim,
        value_dim,
        taps: keys.required_count("ssm.conv_kernel", limits::TAPS)?,
        order: if traits.fused { HeadOrder::Grouped } else { HeadOrder::Tiled },
        layers,
    })
}

/// The attention window of each layer.
fn windows(
    keys: &mut Keys<'_, '_>,
    architecture: Architecture,
    num_layers: usize,
) -> Result<Vec<Option<usize>>, Malformed> {
    // Gemma 2's first files don't say.
    let missing = (architecture == Architecture::Gemma2).then_some(4096);
    let window = keys.whole("attention.sliding_window", usize::MAX)?.or(missing);
    let window = window.filter(|size| *size > 0);
    let slides = |layer: usize| match architecture.traits().windows {
        Windows::AllBut(interval) => !(layer + 1).is_multiple_of(interval),
        _ => true,
    };
    match architecture {
        Architecture::SmolLm3 | Architecture::Granite | Architecture::Olmo2 if window.is_some() => {
            let key = keys.get("attention.sliding_window").0;
            Err(Malformed::new(key, format!("is not supported for {}", architecture.name())))
        }
        _ => Ok((0..num_layers).map(|layer| window.filter(|_| slides(layer))).collect()),
    }
}

fn head_dim(
    keys: &mut Keys<'_, '_>,
    hidden_size: usize,
    num_heads: usize,
) -> Result<usize, Malformed> {
    let dim = match keys.count("attention.key_length", limits::HEAD_DIM)? {
        Some(dim) => dim,
        None if hidden_size.is_multiple_of(num_heads)
            && hidden_size / num_heads <= limits::HEAD_DIM =>
        {
            hidden_size / num_heads
        }
        None => {
            let reason = format!("{num_heads} heads do not fit embedding_length {hidden_size}");
            return Err(Malformed::new(keys.get("attention.head_count").0, reason));
        }
    };
    let name = "attention.value_length";
    if let Some(other) = keys.count(name, limits::HEAD_DIM)?.filter(|other| *other != dim) {
        let reason = format!("{other} is not supported with heads of {dim}");
        return Err(Malformed::new(keys.get(name).0, reason));
    }
    Ok(dim)
}

fn rotary_dim(
    keys: &mut Keys<'_, '_>,
    traits: &Traits,
    head_dim: usize,
) -> Result<usize, Malformed> {
    let name = "rope.dimension_count";
    let dim = keys.count(name, limits::HEAD_DIM)?.unwrap_or(head_dim);
    if dim != head_dim && !traits.partial_rotary {
        let reason = format!("{dim} is not supported with heads of {head_dim}");
        return Err(Malformed::new(keys.get(name).0, reason));
    }
    Ok(dim)
}

/// The rotary embedding. A tensor `rope_freqs.weight`, which metadata does not mention, comes on top,
/// and so do LongRoPE's lists, whose tensors alone say that there are any.
fn rope(
    keys: &mut Keys<'_, '_>,
    traits: &Traits,
    trained: usize,
    longrope: bool,
) -> Result<RopeConfig, Malformed> {
    let theta = keys.number("rope.freq_base")?.unwrap_or(10_000.0);
    // Before `rope.scaling.*` there was `rope.scale_linear`.
    let legacy = keys.number("rope.scale_linear")?;
    let factor = keys.number("rope.scaling.factor")?.or(legacy).filter(|factor| *factor != 0.0);
    let original = keys.count("rope.scaling.original_context_length", limits::CONTEXT)?;
    let attn_factor = keys.number("rope.scaling.attn_factor")?.unwrap_or(1.0);
    let beta_fast = keys.number("rope.scaling.yarn_beta_fast")?;
    let beta_slow = keys.number("rope.scaling.yarn_beta_slow")?;
    keys.flag("rope.scaling.finetuned")?;
    let kind = keys.text("rope.scaling.type")?;
    let scaling = match kind.as_deref().unwrap_or(if factor.is_some() { "linear" } else { "none" })
    {
        "none" | "longrope" if longrope => Scaling::LongRope {
            short_factors: Vec::new(),
            long_factors: Vec::new(),
            original_context: original.unwrap_or(trained) as f64,
            attention_factor: attn_factor,
        },
        "none" => Scaling::None,
        "linear" => match factor {
            None => Scaling::None,
            Some(factor) => Scaling::Linear { factor },
        },
        "yarn" => {
            let factor = factor
                .ok_or_else(|| Malformed::new(keys.get("rope.scaling.factor").0, "is missing"))?;
            Scaling::Yarn {
                factor,
                original_context: original.unwrap_or(trained) as f64,
                attention_factor: attn_factor * yarn_mscale(factor, 1.0),
                beta_fast: beta_fast.unwrap_or(32.0),
                beta_slow: beta_slow.unwrap_or(1.0),
                // Files do not say. gpt-oss was trained without.
                truncate: traits.names != TensorNames::GptOss,
            }
        }
        other => {
            let reason = format!("{other:?} is not supported (none, linear, yarn are)");
            return Err(Malformed::new(keys.get("rope.scaling.type").0, reason));
        }
    };
    if attn_factor != 1.0 && !matches!(scaling, Scaling::Yarn { .. } | Scaling::LongRope { .. }) {
        let key = keys.get("rope.scaling.attn_factor").0;
        return Err(Malformed::new(key, "is supported with YaRN and LongRoPE only"));
    }
    Ok(RopeConfig { theta, scaling })
}

/// The rotation of layers with a window, where they have one of their own.
fn local_rope(keys: &mut Keys<'_, '_>, traits: &Traits) -> Result<Option<RopeConfig>, Malformed> {
    if !traits.local_rope {
        return Ok(None);
    }
    let theta = keys.number("rope.freq_base_swa")?.unwrap_or(10_000.0);
    Ok(Some(RopeConfig { theta, scaling: Scaling::None }))
}

/// Rows of the embedding, if the metadata says; else 0, and the embedding tensor decides.
fn vocab_size(gguf: &Gguf<'_>, keys: &mut Keys<'_, '_>) -> Result<usize, Malformed> {
    let stated = keys.count("vocab_size", limits::VOCAB)?;
    let tokens = Keys::new(gguf, "tokenizer.ggml").array("tokens")?.map_or(0, |array| array.len());
    if tokens > limits::VOCAB {
        let reason = format!("{tokens} tokens, the limit is {}", limits::VOCAB);
        return Err(Malformed::new("tokenizer.ggml.tokens", reason));
    }
    Ok(stated.unwrap_or(tokens))
}

/// `tokenizer.ggml.*`, for `text` to build a tokenizer from.
pub fn vocabulary(gguf: &Gguf<'_>) -> Result<GgufVocabulary, Malformed> {
    let mut keys = Keys::new(gguf, "tokenizer.ggml");
    let model = keys.text("model")?;
    let model = model.ok_or_else(|| Malformed::new("tokenizer.ggml.model", "is missing"))?;
    let vocabulary = GgufVocabulary {
        model,
        pre: keys.text("pre")?,
        tokens: keys.list("tokens", "strings", |value| value.as_text())?,
        scores: keys.list("scores", "numbers", |value| value.as_f64().map(|score| score as f32))?,
        token_types: keys
            .list("token_type", "whole numbers", |value| u32::try_from(value.as_u64()?).ok())?,
        merges: keys.list("merges", "strings", |value| value.as_text())?,
        bos: keys.id("bos_token_id")?,
        eos: keys.id("eos_token_id")?,
        unk: keys.id("unknown_token_id")?,
        add_bos: keys.flag("add_bos_token")?,
        add_eos: keys.flag("add_eos_token")?,
        add_space_prefix: keys.flag("add_space_prefix")?,
    };
    let tokens = vocabulary.tokens.len();
    if tokens == 0 {
        return Err(Malformed::new("tokenizer.ggml.tokens", "is missing or empty"));
    }
    for (name, len) in
        [("scores", vocabulary.scores.len()), ("token_type", vocabulary.token_types.len())]
    {
        if len != 0 && len != tokens {
            let reason = format!("has {len} elements for {tokens} tokens");
            return Err(Malformed::new(format!("tokenizer.ggml.{name}"), reason));
        }
    }
    let ids = [
        ("bos_token_id", vocabulary.bos),
        ("eos_token_id", vocabulary.eos),
        ("unknown_token_id", vocabulary.unk),
    ];
    for (name, id) in ids {
        if let Some(id) = id.filter(|id| *id as usize >= tokens) {
            let reason = format!("{id} is not one of {tokens} tokens");
            return Err(Malformed::new(format!("tokenizer.ggml.{name}"), reason));
        }
    }
    Ok(vocabulary)
}

/// Ids that end a generation: end of sequence, of turn, of message; and control tokens that say so by
/// their text.
fn end_of_generation(gguf: &Gguf<'_>) -> Result<Vec<u32>, Malformed> {
    let mut keys = Keys::new(gguf, "tokenizer.ggml");
    let mut ids = BTreeSet::new();
    for name in ["eos_token_id", "eot_token_id", "eom_token_id"] {
        ids.extend(keys.id(name)?);
    }
    if let (Some(tokens), Some(types)) = (keys.array("tokens")?, keys.array("token_type")?) {
        for (id, (token, kind)) in tokens.values().zip(types.values()).enumerate() {
            let ends = || END_TEXTS.iter().any(|text| token == Value::Text(text.as_bytes()));
            if kind.as_u64() == Some(CONTROL.into()) && ends() {
                ids.insert(id as u32);
            }
        }
    }
    Ok(ids.into_iter().collect())
}

/// `tokenizer.chat_template`.
pub fn chat_template(gguf: &Gguf<'_>) -> Result<Option<String>, Malformed> {
    Keys::new(gguf, "tokenizer").text("chat_template")
}
