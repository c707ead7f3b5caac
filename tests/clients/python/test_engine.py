"""`wharf engine` alone is a complete server, and SIGTERM drains it (sentence 31)."""

import os
import signal
import threading
import time
from pathlib import Path

import httpx
import openai
import pytest
from openai import OpenAI

import server as wharf
from conftest import content, joined

QUESTION = [{"role": "user", "content": "What is the capital of Japan?"}]


@pytest.fixture
def engine(tmp_path):
    running = wharf.start("engine", tmp_path)
    yield running
    running.stop()


def test_an_engine_alone_answers_and_drains(engine):
    client = OpenAI(base_url=engine.endpoint, api_key="none", max_retries=0, timeout=120)
    model = client.models.list().data[0].id
    answer = client.chat.completions.create(
        model=model, messages=QUESTION, temperature=0, max_tokens=16)
    assert "Tokyo" in content(answer)
    assert httpx.get(engine.origin + "/health").status_code == 200
    assert httpx.get(engine.origin + "/nothing").json()["error"]["message"]

    # A stream that runs when the signal comes is finished; a new request is turned away.
    stream = client.chat.completions.create(
        model=model, messages=QUESTION, temperature=0, max_tokens=60, stream=True,
        extra_body={"ignore_eos": True})
    chunks = iter(stream)
    received = [next(chunks), next(chunks)]
    turned_away = []

    def knock():
        time.sleep(0.3)
        try:
            client.chat.completions.create(model=model, messages=QUESTION, max_tokens=1)
        except openai.APIStatusError as error:
            turned_away.append(error)
        except openai.APIConnectionError:
            # Ended before the knock: nothing was left to drain.
            pass

    knocking = threading.Thread(target=knock)
    knocking.start()
    engine.process.send_signal(signal.SIGTERM)
    received += list(chunks)
    knocking.join()
    assert len(joined(received)) > 0
    assert received[-1].choices[0].finish_reason == "length"
    for error in turned_away:
        assert error.status_code == 503
        assert error.response.headers["retry-after"]
    assert engine.stop() == 0


def test_serve_keeps_its_instance_over_restarts(tmp_path):
    first = wharf.start("serve", tmp_path)
    assert first.stop() == 0
    second = wharf.start("serve", tmp_path)
    try:
        path = "/".join(first.endpoint.split("/")[3:])
        assert "/".join(second.endpoint.split("/")[3:]) == path
    finally:
        second.stop()


def test_an_engine_that_dies_is_started_again(tmp_path):
    running = wharf.start("serve", tmp_path)
    try:
        [child] = children_of(running.process.pid)
        os.kill(child, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while True:
            answer = httpx.post(
                running.endpoint + "/chat/completions",
                json={"messages": QUESTION, "max_tokens": 1}, timeout=30)
            if answer.status_code == 200:
                break
            # Meanwhile: not ready, in the error shape, and saying when to come again.
            assert answer.status_code == 503, answer.text
            assert answer.headers["retry-after"]
            assert answer.json()["error"]["message"]
            assert time.monotonic() < deadline, running.printed()
            time.sleep(0.1)
    finally:
        running.stop()


def children_of(pid: int) -> list[int]:
    children = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        children += [int(child) for child in (thread / "children").read_text().split()]
    return children
