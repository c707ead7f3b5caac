"""Log-probabilities (sentence 17): the shape, and that they are those of the answer."""

import math

import pytest

from conftest import content


@pytest.mark.parametrize("top", [0, 1, 5, 20])
def test_the_shape(ask, top):
    answer = ask(logprobs=True, top_logprobs=top)
    logprobs = answer.choices[0].logprobs
    assert logprobs.refusal is None
    # The end-of-sequence token, where the model chose it, has an entry without text.
    assert answer.usage.completion_tokens - 1 <= len(logprobs.content)
    assert len(logprobs.content) <= answer.usage.completion_tokens
    for entry in logprobs.content:
        assert entry.logprob <= 0
        assert len(entry.top_logprobs) == top
        best = [candidate.logprob for candidate in entry.top_logprobs]
        assert best == sorted(best, reverse=True)


def test_the_bytes_join_to_the_content(ask):
    answer = ask("Repeat exactly: naïve café 🚢", logprobs=True, max_tokens=30)
    entries = answer.choices[0].logprobs.content
    joined = b"".join(bytes(entry.bytes or []) for entry in entries)
    assert joined.decode() == content(answer)


def test_the_greedy_token_is_the_best(ask):
    for entry in ask(logprobs=True, top_logprobs=2).choices[0].logprobs.content:
        assert entry.top_logprobs[0].token == entry.token
        assert math.isclose(entry.top_logprobs[0].logprob, entry.logprob, abs_tol=1e-4)


def test_a_sampled_token_has_its_own_logprob(ask):
    answer = ask("Tell me a story.", logprobs=True, top_logprobs=20, temperature=1.5, seed=6)
    for entry in answer.choices[0].logprobs.content:
        listed = [candidate for candidate in entry.top_logprobs if candidate.token == entry.token]
        if listed:
            assert math.isclose(listed[0].logprob, entry.logprob, abs_tol=1e-4)
        else:
            assert entry.logprob <= entry.top_logprobs[-1].logprob + 1e-4


def test_they_sum_to_at_most_one(ask):
    for entry in ask(logprobs=True, top_logprobs=20).choices[0].logprobs.content:
        total = sum(math.exp(candidate.logprob) for candidate in entry.top_logprobs)
        assert 0 < total <= 1 + 1e-3


def test_a_stream_has_the_same(client, model, ask):
    plain = ask(logprobs=True, top_logprobs=2).choices[0].logprobs.content
    stream = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "What is the capital of Japan?"}],
        temperature=0, max_tokens=16, logprobs=True, top_logprobs=2, stream=True,
    )
    streamed = [
        entry
        for chunk in stream
        for choice in chunk.choices
        if choice.logprobs
        for entry in choice.logprobs.content or []
    ]
    assert [e.model_dump() for e in streamed] == [e.model_dump() for e in plain]


def test_the_stream_helper_collects_them(client, model):
    with client.chat.completions.stream(
        model=model, messages=[{"role": "user", "content": "What is the capital of Japan?"}],
        temperature=0, max_tokens=60, logprobs=True, top_logprobs=1,
    ) as stream:
        final = stream.get_final_completion()
    entries = final.choices[0].logprobs.content
    assert b"".join(bytes(e.bytes or []) for e in entries).decode() == content(final)


def test_top_logprobs_without_logprobs_is_refused(http, model):
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "top_logprobs": 2}
    answer = http.post("chat/completions", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "top_logprobs"
