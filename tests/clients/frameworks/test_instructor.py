"""instructor, in those of its modes in which the server holds the model to the class."""

import instructor
import pytest
from openai import OpenAI
from pydantic import BaseModel

QUESTION = [{"role": "user", "content": "Extract: John is 30 years old"}]


class Person(BaseModel):
    """A person."""

    name: str
    age: int


@pytest.fixture
def client(endpoint):
    return OpenAI(base_url=endpoint, api_key="none", max_retries=0)


@pytest.mark.parametrize("mode", ["TOOLS", "JSON_SCHEMA"])
def test_the_answer_is_the_class(client, model, mode):
    wrapped = instructor.from_openai(client, mode=instructor.Mode[mode])
    person = wrapped.chat.completions.create(
        model=model, messages=QUESTION, response_model=Person, max_retries=0, temperature=0,
        max_tokens=200)
    assert isinstance(person, Person)
    assert (person.name, person.age) == ("John", 30)


def test_a_partial_stream_ends_as_the_class(client, model):
    wrapped = instructor.from_openai(client, mode=instructor.Mode.JSON_SCHEMA)
    parts = list(wrapped.chat.completions.create_partial(
        model=model, messages=QUESTION, response_model=Person, temperature=0, max_tokens=200))
    assert (parts[-1].name, parts[-1].age) == ("John", 30)
