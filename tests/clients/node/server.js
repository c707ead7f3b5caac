// Starting the real binary: `WHARF_BIN`, with the model `WHARF_MODEL` (default: smollm2).

import { spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import OpenAI from "openai";

const ENDPOINT = /http:\/\/127\.0\.0\.1:\d+\/[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\/3900\/v1/;
const STARTUP_MS = 120_000;

/** Starts `wharf serve` on a free port; `endpoint` is the instance's address, up to /v1. */
export async function start() {
  const binary = process.env.WHARF_BIN;
  if (!binary) throw new Error("WHARF_BIN must be the path of the wharf binary");
  const folder = await mkdtemp(join(tmpdir(), "wharf-node-"));
  const model = process.env.WHARF_MODEL ?? "smollm2";
  const child = spawn(
    binary,
    ["serve", "--model", model, "--port", "0", "--state-dir", join(folder, "state")],
    { cwd: folder, stdio: ["ignore", "pipe", "pipe"] },
  );
  let printed = "";
  for (const output of [child.stdout, child.stderr]) {
    output.on("data", (data) => (printed += data));
  }
  const ended = new Promise((resolve) => child.once("exit", resolve));
  const stop = async () => {
    child.kill("SIGTERM");
    const code = await ended;
    await rm(folder, { recursive: true, force: true });
    return code;
  };
  try {
    const endpoint = await ready(child, () => printed);
    // No retries: a 5xx must show.
    const client = new OpenAI({ baseURL: endpoint, apiKey: "none", maxRetries: 0 });
    const [{ id }] = (await client.models.list()).data;
    return { client, endpoint, model: id, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

async function ready(child, printed) {
  const deadline = Date.now() + STARTUP_MS;
  while (Date.now() < deadline) {
    if (child.exitCode !== null) throw new Error(`the server ended:\n${printed()}`);
    const endpoint = ENDPOINT.exec(printed())?.[0];
    if (endpoint) {
      const answer = await fetch(`${endpoint}/models`).catch(() => undefined);
      if (answer?.ok) return endpoint;
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error(`not ready after ${STARTUP_MS / 1000} s:\n${printed()}`);
}
