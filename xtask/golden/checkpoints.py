"""The table of golden checkpoints: each row exists for one thing that a forward pass can get wrong."""

from dataclasses import dataclass, field

from vocabulary import END_OF_TEXT, IM_END, SIZE


@dataclass(frozen=True)
class Checkpoint:
    """One Hugging Face directory."""

    name: str
    about: str
    # What differs from `LLAMA` below in config.json.
    config: dict
    dtype: str = "bfloat16"
    shard_bytes: int | None = None
    template_in_config: bool = False
    pre: str = "gpt-2"
    # What it is to be loaded for, if not the whole context: LongRoPE goes by that.
    max_model_len: int | None = None


@dataclass(frozen=True)
class GgufCheckpoint:
    """One GGUF file. `formats` maps a tensor's name without layer number to its format."""

    name: str
    about: str
    config: dict
    default_format: str
    formats: dict[str, str] = field(default_factory=dict)
    pre: str = "gpt-2"
    max_model_len: int | None = None


# As files written before transformers 5 look: `rope_theta`, `rope_scaling`, `torch_dtype` at the top.
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "bos_token_id": END_OF_TEXT,
    "eos_token_id": IM_END,
    "hidden_act": "silu",
    "hidden_size": 32,
    "intermediate_size": 64,
    "max_position_embeddings": 256,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "vocab_size": SIZE,
}
MISTRAL = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
QWEN2 = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "rms_norm_eps": 1e-6}
QWEN3 = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "rms_norm_eps": 1e-6}
SMOLLM3 = {"architectures": ["SmolLM3ForCausalLM"], "model_type": "smollm3",
           "pad_token_id": END_OF_TEXT}
GRANITE = {"architectures": ["GraniteForCausalLM"], "model_type": "granite",
           "embedding_multiplier": 3.0, "residual_multiplier": 0.7, "attention_multiplier": 0.2,
           "logits_scaling": 2.0}
OLMO2 = {"architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2", "tie_word_embeddings": False}
GEMMA2 = {"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "head_dim": 16,
          "hidden_act": None, "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 16,
          "attn_logit_softcapping": 2.0, "final_logit_softcapping": 4.0, "sliding_window": 20,
          "tie_word_embeddings": None, "intermediate_size": 48}
GEMMA3 = GEMMA2 | {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text",
                   "attn_logit_softcapping": None, "final_logit_softcapping": None,
                   "rope_theta": 1000000.0, "rope_local_base_freq": 1000.0,
                   "rope_scaling": {"rope_type": "linear", "factor": 4.0}}
# As published: the text model's part says little, and names come before what they are of.
GEMMA3_MULTIMODAL = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "model_type": "gemma3",
    "eos_token_id": [IM_END],
    "mm_tokens_per_image": 4,
    "text_config": {
        "model_type": "gemma3_text", "hidden_size": 32, "intermediate_size": 32, "head_dim": 8,
        "num_hidden_layers": 6, "query_pre_attn_scalar": 12, "sliding_window": 20,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "vocab_size": SIZE,
    },
    "vision_config": {
        "model_type": "siglip_vision_model", "hidden_size": 8, "intermediate_size": 8,
        "image_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "patch_size": 8,
    },
}
# Two heads of values to one of keys, of widths that are no multiple of 16.
QWEN35 = {"architectures": ["Qwen3_5ForCausalLM"], "model_type": "qwen3_5_text",
          "rms_norm_eps": 1e-6, "head_dim": 16, "rope_theta": None,
          "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0,
                              "partial_rotary_factor": 0.5},
          "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
          "linear_value_head_dim": 12}
QWEN35_MULTIMODAL = {
    "architectures": ["Qwen3_5ForConditionalGeneration"],
    "model_type": "qwen3_5",
    "image_token_id": 3, "video_token_id": 4, "vision_start_token_id": 5, "vision_end_token_id": 6,
    "tie_word_embeddings": True,
    "text_config": {
        "model_type": "qwen3_5_text", "hidden_size": 32, "intermediate_size": 48, "head_dim": 16,
        "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 4,
        "max_position_embeddings": 256, "eos_token_id": IM_END, "attn_output_gate": True,
        "full_attention_interval": 4, "hidden_act": "silu", "mamba_ssm_dtype": "float32",
        "linear_num_key_heads": 1, "linear_num_value_heads": 2, "linear_key_head_dim": 16,
        "linear_value_head_dim": 16, "linear_conv_kernel_dim": 3, "mtp_num_hidden_layers": 1,
        "rms_norm_eps": 1e-6, "tie_word_embeddings": True, "vocab_size": SIZE,
        "rope_parameters": {"mrope_interleaved": True, "mrope_section": [1, 1, 0],
                            "partial_rotary_factor": 0.25, "rope_theta": 1000000,
                            "rope_type": "default"},
    },
    "vision_config": {
        "model_type": "qwen3_5", "depth": 1, "hidden_size": 8, "intermediate_size": 8,
        "num_heads": 2, "out_hidden_size": 32, "patch_size": 4, "num_position_embeddings": 16,
        "in_channels": 3, "spatial_merge_size": 2, "temporal_patch_size": 2,
    },
}
# Experts, and one that all tokens go through.
QWEN35_MOE = QWEN35 | {"architectures": ["Qwen3_5MoeForCausalLM"], "model_type": "qwen3_5_moe_text",
                       "intermediate_size": None, "num_experts": 4, "num_experts_per_tok": 2,
                       "moe_intermediate_size": 16, "shared_expert_intermediate_size": 24}
# As published before transformers 5.
QWEN3_NEXT = QWEN35_MOE | {"architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next",
                           "intermediate_size": 64, "rope_theta": 10000.0, "rope_parameters": None,
                           "partial_rotary_factor": 0.25, "decoder_sparse_step": 1,
                           "mlp_only_layers": [], "norm_topk_prob": True}
# What is run of them.
TEXT_MODELS = {"Gemma3ForConditionalGeneration": "Gemma3ForCausalLM",
               "Qwen3_5ForConditionalGeneration": "Qwen3_5ForCausalLM"}
QWEN3_MOE = {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "head_dim": 16,
             "num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 16,
             "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []}
MIXTRAL = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral",
           "num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 24}

# With a context of 48 and heads of 16, some frequencies lie above, some between and some below the
# two wavelengths of Llama 3's rule.
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 48,
}
PHI3 = {"architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "pad_token_id": END_OF_TEXT,
        "hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 1,
        "partial_rotary_factor": 0.75}


def longrope(original: int) -> dict:
    return {
        "original_max_position_embeddings": original,
        "rope_scaling": {
            "type": "longrope",
            "short_factor": [1.0, 1.1, 1.3, 1.6, 2.0, 2.5],
            "long_factor": [1.0, 1.5, 2.5, 5.0, 10.0, 20.0],
        },
    }


YARN_ROPE = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 48}

HUGGING_FACE = [
    Checkpoint(
        "llama-mha-f32",
        "as many KV heads as heads, an output matrix of its own, F32",
        {"num_key_value_heads": 4, "intermediate_size": 48, "tie_word_embeddings": False},
        dtype="float32",
    ),
    Checkpoint(
        "llama-gqa",
        "three heads to a KV head, tied embeddings",
        {"hidden_size": 48, "num_attention_heads": 6, "intermediate_size": 80},
    ),
    Checkpoint(
        "llama-bias",
        "attention_bias and mlp_bias",
        {"attention_bias": True, "mlp_bias": True},
    ),
    Checkpoint(
        "llama-head-dim",
        "heads wider together than the hidden state, one KV head for all",
        {"hidden_size": 48, "head_dim": 16, "num_key_value_heads": 1, "rope_theta": 500000.0},
    ),
    Checkpoint(
        "llama-odd-f16",
        "no size is a multiple of 16; three layers; F16",
        {
            "hidden_size": 36,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "intermediate_size": 52,
            "num_hidden_layers": 3,
        },
        dtype="float16",
    ),
    Checkpoint(
        "llama-sharded",
        "safetensors in shards with an index; the chat template in tokenizer_config.json",
        {"tie_word_embeddings": False},
        shard_bytes=24_000,
        template_in_config=True,
    ),
    Checkpoint(
        "llama-rope-linear",
        "linear RoPE scaling, spelt with the older key `type`",
        {"rope_scaling": {"type": "linear", "factor": 4.0}},
    ),
    Checkpoint(
        "llama-rope-dynamic",
        "dynamic RoPE scaling, which changes nothing up to max_position_embeddings",
        {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
    ),
    Checkpoint(
        "llama-rope-llama3",
        "Llama 3's RoPE scaling, with frequencies on all three sides of its rule",
        {"head_dim": 16, "rope_scaling": LLAMA3_ROPE},
    ),
    Checkpoint(
        "llama-rope-yarn",
        "YaRN in transformers 5's form (`rope_parameters`, `dtype`)",
        {
            "head_dim": 16,
            "rope_theta": None,
            "rope_parameters": {"rope_theta": 10000.0, "beta_fast": 16.0, **YARN_ROPE},
        },
    ),
    Checkpoint(
        "mistral-window",
        "every layer sees the last 24 tokens only",
        MISTRAL | {"sliding_window": 24, "tie_word_embeddings": False},
    ),
    Checkpoint(
        "qwen2",
        "biases on queries, keys and values; tied; more rows in the embedding than tokens",
        QWEN2 | {"vocab_size": SIZE + 16, "use_sliding_window": False, "sliding_window": 24,
                 "max_window_layers": 1},
        pre="qwen2",
    ),
    Checkpoint(
        "qwen2-window",
        "layers from max_window_layers on see the last 20 tokens only",
        QWEN2 | {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1,
                 "num_hidden_layers": 3, "intermediate_size": 48},
        pre="qwen2",
    ),
    Checkpoint(
        "qwen3",
        "norms on queries and keys; head_dim given; tied",
        QWEN3 | {"head_dim": 16, "rope_theta": 1000000.0},
        pre="qwen2",
    ),
    Checkpoint(
        "qwen3-yarn",
        "YaRN in the classic form; untied",
        QWEN3 | {"head_dim": 16, "tie_word_embeddings": False, "rope_scaling": YARN_ROPE},
        pre="qwen2",
    ),
    Checkpoint(
        "smollm3",
        "every second layer does not rotate and sees the last 20 tokens only",
        SMOLLM3 | {"num_hidden_layers": 3, "intermediate_size": 48, "no_rope_layers": [1, 0, 1],
                   "use_sliding_window": True, "sliding_window": 20},
    ),
    Checkpoint("granite", "multipliers of embeddings, residuals, scores and logits", GRANITE),
    Checkpoint("olmo2", "norms after the layers; one norm over all heads' queries, one over all keys",
               OLMO2 | {"intermediate_size": 48}),
    Checkpoint("phi3", "fused projections, a window, whole heads rotated",
               PHI3 | {"partial_rotary_factor": None, "sliding_window": 24, "hidden_size": 32,
                       "num_hidden_layers": 2}),
    Checkpoint("phi3-longrope-short", "within the context of pre-training; heads rotated in part",
               PHI3 | longrope(128), max_model_len=128),
    # Every prompt is longer than this original context, so that transformers too takes the long list.
    Checkpoint("phi3-longrope-long", "past the context of pre-training", PHI3 | longrope(4)),
    Checkpoint("gemma2", "caps of scores and logits; the first and third layers see 20 tokens only",
               GEMMA2 | {"query_pre_attn_scalar": 24, "num_hidden_layers": 3}),
    Checkpoint("gemma3", "norms of queries and keys; two rotations; two layers of three have a window",
               GEMMA3 | {"sliding_window_pattern": 3, "num_hidden_layers": 4,
                         "query_pre_attn_scalar": 24, "final_logit_softcapping": 4.0}),
    Checkpoint("gemma3-multimodal", "the text model of one that sees images, from its shards",
               GEMMA3_MULTIMODAL, shard_bytes=40_000),
    Checkpoint("qwen3-moe", "three experts of six, whose probabilities stay as they are",
               QWEN3_MOE | {"norm_topk_prob": False}),
    Checkpoint("mixtral", "two experts of four, whose probabilities add up to 1", MIXTRAL),
    Checkpoint("qwen35", "two gated delta nets around gated attention; biases; heads rotated in part",
               QWEN35 | {"num_hidden_layers": 3, "attention_bias": True, "intermediate_size": 48,
                         "layer_types": ["linear_attention", "full_attention", "linear_attention"]},
               pre="qwen2"),
    Checkpoint("qwen35-multimodal", "the text model of one that sees images, and guesses ahead",
               QWEN35_MULTIMODAL, shard_bytes=40_000, pre="qwen2"),
    Checkpoint("qwen35-moe", "experts in two tensors, and one that all tokens go through",
               QWEN35_MOE | {"layer_types": ["linear_attention", "full_attention"]}, pre="qwen2"),
    Checkpoint("qwen3-next", "projections fused by key heads; three layers of four by their number",
               QWEN3_NEXT | {"num_hidden_layers": 4, "num_attention_heads": 2,
                             "num_key_value_heads": 1, "moe_intermediate_size": 8}, pre="qwen2"),
]

# Rows of 64 are two groups of 32; one layer is enough to read them wrong.
CODED = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}


def compressed(form: str, **weights) -> dict:
    return {"quantization_config": {
        "quant_method": "compressed-tensors", "format": form, "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }}


# Shorter windows and a smaller YaRN than published; else as those.
GPT_OSS = {
    "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "attention_bias": True,
    "hidden_size": 64, "head_dim": 16, "intermediate_size": 32, "num_local_experts": 4,
    "num_experts_per_tok": 2, "experts_per_token": 2, "sliding_window": 20, "swiglu_limit": 7.0,
    "rope_theta": 150000.0, "tie_word_embeddings": False,
    "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0,
                     "truncate": False, "original_max_position_embeddings": 48},
    "layer_types": ["sliding_attention", "full_attention"],
}
HUGGING_FACE += [
    Checkpoint("gpt-oss", "experts in MXFP4, sinks, biases, a clamped SwiGLU, YaRN without truncation",
               GPT_OSS | {"quantization_config": {
                   "quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}}),
    Checkpoint("gpt-oss-bf16", "the experts in plain numbers, transposed",
               GPT_OSS | {"num_local_experts": 3, "intermediate_size": 24}),
    Checkpoint("qwen3-fp8-block", "FP8 with a scale for each block; no number of blocks is whole",
               QWEN3 | CODED | {"head_dim": 16, "quantization_config": {
                   "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
                   "weight_block_size": [24, 40], "modules_to_not_convert": ["lm_head", "k_proj"]}},
               pre="qwen2"),
    Checkpoint("llama-fp8-tensor", "FP8 with one scale for a tensor",
               CODED | {"quantization_config": {
                   "quant_method": "fp8", "activation_scheme": "static"}}),
    Checkpoint("phi3-fp8-channel", "FP8 with a scale for each row; fused projections",
               PHI3 | CODED | compressed("float-quantized", num_bits=8, type="float",
                                         strategy="channel", symmetric=True)),
    Checkpoint("phi3-awq", "AWQ; fused projections",
               PHI3 | CODED | {"quantization_config": {
                   "quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm",
                   "zero_point": True, "modules_to_not_convert": None}}),
    Checkpoint("qwen3-moe-awq", "experts in AWQ; one projection that is not quantised",
               QWEN3_MOE | CODED | {"moe_intermediate_size": 32, "num_experts": 4,
                                    "quantization_config": {
                   "quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm",
                   "zero_point": True, "modules_to_not_convert": ["o_proj"]}}),
    Checkpoint("llama-gptq-act-order", "GPTQ of 4 bits, its groups scattered over the columns",
               CODED | {"quantization_config": {
                   "quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True,
                   "sym": False}}, dtype="float16"),
    Checkpoint("qwen2-gptq-int8", "GPTQ of 8 bits, a scale for a row, biases",
               QWEN2 | CODED | {"quantization_config": {
                   "quant_method": "gptq", "bits": 8, "group_size": -1, "desc_act": False,
                   "sym": True}}, dtype="float16", pre="qwen2"),
    Checkpoint("llama-gptq-v2", "GPTQ's second format, which stores zeros as they are",
               CODED | {"quantization_config": {
                   "quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": False,
                   "sym": False, "checkpoint_format": "gptq_v2"}}, dtype="float16"),
    Checkpoint("llama-int4", "compressed-tensors of 4 bits, symmetric",
               CODED | compressed("pack-quantized", num_bits=4, type="int", strategy="group",
                                  group_size=32, symmetric=True)),
    Checkpoint("llama-int8-zeros", "compressed-tensors of 8 bits in words, with zeros",
               CODED | compressed("pack-quantized", num_bits=8, type="int", strategy="channel",
                                  symmetric=False)),
    Checkpoint("llama-int8", "compressed-tensors of 8 bits in bytes",
               CODED | compressed("int-quantized", num_bits=8, type="int", strategy="channel",
                                  symmetric=True)),
]

# Rows of 64 are two blocks of 32.
QUANTISED = {"hidden_size": 64, "intermediate_size": 96}
SMALL = QUANTISED | {"num_hidden_layers": 1}

GGUF = [
    GgufCheckpoint("gguf-llama-f32", "F32, tied, one KV head to a head",
                   {"num_key_value_heads": 4, "num_hidden_layers": 1}, "F32"),
    GgufCheckpoint("gguf-llama-f16", "F16, untied", {"tie_word_embeddings": False}, "F16"),
    GgufCheckpoint("gguf-llama-bf16", "BF16, linear RoPE scaling",
                   {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}, "BF16"),
    GgufCheckpoint("gguf-llama-q4_0", "Q4_0", QUANTISED, "Q4_0"),
    GgufCheckpoint("gguf-llama-q4_1", "Q4_1", SMALL, "Q4_1"),
    GgufCheckpoint("gguf-llama-q5_0", "Q5_0", SMALL, "Q5_0"),
    GgufCheckpoint("gguf-llama-q5_1", "Q5_1", SMALL, "Q5_1"),
    GgufCheckpoint("gguf-llama-q8_0", "Q8_0, Llama 3's RoPE factors as a tensor",
                   QUANTISED | {"rope_scaling": LLAMA3_ROPE}, "Q8_0"),
    GgufCheckpoint(
        "gguf-llama-k",
        "Q4_K, Q5_K and Q6_K in one file; heads narrower together than the hidden state",
        {"hidden_size": 256, "intermediate_size": 96, "num_hidden_layers": 1, "head_dim": 16},
        "Q4_K",
        {"attn_k": "Q5_K", "attn_v": "Q6_K", "attn_output": "Q8_0", "ffn_up": "Q5_K",
         "ffn_down": "Q5_1"},
    ),
    GgufCheckpoint(
        "gguf-qwen2",
        "biases, YaRN, an output matrix of its own, a mixture of formats",
        QWEN2 | QUANTISED | {"tie_word_embeddings": False, "rope_scaling": YARN_ROPE},
        "Q4_0",
        {"token_embd": "Q4_1", "output": "Q8_0", "attn_v": "Q5_1", "ffn_down": "F16"},
        pre="qwen2",
    ),
    GgufCheckpoint(
        "gguf-qwen3",
        "norms on queries and keys, head_dim given, Q8_0 beside BF16",
        QWEN3 | QUANTISED | {"head_dim": 32, "num_key_value_heads": 1, "intermediate_size": 64},
        "Q8_0",
        {"attn_v": "BF16", "token_embd": "Q5_0"},
        pre="qwen2",
    ),
    GgufCheckpoint(
        "gguf-qwen3-k",
        "Qwen3 in K formats: embedding Q6_K",
        QWEN3 | {"hidden_size": 256, "intermediate_size": 96, "num_hidden_layers": 1,
                 "head_dim": 64, "num_key_value_heads": 1},
        "Q4_K",
        {"token_embd": "Q6_K", "attn_q": "Q5_K", "attn_output": "Q6_K", "ffn_gate": "Q5_0",
         "ffn_down": "Q4_0"},
        pre="qwen2",
    ),
    GgufCheckpoint("gguf-smollm3", "the fourth layer does not rotate",
                   SMOLLM3 | {"num_hidden_layers": 4, "intermediate_size": 32}, "Q8_0"),
    GgufCheckpoint("gguf-granite", "multipliers, untied",
                   GRANITE | {"tie_word_embeddings": False}, "Q8_0"),
    GgufCheckpoint("gguf-olmo2", "norms after the layers", OLMO2, "Q8_0"),
    GgufCheckpoint("gguf-phi3-longrope-short", "fused projections; LongRoPE's lists as tensors",
                   PHI3 | longrope(128), "Q8_0", max_model_len=128),
    GgufCheckpoint("gguf-phi3-longrope-long", "the other list", PHI3 | longrope(4), "Q4_0"),
    GgufCheckpoint("gguf-gemma2", "caps; the first layer of two has a window", GEMMA2 |
                   {"intermediate_size": 32}, "Q8_0"),
    GgufCheckpoint("gguf-gemma3", "two rotations; five layers of six have a window", GEMMA3 |
                   {"intermediate_size": 32, "num_hidden_layers": 6, "num_attention_heads": 2,
                    "num_key_value_heads": 1}, "Q8_0"),
    GgufCheckpoint("gguf-qwen3moe", "experts in one tensor", QWEN3_MOE |
                   {"moe_intermediate_size": 32, "num_hidden_layers": 1}, "Q8_0",
                   {"ffn_gate_inp": "F32", "ffn_down_exps": "Q4_0"}),
    GgufCheckpoint("gguf-gpt-oss", "MXFP4, sinks, biases of experts", GPT_OSS, "Q8_0",
                   {"ffn_gate_inp": "F32", "ffn_gate_exps": "MXFP4", "ffn_up_exps": "MXFP4",
                    "ffn_down_exps": "MXFP4"}),
    GgufCheckpoint("gguf-qwen35", "heads of values in another order; a layer that guesses ahead",
                   QWEN35 | {"linear_value_head_dim": 8, "num_key_value_heads": 1,
                             "layer_types": ["linear_attention", "full_attention"]}, "Q8_0",
                   pre="qwen2"),
    GgufCheckpoint("gguf-qwen35moe", "the same with experts in one tensor and a shared one",
                   QWEN35_MOE | {"linear_value_head_dim": 8, "num_key_value_heads": 1,
                                 "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32,
                                 "layer_types": ["linear_attention", "full_attention"]}, "Q8_0",
                   pre="qwen2"),
    GgufCheckpoint("gguf-qwen3next", "a fused projection cut in two",
                   QWEN3_NEXT | {"linear_value_head_dim": 8, "num_key_value_heads": 1,
                                 "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32,
                                 "intermediate_size": 32, "num_hidden_layers": 4}, "Q8_0",
                   pre="qwen2"),
    GgufCheckpoint("gguf-mixtral", "a llama with experts", MIXTRAL | {"intermediate_size": 32}, "Q8_0",
                   {"ffn_gate_inp": "F32"}),
]
