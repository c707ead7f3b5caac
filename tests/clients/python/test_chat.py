"""Chat completions as a user of the SDK meets them."""

import asyncio
import time
import uuid

import pytest
from openai import OpenAI

from conftest import content


def test_hello(ask):
    assert "Tokyo" in content(ask())


def test_the_plain_v1_address_goes_to_the_default_instance(server, model):
    client = OpenAI(base_url=server.plain, api_key="none", max_retries=0)
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "What is the capital of Japan?"}],
        temperature=0,
        max_tokens=16,
    )
    assert "Tokyo" in content(answer)


def test_hello_async(async_client, model):
    async def run():
        answer = await async_client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "What is the capital of Japan?"}],
            temperature=0,
            max_tokens=16,
        )
        await async_client.close()
        return answer

    assert "Tokyo" in content(asyncio.run(run()))


def test_the_answer_has_every_field_of_the_contract(ask, model):
    answer = ask()
    assert answer.id.startswith("chatcmpl-")
    assert answer.object == "chat.completion"
    assert abs(answer.created - time.time()) < 60
    assert answer.model == model
    [choice] = answer.choices
    assert choice.index == 0
    assert choice.finish_reason in ("stop", "length")
    assert choice.logprobs is None
    assert choice.message.role == "assistant"
    assert choice.message.refusal is None
    assert not choice.message.tool_calls
    usage = answer.usage
    assert usage.prompt_tokens > 0 and 0 < usage.completion_tokens <= 16
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert "refusal" in choice.message.model_fields_set


def test_ids_differ_from_request_to_request(ask):
    assert ask().id != ask().id


def test_the_model_ends_its_own_answer(ask):
    answer = ask(max_tokens=100)
    assert answer.choices[0].finish_reason == "stop"
    assert "<|im_end|>" not in content(answer)


def test_max_tokens_cuts_the_answer(ask):
    answer = ask("Write a long story about the sea.", max_tokens=5)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 5


def test_max_completion_tokens_beats_max_tokens(ask):
    answer = ask("Write a long story.", max_completion_tokens=4, max_tokens=9)
    assert answer.usage.completion_tokens == 4


def test_max_tokens_beyond_the_room_is_cut_to_what_fits(ask, client, model):
    """Sentence 20: the prompt fits, so the request is served."""
    answer = ask(max_tokens=client.models.retrieve(model).max_model_len)
    assert "Tokyo" in content(answer)


def test_the_model_may_be_omitted(http, model):
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    answer = http.post("chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == model


@pytest.mark.parametrize(
    "text",
    ["Grüße aus Köln 🚢⚓️", "日本の首都はどこですか。", "مرحبا", "\u0000\u0001 control", "e\u0301 combining",
     "👩‍👩‍👧‍👦" * 20, " ", "a" * 2000],
    ids=["emoji", "japanese", "arabic", "control", "combining", "families", "space", "long word"],
)
def test_any_unicode_text_is_answered(ask, text):
    answer = ask(text, max_tokens=8)
    assert content(answer) is not None
    content(answer).encode()


def test_the_answer_can_be_unicode(ask):
    answer = ask("Repeat exactly: naïve café 🚢", max_tokens=30)
    assert "\ufffd" not in content(answer)


@pytest.mark.parametrize("role", ["system", "developer"])
def test_instructions_are_rendered(ask, role):
    """Sentence 22: legal shapes of messages are accepted, and they reach the prompt."""
    question = {"role": "user", "content": "Hi"}
    instructions = {"role": role, "content": "You are a lighthouse keeper who speaks of nothing else."}
    short = ask(messages=[question], max_tokens=4)
    long = ask(messages=[instructions, question], max_tokens=4)
    assert long.usage.prompt_tokens != short.usage.prompt_tokens


LEGAL_SHAPES = {
    "parts for each role": [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "!"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Hello."}]},
        {"role": "user", "content": [{"type": "text", "text": "Bye"}]},
    ],
    "no parts": [{"role": "user", "content": []}],
    "empty text": [{"role": "user", "content": ""}],
    "empty assistant text": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "Bye"},
    ],
    "names": [{"role": "user", "content": "Hi", "name": "Ada"}],
    "null content beside tool calls": [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        {"role": "user", "content": "So?"},
    ],
}


@pytest.mark.parametrize("messages", LEGAL_SHAPES.values(), ids=LEGAL_SHAPES)
def test_legal_message_shapes_are_accepted(ask, messages):
    assert ask(messages=messages, max_tokens=3).usage.completion_tokens > 0


def test_each_turn_reuses_the_one_before(ask):
    """Sentence 24: turn 2's prompt begins with turn 1's, which the cache holds."""
    # A salt of its own makes the first turn cold, whatever ran before.
    salt = {"cache_salt": uuid.uuid4().hex}
    messages = [{"role": "user", "content": "Tell me about the harbour, its tugs, its cranes, the "
                 "gulls, the ropes, the tide and the light that turns at the end of the wall."}]
    first = ask(messages=messages, max_tokens=24, **salt)
    messages += [
        {"role": "assistant", "content": content(first)},
        {"role": "user", "content": "And the pilot?"},
    ]
    second = ask(messages=messages, max_tokens=8, **salt)
    third = ask(messages=messages, max_tokens=8, **salt)
    cached = [answer.usage.prompt_tokens_details.cached_tokens for answer in (first, second, third)]
    assert cached[0] == 0
    assert cached[1] >= (first.usage.prompt_tokens - 1) // 16 * 16
    assert cached[1] < second.usage.prompt_tokens
    assert cached[2] >= cached[1]
    assert content(third) == content(second)


def test_other_salts_share_nothing(ask):
    text = "The harbour wakes before the town does, and two tugs wait at the pier for the grain ship."
    ask(text, max_tokens=1, cache_salt=uuid.uuid4().hex)
    other = ask(text, max_tokens=1, cache_salt=uuid.uuid4().hex)
    assert other.usage.prompt_tokens_details.cached_tokens == 0


def test_fields_of_the_hosted_service_are_accepted(ask):
    answer = ask(
        user="ada",
        metadata={"k": "v"},
        store=False,
        service_tier="auto",
        prompt_cache_key="key",
        safety_identifier="id",
        max_tokens=3,
    )
    assert answer.usage.completion_tokens > 0


def test_unknown_fields_are_ignored(http, model):
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2,
            "a_field_of_the_future": {"x": [1, 2]}}
    assert http.post("chat/completions", json=body).status_code == 200


def test_the_raw_response_carries_a_request_id(client, model):
    raw = client.chat.completions.with_raw_response.create(
        model=model, messages=[{"role": "user", "content": "Hi"}], max_tokens=2
    )
    assert raw.status_code == 200
    assert raw.headers["content-type"].startswith("application/json")
    assert raw.headers["x-request-id"]
    parsed = raw.parse()
    assert parsed._request_id == raw.headers["x-request-id"]


def test_a_request_id_of_the_client_is_kept(client, model):
    raw = client.chat.completions.with_raw_response.create(
        model=model,
        messages=[{"role": "user", "content": "Hi"}],
        max_tokens=2,
        extra_headers={"X-Request-Id": "harbour-1"},
    )
    assert raw.headers["x-request-id"] == "harbour-1"
    assert raw.parse().id == "chatcmpl-harbour-1"
