"""Checkpoints whose linear layers are quantised: their tensors as the formats' specifications have them,
and what the reference computes with, which is what these tensors stand for.

The numbers are rounded to the nearest, without the care that AWQ and GPTQ take: what is tested is the
reading.
"""

import re

import gguf
import numpy as np
import torch

LINEAR = re.compile(r"(_proj|\.experts\.\d+\.w[123])\.weight$")
# The features whose codes AutoAWQ's "gemm" packs into a word, lowest bits first.
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def quantise(published: dict, config: dict, seed: int) -> tuple[dict, dict]:
    """(the file's tensors, the weights they stand for) of a checkpoint with this
    `quantization_config`."""
    random = np.random.default_rng(seed + 3)
    if config["quant_method"] == "mxfp4":
        return mxfp4(published)
    method = METHODS[config["quant_method"]]
    kept = config.get("modules_to_not_convert") or config.get("ignore") or []
    stored, plain = {}, {}
    for name, tensor in published.items():
        stem = name.removesuffix(".weight")
        if not LINEAR.search(name) or any(stem.endswith(module) for module in kept):
            stored[name], plain[name] = tensor, tensor
            continue
        tensors, weights = method(tensor.float().numpy(), config, random)
        stored |= {f"{stem}.{kind}": value for kind, value in tensors.items()}
        plain[name] = torch.from_numpy(weights.astype(np.float32))
    return stored, plain


def fp8_with(weights: np.ndarray, block, scale_dtype) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """(bytes, scales, weights): a scale for each block of `block` rows and columns."""
    rows, columns = weights.shape
    high, wide = -(-rows // block[0]), -(-columns // block[1])
    largest = np.zeros((high, wide), dtype=np.float32)
    for i in range(high):
        for j in range(wide):
            part = weights[i * block[0]:(i + 1) * block[0], j * block[1]:(j + 1) * block[1]]
            largest[i, j] = np.abs(part).max()
    scales = torch.from_numpy(largest / 448).to(scale_dtype)
    each = scales.float().numpy().repeat(block[0], axis=0)[:rows]
    each = each.repeat(block[1], axis=1)[:, :columns]
    values = torch.from_numpy(weights / each).clamp(-448, 448).to(torch.float8_e4m3fn)
    return values, scales, values.float().numpy() * each


def fp8(weights: np.ndarray, config: dict, _random) -> tuple[dict, np.ndarray]:
    if "weight_block_size" in config:
        values, scales, plain = fp8_with(weights, config["weight_block_size"], torch.float32)
        return {"weight": values, "weight_scale_inv": scales}, plain
    values, scales, plain = fp8_with(weights, weights.shape, torch.float32)
    scale, unused = scales.reshape(()), torch.tensor(0.5)
    return {"weight": values, "weight_scale": scale, "input_scale": unused}, plain


def mxfp4(published: dict) -> tuple[dict, dict]:
    """gpt-oss's experts: `[experts, in, out]` as blocks of 32 along `in`, whose bytes hold neighbours."""
    stored, plain = {}, {}
    for name, tensor in published.items():
        if not name.endswith((".gate_up_proj", ".down_proj")):
            stored[name], plain[name] = tensor, tensor
            continue
        values = tensor.float().transpose(1, 2).contiguous().numpy()
        kind = gguf.GGMLQuantizationType.MXFP4
        blocks = gguf.quants.quantize(values, kind)
        weights = gguf.quants.dequantize(blocks, kind).reshape(values.shape)
        plain[name] = torch.from_numpy(weights).transpose(1, 2).contiguous()
        blocks = blocks.reshape(*values.shape[:2], -1, 17)
        # ggml's bytes hold numbers 16 apart.
        nibbles = np.concatenate([blocks[..., 1:] & 15, blocks[..., 1:] >> 4], axis=-1)
        stored[f"{name}_blocks"] = torch.from_numpy(nibbles[..., ::2] | nibbles[..., 1::2] << 4)
        stored[f"{name}_scales"] = torch.from_numpy(blocks[..., 0].copy())
    return stored, plain


def codes_of(weights: np.ndarray, bits: int, groups: np.ndarray, symmetric: bool, scale_dtype):
    """(codes 0 to 2^bits - 1, scales, zeros, weights); `groups` has one for each column, and scales and
    zeros are `[rows, groups]`."""
    top, count = 2**bits - 1, groups.max() + 1
    low = np.stack([weights[:, groups == g].min(axis=1) for g in range(count)], axis=1)
    high = np.stack([weights[:, groups == g].max(axis=1) for g in range(count)], axis=1)
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    if symmetric:
        high = np.maximum(-low, high)
        low = -high
    scales = torch.from_numpy((high - low) / top).to(scale_dtype)
    steps = scales.float().numpy()
    zeros = np.full(low.shape, (top + 1) // 2) if symmetric else np.round(-low / steps)
    codes = np.clip(np.round(weights / steps[:, groups]) + zeros[:, groups], 0, top)
    plain = (codes - zeros[:, groups]) * steps[:, groups]
    return codes.astype(np.int64), scales, zeros.astype(np.int64), plain


def packed(numbers: np.ndarray, bits: int, order=None) -> torch.Tensor:
    """`[n, m]` numbers in words of 32 bits, `[n, m * bits / 32]`, lowest bits first."""
    per_word = 32 // bits
    words = numbers.reshape(numbers.shape[0], -1, per_word)
    if order is not None:
        words = words[:, :, list(order)]
    shifts = np.arange(per_word, dtype=np.uint64) * np.uint64(bits)
    whole = (words.astype(np.uint64) << shifts).sum(axis=2, dtype=np.uint64)
    return torch.from_numpy(whole.astype(np.uint32).view(np.int32).copy())


def awq(weights: np.ndarray, config: dict, _random) -> tuple[dict, np.ndarray]:
    groups = np.arange(weights.shape[1]) // config["group_size"]
    codes, scales, zeros, plain = codes_of(weights, 4, groups, False, torch.float16)
    return {
        "qweight": packed(codes.T, 4, AWQ_ORDER),
        "qzeros": packed(zeros.T, 4, AWQ_ORDER),
        "scales": scales.T.contiguous(),
    }, plain


def gptq(weights: np.ndarray, config: dict, random) -> tuple[dict, np.ndarray]:
    bits, columns = config["bits"], weights.shape[1]
    size = columns if config["group_size"] == -1 else config["group_size"]
    groups = np.arange(columns) // size
    if config["desc_act"]:
        groups = random.permutation(groups)
    codes, scales, zeros, plain = codes_of(weights, bits, groups, config["sym"], torch.float16)
    if config.get("checkpoint_format") != "gptq_v2":
        # What the first format does: 0 becomes the largest code.
        zeros = (zeros - 1) % 2**bits
    tensors = {
        "qweight": packed(codes, bits).T.contiguous(),
        "qzeros": packed(zeros.T, bits),
        "scales": scales.T.contiguous(),
        "g_idx": torch.from_numpy(groups.astype(np.int32)),
    }
    if config["desc_act"]:
        tensors["bias"] = torch.zeros(weights.shape[0], dtype=torch.float16)
    return tensors, plain


def compressed_tensors(weights: np.ndarray, config: dict, _random) -> tuple[dict, np.ndarray]:
    of = config["config_groups"]["group_0"]["weights"]
    rows, columns = weights.shape
    if of["type"] == "float":
        values, scales, plain = fp8_with(weights, (1, columns), torch.bfloat16)
        return {"weight": values, "weight_scale": scales}, plain
    bits = of["num_bits"]
    groups = np.arange(columns) // (of.get("group_size") or columns)
    codes, scales, zeros, plain = codes_of(weights, bits, groups, of["symmetric"], torch.bfloat16)
    if config["format"] == "int-quantized":
        signed = torch.from_numpy((codes - 2 ** (bits - 1)).astype(np.int8))
        return {"weight": signed, "weight_scale": scales}, plain
    tensors = {
        "weight_packed": packed(codes, bits),
        "weight_scale": scales,
        "weight_shape": torch.tensor([rows, columns]),
    }
    if not of["symmetric"]:
        tensors["weight_zero_point"] = packed(zeros.T, bits).T.contiguous()
    return tensors, plain


METHODS = {"fp8": fp8, "awq": awq, "gptq": gptq, "compressed-tensors": compressed_tensors}
