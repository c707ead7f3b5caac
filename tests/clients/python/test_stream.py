"""Streams: their order, their usage, and that they say what the plain answer says."""

import asyncio
import json

import pytest

from conftest import content, joined

QUESTION = [{"role": "user", "content": "What is the capital of Japan?"}]


def test_a_stream_says_what_the_plain_answer_says(client, model, ask):
    stream = client.chat.completions.create(
        model=model, messages=QUESTION, temperature=0, max_tokens=16, stream=True
    )
    assert joined(stream) == content(ask())


def test_a_stream_async(async_client, model, ask):
    async def run():
        stream = await async_client.chat.completions.create(
            model=model, messages=QUESTION, temperature=0, max_tokens=16, stream=True
        )
        chunks = [chunk async for chunk in stream]
        await async_client.close()
        return chunks

    assert joined(asyncio.run(run())) == content(ask())


def test_the_stream_helper(client, model, ask):
    with client.chat.completions.stream(
        model=model, messages=QUESTION, temperature=0, max_tokens=30,
        stream_options={"include_usage": True},
    ) as stream:
        events = list(stream)
        final = stream.get_final_completion()
    plain = ask(max_tokens=30)
    assert content(final) == content(plain)
    assert final.choices[0].message.role == "assistant"
    assert final.choices[0].finish_reason == plain.choices[0].finish_reason
    assert final.usage.completion_tokens == plain.usage.completion_tokens
    assert [event.type for event in events].count("content.done") == 1


def test_the_stream_helper_async(async_client, model, ask):
    async def run():
        async with async_client.chat.completions.stream(
            model=model, messages=QUESTION, temperature=0, max_tokens=30
        ) as stream:
            text = "".join([e.delta async for e in stream if e.type == "content.delta"])
            final = await stream.get_final_completion()
        await async_client.close()
        return text, content(final)

    text, final = asyncio.run(run())
    assert text == final == content(ask(max_tokens=30))


def chunks_of(client, model, **parameters):
    defaults = {"model": model, "messages": QUESTION, "temperature": 0, "max_tokens": 16}
    return list(client.chat.completions.create(**(defaults | parameters), stream=True))


def test_the_order_of_a_stream(client, model):
    chunks = chunks_of(client, model)
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert all(chunk.object == "chat.completion.chunk" for chunk in chunks)
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert deltas[0].role == "assistant" and deltas[0].content == ""
    assert all(delta.role is None for delta in deltas[1:])
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert reasons[-1] is not None and all(reason is None for reason in reasons[:-1])
    assert not deltas[-1].content
    assert all(chunk.usage is None for chunk in chunks)


def test_usage_comes_last_and_once(client, model, ask):
    chunks = chunks_of(client, model, stream_options={"include_usage": True})
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].choices == []
    plain = ask().usage
    usage = chunks[-1].usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (
        plain.prompt_tokens, plain.completion_tokens)
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_usage_adds_up_over_choices(client, model):
    chunks = chunks_of(client, model, n=3, temperature=1.0, seed=5, max_tokens=6,
                       stream_options={"include_usage": True})
    usage = chunks[-1].usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 3 <= usage.completion_tokens <= 18


def test_several_choices_in_one_stream(client, model):
    parameters = {"n": 3, "temperature": 1.0, "seed": 11, "max_tokens": 12}
    chunks = chunks_of(client, model, **parameters)
    first = [chunk.choices[0] for chunk in chunks[:3]]
    assert [(choice.index, choice.delta.role) for choice in first] == [
        (0, "assistant"), (1, "assistant"), (2, "assistant")]
    plain = client.chat.completions.create(model=model, messages=QUESTION, **parameters)
    for choice in plain.choices:
        mine = [c for chunk in chunks for c in chunk.choices if c.index == choice.index]
        assert "".join(c.delta.content or "" for c in mine) == choice.message.content
        assert [c.finish_reason for c in mine if c.finish_reason] == [choice.finish_reason]


def test_several_choices_in_the_stream_helper(client, model):
    with client.chat.completions.stream(
        # The helper raises where a choice is cut by max_tokens: these end at their first full stop.
        model=model, messages=QUESTION, n=2, temperature=0.3, seed=3, max_tokens=200, stop=["."]
    ) as stream:
        final = stream.get_final_completion()
    assert [choice.index for choice in final.choices] == [0, 1]


def test_no_chunk_holds_half_a_character(client, model):
    messages = [{"role": "user", "content": "Repeat exactly: 🚢⚓️🌊 日本語 naïve café"}]
    chunks = chunks_of(client, model, messages=messages, temperature=1.0, seed=2, max_tokens=60)
    text = joined(chunks)
    for chunk in chunks:
        assert "\ufffd" not in (chunk.choices[0].delta.content or "") or "\ufffd" in text
    plain = client.chat.completions.create(
        model=model, messages=messages, temperature=1.0, seed=2, max_tokens=60)
    assert text == content(plain)


def test_the_bytes_of_a_stream(http, model):
    body = {"model": model, "messages": QUESTION, "max_tokens": 4, "stream": True}
    with http.stream("POST", "chat/completions", json=body) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-request-id"]
        raw = answer.read().decode()
    events = [event for event in raw.split("\n\n") if event and not event.startswith(":")]
    assert all(event.startswith("data: ") for event in events)
    assert events[-1] == "data: [DONE]"
    for event in events[:-1]:
        assert "error" not in json.loads(event.removeprefix("data: "))


@pytest.mark.parametrize("bad", [{"temperature": 9}, {"n": 0}, {"messages": []}])
def test_a_bad_request_is_a_status_even_when_streamed(http, model, bad):
    """Sentence 28."""
    body = {"model": model, "messages": QUESTION, "stream": True} | bad
    answer = http.post("chat/completions", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_stream_options_without_stream_is_refused(http, model):
    body = {"model": model, "messages": QUESTION, "stream_options": {"include_usage": True}}
    answer = http.post("chat/completions", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "stream_options"
