"""Starting the real binary, and knowing when it is ready.

`WHARF_BIN` is the binary, `WHARF_MODEL` what to serve (default: `smollm2`).
"""

import os
import re
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

ENDPOINT = re.compile(r"http://127\.0\.0\.1:\d+/[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}/3900/v1")
STARTUP_SECONDS = 120


@dataclass
class Server:
    process: subprocess.Popen
    log: Path
    # `http://127.0.0.1:PORT`
    origin: str
    # Up to `/v1`: the instance's own address, or `origin` + `/v1` of an engine alone.
    endpoint: str

    @property
    def plain(self) -> str:
        """The address without an instance."""
        return self.origin + "/v1"

    @property
    def root(self) -> str:
        """Where /metrics, /health and /tokenize of the model server are."""
        return self.endpoint.removesuffix("/v1")

    def printed(self) -> str:
        return self.log.read_text(errors="replace")

    def running(self) -> float:
        """Answers that are being generated or wait, by the server's own count."""
        text = httpx.get(self.root + "/metrics", timeout=30).text
        return sum(metric(text, f"vllm:num_requests_{state}") for state in ("running", "waiting"))

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=40)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise
        return self.process.returncode


def metric(text: str, name: str) -> float:
    """The sum of a metric over its labels; a missing one is an error."""
    values = [
        float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if re.match(re.escape(name) + r"(\{|\s)", line)
    ]
    assert values, f"no metric {name} in:\n{text}"
    return sum(values)


def start(command: str, folder: Path, *flags: str, model: str | None = None) -> Server:
    """`wharf serve` or `wharf engine` on a free port, its state and output in `folder`."""
    binary = os.environ.get("WHARF_BIN")
    assert binary, "WHARF_BIN must be the path of the wharf binary (`cargo xtask test` sets it)"
    port = free_port()
    model = model or os.environ.get("WHARF_MODEL", "smollm2")
    arguments = [binary, command, "--model", model, "--port", str(port), *flags]
    if command == "serve":
        arguments += ["--state-dir", str(folder / "state")]
    log = folder / f"{command}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            arguments, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=folder
        )
    origin = f"http://127.0.0.1:{port}"
    server = Server(process, log, origin, origin + "/v1")
    try:
        wait_until_ready(server, command)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return server


def wait_until_ready(server: Server, command: str) -> None:
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline:
        assert server.process.poll() is None, f"the server ended:\n{server.printed()}"
        if command == "serve" and (printed := ENDPOINT.search(server.printed())):
            server.endpoint = printed.group()
        if (command == "engine" or server.endpoint != server.plain) and answers(server):
            return
        time.sleep(0.1)
    raise AssertionError(f"not ready after {STARTUP_SECONDS} s:\n{server.printed()}")


def answers(server: Server) -> bool:
    try:
        return httpx.get(server.endpoint + "/models", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
