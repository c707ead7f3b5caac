//! config.json: what is honoured, what is refused, and that nothing panics.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::config::QkNorm;

/// A small valid config.json.
fn base() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 172,
        "num_hidden_layers": 3, "num_attention_heads": 8, "num_key_value_heads": 4,
        "vocab_size": 512, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "rope_scaling": null, "hidden_act": "silu", "eos_token_id": 2
    })
}

/// [`base`] with some fields replaced.
fn with(fields: Value) -> Result<Config, Malformed> {
    let mut config = base();
    for (name, value) in fields.as_object().unwrap() {
        config[name] = value.clone();
    }
    parse(config.to_string().as_bytes())
}

/// The field that [`base`] with some fields replaced is refused for.
fn refused(fields: Value) -> String {
    with(fields).unwrap_err().field
}

#[test]
fn a_plain_llama() {
    let config = with(json!({})).unwrap();
    assert_eq!((config.head_dim, config.num_kv_heads, config.vocab_size), (8, 4, 512));
    assert_eq!(config.rope, RopeConfig { theta: 10_000.0, scaling: Scaling::None });
    assert_eq!(
        (config.qkv_bias, config.o_bias, config.mlp_bias),
        (Bias::Absent, Bias::Absent, Bias::Absent)
    );
    assert_eq!(config.tied, Some(false));
    assert_eq!(config.windows, [None; 3]);
    assert_eq!(config.eos_token_ids, [2]);
}

#[test]
fn options_of_llama() {
    let config = with(json!({"attention_bias": true, "mlp_bias": true, "head_dim": 20,
        "num_key_value_heads": null, "tie_word_embeddings": true, "eos_token_id": [1, 2]}))
    .unwrap();
    assert_eq!(
        (config.qkv_bias, config.o_bias, config.mlp_bias),
        (Bias::Present, Bias::Present, Bias::Present)
    );
    assert_eq!((config.head_dim, config.num_kv_heads), (20, 8));
    assert_eq!((config.tied, config.eos_token_ids), (Some(true), vec![1, 2]));
}

#[test]
fn the_class_defaults_of_each_architecture() {
    let mistral = with(json!({"architectures": ["MistralForCausalLM"]})).unwrap();
    assert_eq!(mistral.windows, [Some(4096); 3]);
    let mistral =
        with(json!({"architectures": ["MistralForCausalLM"], "sliding_window": null})).unwrap();
    assert_eq!(mistral.windows, [None; 3]);
    let qwen2 = with(json!({"architectures": ["Qwen2ForCausalLM"]})).unwrap();
    assert_eq!((qwen2.qkv_bias, qwen2.o_bias), (Bias::Present, Bias::Absent));
    let qwen3 = with(json!({"architectures": ["Qwen3ForCausalLM"]})).unwrap();
    assert_eq!((qwen3.head_dim, qwen3.qk_norm), (128, QkNorm::Heads));
    let by_type = with(json!({"architectures": null, "model_type": "qwen3", "head_dim": 8}));
    assert_eq!(by_type.unwrap().architecture, Architecture::Qwen3);
}

/// It used to be taken for `num_attention_heads` everywhere, which is another network.
#[test]
fn missing_key_value_heads_are_those_of_the_class() {
    let kv_heads = |architecture: &str, given: Option<Value>| {
        let mut config = base();
        config["architectures"] = json!([architecture]);
        (config["num_attention_heads"], config["head_dim"]) = (json!(64), json!(8));
        config.as_object_mut().unwrap().remove("num_key_value_heads");
        if let Some(given) = given {
            config["num_key_value_heads"] = given;
        }
        parse(config.to_string().as_bytes()).unwrap().num_kv_heads
    };
    let classes = [
        ("LlamaForCausalLM", 64),
        ("MistralForCausalLM", 8),
        ("Qwen2ForCausalLM", 32),
        ("Qwen3ForCausalLM", 32),
    ];
    for (architecture, default) in classes {
        assert_eq!(kv_heads(architecture, None), default, "{architecture}");
        assert_eq!(kv_heads(architecture, Some(Value::Null)), 64, "{architecture}");
        assert_eq!(kv_heads(architecture, Some(json!(16))), 16, "{architecture}");
    }
}

/// Each number is within its own limit, and a file of a few megabytes would have made gigabytes.
#[test]
fn products_that_no_file_pays_for_are_refused() {
    let tiny = |fields: Value| {
        let mut all = json!({"hidden_size": 2, "intermediate_size": 4, "num_attention_heads": 1,
            "num_key_value_heads": 1, "head_dim": 2, "vocab_size": 8});
        for (name, value) in fields.as_object().unwrap() {
            all[name] = value.clone();
        }
        with(all)
    };
    assert!(tiny(json!({})).is_ok());
    let wide = tiny(json!({"num_attention_heads": 4096, "head_dim": 4096})).unwrap_err();
    assert_eq!(wide.field, "num_attention_heads");
    assert_eq!(tiny(json!({"head_dim": 130})).unwrap_err().field, "num_attention_heads");
    assert!(tiny(json!({"head_dim": 128})).is_ok());
    assert_eq!(tiny(json!({"intermediate_size": 129})).unwrap_err().field, "intermediate_size");
    assert_eq!(tiny(json!({"vocab_size": 1 << 24})).unwrap_err().field, "vocab_size");
}

#[test]
fn the_windows_of_qwen() {
    let qwen = |fields: Value| {
        let mut all = json!({"architectures": ["Qwen2ForCausalLM"], "sliding_window": 16});
        for (name, value) in fields.as_object().unwrap() {
            all[name] = value.clone();
        }
        with(all)
    };
    assert_eq!(qwen(json!({})).unwrap().windows, [None; 3]);
    let on = qwen(json!({"use_sliding_window": true, "max_window_layers": 1})).unwrap();
    assert_eq!(on.windows, [None, Some(16), Some(16)]);
    let all = qwen(json!({"use_sliding_window": true, "max_window_layers": 0})).unwrap();
    assert_eq!(all.windows, [Some(16); 3]);
    let types = json!(["sliding_attention", "full_attention", "sliding_attention"]);
    let listed = qwen(json!({"use_sliding_window": true, "layer_types": types})).unwrap();
    assert_eq!(listed.windows, [Some(16), None, Some(16)]);
    assert!(qwen(json!({"layer_types": types})).is_err());
    assert!(qwen(json!({"layer_types": ["full_attention"]})).is_err());
    assert!(qwen(json!({"layer_types": ["a", "b", "c"]})).is_err());
    let llama = json!({"layer_types": ["full_attention", "full_attention", "full_attention"]});
    assert!(with(llama).is_ok());
}

#[test]
fn the_layers_of_smollm3() {
    let smollm3 = |fields: Value| {
        let mut all = json!({"architectures": ["SmolLM3ForCausalLM"], "sliding_window": 16});
        for (name, value) in fields.as_object().unwrap() {
            all[name] = value.clone();
        }
        with(all)
    };
    let config = smollm3(json!({})).unwrap();
    assert_eq!((config.tied, config.windows), (Some(true), vec![None; 3]));
    assert_eq!(config.nope_layers, [false; 3]);
    let each_second = smollm3(json!({"no_rope_layer_interval": 2})).unwrap();
    assert_eq!(each_second.nope_layers, [false, true, false]);
    let listed = json!({"no_rope_layers": [0, 1, 1], "use_sliding_window": true});
    let listed = smollm3(listed).unwrap();
    assert_eq!(listed.nope_layers, [true, false, false]);
    assert_eq!(listed.windows, [Some(16), None, None]);
    for wrong in [json!([1, 1]), json!([1, 2, 1]), json!(3)] {
        let fault = smollm3(json!({ "no_rope_layers": wrong })).unwrap_err();
        assert_eq!(fault.field, "no_rope_layers");
    }
    assert_eq!(refused(json!({"no_rope_layers": [1, 1, 1]})), "no_rope_layers");
}

#[test]
fn the_multipliers_of_granite() {
    let granite = |fields: Value| {
        let mut all = json!({"architectures": ["GraniteForCausalLM"], "logits_scaling": 8});
        for (name, value) in fields.as_object().unwrap() {
            all[name] = value.clone();
        }
        with(all)
    };
    let config = granite(json!({"embedding_multiplier": 12.0, "residual_multiplier": 0.25}));
    let config = config.unwrap();
    assert_eq!((config.embedding_multiplier, config.residual_multiplier), (12.0, 0.25));
    // Not 1 / sqrt(head_dim): what the class makes of a missing field is 1.
    assert_eq!((config.attention_multiplier, config.logits_scaling), (1.0, 8.0));
    for (name, wrong) in [("logits_scaling", 0.0), ("embedding_multiplier", 1e300)] {
        assert_eq!(granite(json!({ name: wrong })).unwrap_err().field, name);
        assert_eq!(refused(json!({ name: 2.0 })), name);
    }
}

#[test]
fn the_rotation_of_phi3() {
    let phi3 = |fields: Value| {
        let mut all = json!({"architectures": ["Phi3ForCausalLM"], "rope_scaling": {
            "type": "su", "short_factor": [1, 1], "long_factor": [2.0, 4.0]}});
        for (name, value) in fields.as_object().unwrap() {
            all[name] = value.clone();
        }
        with(all)
    };
    let config = phi3(json!({"partial_rotary_factor": 0.5,
        "original_max_position_embeddings": 256}));
    let config = config.unwrap();
    assert_eq!((config.head_dim, config.rotary_dim, config.max_model_len), (8, 4, 512));
    let want = Scaling::LongRope {
        short_factors: vec![1.0, 1.0],
        long_factors: vec![2.0, 4.0],
        original_context: 256.0,
        attention_factor: (1.0 + 1.0 / 8.0f64).sqrt(),
    };
    assert_eq!(config.rope.scaling, want);
    for wrong in [0.0, 0.1, 0.375, 1.5, -1.0] {
        let fault = phi3(json!({"partial_rotary_factor": wrong})).unwrap_err();
        assert_eq!(fault.field, "partial_rotary_factor");
    }
    let list = json!({"type": "longrope", "short_factor": [1, "x"], "long_factor": [1, 1]});
    let fault = phi3(json!({ "rope_scaling": list })).unwrap_err();
    assert_eq!(fault.field, "rope_scaling.short_factor");
}

fn gemma(class: &str, fields: Value) -> Result<Config, Malformed> {
    let mut all = json!({"architectures": [class], "hidden_act": null, "rope_theta": null});
    for (name, value) in fields.as_object().unwrap() {
        all[name] = value.clone();
    }
    with(all)
}

#[test]
fn the_options_of_gemma2() {
    let gemma = |fields: Value| gemma("Gemma2ForCausalLM", fields);
    let config = gemma(json!({})).unwrap();
    assert_eq!((config.embedding_multiplier, config.attention_multiplier), (8.0, 1.0 / 16.0));
    assert_eq!(config.attn_logit_softcapping, Some(50.0));
    assert_eq!(config.final_logit_softcapping, Some(30.0));
    assert_eq!(config.windows, [Some(4096), None, Some(4096)]);
    assert_eq!((config.head_dim, config.tied, config.local_rope), (256, Some(true), None));
    let uncapped = gemma(json!({"attn_logit_softcapping": null})).unwrap();
    assert_eq!(uncapped.attn_logit_softcapping, None);
    for (name, wrong) in [
        ("attn_logit_softcapping", json!(0.0)),
        ("query_pre_attn_scalar", json!(-1)),
        ("hidden_activation", json!("gelu")),
        ("use_bidirectional_attention", json!(true)),
    ] {
        assert_eq!(gemma(json!({ name: wrong })).unwrap_err().field, name);
    }
    assert_eq!(refused(json!({"final_logit_softcapping": 30.0})), "final_logit_softcapping");
}

#[test]
fn both_forms_of_gemma3s_rotations() {
    let gemma = |fields: Value| gemma("Gemma3ForCausalLM", fields);
    let scaled = json!({"rope_type": "linear", "factor": 8.0});
    let old = gemma(json!({"sliding_window_pattern": 2, "rope_local_base_freq": 5e3,
        "rope_scaling": scaled}));
    let old = old.unwrap();
    assert_eq!(old.rope, RopeConfig { theta: 1e6, scaling: Scaling::Linear { factor: 8.0 } });
    assert_eq!(old.local_rope, Some(RopeConfig { theta: 5e3, scaling: Scaling::None }));
    assert_eq!((old.max_model_len, old.qk_norm), (512, QkNorm::Heads));
    assert_eq!(old.windows, [Some(4096), None, Some(4096)]);
    let new = gemma(json!({"sliding_window_pattern": 2, "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 5e3}}}));
    assert_eq!(new.unwrap(), old);
    let fault = gemma(json!({"rope_parameters": {
        "sliding_attention": {"partial_rotary_factor": 0.5}}}));
    let field = "rope_parameters.sliding_attention.partial_rotary_factor";
    assert_eq!(fault.unwrap_err().field, field);
    let fault = gemma(json!({"rope_parameters": {
        "full_attention": {"rope_type": "linear"}}}));
    assert_eq!(fault.unwrap_err().field, "rope_parameters.full_attention.factor");
    let fault = gemma(json!({"attn_logit_softcapping": 50.0})).unwrap_err();
    assert_eq!(fault.field, "attn_logit_softcapping");
}

#[test]
fn the_text_model_of_a_gemma3_that_sees_images() {
    let gemma = |text: Value| {
        let all = json!({"architectures": ["Gemma3ForConditionalGeneration"],
            "eos_token_id": [1, 106], "text_config": text, "vision_config": {}});
        parse(all.to_string().as_bytes())
    };
    // Gemma 3 4B's says no more.
    let config = gemma(json!({"hidden_size": 2560, "intermediate_size": 10240,
        "num_hidden_layers": 34, "sliding_window": 1024}));
    let config = config.unwrap();
    assert!(config.multimodal && config.architecture == Architecture::Gemma3);
    assert_eq!((config.num_heads, config.num_kv_heads, config.head_dim), (8, 4, 256));
    assert_eq!((config.vocab_size, config.max_model_len), (262_208, 131_072));
    assert_eq!(config.eos_token_ids, [1, 106]);
    assert_eq!(gemma(Value::Null).unwrap_err().field, "text_config");
    assert_eq!(gemma(json!({"hidden_size": 0})).unwrap_err().field, "text_config.hidden_size");
    let refused = gemma(json!({"compression_config": {}, "attn_logit_softcapping": 5.0}));
    assert_eq!(refused.unwrap_err().field, "text_config.compression_config");
}

#[test]
fn gpt_oss() {
    let yarn = json!({"rope_type": "yarn", "factor": 32.0, "truncate": false,
                      "original_max_position_embeddings": 4096});
    let with = |name: &str, value: Value| {
        let mut all = json!({
            "architectures": ["GptOssForCausalLM"], "hidden_size": 64, "intermediate_size": 64,
            "num_hidden_layers": 3, "rope_scaling": yarn.clone(),
        });
        all[name] = value;
        parse(all.to_string().as_bytes())
    };
    let config = with("swiglu_limit", json!(7.0)).unwrap();
    assert_eq!(config.windows, [Some(128), None, Some(128)]);
    assert_eq!((config.num_heads, config.num_kv_heads, config.head_dim), (64, 8, 64));
    assert_eq!((config.qkv_bias, config.o_bias), (Bias::Present, Bias::Present));
    assert_eq!(config.max_model_len, 131_072);
    for (name, value) in [
        ("swiglu_limit", json!(6.0)),
        ("swiglu_alpha", json!(1.0)),
        ("rope_scaling", Value::Null),
        ("hidden_act", json!("gelu")),
    ] {
        assert_eq!(with(name, value).unwrap_err().field, name);
    }
}

#[test]
fn layers_of_linear_attention() {
    let qwen = |fields: Value| {
        let mut all = json!({"architectures": ["Qwen3_5ForCausalLM"], "num_hidden_layers": 5,
            "linear_num_key_heads": 2, "linear_num_value_heads": 6, "linear_key_head_dim": 32});
        for (name, value) in fields.as_object().unwrap() {
            all[name] = value.clone();
        }
        with(all)
    };
    let config = qwen(json!({"attn_output_gate": true})).unwrap();
    assert_eq!((config.head_dim, config.rotary_dim, config.qk_norm), (256, 64, QkNorm::Heads));
    let linear = LinearAttentionConfig {
        key_heads: 2,
        value_heads: 6,
        key_dim: 32,
        value_dim: 128,
        taps: 4,
        order: HeadOrder::Grouped,
        layers: vec![true, true, true, false, true],
    };
    assert_eq!(config.linear_attention, Some(linear.clone()));
    assert_eq!(config.windows, [None; 5]);
    let every_second = qwen(json!({"full_attention_interval": 2, "linear_conv_kernel_dim": 3,
        "rope_parameters": {"partial_rotary_factor": 0.5, "rope_theta": 1e6,
            "mrope_section": [11, 11, 10]}}));
    let every_second = every_second.unwrap();
    let layers = vec![true, false, true, false, true];
    assert_eq!(
        every_second.linear_attention,
        Some(LinearAttentionConfig { layers, taps: 3, ..linear })
    );
    assert_eq!((every_second.rotary_dim, every_second.rope.theta), (128, 1e6));
    let listed = json!({"layer_types": ["full_attention", "linear_attention", "full_attention",
        "full_attention", "linear_attention"]});
    let layers = qwen(listed).unwrap().linear_attention.unwrap().layers;
    assert_eq!(layers, [false, true, false, false, true]);

    let field = |fields| qwen(fields).unwrap_err().field;
    assert_eq!(field(json!({"layer_types": ["full_attention"]})), "layer_types");
    assert_eq!(field(json!({"layer_types": vec!["sliding_attention"; 5]})), "layer_types");
    assert_eq!(field(json!({"attn_output_gate": false})), "attn_output_gate");
    assert_eq!(field(json!({"linear_num_value_heads": 5})), "linear_num_value_heads");
    assert_eq!(field(json!({"linear_num_value_heads": 60})), "linear_num_value_heads");
    assert_eq!(field(json!({"linear_conv_kernel_dim": 9})), "linear_conv_kernel_dim");
    assert_eq!(refused(json!({"linear_num_value_heads": 2})), "linear_num_value_heads");
    assert_eq!(refused(json!({"layer_types": vec!["linear_attention"; 3]})), "layer_types");
}

#[test]
fn the_text_models_of_qwens_that_see_images() {
    let qwen = |class: &str, tied: Value, inner_tied: Value| {
        let all = json!({"architectures": [class], "tie_word_embeddings": tied, "text_config": {
            "hidden_size": 1024, "intermediate_size": 3584, "num_hidden_layers": 24,
            "moe_intermediate_size": 512, "tie_word_embeddings": inner_tied,
            "linear_num_value_heads": 16, "eos_token_id": 7}});
        parse(all.to_string().as_bytes())
    };
    let dense = "Qwen3_5ForConditionalGeneration";
    let config = qwen(dense, json!(true), json!(true)).unwrap();
    assert!(config.multimodal && config.architecture == Architecture::Qwen35);
    assert_eq!((config.vocab_size, config.eos_token_ids), (248_320, vec![7]));
    for (outer, inner, tied) in [(true, true, true), (true, false, false), (false, true, true)] {
        let config = qwen(dense, json!(outer), json!(inner)).unwrap();
        assert_eq!(config.tied, Some(tied), "the text model's own word counts");
    }
    let moe = qwen("Qwen3_5MoeForConditionalGeneration", json!(false), Value::Null).unwrap();
    assert_eq!(moe.architecture, Architecture::Qwen35Moe);
    let experts = ExpertsConfig {
        num_experts: 256,
        num_experts_per_tok: 8,
        norm_topk_prob: true,
        shared_intermediate_size: Some(512),
    };
    assert_eq!((moe.experts, moe.intermediate_size), (Some(experts), 512));
}

#[test]
fn mixtures_of_experts() {
    let moe = |class: &str, fields: Value| {
        let mut all = json!({"architectures": [class], "moe_intermediate_size": 32});
        for (name, value) in fields.as_object().unwrap() {
            all[name] = value.clone();
        }
        with(all)
    };
    let of = |num_experts, num_experts_per_tok, norm_topk_prob| {
        Some(ExpertsConfig {
            num_experts,
            num_experts_per_tok,
            norm_topk_prob,
            shared_intermediate_size: None,
        })
    };
    let mixtral = moe("MixtralForCausalLM", json!({})).unwrap();
    assert_eq!((mixtral.experts, mixtral.intermediate_size), (of(8, 2, true), 172));
    let qwen = |fields: Value| moe("Qwen3MoeForCausalLM", fields);
    let config = qwen(json!({"sliding_window": 16, "use_sliding_window": true})).unwrap();
    assert_eq!((config.experts, config.intermediate_size), (of(128, 8, false), 32));
    assert_eq!((config.windows, config.head_dim), (vec![Some(16); 3], 8));
    let few =
        qwen(json!({"num_local_experts": 6, "num_experts_per_tok": 6, "norm_topk_prob": true}));
    assert_eq!(few.unwrap().experts, of(6, 6, true));
    for (name, wrong) in [
        ("num_experts", json!(1 << 20)),
        ("num_experts_per_tok", json!(129)),
        ("num_experts_per_tok", json!(0)),
        ("decoder_sparse_step", json!(2)),
        ("mlp_only_layers", json!([1])),
    ] {
        assert_eq!(qwen(json!({ name: wrong })).unwrap_err().field, name);
    }
    assert_eq!(refused(json!({"num_experts": 8})), "num_experts");
}

#[test]
fn both_places_of_the_rope_parameters() {
    let new = with(json!({"rope_theta": null,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}));
    assert_eq!(new.unwrap().rope, RopeConfig { theta: 5e5, scaling: Scaling::None });
    let old = with(json!({"rope_scaling": {"type": "linear", "factor": 2}})).unwrap();
    assert_eq!(old.rope.scaling, Scaling::Linear { factor: 2.0 });
    assert_eq!(old.max_model_len, 1024);
    let dynamic = with(json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}})).unwrap();
    assert_eq!((dynamic.rope.scaling, dynamic.max_model_len), (Scaling::DynamicNtk, 512));
}

#[test]
fn llama3_and_yarn() {
    let llama3 = with(json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}}));
    let want = Scaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context: 64.0,
    };
    assert_eq!(llama3.unwrap().rope.scaling, want);
    let yarn = with(json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0,
        "original_max_position_embeddings": 128}}))
    .unwrap();
    assert_eq!(yarn.max_model_len, 512);
    let Scaling::Yarn { attention_factor, beta_fast, beta_slow, truncate, .. } = yarn.rope.scaling
    else {
        panic!("{:?}", yarn.rope)
    };
    assert!((attention_factor - (0.1 * 4f64.ln() + 1.0)).abs() < 1e-12);
    assert_eq!((beta_fast, beta_slow, truncate), (32.0, 1.0, true));
}

#[test]
fn what_is_not_supported_is_named() {
    assert_eq!(refused(json!({"architectures": ["PhiForCausalLM"]})), "architectures");
    assert_eq!(refused(json!({"architectures": []})), "architectures");
    assert_eq!(refused(json!({"hidden_act": "gelu"})), "hidden_act");
    assert_eq!(
        refused(json!({"quantization_config": {"bits": 4}})),
        "quantization_config.quant_method"
    );
    assert_eq!(refused(json!({"quantization_config": {}})), "quantization_config");
    assert_eq!(refused(json!({"partial_rotary_factor": 0.5})), "partial_rotary_factor");
    assert_eq!(
        refused(json!({"rope_scaling": {"rope_type": "longrope"}})),
        "rope_scaling.short_factor"
    );
    assert_eq!(refused(json!({"rope_scaling": {"type": "su"}})), "rope_scaling.type");
    assert_eq!(
        refused(json!({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}})),
        "rope_parameters.full_attention"
    );
}

#[test]
fn wrong_values_are_named() {
    assert_eq!(refused(json!({"hidden_size": null})), "hidden_size");
    assert_eq!(refused(json!({"hidden_size": 0})), "hidden_size");
    assert_eq!(refused(json!({"hidden_size": -1})), "hidden_size");
    assert_eq!(refused(json!({"hidden_size": 1e30})), "hidden_size");
    assert_eq!(refused(json!({"hidden_size": "64"})), "hidden_size");
    assert_eq!(refused(json!({"num_hidden_layers": u64::MAX})), "num_hidden_layers");
    assert_eq!(refused(json!({"num_attention_heads": 7})), "num_attention_heads");
    assert_eq!(refused(json!({"num_key_value_heads": 3})), "num_key_value_heads");
    assert_eq!(refused(json!({"head_dim": 7})), "head_dim");
    assert_eq!(refused(json!({"vocab_size": 1u64 << 40})), "vocab_size");
    assert_eq!(refused(json!({"rms_norm_eps": -1.0})), "rms_norm_eps");
    assert_eq!(refused(json!({"rope_theta": 0.0})), "rope_theta");
    assert_eq!(refused(json!({"eos_token_id": "x"})), "eos_token_id");
    assert_eq!(refused(json!({"tie_word_embeddings": 1})), "tie_word_embeddings");
    assert_eq!(refused(json!({"rope_scaling": {"type": "linear"}})), "rope_scaling.factor");
    assert_eq!(refused(json!({"rope_scaling": {"type": "linear", "factor": 0}})), "rope factor");
    assert_eq!(refused(json!({"rope_scaling": 3})), "rope_scaling");
    assert_eq!(
        refused(json!({"rope_scaling": {"type": "linear", "factor": 1e30}})),
        "max_position_embeddings"
    );
    assert!(parse(b"").is_err());
    assert!(parse(b"[]").is_err());
    assert!(parse("[".repeat(100_000).as_bytes()).is_err());
}

/// Any JSON value a field could hold.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z_]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::hash_map("[a-z_]{1,8}", inner, 0..4)
                .prop_map(|map| map.into_iter().collect()),
        ]
    })
}

proptest! {
    #[test]
    fn any_bytes_give_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn any_value_in_any_field_gives_an_answer(
        field in prop::sample::select(vec![
            "architectures", "model_type", "hidden_size", "num_hidden_layers", "rope_theta",
            "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size", "rope_scaling",
            "rope_parameters", "max_position_embeddings", "rms_norm_eps", "eos_token_id",
            "sliding_window", "layer_types", "max_window_layers", "tie_word_embeddings",
            "no_rope_layers", "no_rope_layer_interval", "embedding_multiplier", "logits_scaling",
            "attn_logit_softcapping", "query_pre_attn_scalar", "sliding_window_pattern",
            "num_experts", "num_experts_per_tok", "mlp_only_layers", "moe_intermediate_size",
        ]),
        value in any_json(),
    ) {
        for architecture in Architecture::ALL {
            let _ = with(json!({ "architectures": [architecture.name()], field: value }));
        }
    }

    #[test]
    fn any_rope_numbers_give_finite_frequencies_or_an_error(
        kind in prop::sample::select(vec!["default", "linear", "dynamic", "llama3", "yarn", "longrope"]),
        theta in any::<f64>(), factor in any::<f64>(), low in any::<f64>(), high in any::<f64>(),
        original in 0u64..1_000_000,
    ) {
        let parsed = with(json!({"rope_theta": theta, "rope_scaling": {
            "rope_type": kind, "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
            "original_max_position_embeddings": original, "beta_fast": low, "beta_slow": high,
            "short_factor": [low, 1, high, theta], "long_factor": [1, 1, 1, factor]}}));
        if let Ok(config) = parsed {
            let _ = crate::rope::Rope::new(&config.rope, config.rotary_dim, 4096);
        }
    }
}
