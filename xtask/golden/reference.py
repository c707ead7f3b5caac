"""What transformers makes of a checkpoint: logits and greedy tokens, in float32, attention "eager"."""

import numpy as np
import torch

GREEDY_TOKENS = 24

# Lengths of the prompts: a few tokens; some more than one KV block of 16; more than three blocks; and
# longer than every sliding window and every "original" context length of the checkpoints.
PROMPT_LENGTHS = (5, 21, 61, 101)


class NearTie(Exception):
    """A greedy choice that rounding could turn: another seed is wanted."""


def prompts(tokenizer, seed: int) -> list[list[int]]:
    """The first is text; the others are text followed by random ids, specials among them."""
    random = np.random.default_rng(seed + 1)
    result = []
    for length in PROMPT_LENGTHS:
        ids = tokenizer.encode("<|im_start|>user\nWhere does the tide go?").ids[:length]
        ids += random.integers(0, tokenizer.get_vocab_size(), length - len(ids)).tolist()
        result.append(ids)
    return result


@torch.no_grad()
def logits_of(model, ids: list[int]) -> torch.Tensor:
    """`[len(ids), vocabulary]`, the whole sequence in one pass without a cache."""
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def greedy(model, ids: list[int], least_margin: float) -> tuple[list[int], float]:
    """The tokens that follow, and the smallest gap between the two best logits on the way."""
    tokens, smallest = list(ids), float("inf")
    for _ in range(GREEDY_TOKENS):
        best = logits_of(model, tokens)[-1].topk(2)
        smallest = min(smallest, (best.values[0] - best.values[1]).item())
        if smallest < least_margin:
            raise NearTie
        tokens.append(best.indices[0].item())
    return tokens[len(ids):], smallest


def measure(model, tokenizer, seed: int, least_margin: float) -> tuple[list[dict], float]:
    """The `prompts` of golden.json, and the smallest margin over all of them."""
    model.eval()
    measured, smallest = [], float("inf")
    for ids in prompts(tokenizer, seed):
        tokens, margin = greedy(model, ids, least_margin)
        smallest = min(smallest, margin)
        logits = logits_of(model, ids)
        # The last position; for the longest prompts also the last of a KV block, and the first.
        inner = {61: [47], 101: [64]}.get(len(ids), [])
        positions = [*inner, len(ids) - 1]
        measured.append({
            "ids": ids,
            "logits": [
                {"position": p, "values": [round(x, 5) for x in logits[p].tolist()]}
                for p in positions
            ],
            "greedy": tokens,
        })
    return measured, smallest
