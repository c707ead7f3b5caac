"""What llama.cpp's converter makes of Qwen3.5's and Qwen3-Next's tensors, beside their names.

Its kernels repeat key heads in turn (0, 1, 0, 1), so the value heads of Qwen3.5, which transformers has by
key heads (0, 0, 1, 1), are put in that order; Qwen3-Next's stay. The latter's fused projection is cut.
"""

import numpy as np

HYBRIDS = ("qwen3_5_text", "qwen3_5_moe_text", "qwen3_next")
LAYER_NAMES = {
    "post_attention_layernorm": "post_attention_norm",
    "linear_attn.in_proj_qkv": "attn_qkv",
    "linear_attn.in_proj_qkvz": "attn_qkv",
    "linear_attn.in_proj_z": "attn_gate",
    "linear_attn.in_proj_a": "ssm_alpha",
    "linear_attn.in_proj_b": "ssm_beta",
    "linear_attn.in_proj_ba": "ssm_ba",
    "linear_attn.conv1d": "ssm_conv1d",
    "linear_attn.norm": "ssm_norm",
    "linear_attn.out_proj": "ssm_out",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
}
# Always in F32.
VECTORS = ("ssm_conv1d", "ffn_gate_inp", "ffn_gate_inp_shexp")
ARCHITECTURES = {"qwen3_5_text": "qwen35", "qwen3_5_moe_text": "qwen35moe", "qwen3_next": "qwen3next"}


def own_name(name: str) -> tuple[str, str] | None:
    """As `gguf_file.gguf_name`, of the tensors that are no weight of a layer."""
    for suffix, stored in ((".linear_attn.A_log", "ssm_a"), (".linear_attn.dt_bias", "ssm_dt.bias")):
        if name.endswith(suffix):
            layer = name.removesuffix(suffix).rsplit(".", 1)[1]
            return f"blk.{layer}.{stored}", stored
    return None


def tiled(config, width: int) -> np.ndarray:
    """Which row of value heads `width` wide stands in each row of the file."""
    keys, values = config.linear_num_key_heads, config.linear_num_value_heads
    rows = np.arange(values * width).reshape(keys, values // keys, width)
    return rows.transpose(1, 0, 2).reshape(-1)


def columns(config, stem: str) -> np.ndarray | None:
    """Which column stands in each column of the file, if not in its own."""
    if stem == "ssm_out" and config.model_type != "qwen3_next":
        return tiled(config, config.linear_value_head_dim)
    return None


def rows(config, stem: str) -> dict[str, np.ndarray] | None:
    """Which rows stand in each row of the file, by the names of the tensors there."""
    keys = config.linear_num_key_heads * config.linear_key_head_dim
    width = config.linear_value_head_dim
    values = config.linear_num_value_heads * width
    if config.model_type == "qwen3_next":
        if stem != "attn_qkv":
            return None
        own = values // config.linear_num_key_heads
        key = config.linear_key_head_dim
        by_head = np.arange(2 * (keys + values)).reshape(config.linear_num_key_heads, -1)
        parts = np.split(by_head, [key, 2 * key, 2 * key + own], axis=1)
        query, key, value, gate = (part.reshape(-1) for part in parts)
        return {"attn_qkv": np.concatenate([query, key, value]), "attn_gate": gate}
    match stem:
        case "attn_qkv" | "ssm_conv1d":
            return {stem: np.concatenate([np.arange(2 * keys), 2 * keys + tiled(config, width)])}
        case "attn_gate":
            return {stem: tiled(config, width)}
        case "ssm_alpha" | "ssm_beta" | "ssm_a" | "ssm_dt.bias":
            return {stem: tiled(config, 1)}
    return None


def extra_layers(config) -> int:
    """Layers that guess ahead, after the others."""
    return 1 if config.model_type == "qwen3_5_text" else 0


def write_shape(writer, config) -> None:
    writer.add_ssm_conv_kernel(config.linear_conv_kernel_dim)
    writer.add_ssm_state_size(config.linear_key_head_dim)
    writer.add_ssm_group_count(config.linear_num_key_heads)
    writer.add_ssm_time_step_rank(config.linear_num_value_heads)
    writer.add_ssm_inner_size(config.linear_num_value_heads * config.linear_value_head_dim)
    writer.add_full_attention_interval(4)
    factor = config.rope_parameters["partial_rotary_factor"]
    writer.add_rope_dimension_count(int(config.head_dim * factor))
    recurrent = [kind == "linear_attention" for kind in config.layer_types]
    if config.model_type == "qwen3_5_text":
        writer.add_nextn_predict_layers(extra_layers(config))
        writer.add_tensor(f"blk.{config.num_hidden_layers}.nextn.enorm.weight", np.ones(8, np.float32))
        recurrent.append(False)
    if config.model_type != "qwen3_next":
        writer.add_array(f"{ARCHITECTURES[config.model_type]}.attention.recurrent_layers", recurrent)
        writer.add_rope_dimension_sections([1, 1, 0, 0])
    if config.model_type != "qwen3_5_text":
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
        writer.add_expert_shared_feed_forward_length(config.shared_expert_intermediate_size)


