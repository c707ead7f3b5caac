// The Vercel AI SDK against the real binary.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { Output, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

import { start } from "./server.js";

const Person = z.object({ name: z.string(), age: z.number().int() });
const EXTRACT = "Extract: John is 30 years old";

let server;
let model;
let asked;
let tools;

before(async () => {
  server = await start();
  const provider = createOpenAICompatible({
    name: "wharf",
    baseURL: server.endpoint,
    includeUsage: true,
    supportsStructuredOutputs: true,
  });
  model = provider(server.model);
  asked = [];
  tools = {
    get_weather: tool({
      description: "Get the weather in a city",
      inputSchema: z.object({ city: z.string() }),
      execute: async ({ city }) => {
        asked.push(city);
        return `31 °C and sunny in ${city}`;
      },
    }),
  };
});
after(async () => {
  if (server) assert.equal(await server.stop(), 0);
});

/** Greedy, short, and never tried twice. */
function request(more) {
  return { model, temperature: 0, maxOutputTokens: 120, maxRetries: 0, ...more };
}

describe("the AI SDK", () => {
  it("gets objects", async () => {
    const output = Output.object({ schema: Person });
    const answer = await generateText(request({ prompt: EXTRACT, output }));
    assert.deepEqual(answer.output, { name: "John", age: 30 });
  });

  it("streams objects", async () => {
    const output = Output.object({ schema: Person });
    const stream = streamText(request({ prompt: EXTRACT, output }));
    let last;
    for await (const partial of stream.partialOutputStream) last = partial;
    assert.deepEqual(last, { name: "John", age: 30 });
  });

  it("calls tools and gives their results back", async () => {
    const prompt = "What's the weather in Bangkok?";
    // Required in the first step, and text in the second.
    const answer = await generateText(
      request({
        prompt,
        tools,
        stopWhen: stepCountIs(2),
        prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? "required" : "none" }),
      }),
    );
    assert.equal(answer.steps.length, 2);
    assert.equal(answer.steps[0].toolCalls[0].toolName, "get_weather");
    assert.equal(answer.steps[0].finishReason, "tool-calls");
    assert.equal(asked.length, answer.steps[0].toolCalls.length);
    assert.ok(answer.text.length > 0);
  });

  it("streams calls", async () => {
    const stream = streamText(
      request({ prompt: "What's the weather in Bangkok?", tools, toolChoice: "required" }),
    );
    const calls = [];
    for await (const part of stream.fullStream) {
      assert.notEqual(part.type, "error", JSON.stringify(part));
      if (part.type === "tool-call") calls.push(part);
    }
    assert.equal(calls[0].toolName, "get_weather");
    assert.equal(typeof calls[0].input.city, "string");
    assert.ok((await stream.usage).totalTokens > 0);
  });

  it("streams text", async () => {
    const stream = streamText(request({ prompt: "What is the capital of Japan?" }));
    let text = "";
    for await (const piece of stream.textStream) text += piece;
    assert.match(text, /Tokyo/);
    assert.equal(await stream.finishReason, "stop");
  });
});
