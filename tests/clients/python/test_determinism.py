"""Sentence 34: the same request gives the same bytes alone, in any batch, streamed, cold or warm."""

import asyncio
import uuid

import pytest

REQUESTS = {
    "greedy": {"temperature": 0},
    "seeded": {"temperature": 1.0, "top_p": 0.95, "seed": 77},
    "seeded choices": {"temperature": 1.1, "seed": 5, "n": 2},
    "penalised": {"temperature": 0.9, "seed": 8, "frequency_penalty": 0.7,
                  "extra_body": {"repetition_penalty": 1.2}},
}
MESSAGES = [{"role": "user", "content": "Describe a harbour at night, with its lights and ropes."}]


async def plain(client, model, **parameters) -> list[str]:
    answer = await client.chat.completions.create(model=model, messages=MESSAGES, **parameters)
    return [choice.message.content for choice in answer.choices]


async def streamed(client, model, **parameters) -> list[str]:
    texts = [""] * parameters.get("n", 1)
    stream = await client.chat.completions.create(
        model=model, messages=MESSAGES, stream=True, **parameters)
    async for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    return texts


async def company(client, model, number: int) -> None:
    """Another request to share batches with: other lengths, other parameters."""
    await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": f"Tell me about the number {number}. " * (number + 1)}],
        temperature=1.0, max_tokens=6 + 4 * number,
    )


def salted(parameters: dict) -> dict:
    """With a salt that nobody used before, so that nothing of the prompt is cached."""
    extra = parameters.get("extra_body", {}) | {"cache_salt": uuid.uuid4().hex}
    return parameters | {"extra_body": extra}


@pytest.mark.parametrize("parameters", REQUESTS.values(), ids=REQUESTS)
def test_the_same_bytes_whatever_runs_beside(async_client, model, parameters):
    parameters = parameters | {"max_tokens": 24}

    async def run():
        alone = await plain(async_client, model, **salted(parameters))
        warm = [await plain(async_client, model, **parameters) for _ in range(2)]
        results = await asyncio.gather(
            *[company(async_client, model, number) for number in range(4)],
            plain(async_client, model, **parameters),
            plain(async_client, model, **salted(parameters)),
            streamed(async_client, model, **parameters),
            streamed(async_client, model, **salted(parameters)),
        )
        await async_client.close()
        return alone, warm + [result for result in results if result is not None]

    alone, others = asyncio.run(run())
    assert any(alone)
    assert all(other == alone for other in others), (alone, others)
