"""Writes the golden checkpoints of crates/model/tests/golden. README.md says what they are.

    python generate.py --out ../../crates/model/tests/golden [--only NAME ...]
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

import checkpoints
import gguf_file
import quantised
import reference
import vocabulary
import weights

# Gaps between the two best logits are larger than this at every greedy step: ten times what a
# forward pass may differ by.
LEAST_MARGIN = 1e-2
SEEDS = 400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--only", nargs="*", default=[], help="names of checkpoints; none: all")
    args = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    total = 0
    for kinds, make in ((checkpoints.HUGGING_FACE, hugging_face), (checkpoints.GGUF, gguf_model)):
        for checkpoint in kinds:
            if args.only and checkpoint.name not in args.only:
                continue
            folder = args.out / checkpoint.name
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            golden = first_clear_seed(lambda seed: make(folder, checkpoint, seed))
            write_golden(folder, golden)
            size = sum(file.stat().st_size for file in folder.iterdir())
            total += size
            print(f"{checkpoint.name:20} seed {golden['seed']:3}  smallest margin "
                  f"{golden['smallest_margin']:.4f}  {size // 1000:4} kB", flush=True)
    print(f"{total // 1000} kB in all")


def first_clear_seed(make) -> dict:
    for seed in range(SEEDS):
        try:
            return make(seed)
        except reference.NearTie:
            continue
    raise SystemExit(f"every one of {SEEDS} seeds has a near-tie")


def full_config(differences: dict, **more) -> dict:
    # Of a model that sees images too, the text model has a part of its own.
    whole = {} if "text_config" in differences else checkpoints.LLAMA
    merged = whole | more | differences
    return {key: value for key, value in sorted(merged.items()) if value is not None}


def hugging_face(folder: Path, checkpoint: checkpoints.Checkpoint, seed: int) -> dict:
    dtype_key = "dtype" if "rope_parameters" in checkpoint.config else "torch_dtype"
    config = full_config(checkpoint.config, **{dtype_key: checkpoint.dtype})
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {
        "bos_token_id": vocabulary.END_OF_TEXT,
        "eos_token_id": [vocabulary.IM_END, vocabulary.END_OF_TEXT],
        "pad_token_id": vocabulary.END_OF_TEXT,
    })
    tokenizer = vocabulary.build(checkpoint.pre)
    vocabulary.write(folder, tokenizer, checkpoint.template_in_config)

    full_precision = AutoConfig.from_pretrained(folder)
    if hasattr(full_precision, "quantization_config"):
        del full_precision.quantization_config
    model = AutoModelForCausalLM.from_config(full_precision)
    stored = weights.DTYPES[checkpoint.dtype]
    state = {name: tensor.to(stored) for name, tensor in weights.random_state(model, seed).items()}
    published = weights.published(state, config["model_type"])
    if "quantization_config" in config:
        published, plain = quantised.quantise(published, config["quantization_config"], seed)
        model = read_plain(config, plain)
    weights.write_safetensors(folder, published, checkpoint.shard_bytes)
    if "quantization_config" not in config:
        model = read(folder)
    return golden_of(checkpoint, ".", config, model, tokenizer, seed)


def read(folder: Path):
    """The reference, from a folder that is read as any user's would be."""
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )


def read_plain(config: dict, plain: dict):
    """The reference of a quantised checkpoint: one that is not, of the weights it stands for."""
    config = {name: value for name, value in config.items() if name != "quantization_config"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_json(folder / "config.json", config)
        weights.write_safetensors(folder, plain, None)
        return read(folder)


def gguf_model(folder: Path, checkpoint: checkpoints.GgufCheckpoint, seed: int) -> dict:
    raw = full_config(checkpoint.config)
    config = AutoConfig.for_model(**raw)
    model = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="eager"
    )
    tokenizer = vocabulary.build(checkpoint.pre)
    state = weights.random_state(model, seed)
    gpt_oss = config.model_type == "gpt_oss"
    apart = weights.alternating(state) if gpt_oss else weights.unfused(state)
    tensors, dequantised = gguf_file.quantise(checkpoint, config, apart, seed)
    dequantised = weights.alternated(dequantised) if gpt_oss else weights.fused(dequantised)
    missing, unexpected = model.load_state_dict(dequantised, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    golden = golden_of(checkpoint, "model.gguf", raw, model, tokenizer, seed)
    gguf_file.write(folder / "model.gguf", checkpoint, config, tensors, tokenizer)
    return golden


def golden_of(checkpoint, path: str, config: dict, model, tokenizer, seed: int) -> dict:
    prompts, margin = reference.measure(model, tokenizer, seed, LEAST_MARGIN)
    longest = checkpoint.max_model_len
    architecture = config["architectures"][0]
    return {
        "name": checkpoint.name,
        "about": checkpoint.about,
        "model": path,
        "architecture": checkpoints.TEXT_MODELS.get(architecture, architecture),
        "vocab_size": config.get("text_config", config)["vocab_size"],
        **({"max_model_len": longest} if longest else {}),
        "seed": seed,
        "smallest_margin": round(margin, 5),
        "texts": vocabulary.samples(tokenizer),
        "prompts": prompts,
    }


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def write_golden(folder: Path, golden: dict) -> None:
    """One line for each list of numbers: readable, and a difference shows where it is."""
    prompts = golden.pop("prompts")
    texts = golden.pop("texts")
    head = json.dumps(golden, indent=2)[:-2]
    compact = {"separators": (",", ":"), "ensure_ascii": False}
    lines = [head + ',\n  "texts": [']
    lines.append(",\n".join("    " + json.dumps(text, **compact) for text in texts))
    lines.append('  ],\n  "prompts": [')
    rendered = []
    for prompt in prompts:
        logits = ",\n".join("      " + json.dumps(row, **compact) for row in prompt["logits"])
        rendered.append(
            f'    {{"ids":{json.dumps(prompt["ids"], **compact)},\n     "logits":[\n{logits}],\n'
            f'     "greedy":{json.dumps(prompt["greedy"], **compact)}}}'
        )
    lines.append(",\n".join(rendered))
    lines.append("  ]\n}")
    text = "\n".join(lines) + "\n"
    json.loads(text)
    (folder / "golden.json").write_text(text)


if __name__ == "__main__":
    main()
