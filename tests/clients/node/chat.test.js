// The Node SDK against the real binary.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";

import OpenAI from "openai";

import { start } from "./server.js";

const QUESTION = [{ role: "user", content: "What is the capital of Japan?" }];

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

/** Greedy and short unless the test says otherwise. */
function request(more = {}) {
  return { model, messages: QUESTION, temperature: 0, max_tokens: 16, ...more };
}

async function text(more = {}) {
  const answer = await client.chat.completions.create(request(more));
  return answer.choices[0].message.content;
}

async function streamed(more = {}, index = 0) {
  const stream = await client.chat.completions.create(request({ ...more, stream: true }));
  let joined = "";
  for await (const chunk of stream) {
    for (const choice of chunk.choices) {
      if (choice.index === index) joined += choice.delta.content ?? "";
    }
  }
  return joined;
}

/** Requests that run or wait, by the server's own count. */
async function running() {
  const metrics = await (await fetch(server.endpoint.replace(/\/v1$/, "/metrics"))).text();
  const lines = metrics.match(/^vllm:num_requests_(running|waiting)\b.*$/gm);
  assert.ok(lines, metrics);
  return lines.reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0);
}

async function idle(milliseconds) {
  const deadline = Date.now() + milliseconds;
  while ((await running()) > 0) {
    assert.ok(Date.now() < deadline, "requests still run");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

describe("answers", () => {
  it("says hello", async () => {
    assert.match(await text(), /Tokyo/);
  });

  it("has every field of the contract", async () => {
    const answer = await client.chat.completions.create(request());
    assert.match(answer.id, /^chatcmpl-/);
    assert.equal(answer.object, "chat.completion");
    assert.equal(answer.model, model);
    assert.equal(answer.choices[0].message.role, "assistant");
    assert.equal(answer.choices[0].message.refusal, null);
    assert.equal(answer.choices[0].logprobs, null);
    const { prompt_tokens, completion_tokens, total_tokens } = answer.usage;
    assert.equal(total_tokens, prompt_tokens + completion_tokens);
    assert.ok(answer._request_id);
  });

  it("takes several choices", async () => {
    const more = { n: 3, temperature: 1.2, seed: 4 };
    const first = await client.chat.completions.create(request(more));
    const again = await client.chat.completions.create(request(more));
    assert.deepEqual(first.choices.map((choice) => choice.index), [0, 1, 2]);
    assert.deepEqual(
      first.choices.map((choice) => choice.message.content),
      again.choices.map((choice) => choice.message.content),
    );
  });

  it("ends before a stop string", async () => {
    const full = await text({ max_tokens: 12 });
    const stop = full.slice(6, 12);
    assert.equal(await text({ max_tokens: 12, stop }), full.slice(0, full.indexOf(stop)));
    assert.equal(await streamed({ max_tokens: 12, stop }), full.slice(0, full.indexOf(stop)));
  });

  it("gives log-probabilities", async () => {
    const answer = await client.chat.completions.create(
      request({ logprobs: true, top_logprobs: 2 }),
    );
    const entries = answer.choices[0].logprobs.content;
    const bytes = entries.flatMap((entry) => entry.bytes ?? []);
    assert.equal(Buffer.from(bytes).toString(), answer.choices[0].message.content);
    assert.ok(entries.every((entry) => entry.top_logprobs.length === 2));
  });

  it("reproduces a seed, alone and in company", async () => {
    const more = { temperature: 1.1, seed: 99, max_tokens: 20 };
    const alone = await text(more);
    const together = await Promise.all([
      text(more),
      streamed(more),
      text({ temperature: 1, max_tokens: 10 }),
      text(more),
    ]);
    assert.deepEqual([together[0], together[1], together[3]], [alone, alone, alone]);
  });

  it("takes vLLM's fields", async () => {
    const answer = await client.chat.completions.create(
      request({ ignore_eos: true, top_k: 1, temperature: 1, max_tokens: 24 }),
    );
    assert.equal(answer.usage.completion_tokens, 24);
  });

  it("completes on the legacy route", async () => {
    const answer = await client.completions.create({
      model,
      prompt: "The capital of Japan is",
      temperature: 0,
      max_tokens: 6,
    });
    assert.match(answer.choices[0].text, /Tokyo/);
  });

  it("lists and retrieves models", async () => {
    const ids = [];
    for await (const listed of client.models.list()) ids.push(listed.id);
    assert.deepEqual(ids, [model]);
    assert.equal((await client.models.retrieve(model)).id, model);
  });
});

describe("streams", () => {
  it("say what the plain answer says", async () => {
    assert.equal(await streamed(), await text());
  });

  it("work with the stream helper", async () => {
    const runner = client.chat.completions.stream(request({ max_tokens: 30 }));
    let deltas = "";
    runner.on("content", (delta) => (deltas += delta));
    const final = await runner.finalChatCompletion();
    assert.equal(final.choices[0].message.content, deltas);
    assert.equal(deltas, await text({ max_tokens: 30 }));
    assert.equal(final.choices[0].message.role, "assistant");
    assert.equal(await runner.finalContent(), deltas);
  });

  it("give the helper several choices", async () => {
    const runner = client.chat.completions.stream(request({ n: 2, temperature: 1, seed: 8 }));
    const final = await runner.finalChatCompletion();
    assert.deepEqual(final.choices.map((choice) => choice.index), [0, 1]);
    const plain = await client.chat.completions.create(request({ n: 2, temperature: 1, seed: 8 }));
    assert.deepEqual(
      final.choices.map((choice) => choice.message.content),
      plain.choices.map((choice) => choice.message.content),
    );
  });

  it("end with the usage where it is asked for", async () => {
    const stream = await client.chat.completions.create(
      request({ stream: true, stream_options: { include_usage: true } }),
    );
    const chunks = [];
    for await (const chunk of stream) chunks.push(chunk);
    const last = chunks.pop();
    assert.deepEqual(last.choices, []);
    assert.ok(last.usage.completion_tokens > 0);
    assert.ok(chunks.every((chunk) => chunk.usage == null));
    assert.equal(new Set(chunks.map((chunk) => chunk.id)).size, 1);
  });

  it("can be read as a ReadableStream", async () => {
    const stream = await client.chat.completions.create(request({ stream: true }));
    const decoder = new TextDecoder();
    let lines = "";
    for await (const piece of stream.toReadableStream()) lines += decoder.decode(piece);
    assert.ok(lines.trim().split("\n").every((line) => JSON.parse(line).choices));
  });

  it("end soon after the last token, for the body ends too", async () => {
    const answer = await client.chat.completions
      .create(request({ stream: true, max_tokens: 2 }))
      .asResponse();
    const body = await answer.text();
    assert.match(body, /data: \[DONE\]\n\n$/);
    assert.match(answer.headers.get("content-type"), /^text\/event-stream/);
  });

  it("stop when the client leaves", async () => {
    const stream = await client.chat.completions.create(
      request({ stream: true, max_tokens: 1500, ignore_eos: true }),
    );
    let chunks = 0;
    for await (const _ of stream) {
      if (++chunks === 3) stream.controller.abort();
    }
    await idle(5_000);
  });

  it("stop when the helper is aborted", async () => {
    const runner = client.chat.completions.stream(request({ max_tokens: 1500, ignore_eos: true }));
    runner.once("content", () => runner.abort());
    await assert.rejects(runner.done(), OpenAI.APIUserAbortError);
    await idle(5_000);
  });
});

describe("errors", () => {
  it("name the field at fault", async () => {
    await assert.rejects(client.chat.completions.create(request({ temperature: 3 })), (error) => {
      assert.ok(error instanceof OpenAI.BadRequestError);
      assert.equal(error.status, 400);
      assert.equal(error.param, "temperature");
      assert.equal(error.type, "invalid_request_error");
      assert.ok(error.requestID);
      return true;
    });
  });

  it("name the path of a wrong type", async () => {
    const messages = [...QUESTION, { role: "pirate", content: "x" }];
    await assert.rejects(client.chat.completions.create(request({ messages })), (error) => {
      assert.equal(error.param, "messages[1].role");
      return true;
    });
  });

  it("say that a model is unknown", async () => {
    await assert.rejects(client.chat.completions.create(request({ model: "gpt-4o" })), (error) => {
      assert.ok(error instanceof OpenAI.NotFoundError);
      assert.equal(error.code, "model_not_found");
      return true;
    });
  });

  it("say both numbers of a prompt that is too long", async () => {
    const { max_model_len: context } = await client.models.retrieve(model);
    const messages = [{ role: "user", content: "boat ".repeat(context + 50) }];
    await assert.rejects(client.chat.completions.create(request({ messages })), (error) => {
      assert.equal(error.code, "context_length_exceeded");
      assert.match(error.message.replaceAll(",", ""), new RegExp(`\\b${context}\\b`));
      return true;
    });
  });

  it("are statuses even for streams", async () => {
    await assert.rejects(
      client.chat.completions.create(request({ stream: true, n: 0 })),
      OpenAI.BadRequestError,
    );
    const runner = client.chat.completions.stream(request({ top_p: 7 }));
    await assert.rejects(runner.finalChatCompletion(), OpenAI.BadRequestError);
  });
});
