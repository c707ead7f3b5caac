"""Errors as the SDK's exceptions."""

import re

import openai
import pytest

MESSAGES = [{"role": "user", "content": "Hi"}]


def refused(client, model, **parameters):
    request = {"model": model, "messages": MESSAGES, "max_tokens": 4} | parameters
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**request)
    error = caught.value
    assert error.status_code == 400
    assert error.body["message"]
    assert error.type == "invalid_request_error"
    assert error.request_id
    return error


OUT_OF_RANGE = {
    "temperature": [-0.1, 2.1],
    "top_p": [-0.1, 0, 1.1],
    "frequency_penalty": [-2.1, 2.1],
    "presence_penalty": [-2.1, 2.1],
    "n": [0, -1, 129, 2**40],
    "max_tokens": [-1, 0],
    "max_completion_tokens": [-1],
    "top_logprobs": [-1, 21],
    "seed": [2**64, -(2**70)],
    "stop": [[""], ["a", "b", "c", "d", "e"]],
    "logit_bias": [{"1": 101}, {"1": -101}, {"x": 1}, {"-1": 1}, {"99999999": 1}],
}
OUT_OF_RANGE_EXTENSIONS = {
    "top_k": [-2],
    "min_p": [-0.1, 1.1],
    "repetition_penalty": [0, -1],
    "min_tokens": [-1, 5],
    "allowed_token_ids": [[], [-1], [99999999]],
    "stop_token_ids": [[-1]],
    "bad_words": [["w"] * 129],
    "truncate_prompt_tokens": [-2],
}


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, values in OUT_OF_RANGE.items() for value in values],
)
def test_a_value_out_of_range_names_its_field(client, model, field, value):
    more = {"logprobs": True} if field == "top_logprobs" else {}
    error = refused(client, model, **{field: value}, **more)
    assert error.param.split("[")[0].split(".")[0] == field


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, values in OUT_OF_RANGE_EXTENSIONS.items() for value in values],
)
def test_a_value_out_of_range_of_an_extension_names_its_field(client, model, field, value):
    error = refused(client, model, extra_body={field: value})
    assert error.param.split("[")[0].split(".")[0] == field


WRONG_TYPES = [
    ({"temperature": "hot"}, "temperature"),
    ({"max_tokens": "4"}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"n": [1]}, "n"),
    ({"stream": "yes"}, "stream"),
    ({"stop": 5}, "stop"),
    ({"stop": ["a", 5]}, "stop[1]"),
    ({"messages": "Hi"}, "messages"),
    ({"messages": [5]}, "messages[0]"),
    ({"messages": MESSAGES + [{"role": 5, "content": "x"}]}, "messages[1].role"),
    ({"messages": MESSAGES + [{"role": "pirate", "content": "x"}]}, "messages[1].role"),
    ({"messages": MESSAGES + [{"content": "x"}]}, "messages[1].role"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
    ({"messages": [{"role": "user", "content": [{"type": "dance"}]}]}, "messages[0].content[0].type"),
    ({"logit_bias": {"1": "x"}}, "logit_bias.1"),
    ({"logit_bias": [1]}, "logit_bias"),
    ({"model": 5}, "model"),
]


@pytest.mark.parametrize(("parameters", "path"), WRONG_TYPES)
def test_a_wrong_type_names_its_path(client, model, parameters, path):
    # As extra_body, so that the SDK sends it as it is.
    error = refused(client, model, extra_body=parameters)
    # A field that is missing has no value to point at: its parent is as good.
    assert error.param in (path, path.rsplit(".", 1)[0]), error.message
    if "role" in str(parameters.get("messages", [{}])[-1]):
        assert error.param == path


LATER = {
    "priority": 1,
    "prompt_logprobs": 1,
    "use_beam_search": True,
    "structural_tag": {"format": {"type": "wish"}},
}


@pytest.mark.parametrize(("field", "value"), LATER.items(), ids=LATER)
def test_a_feature_that_is_not_there_is_refused_by_name(client, model, field, value):
    error = refused(client, model, extra_body={field: value})
    assert error.param.startswith(field)


def test_an_image_is_refused(client, model):
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    error = refused(client, model, messages=[{"role": "user", "content": [part]}])
    assert error.param.startswith("messages[0].content[0]")


def test_empty_messages_are_refused(client, model):
    assert refused(client, model, messages=[]).param == "messages"


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert caught.value.code == "model_not_found"
    assert "gpt-4o" in caught.value.message


def test_a_prompt_that_is_too_long_names_both_numbers(client, model):
    """Sentence 19: never cut in silence."""
    context = client.models.retrieve(model).max_model_len
    error = refused(client, model, messages=[{"role": "user", "content": "boat " * (context + 100)}])
    assert error.code == "context_length_exceeded"
    numbers = [int(n.replace(",", "")) for n in re.findall(r"\d[\d,]*", error.message)]
    assert context in numbers
    assert any(number > context for number in numbers)


def test_an_unknown_instance_is_not_found(server, model):
    stranger = f"{server.origin}/00000000-0000-4000-8000-000000000000/3900/v1"
    client = openai.OpenAI(base_url=stranger, api_key="none", max_retries=0)
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model=model, messages=MESSAGES)
    assert caught.value.body["message"]


def test_an_unknown_port_is_not_found(server, model):
    client = openai.OpenAI(
        base_url=server.endpoint.replace("/3900/", "/3901/"), api_key="none", max_retries=0)
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model=model, messages=MESSAGES)


def test_an_unknown_path_is_not_found(client):
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="x", input="y")


def test_errors_are_not_retried(server, model):
    """A 400 must be one request, not three."""
    client = openai.OpenAI(base_url=server.endpoint, api_key="none", max_retries=2)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=model, messages=MESSAGES, temperature=3)
    assert caught.value.request.headers["x-stainless-retry-count"] == "0"
