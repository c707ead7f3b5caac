//! Hugging Face's config.json.
//!
//! Fields that only training reads are passed over. A field that changes what is computed is honoured
//! or refused; where one is missing, the default is that of the architecture's class in transformers.

use serde_json::Value;
use wharf_kernels::{activation::Activation, delta_rule::HeadOrder};

use super::{
    Architecture, AttentionBias, Bias, Config, ExpertTraits, ExpertsConfig, Fields, HybridTraits,
    LinearAttentionConfig, NormTopkProb, TensorNames, Traits, Windows, inverse_sqrt, limits,
    nope_layers, quantization, scaled_context,
};
use crate::{
    error::Malformed,
    rope::{RopeConfig, Scaling, yarn_mscale},
};

/// Whether a field is honoured for an architecture.
type Honoured = fn(&Traits) -> bool;

/// Classes of models that see images too, around a text model that is run.
const MULTIMODAL: [(&str, Architecture); 3] = [
    ("Gemma3ForConditionalGeneration", Architecture::Gemma3),
    ("Qwen3_5ForConditionalGeneration", Architecture::Qwen35),
    ("Qwen3_5MoeForConditionalGeneration", Architecture::Qwen35Moe),
];

/// Fields that change the network, and the architectures that we honour them for.
const REFUSED: [(&str, Honoured); 12] = [
    ("compression_config", |_| false),
    ("num_local_experts", |traits| traits.experts.is_some()),
    ("num_experts", |traits| traits.experts.is_some()),
    ("attn_logit_softcapping", |traits| traits.capped_scores),
    ("final_logit_softcapping", |traits| traits.gemma),
    ("query_pre_attn_scalar", |traits| traits.gemma),
    ("embedding_multiplier", |traits| traits.multipliers),
    ("residual_multiplier", |traits| traits.multipliers),
    ("attention_multiplier", |traits| traits.multipliers),
    ("logits_scaling", |traits| traits.multipliers),
    ("no_rope_layers", |traits| traits.nope_interval.is_some()),
    ("linear_num_value_heads", |traits| traits.hybrid.is_some()),
];

/// Reads config.json.
pub fn parse(json: &[u8]) -> Result<Config, Malformed> {
    let value: Value =
        serde_json::from_slice(json).map_err(|e| Malformed::new("file", e.to_string()))?;
    let outer = Fields::new(&value)?;
    let text = text_config(&outer)?;
    let multimodal = text.is_some();
    let (text, architecture) = match text {
        Some((text, architecture)) => (Some(text), architecture),
        None => (None, architecture(&outer)?),
    };
    let traits = architecture.traits();
    refuse_unsupported(&outer, &traits)?;
    let mut eos_token_ids = outer.token_ids("eos_token_id")?;
    let mut stored_quantization = quantization::parse(&outer, &traits)?;
    let tied = tied(&outer, text.as_ref(), &traits)?;
    let fields = text.unwrap_or(outer);
    if multimodal {
        refuse_unsupported(&fields, &traits)?;
        stored_quantization = stored_quantization.or(quantization::parse(&fields, &traits)?);
        eos_token_ids.extend(fields.token_ids("eos_token_id")?);
    }

    let hidden_size = fields.required_count("hidden_size", limits::HIDDEN)?;
    let num_layers = fields.required_count("num_hidden_layers", limits::LAYERS)?;
    let count = |name: &str, most: usize, default: Option<usize>| match fields.count(name, most)? {
        Some(count) => Ok(count),
        None => default.ok_or_else(|| fields.fault(name, "is missing")),
    };
    let defaults = &traits.defaults;
    let num_heads = count("num_attention_heads", limits::HEADS, defaults.num_attention_heads)?;
    let trained =
        count("max_position_embeddings", limits::CONTEXT, defaults.max_position_embeddings)?;
    let width = traits.experts.map_or("intermediate_size", |experts| experts.intermediate_size);
    let experts = traits.experts.map(|of| experts(&fields, &of)).transpose()?;
    let (rope, local_rope) = ropes(&fields, &traits, trained)?;
    let max_model_len =
        if traits.local_rope { trained } else { scaled_context(trained, &rope.scaling) };
    let nope_layers = listed_nope_layers(&fields, &traits, num_layers)?;
    let head_dim = head_dim(&fields, &traits, hidden_size, num_heads)?;
    let rotary_dim = rotary_dim(&fields, &traits, head_dim)?;
    let linear_attention =
        traits.hybrid.map(|of| linear_attention(&fields, of, num_layers)).transpose()?;
    let capping = |name: &str, default: Option<f64>| -> Result<Option<f32>, Malformed> {
        let cap = if fields.has(name) { fields.number(name)? } else { default };
        Ok(cap.map(|cap| cap as f32))
    };
    // Where there are multipliers, the class's default of each is 1.
    let multiplier = |name: &str, other: f32| -> Result<f32, Malformed> {
        if !traits.multipliers {
            return Ok(other);
        }
        Ok(fields.number(name)?.map_or(1.0, |number| number as f32))
    };
    let attention_bias = match traits.attention_bias {
        AttentionBias::Absent | AttentionBias::Qkv => false,
        AttentionBias::Optional => fields.flag("attention_bias")? == Some(true),
        AttentionBias::Usual => fields.flag("attention_bias")? != Some(false),
    };
    let qkv_bias = attention_bias || traits.attention_bias == AttentionBias::Qkv;
    let mlp_bias = traits.names == TensorNames::GptOss
        || traits.optional_mlp_bias && fields.flag("mlp_bias")? == Some(true);
    let config = Config {
        architecture,
        multimodal,
        hidden_size,
        intermediate_size: fields.required_count(width, limits::INTERMEDIATE)?,
        experts,
        windows: match linear_attention {
            Some(_) => vec![None; num_layers],
            None => windows(&fields, &traits, &nope_layers)?,
        },
        linear_attention,
        num_layers,
        // Theirs have names of their own.
        mtp_layers: 0,
        num_heads,
        num_kv_heads: num_kv_heads(&fields, &traits, num_heads)?,
        head_dim,
        rotary_dim,
        vocab_size: count("vocab_size", limits::VOCAB, defaults.vocab_size)?,
        max_model_len,
        rms_norm_eps: fields.number("rms_norm_eps")?.unwrap_or(traits.defaults.rms_norm_eps) as f32,
        embedding_multiplier: if traits.gemma {
            (hidden_size as f32).sqrt()
        } else {
            multiplier("embedding_multiplier", 1.0)?
        },
        residual_multiplier: multiplier("residual_multiplier", 1.0)?,
        attention_multiplier: if traits.gemma {
            query_pre_attn_scalar(&fields)?.powf(-0.5) as f32
        } else {
            multiplier("attention_multiplier", inverse_sqrt(head_dim))?
        },
        logits_scaling: multiplier("logits_scaling", 1.0)?,
        attn_logit_softcapping: capping(
            "attn_logit_softcapping",
            traits.defaults.attn_logit_softcapping,
        )?,
        final_logit_softcapping: capping(
            "final_logit_softcapping",
            traits.defaults.final_logit_softcapping,
        )?,
        activation: traits.activation,
        rope,
        local_rope,
        qkv_bias: present(qkv_bias),
        o_bias: present(attention_bias),
        mlp_bias: present(mlp_bias),
        qk_norm: traits.qk_norm,
        norms: traits.norms,
        tied: Some(tied),
        nope_layers,
        stored_quantization,
        eos_token_ids,
    };
    config.check()?;
    Ok(config)
}

/// The text model's part of the config, of a model that sees images too, and what it is.
fn text_config<'a>(outer: &Fields<'a>) -> Result<Option<(Fields<'a>, Architecture)>, Malformed> {
    let names = outer.texts("architectures")?.unwrap_or_default();
    let Some((_, architecture)) = MULTIMODAL.iter().find(|(name, _)| names == [*name]) else {
        return Ok(None);
    };
    let text = outer.object("text_config", "text_config.")?;
    let text = text.ok_or_else(|| outer.fault("text_config", "is missing"))?;
    Ok(Some((text, *architecture)))
}

/// The layers of linear attention, and their shape; the defaults are those of transformers' classes.
fn linear_attention(
    fields: &Fields<'_>,
    traits: HybridTraits,
    num_layers: usize,
) -> Result<LinearAttentionConfig, Malformed> {
    // transformers' class gates attention whatever this says.
    if fields.flag("attn_output_gate")? == Some(false) {
        return Err(fields.fault("attn_output_gate", "false is not supported"));
    }
    let count = |name: &str, most, default| -> Result<usize, Malformed> {
        Ok(fields.count(name, most)?.unwrap_or(default))
    };
    Ok(LinearAttentionConfig {
        key_heads: count("linear_num_key_heads", limits::HEADS, 16)?,
        value_heads: count("linear_num_value_heads", limits::HEADS, 32)?,
        key_dim: count("linear_key_head_dim", limits::HEAD_DIM, 128)?,
        value_dim: count("linear_value_head_dim", limits::HEAD_DIM, 128)?,
        taps: count("linear_conv_kernel_dim", limits::TAPS, 4)?,
        order: HeadOrder::Grouped,
        layers: linear_layers(fields, traits, num_layers)?,
    })
}

fn linear_layers(
    fields: &Fields<'_>,
    traits: HybridTraits,
    num_layers: usize,
) -> Result<Vec<bool>, Malformed> {
    let Some(types) = fields.texts("layer_types")? else {
        let interval = fields.count("full_attention_interval", usize::MAX)?;
        let interval = interval.unwrap_or(traits.full_attention_interval);
        return Ok((0..num_layers).map(|layer| !(layer + 1).is_multiple_of(interval)).collect());
    };
    if types.len() != num_layers {
        let reason = format!("lists {} layers of {num_layers}", types.len());
        return Err(fields.fault("layer_types", reason));
    }
    let linear = types.iter().map(|kind| match *kind {
        "linear_attention" => Ok(true),
        "full_attention" => Ok(false),
        other => {
            let reason =
                format!("{other:?} is not supported (full_attention, linear_attention are)");
            Err(fields.fault("layer_types", reason))
        }
    });
    linear.collect()
}

/// Where the field is missing the class's default counts; `null` is as many as there are heads.
fn num_kv_heads(
    fields: &Fields<'_>,
    traits: &Traits,
    num_heads: usize,
) -> Result<usize, Malformed> {
    let name = "num_key_value_heads";
    let count = if fields.has(name) {
        fields.count(name, limits::HEADS)?
    } else {
        traits.defaults.num_key_value_heads
    };
    Ok(count.unwrap_or(num_heads))
}

fn experts(fields: &Fields<'_>, traits: &ExpertTraits) -> Result<ExpertsConfig, Malformed> {
    // Layers of the other kind between those with experts, of which no published model has any.
    if fields.count("decoder_sparse_step", usize::MAX)?.is_some_and(|step| step != 1) {
        return Err(fields.fault("decoder_sparse_step", "is supported as 1 only"));
    }
    if fields.get("mlp_only_layers").is_some_and(|list| list.as_array() != Some(&Vec::new())) {
        return Err(fields.fault("mlp_only_layers", "is not supported but for none"));
    }
    // transformers knows the one by the other's name.
    let (num_experts, local) = (
        fields.count("num_experts", limits::EXPERTS)?,
        fields.count("num_local_experts", limits::EXPERTS)?,
    );
    let per_token = fields.count("num_experts_per_tok", limits::EXPERTS)?;
    let norm_topk_prob = match traits.norm_topk_prob {
        NormTopkProb::Always => true,
        NormTopkProb::Field(default) => fields.flag("norm_topk_prob")?.unwrap_or(default),
    };
    let shared = |default| -> Result<usize, Malformed> {
        let width = fields.count("shared_expert_intermediate_size", limits::INTERMEDIATE)?;
        Ok(width.unwrap_or(default))
    };
    Ok(ExpertsConfig {
        num_experts: num_experts.or(local).unwrap_or(traits.num_experts),
        num_experts_per_tok: per_token.unwrap_or(traits.num_experts_per_tok),
        norm_topk_prob,
        shared_intermediate_size: traits.shared_intermediate_size.map(shared).transpose()?,
    })
}

fn query_pre_attn_scalar(fields: &Fields<'_>) -> Result<f64, Malformed> {
    let name = "query_pre_attn_scalar";
    match fields.number(name)?.unwrap_or(256.0) {
        scalar if scalar > 0.0 => Ok(scalar),
        scalar => Err(fields.fault(name, format!("{scalar} is not a positive number"))),
    }
}

/// Whether the output matrix is the embedding. Of a model that sees images too, either part of the
/// config may say.
fn tied(outer: &Fields<'_>, text: Option<&Fields<'_>>, traits: &Traits) -> Result<bool, Malformed> {
    let name = "tie_word_embeddings";
    let mut said = None;
    for fields in text.into_iter().chain([outer]) {
        if fields.has(name) {
            said = said.or(Some(fields.flag(name)?.unwrap_or(false)));
        }
    }
    Ok(said.unwrap_or(traits.defaults.tie_word_embeddings))
}

fn present(yes: bool) -> Bias {
    if yes { Bias::Present } else { Bias::Absent }
}

fn architecture(fields: &Fields<'_>) -> Result<Architecture, Malformed> {
    let known = || Architecture::ALL.map(Architecture::name).join(", ");
    if let Some(names) = fields.texts("architectures")? {
        let [name] = names[..] else {
            return Err(fields.fault("architectures", "must name one architecture"));
        };
        return Architecture::ALL.into_iter().find(|known| known.name() == name).ok_or_else(|| {
            let reason = format!("{name:?} is not supported ({} are)", known());
            fields.fault("architectures", reason)
        });
    }
    let Some(kind) = fields.text("model_type")? else {
        return Err(fields.fault("architectures", "is missing"));
    };
    Architecture::ALL.into_iter().find(|known| known.traits().model_type == kind).ok_or_else(|| {
        let known = Architecture::ALL.map(|known| known.traits().model_type).join(", ");
        fields.fault("model_type", format!("{kind:?} is not supported ({known} are)"))
    })
}

fn refuse_unsupported(fields: &Fields<'_>, traits: &Traits) -> Result<(), Malformed> {
    let refused =
        |(name, honoured): &&(&str, Honoured)| fields.get(name).is_some() && !honoured(traits);
    if let Some((name, _)) = REFUSED.iter().find(refused) {
        return Err(fields.fault(name, "is not supported"));
    }
    let (name, known) = match traits.activation {
        Activation::Silu | Activation::ClampedSwiglu => ("hidden_act", "silu"),
        Activation::GeluTanh => ("hidden_activation", "gelu_pytorch_tanh"),
    };
    if let Some(act) = fields.text(name)?.filter(|act| *act != known) {
        return Err(fields.fault(name, format!("{act:?} is not supported ({known} is)")));
    }
    if traits.activation == Activation::ClampedSwiglu {
        for (name, known) in [("swiglu_alpha", 1.702), ("swiglu_limit", 7.0)] {
            if let Some(other) = fields.number(name)?.filter(|number| *number != known) {
                let reason = format!("{other} is not supported ({known} is)");
                return Err(fields.fault(name, reason));
            }
        }
    }
    if fields.flag("use_bidirectional_attention")? == Some(true) {
        return Err(fields.fault("use_bidirectional_attention", "true is not supported"));
    }
    Ok(())
}

/// How many of a head's values are rotated: `partial_rotary_factor`, among the rope parameters or
/// beside them.
fn rotary_dim(fields: &Fields<'_>, traits: &Traits, head_dim: usize) -> Result<usize, Malformed> {
    let name = "partial_rotary_factor";
    let inner = rope_parameters(fields)?.map(|inner| inner.number(name)).transpose()?.flatten();
    let part = inner.or(fields.number(name)?).unwrap_or(traits.defaults.partial_rotary_factor);
    if part != 1.0 && !traits.partial_rotary {
        let reason = format!("{part} is not supported (whole heads are rotated)");
        return Err(fields.fault(name, reason));
    }
    if !(0.0..=1.0).contains(&part) {
        return Err(fields.fault(name, format!("{part} is not a part of a head")));
    }
    Ok((head_dim as f64 * part) as usize)
}

fn head_dim(
    fields: &Fields<'_>,
    traits: &Traits,
    hidden_size: usize,
    num_heads: usize,
) -> Result<usize, Malformed> {
    if let Some(dim) = fields.count("head_dim", limits::HEAD_DIM)? {
        return Ok(dim);
    }
    if let Some(dim) = traits.defaults.head_dim.filter(|_| !fields.has("head_dim")) {
        return Ok(dim);
    }
    let dim = hidden_size / num_heads;
    if !hidden_size.is_multiple_of(num_heads) || dim > limits::HEAD_DIM {
        let reason = format!("{num_heads} heads do not fit hidden_size {hidden_size}");
        return Err(fields.fault("num_attention_heads", reason));
    }
    Ok(dim)
}

/// The layers that don't rotate: those that `no_rope_layers` has a 0 for.
fn listed_nope_layers(
    fields: &Fields<'_>,
    traits: &Traits,
    num_layers: usize,
) -> Result<Vec<bool>, Malformed> {
    let Some(interval) = traits.nope_interval else {
        return Ok(vec![false; num_layers]);
    };
    let name = "no_rope_layers";
    let Some(list) = fields.get(name) else {
        let interval = fields.count("no_rope_layer_interval", usize::MAX)?.unwrap_or(interval);
        return Ok(nope_layers(Some(interval), num_layers));
    };
    let rotates = |value: &Value| value.as_u64().filter(|rotates| *rotates < 2);
    let list: Option<Vec<bool>> =
        list.as_array().and_then(|list| list.iter().map(|v| Some(rotates(v)? == 0)).collect());
    list.filter(|list| list.len() == num_layers).ok_or_else(|| {
        fields.fault(name, format!("must be a list of 0 or 1 for each of {num_layers} layers"))
    })
}

/// The attention window of each layer.
fn windows(
    fields: &Fields<'_>,
    traits: &Traits,
    nope_layers: &[bool],
) -> Result<Vec<Option<usize>>, Malformed> {
    let num_layers = nope_layers.len();
    let used = match traits.windows {
        Windows::None => false,
        Windows::All | Windows::AllBut(_) => true,
        Windows::From | Windows::AllIfUsed | Windows::Nope => {
            fields.flag("use_sliding_window")? == Some(true)
        }
    };
    let size = match used {
        false => None,
        // Version 0.1 of Mistral had a window and later ones say null.
        true if fields.has("sliding_window") => fields.count("sliding_window", usize::MAX)?,
        true => traits.defaults.sliding_window,
    };
    let first = match fields.get("max_window_layers") {
        _ if traits.windows != Windows::From => 0,
        // 0 is a valid number of layers without a window, which `count` does not take.
        Some(value) if value.as_u64() == Some(0) => 0,
        _ => fields.count("max_window_layers", usize::MAX)?.unwrap_or(28),
    };
    let interval = match traits.windows {
        // Gemma 2's class knows no other interval, and its files don't name one.
        Windows::AllBut(usual) => {
            fields.count("sliding_window_pattern", usize::MAX)?.unwrap_or(usual)
        }
        _ => 1,
    };
    let slides = |layer: usize| match traits.windows {
        Windows::None | Windows::All | Windows::AllIfUsed => true,
        Windows::From => layer >= first,
        Windows::Nope => nope_layers[layer],
        Windows::AllBut(_) => !(layer + 1).is_multiple_of(interval),
    };
    let by_rule = |layer: usize| size.filter(|_| slides(layer));
    let Some(types) = fields.texts("layer_types")? else {
        return Ok((0..num_layers).map(by_rule).collect());
    };
    if types.len() != num_layers {
        let reason = format!("lists {} layers of {num_layers}", types.len());
        return Err(fields.fault("layer_types", reason));
    }
    let listed = types.iter().map(|kind| match (*kind, size) {
        ("full_attention", _) => Ok(None),
        ("sliding_attention", Some(size)) => Ok(Some(size)),
        ("sliding_attention", None) => {
            Err(fields.fault("layer_types", "has a sliding layer, but there is no window"))
        }
        (other, _) => {
            let reason =
                format!("{other:?} is not supported (full_attention, sliding_attention are)");
            Err(fields.fault("layer_types", reason))
        }
    });
    let listed: Vec<Option<usize>> = listed.collect::<Result<_, _>>()?;
    // Some of transformers' classes do not read the list, so one that differs would not be computed.
    let unread = matches!(traits.windows, Windows::None | Windows::All | Windows::AllIfUsed);
    if unread && listed != (0..num_layers).map(by_rule).collect::<Vec<_>>() {
        let reason = format!("contradicts what {} computes", traits.name);
        return Err(fields.fault("layer_types", reason));
    }
    Ok(listed)
}

/// Old files have `rope_theta` and `rope_scaling`; since transformers 5 both are in `rope_parameters`.
fn rope_parameters<'a>(fields: &Fields<'a>) -> Result<Option<Fields<'a>>, Malformed> {
    match fields.object("rope_scaling", "rope_scaling.")? {
        Some(scaling) => Ok(Some(scaling)),
        None => fields.object("rope_parameters", "rope_parameters."),
    }
}

/// The rotation, and that of the layers with a window where it differs: one set of parameters for each
/// type of layer, or in old files the latter's base only.
fn ropes(
    fields: &Fields<'_>,
    traits: &Traits,
    trained: usize,
) -> Result<(RopeConfig, Option<RopeConfig>), Malformed> {
    let parameters = rope_parameters(fields)?;
    // Its class has YaRN where nothing is said; no published file says nothing.
    if traits.names == TensorNames::GptOss && parameters.is_none() {
        return Err(fields.fault("rope_scaling", "is missing"));
    }
    let theta = fields.number("rope_theta")?.unwrap_or(traits.defaults.rope_theta);
    if !traits.local_rope {
        return Ok((rope(fields, parameters.as_ref(), theta, traits, trained)?, None));
    }
    let local_theta = fields.number("rope_local_base_freq")?.unwrap_or(10_000.0);
    let types = match &parameters {
        Some(all) if all.has("full_attention") || all.has("sliding_attention") => (
            all.object("full_attention", "rope_parameters.full_attention.")?,
            all.object("sliding_attention", "rope_parameters.sliding_attention.")?,
        ),
        _ => (parameters, None),
    };
    let of_type = |parameters: Option<Fields<'_>>, theta| {
        rope(fields, parameters.as_ref(), theta, traits, trained)
    };
    Ok((of_type(types.0, theta)?, Some(of_type(types.1, local_theta)?)))
}

/// The rotation by `parameters`, whose base, if they have none, is `outer_theta`.
fn rope(
    fields: &Fields<'_>,
    parameters: Option<&Fields<'_>>,
    outer_theta: f64,
    traits: &Traits,
    trained: usize,
) -> Result<RopeConfig, Malformed> {
    let Some(parameters) = parameters else {
        return Ok(RopeConfig { theta: outer_theta, scaling: Scaling::None });
    };
    let part = parameters.number("partial_rotary_factor")?;
    if let Some(part) = part.filter(|part| *part != 1.0 && !traits.partial_rotary) {
        let reason = format!("{part} is not supported (whole heads are rotated)");
        return Err(parameters.fault("partial_rotary_factor", reason));
    }
    let nested = |name: &&str| parameters.get(name).is_some_and(Value::is_object);
    if let Some(name) = parameters.names().find(nested) {
        return Err(parameters.fault(name, "parameters per layer type are not supported"));
    }
    let theta = parameters.number("rope_theta")?.unwrap_or(outer_theta);
    let original = || -> Result<f64, Malformed> {
        let name = "original_max_position_embeddings";
        // The outer field wins over the inner one, and both over the trained length.
        let outer = fields.count(name, limits::CONTEXT)?;
        let inner = parameters.count(name, limits::CONTEXT)?;
        let outer = outer.or(traits.defaults.original_max_position_embeddings);
        Ok(outer.or(inner).unwrap_or(trained) as f64)
    };
    let kind_field = if parameters.get("rope_type").is_some() { "rope_type" } else { "type" };
    let scaling = match parameters.text(kind_field)?.unwrap_or("default") {
        "default" => Scaling::None,
        "linear" => Scaling::Linear { factor: parameters.required_number("factor")? },
        "dynamic" => {
            parameters.required_number("factor")?;
            Scaling::DynamicNtk
        }
        "llama3" => Scaling::Llama3 {
            factor: parameters.required_number("factor")?,
            low_freq_factor: parameters.required_number("low_freq_factor")?,
            high_freq_factor: parameters.required_number("high_freq_factor")?,
            original_context: original()?,
        },
        "longrope" => longrope(parameters, original()?, trained)?,
        // As Phi-3's first files have it.
        "su" if traits.model_type == "phi3" => longrope(parameters, original()?, trained)?,
        "yarn" => yarn(parameters, original()?, trained)?,
        other => {
            let reason = format!(
                "{other:?} is not supported (default, linear, dynamic, llama3, yarn, longrope are)"
            );
            return Err(parameters.fault(kind_field, reason));
        }
    };
    Ok(RopeConfig { theta, scaling })
}

fn longrope(
    parameters: &Fields<'_>,
    original_context: f64,
    trained: usize,
) -> Result<Scaling, Malformed> {
    let factor = parameters.number("factor")?.unwrap_or(trained as f64 / original_context);
    Ok(Scaling::LongRope {
        short_factors: parameters.required_numbers("short_factor")?,
        long_factors: parameters.required_numbers("long_factor")?,
        original_context,
        attention_factor: match parameters.number("attention_factor")? {
            Some(attention_factor) => attention_factor,
            None if factor <= 1.0 => 1.0,
            None => (1.0 + factor.ln() / original_context.ln()).sqrt(),
        },
    })
}

fn yarn(
    parameters: &Fields<'_>,
    original_context: f64,
    trained: usize,
) -> Result<Scaling, Malformed> {
    let factor = match parameters.number("factor")? {
        Some(factor) => factor,
        None => trained as f64 / original_context,
    };
    // Python's truth: 0 counts as not given.
    let given = |name: &str| -> Result<Option<f64>, Malformed> {
        Ok(parameters.number(name)?.filter(|value| *value != 0.0))
    };
    let attention_factor = match parameters.number("attention_factor")? {
        Some(attention_factor) => attention_factor,
        None => match (given("mscale")?, given("mscale_all_dim")?) {
            (Some(mscale), Some(all_dim)) => {
                yarn_mscale(factor, mscale) / yarn_mscale(factor, all_dim)
            }
            _ => yarn_mscale(factor, 1.0),
        },
    };
    Ok(Scaling::Yarn {
        factor,
        original_context,
        attention_factor,
        beta_fast: given("beta_fast")?.unwrap_or(32.0),
        beta_slow: given("beta_slow")?.unwrap_or(1.0),
        truncate: parameters.flag("truncate")?.unwrap_or(true),
    })
}

#[cfg(test)]
mod tests;
