"""Tiny checkpoints of other architectures, served from their files: tokens in and out over HTTP.

`crates/model/tests/parity.rs` holds the forward pass to every golden checkpoint; here, some of them go
through the whole program: reading the folder, the tokenizer, the engine, the server.
"""

import json
from pathlib import Path

import httpx
import pytest

import server as wharf

GOLDEN = Path(__file__).resolve().parents[3] / "crates/model/tests/golden"
NAMES = [
    "llama-sharded", "llama-odd-f16", "mistral-window", "qwen2-window", "qwen3",
    "gguf-llama-q4_0", "gguf-llama-k", "gguf-qwen2", "gguf-qwen3",
]


@pytest.fixture(params=NAMES)
def served(request, tmp_path):
    golden = json.loads((GOLDEN / request.param / "golden.json").read_text())
    model = str((GOLDEN / request.param / golden["model"]).resolve())
    # As the goldens were computed: everything in 32-bit floats.
    running = wharf.start(
        "engine", tmp_path, "--kv-cache-dtype", "f32", "--activations", "f32", model=model,
    )
    yield golden, running
    running.stop()


def test_a_golden_checkpoint_over_http(served):
    golden, running = served
    for sample in golden["texts"]:
        body = {"prompt": sample["text"], "add_special_tokens": False}
        answer = httpx.post(running.origin + "/tokenize", json=body)
        assert answer.json()["tokens"] == sample["ids"], sample["text"]

    for prompt in golden["prompts"]:
        body = {"prompt": prompt["ids"], "max_tokens": len(prompt["greedy"]), "temperature": 0,
                "ignore_eos": True, "return_token_ids": True}
        answer = httpx.post(running.endpoint + "/completions", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["token_ids"] == prompt["greedy"]

    chat = {"messages": [{"role": "user", "content": "Where does the tide go?"}], "max_tokens": 8}
    answer = httpx.post(running.endpoint + "/chat/completions", json=chat, timeout=60)
    assert answer.status_code == 200, answer.text
