// Tools and structured outputs with the Node SDK's own helpers.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";

import { LengthFinishReasonError } from "openai/error";
import { zodFunction, zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

import { start } from "./server.js";

const QUESTION = [{ role: "user", content: "What's the weather in Bangkok?" }];
const TOOL = {
  type: "function",
  function: {
    name: "get_weather",
    description: "Get the weather in a city",
    parameters: {
      type: "object",
      properties: { city: { type: "string" } },
      required: ["city"],
      additionalProperties: false,
    },
  },
};
const Person = z.object({ name: z.string(), age: z.number().int() });

let server;
let client;
let model;

before(async () => {
  server = await start();
  ({ client, model } = server);
});
after(async () => {
  if (server) assert.equal(await server.stop(), 0);
});

function request(more = {}) {
  return { model, messages: QUESTION, tools: [TOOL], temperature: 0, max_tokens: 120, ...more };
}

describe("tools", () => {
  it("are called where that is required", async () => {
    const answer = await client.chat.completions.create(request({ tool_choice: "required" }));
    const [choice] = answer.choices;
    assert.equal(choice.finish_reason, "tool_calls");
    assert.equal(choice.message.content, null);
    assert.equal(choice.message.tool_calls[0].function.name, "get_weather");
    assert.equal(typeof JSON.parse(choice.message.tool_calls[0].function.arguments).city, "string");
  });

  it("stream the same call", async () => {
    const more = { tool_choice: { type: "function", function: { name: "get_weather" } } };
    const whole = await client.chat.completions.create(request(more));
    const stream = client.chat.completions.stream(request(more));
    const added = await stream.finalChatCompletion();
    const calls = (answer) =>
      answer.choices[0].message.tool_calls.map(({ type, function: { name, arguments: json } }) => ({
        type,
        name,
        json,
      }));
    assert.deepEqual(calls(added), calls(whole));
    assert.equal(added.choices[0].finish_reason, whole.choices[0].finish_reason);
  });

  it("of type custom get text, streamed as well", async () => {
    const format = { type: "grammar", grammar: { syntax: "regex", definition: '[A-D]{3}\\n"[0-9]"' } };
    const more = {
      tools: [TOOL, { type: "custom", custom: { name: "plate", format } }],
      tool_choice: { type: "custom", custom: { name: "plate" } },
    };
    const whole = await client.chat.completions.create(request(more));
    const [call] = whole.choices[0].message.tool_calls;
    assert.equal(call.type, "custom");
    assert.equal(call.custom.name, "plate");
    assert.match(call.custom.input, /^[A-D]{3}\n"[0-9]"$/);
    let input = "";
    for await (const chunk of await client.chat.completions.create(request({ ...more, stream: true }))) {
      for (const part of chunk.choices[0]?.delta.tool_calls ?? []) input += part.custom.input;
    }
    assert.equal(input, call.custom.input);
  });

  /// A tool that notes what it is asked for.
  function noting(asked) {
    return zodFunction({
      name: "get_weather",
      description: "Get the weather in a city",
      parameters: z.object({ city: z.string() }),
      function: ({ city }) => {
        asked.push(city);
        return `31 °C and sunny in ${city}`;
      },
    });
  }

  it("are run by the SDK", async () => {
    const asked = [];
    const tool_choice = { type: "function", function: { name: "get_weather" } };
    const runner = client.chat.completions.runTools(request({ tool_choice, tools: [noting(asked)] }));
    const result = await runner.finalFunctionToolCallResult();
    assert.equal(asked.length, 1);
    assert.equal(typeof asked[0], "string");
    assert.equal(result, `31 °C and sunny in ${asked[0]}`);
  });

  it("run in a loop until there is an answer", async () => {
    const asked = [];
    const runner = client.chat.completions.runTools(
      request({ tool_choice: "auto", tools: [noting(asked)] }),
      { maxChatCompletions: 4 },
    );
    // So small a model may find no end, which this SDK reports as an error.
    const content = await runner.finalContent().catch((error) => {
      if (error instanceof LengthFinishReasonError) return null;
      throw error;
    });
    assert.ok(content === null || typeof content === "string");
    assert.ok(asked.every((city) => typeof city === "string"));
  });
});

describe("structured outputs", () => {
  it("parse as the class", async () => {
    const answer = await client.chat.completions.parse({
      model,
      messages: [{ role: "user", content: "Extract: John is 30 years old" }],
      response_format: zodResponseFormat(Person, "person"),
      temperature: 0,
      max_tokens: 80,
    });
    assert.deepEqual(answer.choices[0].message.parsed, { name: "John", age: 30 });
  });

  it("stream as they are parsed", async () => {
    const stream = client.chat.completions.stream({
      model,
      messages: [{ role: "user", content: "Extract: John is 30 years old" }],
      response_format: zodResponseFormat(Person, "person"),
      temperature: 0,
      max_tokens: 80,
    });
    const answer = await stream.finalChatCompletion();
    assert.deepEqual(answer.choices[0].message.parsed, { name: "John", age: 30 });
  });

  it("refuse what cannot be enforced, with its path", async () => {
    const schema = { type: "object", properties: { tags: { type: "array", uniqueItems: true } } };
    const body = {
      model,
      messages: QUESTION,
      response_format: { type: "json_schema", json_schema: { name: "tags", schema } },
    };
    await assert.rejects(client.chat.completions.create(body), (error) => {
      assert.equal(error.status, 400);
      assert.match(error.param, /^response_format\.json_schema\.schema\.properties\.tags/);
      assert.match(error.message, /uniqueItems/);
      return true;
    });
  });
});
