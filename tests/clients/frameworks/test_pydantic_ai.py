"""pydantic-ai, which checks every answer strictly against the API's types."""

import asyncio

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.exceptions import UsageLimitExceeded
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.usage import UsageLimits

SETTINGS = {"temperature": 0, "max_tokens": 200}


class Person(BaseModel):
    """A person."""

    name: str
    age: int


@pytest.fixture
def chat(endpoint, model):
    return OpenAIChatModel(model, provider=OpenAIProvider(base_url=endpoint, api_key="none"))


@pytest.mark.parametrize("output", [NativeOutput, ToolOutput])
def test_an_output_type_is_what_comes_out(chat, output):
    agent = Agent(chat, output_type=output(Person), model_settings=SETTINGS, retries=0)
    assert agent.run_sync("Extract: John is 30 years old").output == Person(name="John", age=30)


def test_a_tool_s_result_comes_back_to_the_model(chat):
    """The loop, as far as a model without a mind of its own can go: every step calls, until the
    limit that the framework sets."""
    asked = []
    agent = Agent(chat, output_type=Person, model_settings=SETTINGS)

    @agent.tool_plain
    def age_of(name: str) -> int:
        """The age of a person."""
        asked.append(name)
        return 30

    try:
        result = agent.run_sync(
            "Extract the person: John. Use age_of for his age.",
            usage_limits=UsageLimits(request_limit=4))
        assert isinstance(result.output, Person)
    except UsageLimitExceeded:
        # It preferred to ask again and again: each call was well-formed, each result taken.
        assert len(asked) >= 3
    assert all(isinstance(name, str) for name in asked)


def test_a_streamed_output_ends_as_the_class(chat):
    agent = Agent(chat, output_type=NativeOutput(Person), model_settings=SETTINGS, retries=0)

    async def run():
        async with agent.run_stream("Extract: John is 30 years old") as result:
            return [part async for part in result.stream_output(debounce_by=None)]

    parts = asyncio.run(run())
    assert parts[-1] == Person(name="John", age=30)


def test_plain_text_streams(chat):
    agent = Agent(chat, model_settings=SETTINGS)

    async def run():
        async with agent.run_stream("What is the capital of Japan?") as result:
            return "".join([part async for part in result.stream_text(delta=True)])

    assert "Tokyo" in asyncio.run(run())
