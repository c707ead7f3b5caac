"""LangChain's `ChatOpenAI`: tools, structured output, streams."""

import pytest
from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


@tool
def get_weather(city: str) -> str:
    """Get the weather in a city."""
    return f"It is 31 °C and sunny in {city}."


class Person(BaseModel):
    """A person."""

    name: str
    age: int


@pytest.fixture
def chat(endpoint, model):
    return ChatOpenAI(
        base_url=endpoint, api_key="none", model=model, temperature=0, max_tokens=200,
        max_retries=0, stream_usage=True)


def test_a_tool_is_called_and_its_result_answered(chat):
    messages = [HumanMessage("What's the weather in Bangkok?")]
    call = chat.bind_tools([get_weather], tool_choice="required").invoke(messages)
    assert [made["name"] for made in call.tool_calls] == ["get_weather"]
    assert call.invalid_tool_calls == []
    assert call.response_metadata["finish_reason"] == "tool_calls"
    result = get_weather.invoke(call.tool_calls[0])
    assert isinstance(result, ToolMessage)
    answer = chat.bind_tools([get_weather], tool_choice="none").invoke([*messages, call, result])
    assert answer.content and not answer.tool_calls


def test_a_streamed_call_adds_up_to_the_whole_one(chat):
    bound = chat.bind_tools([get_weather], tool_choice="get_weather")
    whole = bound.invoke("What's the weather in Bangkok?")
    added = AIMessageChunk("")
    for chunk in bound.stream("What's the weather in Bangkok?"):
        added += chunk
    arguments = [(made["name"], made["args"]) for made in added.tool_calls]
    assert arguments == [(made["name"], made["args"]) for made in whole.tool_calls]
    assert added.usage_metadata["total_tokens"] == whole.usage_metadata["total_tokens"]


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output_is_the_class(chat, method):
    structured = chat.with_structured_output(Person, method=method)
    person = structured.invoke("Extract: John is 30 years old")
    assert isinstance(person, Person)
    assert (person.name, person.age) == ("John", 30)


async def _collect(stream):
    return [part async for part in stream]


def test_a_plain_stream_is_the_plain_answer(chat):
    import asyncio

    question = "What is the capital of Japan?"
    parts = asyncio.run(_collect(chat.astream(question)))
    assert "".join(part.content for part in parts) == chat.invoke(question).content
