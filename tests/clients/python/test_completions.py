"""The legacy route, models, and the tokenizer's routes."""

import httpx
import openai
import pytest

PROMPT = "The capital of Japan is"


@pytest.fixture
def complete(client, model):
    def complete(prompt=PROMPT, **parameters):
        defaults = {"model": model, "prompt": prompt, "temperature": 0, "max_tokens": 8}
        return client.completions.create(**(defaults | parameters))

    return complete


def test_a_text_prompt(complete, model):
    answer = complete()
    assert "Tokyo" in answer.choices[0].text
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    assert answer.model == model
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_token_prompts_say_the_same(complete, tokens_of):
    assert complete(tokens_of(PROMPT)).choices[0].text == complete().choices[0].text


def test_several_prompts(complete):
    prompts = [PROMPT, "One, two, three,", "The sea is"]
    together = complete(prompts)
    assert [choice.index for choice in together.choices] == [0, 1, 2]
    assert [choice.text for choice in together.choices] == [
        complete(prompt).choices[0].text for prompt in prompts]


def test_several_choices_for_several_prompts(complete):
    answer = complete([PROMPT, "The sea is"], n=2, temperature=1.0, seed=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]


def test_several_token_prompts(complete, tokens_of):
    answer = complete([tokens_of(PROMPT), tokens_of("The sea is")])
    assert answer.choices[0].text == complete().choices[0].text


def test_sixteen_tokens_by_default(client, model):
    answer = client.completions.create(model=model, prompt="Once upon a time", temperature=0)
    assert answer.usage.completion_tokens <= 16


def test_a_stream(complete):
    chunks = list(complete(stream=True, stream_options={"include_usage": True}))
    text = "".join(choice.text for chunk in chunks for choice in chunk.choices)
    assert text == complete().choices[0].text
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 8
    reasons = [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason]
    assert reasons == ["length"]


def test_stop(complete):
    full = complete(max_tokens=20).choices[0].text
    answer = complete(max_tokens=20, stop=full[5:9])
    assert answer.choices[0].text == full[: full.index(full[5:9])]
    assert answer.choices[0].finish_reason == "stop"


def test_echo(complete):
    assert complete(echo=True).choices[0].text == PROMPT + complete().choices[0].text


def test_logprobs(complete):
    answer = complete(logprobs=3)
    logprobs = answer.choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset) == 8
    assert "".join(logprobs.tokens) == answer.choices[0].text
    assert all(len(top) >= 3 for top in logprobs.top_logprobs)


def test_models_are_listed(client, model):
    models = client.models.list()
    assert models.object == "list"
    [only] = models.data
    assert only.id == model and only.object == "model"
    assert isinstance(only.created, int) and only.owned_by
    assert only.max_model_len > 0


def test_a_model_is_retrieved(client, model):
    # The name may hold slashes, where it is a path.
    assert client.models.retrieve(model).id == model


def test_an_unknown_model_is_not_retrieved(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-4o")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize("text", ["", " ", "Hello", "naïve 🚢 日本語", "a\n\n b\t", "<|im_start|>x"])
def test_detokenize_undoes_tokenize(server, text):
    tokens = httpx.post(
        server.root + "/tokenize", json={"prompt": text, "add_special_tokens": False}).json()
    assert tokens["count"] == len(tokens["tokens"])
    assert tokens["max_model_len"] > 0
    back = httpx.post(server.root + "/detokenize", json={"tokens": tokens["tokens"]}).json()
    assert back["prompt"] == text


def test_tokens_of_a_conversation_are_those_of_its_prompt(server, ask):
    messages = [{"role": "user", "content": "What is the capital of Japan?"}]
    body = {"messages": messages, "return_token_strs": True}
    tokens = httpx.post(server.root + "/tokenize", json=body).json()
    assert tokens["count"] == ask().usage.prompt_tokens
    assert len(tokens["token_strs"]) == tokens["count"]


@pytest.mark.parametrize("path", ["/health", "/ping", "/version", "/metrics", "/v1/health"])
def test_the_routes_of_operators(server, path):
    answer = httpx.get(server.root + path)
    assert answer.status_code == 200, (path, answer.text)
