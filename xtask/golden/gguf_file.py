"""The GGUF form of a checkpoint: names, quantised blocks and metadata as llama.cpp's converter has them."""

import json
import math

import gguf
import numpy as np
import torch

import gguf_hybrid
from vocabulary import CHAT_TEMPLATE, END_OF_TEXT, IM_END, SPECIALS

LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "mlp.experts.gate_proj": "ffn_gate_exps",
    "mlp.experts.up_proj": "ffn_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps",
    # Gate and up together.
    "mlp.gate_up_proj": "ffn_up",
}
# What stands before the feed-forward layer in llama comes after attention here.
POST_NORM_NAMES = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
# gpt-oss: the norm's name, but not its place.
GPT_OSS_NAMES = {"post_attention_layernorm": "post_attention_norm", "mlp.router": "ffn_gate_inp"}
POST_NORMS = ("olmo2", "gemma2", "gemma3_text")
# Those whose queries and keys the converter permutes, and whose shape it writes as llama's.
LLAMAS = ("llama", "smollm3", "granite", "mixtral")
# llama.cpp's name, where it is not the `model_type`.
ARCHITECTURES = {"gpt_oss": "gpt-oss", "gemma3_text": "gemma3", "qwen3_moe": "qwen3moe",
                 "mixtral": "llama", **gguf_hybrid.ARCHITECTURES}
TOP_NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}

# `general.file_type` is a hint for people; mixtures have no number of their own.
FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9,
              "Q4_K": 15, "BF16": 32}


def gguf_name(name: str, model_type: str) -> tuple[str, str]:
    """(name in the file, the same without its layer number and kind)."""
    if name.endswith(".sinks"):
        layer = name.split(".")[2]
        return f"blk.{layer}.attn_sinks.weight", "attn_sinks"
    if own := gguf_hybrid.own_name(name):
        return own
    stem, kind = name.rsplit(".", 1)
    if stem in TOP_NAMES:
        return f"{TOP_NAMES[stem]}.{kind}", TOP_NAMES[stem]
    _, _, layer, inner = stem.split(".", 3)
    names = LAYER_NAMES
    if model_type in POST_NORMS:
        names = names | POST_NORM_NAMES
    if model_type == "gpt_oss":
        names = names | GPT_OSS_NAMES
    if model_type in gguf_hybrid.HYBRIDS:
        names = names | gguf_hybrid.LAYER_NAMES
    return f"blk.{layer}.{names[inner]}.{kind}", names[inner]


def encode(values: np.ndarray, name: str, random: np.random.Generator) -> np.ndarray:
    """`values` in the format called `name`, as bytes `[rows, bytes of a row]`.

    K formats are drawn at random with the spread of `values`: the package has no quantiser for them.
    """
    kind = gguf.GGMLQuantizationType[name]
    if name not in ("Q4_K", "Q5_K", "Q6_K"):
        if name in ("F32", "F16"):
            values = values.astype(np.float16 if name == "F16" else np.float32)
            return values.view(np.uint8).reshape(values.shape[0], -1)
        encoded = gguf.quants.quantize(values, kind)
        return encoded.view(np.uint8).reshape(values.shape[0], -1)
    rows, columns = values.shape
    blocks = rows * columns // 256
    draw = random_q6_k if name == "Q6_K" else random_q45_k
    encoded = draw(blocks, float(values.std()), name, random)
    return encoded.reshape(rows, -1)


def half(values: np.ndarray) -> np.ndarray:
    """`[n]` floats as `[n, 2]` bytes of float16."""
    return values.astype("<f2").view(np.uint8).reshape(-1, 2)


def random_q45_k(blocks: int, spread: float, name: str, random) -> np.ndarray:
    """Blocks of `d, dmin, 12 bytes of 6-bit scales and minima, [high bits], low nibbles`.

    A weight is `d * scale * q - dmin * minimum`. With minima near the scales and `dmin` half the range
    of `q` times `d`, it is about symmetric around zero.
    """
    top = 31 if name == "Q5_K" else 15
    d = spread / (32 * top * 0.3) * random.uniform(0.8, 1.2, blocks)
    dmin = d * top / 2
    scale = random.integers(16, 48, (blocks, 8), dtype=np.uint8)
    minimum = (scale.astype(np.int64) + random.integers(-6, 7, (blocks, 8))).astype(np.uint8)
    packed = np.concatenate([
        (scale[:, :4] & 63) | ((scale[:, 4:] >> 4) << 6),
        (minimum[:, :4] & 63) | ((minimum[:, 4:] >> 4) << 6),
        (scale[:, 4:] & 15) | ((minimum[:, 4:] & 15) << 4),
    ], axis=1)
    weights = random.integers(0, 256, (blocks, 160 if name == "Q5_K" else 128), dtype=np.uint8)
    return np.concatenate([half(d), half(dmin), packed, weights], axis=1)


def random_q6_k(blocks: int, spread: float, _name: str, random) -> np.ndarray:
    """Blocks of `low nibbles, high bit pairs, 16 signed scales, d`: weights `d * scale * (q - 32)`."""
    weights = random.integers(0, 256, (blocks, 192), dtype=np.uint8)
    sign = random.choice(np.array([-1, 1]), (blocks, 16))
    scale = (sign * random.integers(30, 110, (blocks, 16))).astype(np.int8).view(np.uint8)
    d = spread / (70 * 18.5) * random.uniform(0.8, 1.2, blocks)
    return np.concatenate([weights, scale, half(d)], axis=1)


def interleave_rows(heads: int, rows: int) -> np.ndarray:
    """Which row of a query or key matrix stands in each row of a GGUF file of one of LLAMAS.

    transformers rotates dimension i with i + d/2, llama.cpp's "llama" 2i with 2i + 1: the file holds
    the rows of each head in that order.
    """
    width = rows // heads
    within = np.arange(width).reshape(2, width // 2).T.reshape(-1)
    return (np.arange(heads)[:, None] * width + within).reshape(-1)


def quantise(checkpoint, config, state: dict, seed: int):
    """(tensors of the file by name: (bytes, format), the state that the reference computes with)."""
    random = np.random.default_rng(seed + 2)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    tensors, dequantised = {}, {}
    hybrid = config.model_type in gguf_hybrid.HYBRIDS
    for name, tensor in state.items():
        stored, stem = gguf_name(name, config.model_type)
        values = tensor.numpy()
        # Norms and biases are vectors: converters keep them in F32.
        vector = values.ndim == 1 or name.endswith(".bias") or (hybrid and stem in gguf_hybrid.VECTORS)
        kind = "F32" if vector else checkpoint.formats.get(stem, checkpoint.default_format)
        if hybrid:
            tensors |= hybrid_tensors(config, stored, stem, values, kind, dequantised, name, random)
            continue
        rows = encode(values.reshape(-1, values.shape[-1]) if values.ndim == 3 else
                      values.reshape(values.shape[0], -1), kind, random)
        plain = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[kind])
        dequantised[name] = torch.from_numpy(plain.astype(np.float32).reshape(values.shape))
        if config.model_type.startswith("gemma") and stem.endswith("norm"):
            rows = (rows.view(np.float32) + np.float32(1.0)).view(np.uint8)
        if config.model_type in LLAMAS and stem in heads:
            rows = rows[interleave_rows(heads[stem], rows.shape[0])]
        tensors[stored] = (rows, kind, values.shape[:-1])
    return tensors, dequantised


def hybrid_tensors(config, stored, stem, values, kind, dequantised: dict, name, random) -> dict:
    """As the loop of `quantise` does it, of a tensor of one of HYBRIDS."""
    matrix = values.reshape(-1, values.shape[-1]) if values.ndim > 1 else values.reshape(-1, 1)
    columns = gguf_hybrid.columns(config, stem)
    if columns is not None:
        matrix = matrix[:, columns]
    rows = encode(matrix, kind, random)
    plain = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[kind]).astype(np.float32)
    if columns is not None:
        plain = plain[:, np.argsort(columns)]
    dequantised[name] = torch.from_numpy(plain.reshape(values.shape))
    if stem == "ssm_a":
        rows = (-np.exp(rows.view(np.float32))).view(np.uint8)
    if stem.endswith("norm") and stem != "ssm_norm":
        rows = (rows.view(np.float32) + np.float32(1.0)).view(np.uint8)
    outer = values.shape[:-1]
    if stem in ("ssm_conv1d", "ffn_gate_inp_shexp"):
        outer = tuple(length for length in outer if length != 1)
    parts = gguf_hybrid.rows(config, stem)
    if parts is None:
        return {stored: (rows, kind, outer)}
    of = (lambda order: (len(order),)) if values.ndim > 1 else (lambda order: ())
    return {stored.replace(stem, part): (rows[order], kind, of(order))
            for part, order in parts.items()}


def write(path, checkpoint, config, tensors: dict, tokenizer) -> None:
    writer = gguf.GGUFWriter(path, ARCHITECTURES.get(config.model_type, config.model_type))
    write_shape(writer, checkpoint, config)
    write_rope(writer, config)
    write_vocabulary(writer, tokenizer, checkpoint.pre, config.vocab_size)
    for name, (rows, kind, outer) in tensors.items():
        quantisation = gguf.GGMLQuantizationType[kind]
        if kind == "F32":
            rows = rows.view(np.float32)
        elif kind == "F16":
            rows = rows.view(np.float16)
        writer.add_tensor(name, rows.reshape(*outer, -1), raw_dtype=quantisation)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_shape(writer, checkpoint, config) -> None:
    writer.add_name(checkpoint.name)
    writer.add_type("model")
    writer.add_file_type(FILE_TYPES[checkpoint.default_format])
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    if hasattr(config, "intermediate_size"):
        writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers + gguf_hybrid.extra_layers(config))
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    # Written only where it does not follow from the rest, as converters do.
    if width * config.num_attention_heads != config.hidden_size or config.model_type in (
            "qwen3", "qwen3_moe", "gemma2", "gemma3_text", "gpt_oss", *gguf_hybrid.HYBRIDS):
        writer.add_key_length(width)
        writer.add_value_length(width)
    if config.model_type in LLAMAS:
        writer.add_rope_dimension_count(width)
        writer.add_vocab_size(config.vocab_size)
    if config.model_type in ("qwen3_moe", "mixtral", "gpt_oss"):
        writer.add_expert_count(config.num_local_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
    if config.model_type == "qwen3_moe":
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    if config.model_type == "gpt_oss":
        writer.add_expert_feed_forward_length(config.intermediate_size)
        writer.add_sliding_window(config.sliding_window)
    if config.model_type == "phi3":
        writer.add_rope_dimension_count(int(width * config.rope_parameters["partial_rotary_factor"]))
        writer.add_sliding_window(config.sliding_window or 0)
    if config.model_type.startswith("gemma"):
        writer.add_sliding_window(config.sliding_window)
        if config.attn_logit_softcapping is not None:
            writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        if config.final_logit_softcapping is not None:
            writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if config.model_type in gguf_hybrid.HYBRIDS:
        gguf_hybrid.write_shape(writer, config)
    if config.model_type == "granite":
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_logit_scale(config.logits_scaling)


def write_rope(writer, config) -> None:
    rope = config.rope_parameters
    if "full_attention" in rope:
        writer.add_rope_freq_base_swa(rope["sliding_attention"]["rope_theta"])
        rope = rope["full_attention"]
    writer.add_rope_freq_base(rope["rope_theta"])
    match rope["rope_type"]:
        case "default":
            pass
        case "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(rope["factor"])
        case "yarn":
            writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
            writer.add_rope_scaling_factor(rope["factor"])
            writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        case "longrope":
            original = rope["original_max_position_embeddings"]
            scale = config.max_position_embeddings / original
            writer.add_rope_scaling_orig_ctx_len(original)
            writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(scale) / math.log(original)))
            for kind in ("long", "short"):
                factors = np.array(rope[f"{kind}_factor"], dtype=np.float32)
                writer.add_tensor(f"rope_factors_{kind}.weight", factors)
        case "llama3":
            writer.add_tensor("rope_freqs.weight", llama3_factors(config, rope))
        case other:
            raise ValueError(f"GGUF has no RoPE scaling {other!r}")


def llama3_factors(config, rope) -> np.ndarray:
    """What each frequency is divided by, `[head_dim / 2]`: the file has this instead of the rule."""
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    context = rope["original_max_position_embeddings"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    factors = []
    for i in range(0, width, 2):
        turns = context * rope["rope_theta"] ** (-i / width) / (2 * math.pi)
        keep = min(max((turns - low) / (high - low), 0.0), 1.0)
        factors.append(1.0 / (keep + (1.0 - keep) / rope["factor"]))
    return np.array(factors, dtype=np.float32)


def write_vocabulary(writer, tokenizer, pre: str, rows: int) -> None:
    tokenizer_json = json.loads(tokenizer.to_str())
    by_id = {i: token for token, i in tokenizer.get_vocab().items()}
    tokens = [by_id.get(i, f"[PAD{i}]") for i in range(rows)]
    control, unused, normal = gguf.TokenType.CONTROL, gguf.TokenType.UNUSED, gguf.TokenType.NORMAL
    types = [
        unused if i not in by_id else control if token in SPECIALS else normal
        for i, token in enumerate(tokens)
    ]
    merges = [
        merge if isinstance(merge, str) else " ".join(merge)
        for merge in tokenizer_json["model"]["merges"]
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(END_OF_TEXT)
    writer.add_eos_token_id(IM_END)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
