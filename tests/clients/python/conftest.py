"""One server for the whole run; each test may use it by its instance's URL or by plain /v1."""

import time

import httpx
import pytest
from openai import AsyncOpenAI, OpenAI

import server as wharf


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    running = wharf.start("serve", tmp_path_factory.mktemp("serve"))
    yield running
    if running.process.poll() is not None:
        pytest.fail(f"the server ended during the tests:\n{running.printed()}")
    running.stop()


@pytest.fixture(scope="session")
def model(server) -> str:
    """The name the server knows its model by."""
    return OpenAI(base_url=server.endpoint, api_key="none").models.list().data[0].id


@pytest.fixture(scope="session")
def client(server):
    # No retries: a 5xx must show.
    with OpenAI(base_url=server.endpoint, api_key="none", max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture
def async_client(server):
    """Made anew for each test: its connections belong to one event loop."""
    return AsyncOpenAI(base_url=server.endpoint, api_key="none", max_retries=0, timeout=120)


@pytest.fixture(scope="session")
def http(server):
    with httpx.Client(base_url=server.endpoint + "/", timeout=120) as client:
        yield client


@pytest.fixture
def ask(client, model):
    """One user message, greedy and short unless the test says otherwise."""

    def ask(text="What is the capital of Japan?", **parameters):
        extra = {key: parameters.pop(key) for key in list(parameters) if key in EXTENSIONS}
        messages = parameters.pop("messages", [{"role": "user", "content": text}])
        defaults = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 16}
        return client.chat.completions.create(**(defaults | parameters), extra_body=extra)

    return ask


@pytest.fixture
def tokens_of(server):
    """The ids of a text, no special tokens added."""

    def tokens_of(text: str) -> list[int]:
        body = {"prompt": text, "add_special_tokens": False}
        answer = httpx.post(server.root + "/tokenize", json=body, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()["tokens"]

    return tokens_of


@pytest.fixture
def idle(server):
    """Waits until nothing is being generated; fails when it takes too long."""
    def idle(seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (running := server.running()) > 0:
            assert time.monotonic() < deadline, f"{running} requests still run after {seconds} s"
            time.sleep(0.02)

    return idle


# vLLM's fields, which the SDK sends through `extra_body`.
EXTENSIONS = {
    "allowed_token_ids", "bad_words", "cache_salt", "ignore_eos", "include_stop_str_in_output",
    "min_p", "min_tokens", "repetition_penalty", "return_token_ids", "skip_special_tokens",
    "stop_token_ids", "top_k", "truncate_prompt_tokens", "add_generation_prompt",
    "continue_final_message", "chat_template_kwargs",
}


def content(answer) -> str:
    return answer.choices[0].message.content


def joined(stream) -> str:
    """The text of choice 0 of a stream of chunks."""
    return "".join(
        choice.delta.content or "" for chunk in stream for choice in chunk.choices if choice.index == 0
    )
