"""Every sampling parameter does what its name says."""

import pytest

from conftest import content

STORY = "Write a short story about a boat."


def test_greedy_is_the_same_each_time(ask):
    assert content(ask()) == content(ask())


@pytest.mark.parametrize(
    "parameters",
    [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}],
    ids=["top_k", "top_p", "min_p"],
)
def test_what_leaves_one_token_is_greedy(ask, parameters):
    assert content(ask(STORY, temperature=1.5, seed=1, **parameters)) == content(ask(STORY))


@pytest.mark.parametrize("top_k", [0, -1])
def test_top_k_can_be_switched_off(ask, top_k):
    assert content(ask(STORY, temperature=1, seed=4, top_k=top_k))


def test_temperature_varies_the_answer(ask):
    texts = {content(ask(STORY, temperature=1.5, seed=seed)) for seed in range(4)}
    assert len(texts) > 1


def test_without_a_seed_answers_differ(ask):
    texts = {content(ask(STORY, temperature=1.5)) for _ in range(4)}
    assert len(texts) > 1


def test_a_seed_reproduces_the_answer(ask):
    parameters = {"temperature": 1.2, "top_p": 0.9, "seed": 1234, "max_tokens": 24}
    assert content(ask(STORY, **parameters)) == content(ask(STORY, **parameters))


@pytest.mark.parametrize("seed", [0, -1, -(2**63), 2**63 - 1])
def test_any_64_bit_seed_is_accepted(ask, seed):
    assert content(ask(temperature=1, seed=seed, max_tokens=2)) is not None


def test_n_gives_n_different_choices(ask):
    """Sentence 16."""
    parameters = {"n": 4, "temperature": 1.2, "seed": 9}
    first, again = ask(STORY, **parameters), ask(STORY, **parameters)
    assert [choice.index for choice in first.choices] == [0, 1, 2, 3]
    texts = [choice.message.content for choice in first.choices]
    assert len(set(texts)) > 1
    assert texts == [choice.message.content for choice in again.choices]
    assert first.usage.completion_tokens <= 4 * 16


def test_n_counts_the_prompt_once(ask):
    one, three = ask(STORY, max_tokens=4), ask(STORY, max_tokens=4, n=3, temperature=1, seed=1)
    assert three.usage.prompt_tokens == one.usage.prompt_tokens
    assert three.usage.completion_tokens == 12


def test_logit_bias_forbids_a_token(ask, tokens_of):
    plain = ask(logprobs=True)
    banned = plain.choices[0].logprobs.content[0].token
    [banned_id] = tokens_of(banned)
    other = ask(logprobs=True, logit_bias={str(banned_id): -100})
    assert banned not in [entry.token for entry in other.choices[0].logprobs.content]


def test_logit_bias_forces_a_token(ask, tokens_of):
    [wanted] = tokens_of(" boat")
    answer = ask(logit_bias={str(wanted): 100}, max_tokens=3)
    assert content(answer) == " boat boat boat"


def test_allowed_token_ids_are_the_only_ones(ask, tokens_of):
    allowed = [tokens_of(" boat")[0], tokens_of(" sea")[0]]
    answer = ask(STORY, temperature=1, seed=3, max_tokens=10, allowed_token_ids=allowed)
    assert set(content(answer).split()) <= {"boat", "sea"}
    assert content(answer)


def test_bad_words_do_not_appear(ask):
    assert "capital" in content(ask())
    assert "capital" not in content(ask(bad_words=["capital"]))


def test_stop_token_ids_end_the_answer(ask, tokens_of):
    [tokyo] = tokens_of(" Tokyo")
    answer = ask(stop_token_ids=[tokyo])
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].stop_reason == tokyo
    assert "Tokyo" not in content(answer)


def test_ignore_eos_goes_on(ask):
    answer = ask(max_tokens=40, ignore_eos=True)
    assert answer.usage.completion_tokens == 40
    assert answer.choices[0].finish_reason == "length"


def test_min_tokens_delays_the_end(ask):
    natural = ask(max_tokens=100).usage.completion_tokens
    assert natural < 60
    answer = ask(max_tokens=100, min_tokens=natural + 8)
    assert answer.usage.completion_tokens >= natural + 8


@pytest.mark.parametrize(
    "parameters",
    [{"frequency_penalty": 2.0}, {"presence_penalty": 2.0}, {"repetition_penalty": 2.0}],
    ids=["frequency", "presence", "repetition"],
)
def test_penalties_change_a_repetitive_answer(ask, parameters):
    text = "Say the word boat many times: boat boat boat boat boat boat"
    plain = ask(text, max_tokens=40, ignore_eos=True)
    penalised = ask(text, max_tokens=40, ignore_eos=True, **parameters)
    assert content(penalised) != content(plain)


def test_every_parameter_at_once(ask):
    parameters = {
        "temperature": 0.8, "top_p": 0.95, "top_k": 40, "min_p": 0.02, "frequency_penalty": 0.3,
        "presence_penalty": 0.2, "repetition_penalty": 1.1, "logit_bias": {"10": -5},
        "seed": 42, "logprobs": True, "top_logprobs": 2, "min_tokens": 2, "max_tokens": 20,
        "stop": ["###"], "stop_token_ids": [5], "bad_words": ["xyzzy"], "n": 2,
        "ignore_eos": False, "skip_special_tokens": True, "include_stop_str_in_output": False,
    }
    first, again = ask(STORY, **parameters), ask(STORY, **parameters)
    assert [c.message.content for c in first.choices] == [c.message.content for c in again.choices]


def test_special_tokens_show_only_on_request(ask):
    """Sentence 14."""
    hidden = ask(max_tokens=60, ignore_eos=True)
    shown = ask(max_tokens=60, ignore_eos=True, skip_special_tokens=False)
    assert "<|im_end|>" not in content(hidden)
    assert "<|im_end|>" in content(shown)
