"""Sentence 18: a client that leaves frees its place at once, streamed or not."""

import threading

import httpx
import pytest

from server import metric

# Long enough that it cannot have ended by itself.
LONG = {"messages": [{"role": "user", "content": "Tell me everything about the sea."}],
        "max_tokens": 1500, "ignore_eos": True}
SOON = 5.0


def test_closing_a_stream_stops_the_answer(client, model, idle):
    stream = client.chat.completions.create(
        model=model, messages=LONG["messages"], max_tokens=1500, stream=True,
        extra_body={"ignore_eos": True},
    )
    for number, _ in enumerate(stream):
        if number == 3:
            break
    stream.close()
    idle(SOON)


def test_leaving_a_plain_request_stops_the_answer(server, model, idle):
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(server.endpoint + "/chat/completions", json=LONG | {"model": model},
                   timeout=httpx.Timeout(30, read=0.7))
    idle(SOON)


def test_leaving_during_a_long_prompt_stops_it(server, model, idle):
    body = LONG | {"model": model, "stream": True,
                   "messages": [{"role": "user", "content": "ropes and tides " * 600}]}
    with pytest.raises(httpx.ReadTimeout):
        with httpx.stream("POST", server.endpoint + "/chat/completions", json=body,
                          timeout=httpx.Timeout(30, read=0.3)) as answer:
            for line in answer.iter_lines():
                if '"content":"' in line and '"content":""' not in line:
                    pytest.skip("the prompt was read before the client could leave")
    idle(SOON)


def test_many_clients_that_leave_harm_no_other(client, server, model, ask, idle):
    expected = ask(max_tokens=30).choices[0].message.content
    streams = [
        client.chat.completions.create(
            model=model, messages=LONG["messages"], max_tokens=1500, n=2, seed=seed,
            stream=True, extra_body={"ignore_eos": True})
        for seed in range(4)
    ]
    results = []
    asking = threading.Thread(
        target=lambda: results.append(ask(max_tokens=30).choices[0].message.content))
    asking.start()
    for stream in streams:
        next(iter(stream))
        stream.close()
    asking.join()
    assert results == [expected]
    idle(SOON)


def test_metrics_tell_of_the_aborted(server, client, model, idle):
    """Sentence 29: accepted requests equal those counted as ended, aborts among them."""
    def aborted() -> float:
        text = httpx.get(server.root + "/metrics").text
        lines = [line for line in text.splitlines()
                 if line.startswith("vllm:request_success") and 'finished_reason="abort"' in line]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    assert metric(httpx.get(server.root + "/metrics").text, "vllm:generation_tokens_total") > 0
    before = aborted()
    stream = client.chat.completions.create(
        model=model, messages=LONG["messages"], max_tokens=1500, stream=True,
        extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.close()
    idle(SOON)
    assert aborted() == before + 1
