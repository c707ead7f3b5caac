"""Tools with the Python SDK: required, named, auto, parallel, streamed, and the loop."""

import json
import re

import jsonschema
import openai
import pytest
from pydantic import BaseModel

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
TIME = {"type": "function", "function": {"name": "get_time", "description": "The time", "parameters": {
    "type": "object", "properties": {"zone": {"type": "string"}}, "required": ["zone"]}}}
QUESTION = [{"role": "user", "content": "What's the weather in Bangkok?"}]
NAMED = {"type": "function", "function": {"name": "get_weather"}}


@pytest.fixture
def call(client, model):
    def call(**parameters):
        defaults = {"model": model, "messages": QUESTION, "tools": [WEATHER, TIME],
                    "temperature": 0, "max_tokens": 200}
        return client.chat.completions.create(**(defaults | parameters))

    return call


def calls_of(choice):
    return [(made.function.name, made.function.arguments) for made in choice.message.tool_calls or []]


def added(stream):
    """What a stream adds up to: (content, calls, finish reason), its rules checked on the way."""
    content, calls, ids, reasons = "", [], [], []
    for chunk in stream:
        for choice in chunk.choices:
            content += choice.delta.content or ""
            for part in choice.delta.tool_calls or []:
                if part.index == len(calls):
                    assert part.id and part.type == "function" and part.function.name
                    ids.append(part.id)
                    calls.append([part.function.name, ""])
                else:
                    assert part.index == len(calls) - 1
                    assert part.id is None and part.type is None and part.function.name is None
                calls[part.index][1] += part.function.arguments
            if choice.finish_reason:
                reasons.append(choice.finish_reason)
    assert len(set(ids)) == len(ids)
    assert len(reasons) == 1
    return content, [tuple(call) for call in calls], reasons[0]


def is_valid(name: str, arguments: str) -> bool:
    tool = {"get_weather": WEATHER, "get_time": TIME}[name]
    jsonschema.validate(json.loads(arguments), tool["function"]["parameters"])
    return True


@pytest.mark.parametrize("temperature", [0, 1])
def test_required_calls_a_tool_and_validates(call, temperature):
    answer = call(tool_choice="required", temperature=temperature, n=3, seed=11)
    for choice in answer.choices:
        if choice.finish_reason == "length":
            continue
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        made = calls_of(choice)
        assert made and all(is_valid(*one) for one in made)


def test_named_calls_that_tool(call):
    choice = call(tool_choice=NAMED).choices[0]
    assert choice.finish_reason == "stop"
    assert [name for name, _ in calls_of(choice)] == ["get_weather"]
    assert all(is_valid(*one) for one in calls_of(choice))


def test_auto_answers_or_calls(call):
    choice = call(tool_choice="auto").choices[0]
    assert choice.finish_reason in ("stop", "tool_calls")
    assert (choice.finish_reason == "tool_calls") == bool(calls_of(choice))
    assert all(is_valid(*one) for one in calls_of(choice))


def test_none_never_calls(call):
    choice = call(tool_choice="none", max_tokens=40).choices[0]
    assert choice.message.tool_calls is None and choice.message.content


def test_allowed_tools_are_the_only_ones(call):
    allowed = {"type": "allowed_tools", "allowed_tools": {
        "mode": "required", "tools": [{"type": "function", "function": {"name": "get_time"}}]}}
    assert {name for name, _ in calls_of(call(tool_choice=allowed).choices[0])} == {"get_time"}


def test_without_parallel_calls_there_is_one(call):
    choice = call(tool_choice="required", parallel_tool_calls=False).choices[0]
    assert len(calls_of(choice)) == 1


@pytest.mark.parametrize("choice", ["required", "auto", "none", NAMED], ids=str)
def test_a_stream_adds_up_to_the_whole_answer(call, choice):
    whole = call(tool_choice=choice).choices[0]
    content, calls, reason = added(call(tool_choice=choice, stream=True))
    assert (content or None) == (whole.message.content or None)
    assert calls == calls_of(whole)
    assert reason == whole.finish_reason


def test_a_call_cut_by_max_tokens_says_length_in_both_forms(call):
    whole = call(tool_choice=NAMED, max_tokens=12).choices[0]
    content, calls, reason = added(call(tool_choice=NAMED, max_tokens=12, stream=True))
    assert whole.finish_reason == reason == "length"
    assert calls == calls_of(whole)
    assert "<tool_call>" not in (whole.message.content or "") + content


def test_the_tool_loop_by_the_sdk_s_stream(client, model):
    class GetWeather(BaseModel):
        """Get the weather in a city."""

        city: str

    tool = openai.pydantic_function_tool(GetWeather, name="get_weather")
    with client.chat.completions.stream(
        model=model, messages=QUESTION, tools=[tool], tool_choice="required",
        parallel_tool_calls=False, temperature=0, max_tokens=100) as stream:
        kinds = {event.type for event in stream}
        message = stream.get_final_completion().choices[0].message
    assert "tool_calls.function.arguments.done" in kinds
    made = message.tool_calls[0]
    assert isinstance(made.function.parsed_arguments, GetWeather)
    messages = [*QUESTION, message.model_dump(exclude_none=True, exclude={"parsed"}),
                {"role": "tool", "tool_call_id": made.id, "content": "31 °C and sunny"}]
    for one in messages[1]["tool_calls"]:
        one["function"].pop("parsed_arguments", None)
    answer = client.chat.completions.create(
        model=model, messages=messages, tools=[tool], tool_choice="none", temperature=0, max_tokens=60)
    assert answer.choices[0].message.content


def test_the_deprecated_functions_are_tools(client, model):
    parameters = {"model": model, "messages": QUESTION, "functions": [WEATHER["function"]],
                  "temperature": 0, "max_tokens": 100}
    message = client.chat.completions.create(
        **parameters, function_call={"name": "get_weather"}).choices[0].message
    assert message.function_call.name == "get_weather" and message.tool_calls is None
    assert is_valid("get_weather", message.function_call.arguments)
    history = [*QUESTION, {"role": "assistant", "content": None, "function_call": {
        "name": "get_weather", "arguments": message.function_call.arguments}},
        {"role": "function", "name": "get_weather", "content": "31 °C and sunny"}]
    answer = client.chat.completions.create(
        **(parameters | {"messages": history}), function_call="none").choices[0].message
    assert answer.content


BAD = {
    "tool_choice without tools": ({"tools": openai.NOT_GIVEN, "tool_choice": "required"}, "tool_choice"),
    "an unknown tool": (
        {"tool_choice": {"type": "function", "function": {"name": "nothing"}}}, "tool_choice.function.name"),
    "an unknown mode": ({"tool_choice": "sometimes"}, "tool_choice"),
    "an empty choice": ({"tool_choice": {}}, "tool_choice"),
    "a bad name": ({"tools": [{"type": "function", "function": {"name": "get weather"}}]}, "tools[0].function.name"),
    "two of one name": ({"tools": [WEATHER, WEATHER]}, "tools[1].function.name"),
    "a bad schema": (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "strin"}}}]},
        "tools[0].function.parameters"),
    "a schema that cannot be enforced": (
        {"tools": [WEATHER, {"type": "function", "function": {"name": "f", "parameters": {
            "type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}}}]},
        "tools[1].function.parameters.properties.a"),
    "a custom tool's bad grammar": (
        {"tools": [{"type": "custom", "custom": {"name": "f", "format": {
            "type": "grammar", "grammar": {"syntax": "regex", "definition": "(a"}}}}]},
        "tools[0].custom.format.grammar.definition"),
}


@pytest.mark.parametrize(("fields", "path"), BAD.values(), ids=BAD)
def test_bad_tools_are_refused_with_their_path(call, fields, path):
    with pytest.raises(openai.BadRequestError) as refused:
        call(**fields)
    assert refused.value.param.startswith(path)
    assert call(tool_choice="none", max_tokens=4).choices[0].message.content


def test_tools_and_a_format_give_a_call_or_the_format(call):
    schema = {"type": "object", "properties": {"answer": {"type": "string", "maxLength": 30}},
              "required": ["answer"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    choice = call(tool_choice="auto", response_format=form).choices[0]
    if calls := calls_of(choice):
        assert all(is_valid(*one) for one in calls)
    else:
        jsonschema.validate(json.loads(choice.message.content), schema)


def custom(name: str, syntax: str, definition: str) -> dict:
    form = {"type": "grammar", "grammar": {"syntax": syntax, "definition": definition}}
    return {"type": "custom", "custom": {"name": name, "description": "Does sums", "format": form}}


# The same language twice, with quotes and a line end in it.
SUMS = {
    "regex": custom("sum", "regex", r'[1-9]( [+-] [1-9]){1,3}\n"done"'),
    "lark": custom("sum", "lark", 'start: N (OP N)~1..3 END\nN: /[1-9]/\nOP: " + " | " - "\nEND: "\\n\\"done\\""'),
}


@pytest.mark.parametrize("tool", SUMS.values(), ids=SUMS)
def test_a_custom_tool_gets_text_in_its_grammar(call, tool):
    named = {"type": "custom", "custom": {"name": "sum"}}
    question = [{"role": "user", "content": "What is 2 plus 3?"}]
    parameters = {"messages": question, "tools": [WEATHER, tool], "tool_choice": named}
    choice = call(**parameters).choices[0]
    assert choice.finish_reason == "stop"
    [made] = choice.message.tool_calls
    assert made.type == "custom" and made.custom.name == "sum"
    assert re.fullmatch(r'[1-9]( [+-] [1-9]){1,3}\n"done"', made.custom.input)

    added, ids = "", []
    for chunk in call(**parameters, stream=True):
        for part in chunk.choices[0].delta.tool_calls or []:
            part = part.to_dict()
            assert part["index"] == 0 and "function" not in part
            if not ids:
                assert part["type"] == "custom" and part["custom"] == {"name": "sum", "input": ""}
                ids.append(part["id"])
            else:
                assert part.keys() == {"index", "custom"} and part["custom"].keys() == {"input"}
            added += part["custom"]["input"]
    assert added == made.custom.input and all(ids)

    history = [*question, choice.message.model_dump(exclude_none=True),
               {"role": "tool", "tool_call_id": made.id, "content": "5"}]
    answer = call(**(parameters | {"messages": history, "tool_choice": "none", "max_tokens": 20}))
    assert answer.choices[0].message.content
