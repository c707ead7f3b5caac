"""Random weights with enough spread to tell right from wrong, and their safetensors files."""

import json
import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def random_state(model: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """One float32 tensor for each parameter of `model`, tied ones once.

    The queries and keys are made large, so that attention picks some positions and not others (a wrong
    rotation or mask then shows), and the output matrix too, so that logits differ by whole units.
    """
    random = np.random.default_rng(seed)
    state = {}
    for name, parameter in model.named_parameters():
        shape = tuple(parameter.shape)
        if name.endswith("A_log"):
            values = np.log(random.uniform(0.02, 2.0, shape))
        elif name.endswith("norm.weight"):
            # Gemma stores what is to be added to 1, and Qwen3.5 but for the norms of its delta nets.
            less_1 = model.config.model_type.startswith(("gemma", "qwen3_5", "qwen3_next"))
            one = 0.0 if less_1 and not name.endswith("linear_attn.norm.weight") else 1.0
            values = one + 0.2 * random.standard_normal(shape)
        elif name.endswith((".bias", "dt_bias")):
            values = 0.3 * random.standard_normal(shape)
        else:
            values = gain(name) / math.sqrt(shape[-1]) * random.standard_normal(shape)
        state[name] = torch.from_numpy(values.astype(np.float32))
    return state


def gain(name: str) -> float:
    if "q_proj" in name or "k_proj" in name or "qkv_proj" in name:
        return 1.7
    # A router that has preferences.
    if name.endswith(("mlp.gate.weight", "mlp.router.weight")):
        return 3.0
    if name.endswith("sinks"):
        return 2.0
    if "embed_tokens" in name or "lm_head" in name:
        return 2.5
    return 1.0


def alternating(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """gpt-oss's `state` as `unfused` gives others': its gates and ups alternate, and its matrices are
    transposed."""
    apart = {}
    for name, tensor in state.items():
        stem, _, kind = name.partition(".experts.")
        if not kind:
            apart[name] = tensor
            continue
        matrix = tensor if kind.endswith("_bias") else tensor.transpose(1, 2)
        suffix = "bias" if kind.endswith("_bias") else "weight"
        stem += ".experts."
        if kind.startswith("down"):
            apart[f"{stem}down_proj.{suffix}"] = matrix.contiguous()
        else:
            apart[f"{stem}gate_proj.{suffix}"] = matrix[:, ::2].contiguous()
            apart[f"{stem}up_proj.{suffix}"] = matrix[:, 1::2].contiguous()
    return apart


def alternated(apart: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inverse of `alternating`."""
    state = {}
    for name, tensor in apart.items():
        stem, _, kind = name.partition(".experts.")
        if not kind:
            state[name] = tensor
            continue
        proj, suffix = kind.split(".")
        if proj == "up_proj":
            continue
        if proj == "gate_proj":
            up = apart[name.replace("gate_proj", "up_proj")]
            tensor = torch.stack([tensor, up], dim=2).flatten(1, 2)
            proj = "gate_up_proj"
        if suffix == "weight":
            state[f"{stem}.experts.{proj}"] = tensor.transpose(1, 2).contiguous()
        else:
            state[f"{stem}.experts.{proj}_bias"] = tensor
    return state


def unfused(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`state` with the gates of experts, which transformers keeps in one tensor with what they gate,
    apart: `[experts, rows, columns]` each."""
    apart = {}
    for name, tensor in state.items():
        if name.endswith("mlp.experts.gate_up_proj"):
            stem = name.removesuffix("gate_up_proj")
            gate, up = tensor.chunk(2, dim=1)
            apart |= {stem + "gate_proj.weight": gate, stem + "up_proj.weight": up}
        else:
            apart[name + ".weight" if name.endswith("mlp.experts.down_proj") else name] = tensor
    return apart


def fused(apart: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inverse of `unfused`."""
    state = {}
    for name, tensor in apart.items():
        if name.endswith("mlp.experts.gate_proj.weight"):
            up = apart[name.replace("gate_proj", "up_proj")]
            state[name.replace("gate_proj.weight", "gate_up_proj")] = torch.cat([tensor, up], dim=1)
        elif name.endswith("mlp.experts.down_proj.weight"):
            state[name.removesuffix(".weight")] = tensor
        elif not name.endswith("mlp.experts.up_proj.weight"):
            state[name] = tensor
    return state


MIXTRAL_NAMES = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}


def published(state: dict[str, torch.Tensor], model_type: str) -> dict[str, torch.Tensor]:
    """`state` as published files have it: each expert's matrices by themselves."""
    if model_type == "gpt_oss":
        return state
    result = {}
    if model_type == "qwen3_5":
        # As published, where the text model alone is what transformers makes of the class.
        state = {name.replace("model.", "model.language_model.", 1): tensor
                 for name, tensor in state.items()}
        dtype = next(iter(state.values())).dtype
        result = {name: torch.ones(8, dtype=dtype)
                  for name in ("model.visual.patch_embed.proj.bias", "mtp.norm.weight")}
    # Qwen3.5's experts stay together.
    apart = state if model_type == "qwen3_5_moe_text" else unfused(state)
    for name, tensor in apart.items():
        if model_type == "gemma3":
            name = name.removeprefix("model.").replace("language_model.", "language_model.model.")
        if model_type == "mixtral":
            name = name.replace(".mlp.", ".block_sparse_moe.")
        stem, _, kind = name.partition(".experts.")
        if not kind or model_type == "qwen3_5_moe_text":
            result[name] = tensor
            continue
        kind = kind.removesuffix(".weight")
        kind = MIXTRAL_NAMES[kind] if model_type == "mixtral" else kind
        for expert, matrix in enumerate(tensor):
            result[f"{stem}.experts.{expert}.{kind}.weight"] = matrix.contiguous()
    return result


def write_safetensors(folder: Path, state: dict[str, torch.Tensor], shard_bytes: int | None) -> None:
    """`model.safetensors`, or shards of about `shard_bytes` with their index."""
    if shard_bytes is None:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        return
    shards: list[dict[str, torch.Tensor]] = [{}]
    filled = 0
    for name, tensor in state.items():
        size = tensor.numel() * tensor.element_size()
        if filled and filled + size > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor
        filled += size
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    total = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
