"""Stop strings (sentence 12): never sent, not even in part; only a possible start is held back."""

import pytest

from conftest import content, joined

COUNT = "Count from 1 to 10."


@pytest.fixture
def full(ask):
    """The greedy answer that the tests cut; made to be long enough."""
    text = content(ask(COUNT, max_tokens=40))
    assert len(text) > 20, text
    return text


def stops_of(text: str) -> dict[str, list[str]]:
    """Stop strings taken from the answer itself: one character, a word, over several tokens."""
    return {
        "one character": [text[9]],
        "over token borders": [text[6:15]],
        "the start": [text[:3]],
        "several, the first in the text counts": ["never there", text[14:18], text[8:12]],
        "overlapping": [text[10:16], text[8:13]],
    }


@pytest.mark.parametrize("case", list(stops_of("x" * 40)))
def test_the_answer_ends_before_the_stop_string(client, ask, model, full, case):
    stop = stops_of(full)[case]
    # What a plain search over the growing text finds: the first end of any stop string.
    ends = [(full.index(s) + len(s), full.index(s)) for s in stop if s in full]
    expected = full[: min(ends)[1]]
    answer = ask(COUNT, max_tokens=40, stop=stop)
    assert content(answer) == expected
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].stop_reason in stop
    stream = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": COUNT}], temperature=0, max_tokens=40,
        stop=stop, stream=True,
    )
    assert joined(stream) == expected


def test_a_string_is_a_list_of_one(ask, full):
    assert content(ask(COUNT, max_tokens=40, stop=full[6:10])) == full[: full.index(full[6:10])]


def test_the_stop_string_can_be_kept(ask, full):
    stop = full[6:10]
    answer = ask(COUNT, max_tokens=40, stop=stop, include_stop_str_in_output=True)
    assert content(answer) == full[: full.index(stop) + len(stop)]


def test_what_only_looks_like_a_stop_is_sent(ask, full):
    """A start of a stop string that goes on otherwise, or is cut by max_tokens, is text."""
    assert content(ask(COUNT, max_tokens=40, stop=[full[-4:] + "never"])) == full
    assert content(ask(COUNT, max_tokens=40, stop=[full[5:12] + "\u0001"])) == full


def test_null_and_empty_lists_are_no_stop(ask, full):
    assert content(ask(COUNT, max_tokens=40, stop=None)) == full


def test_four_stop_strings_are_allowed_and_five_are_not(http, model):
    body = {"model": model, "messages": [{"role": "user", "content": COUNT}], "max_tokens": 2}
    assert http.post("chat/completions", json=body | {"stop": list("wxyz")}).status_code == 200
    answer = http.post("chat/completions", json=body | {"stop": list("vwxyz")})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "stop"


def test_usage_counts_what_was_generated(client, model, full):
    chunks = list(client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": COUNT}], temperature=0, max_tokens=40,
        stop=[full[6:10]], stream=True, stream_options={"include_usage": True},
    ))
    assert chunks[-1].choices == []
    assert 0 < chunks[-1].usage.completion_tokens < 40
