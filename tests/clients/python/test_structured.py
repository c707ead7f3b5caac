"""Structured outputs: by every name, through the SDK, checked by an independent validator."""

import json
import re

import jsonschema
import openai
import pytest
from pydantic import BaseModel

from conftest import content, joined

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
EXTRACT = "Extract: John is 30 years old"
EMAIL = r"[a-z0-9.]{1,20}@[a-z0-9]{1,20}\.com"
MOODS = ["positive", "negative", "neutral"]
ORDERS = 'root ::= "select " column (", " column)* " from " table\ncolumn ::= "a" | "b"\ntable ::= "t" [0-9]'


class Person(BaseModel):
    name: str
    age: int


# What a request says, and what then holds of the answer.
CONSTRAINTS = {
    "guided_json": ({"guided_json": PERSON}, lambda text: jsonschema.validate(json.loads(text), PERSON)),
    "guided_json as text": (
        {"guided_json": json.dumps(PERSON)}, lambda text: jsonschema.validate(json.loads(text), PERSON)),
    "guided_regex": ({"guided_regex": EMAIL}, lambda text: re.fullmatch(EMAIL, text)),
    "guided_choice": ({"guided_choice": MOODS}, lambda text: text in MOODS),
    "guided_grammar": (
        {"guided_grammar": ORDERS}, lambda text: re.fullmatch(r"select [ab](, [ab])* from t\d", text)),
    "guided_grammar in Lark": (
        {"guided_grammar": 'start: "yes" | "no"'}, lambda text: text in ("yes", "no")),
    "structured_outputs.json": (
        {"structured_outputs": {"json": PERSON}}, lambda text: jsonschema.validate(json.loads(text), PERSON)),
    "structured_outputs.regex": (
        {"structured_outputs": {"regex": r"\d{4}"}}, lambda text: re.fullmatch(r"\d{4}", text)),
    "structured_outputs.choice": (
        {"structured_outputs": {"choice": MOODS}}, lambda text: text in MOODS),
    "structured_outputs.grammar": (
        {"structured_outputs": {"grammar": ORDERS}}, lambda text: text.startswith("select ")),
    "structured_outputs.json_object": (
        {"structured_outputs": {"json_object": True}}, lambda text: isinstance(json.loads(text), dict)),
    "json_object": (
        {"response_format": {"type": "json_object"}}, lambda text: isinstance(json.loads(text), dict)),
    "json_schema": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}},
        lambda text: jsonschema.validate(json.loads(text), PERSON)),
}


@pytest.fixture
def constrained(client, model):
    def constrained(fields, text=EXTRACT, **parameters):
        defaults = {"temperature": 0, "max_tokens": 200}
        return client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": text}], extra_body=fields,
            **(defaults | parameters))

    return constrained



@pytest.mark.parametrize("temperature", [0, 1.5])
@pytest.mark.parametrize(("fields", "check"), CONSTRAINTS.values(), ids=CONSTRAINTS)
def test_an_answer_that_ended_satisfies_its_constraint(constrained, fields, check, temperature):
    answers = constrained(fields, temperature=temperature, seed=5, n=2)
    for choice in answers.choices:
        # At a high temperature strings may go on for long; what is cut need not be valid.
        if choice.finish_reason == "length" and temperature > 0:
            continue
        assert choice.finish_reason == "stop"
        # A validator raises, a comparison says no.
        assert check(choice.message.content) in (None, True) or check(choice.message.content)


@pytest.mark.parametrize(("fields", "check"), CONSTRAINTS.values(), ids=CONSTRAINTS)
def test_a_stream_is_the_whole_answer(constrained, fields, check):
    assert joined(constrained(fields, stream=True)) == content(constrained(fields))


def test_the_documentation_s_examples(constrained):
    person = json.loads(content(constrained({"guided_json": PERSON})))
    assert person == {"name": "John", "age": 30}
    mail = content(constrained({"guided_regex": EMAIL}, "Write an e-mail address of Alan Turing."))
    assert re.fullmatch(EMAIL, mail)
    mood = content(constrained({"guided_choice": MOODS}, "Classify: I love this boat!"))
    assert mood in MOODS


def test_parse_gives_the_class(client, model):
    answer = client.chat.completions.parse(
        model=model, messages=[{"role": "user", "content": EXTRACT}], response_format=Person,
        temperature=0, max_tokens=80)
    assert answer.choices[0].message.parsed == Person(name="John", age=30)
    with client.chat.completions.stream(
        model=model, messages=[{"role": "user", "content": EXTRACT}], response_format=Person,
        temperature=0, max_tokens=80) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == Person(name="John", age=30)


def test_log_probabilities_seeds_and_warm_prefixes_keep_the_constraint(constrained):
    fields = {"guided_json": PERSON}
    plain = content(constrained(fields, temperature=1, seed=3))
    told = constrained(fields, temperature=1, seed=3, logprobs=True, top_logprobs=2)
    assert content(told) == plain
    told_bytes = b"".join(bytes(entry.bytes) for entry in told.choices[0].logprobs.content)
    assert told_bytes.decode() == plain
    assert content(constrained(fields, temperature=1, seed=3)) == plain


def test_a_stop_string_does_not_cut_json_in_half(constrained):
    for stop in ["}", '"', ":", "John"]:
        answer = constrained({"guided_json": PERSON}, stop=stop)
        jsonschema.validate(json.loads(content(answer)), PERSON)
        assert answer.choices[0].finish_reason == "stop"


def test_white_space_alone_cannot_fill_an_answer(constrained, tokens_of):
    """A model that would only write spaces still finishes."""
    spaces = {str(token): 100 for text in (" ", "  ", "\n", "\t") for token in tokens_of(text)}
    answer = constrained({"guided_json": {"type": "array", "items": {"type": "integer"}, "maxItems": 3}},
                         logit_bias=spaces, max_tokens=60)
    assert answer.choices[0].finish_reason == "stop"
    assert not re.search(r"\s{9}", content(answer))


REFUSED = {
    "uniqueItems": (
        {"guided_json": {"type": "object", "properties": {"tags": {"type": "array", "uniqueItems": True}}}},
        "guided_json.properties.tags", "uniqueItems"),
    "a regular expression": ({"guided_regex": "(a"}, "guided_regex", None),
    "look-around": ({"guided_regex": "a(?=b)b"}, "guided_regex", None),
    "a grammar": ({"guided_grammar": "start: nothing"}, "guided_grammar", None),
    "no choice": ({"guided_choice": []}, "guided_choice", None),
    "two constraints": ({"guided_json": PERSON, "guided_regex": "a"}, None, "guided_"),
    "a schema that is none": ({"guided_json": {"type": "stringg"}}, "guided_json", None),
    "json_schema without a schema": (
        {"response_format": {"type": "json_schema"}}, "response_format.json_schema", None),
    "an unknown kind": ({"structured_outputs": {"yaml": {}}}, "structured_outputs", None),
}


@pytest.mark.parametrize(("fields", "path", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_enforced_is_refused(constrained, fields, path, words):
    with pytest.raises(openai.BadRequestError) as refused:
        constrained(fields)
    assert refused.value.param is not None
    if path:
        assert refused.value.param.startswith(path)
    if words:
        assert words in refused.value.message
    assert content(constrained({}, "What is the capital of Japan?", max_tokens=12))


def test_completions_are_constrained_too(client, model):
    answer = client.completions.create(
        model=model, prompt="The mood is", max_tokens=20, temperature=0,
        extra_body={"guided_choice": MOODS})
    assert answer.choices[0].text in MOODS
    assert answer.choices[0].finish_reason == "stop"
