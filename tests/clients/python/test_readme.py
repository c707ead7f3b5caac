"""The README's examples run as they are written, but for the address and the model's name."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from openai import OpenAI

import server as wharf

README = Path(__file__).resolve().parents[3] / "README.md"
NODE_TESTS = README.parent / "tests/clients/node"
BLOCK = re.compile(r"^```(python|javascript|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ADDRESS = "http://127.0.0.1:8000/v1"


def blocks() -> dict[str, tuple[str, str]]:
    """Examples by "heading, language"; those that talk to the server."""
    found, text = {}, README.read_text()
    for match in BLOCK.finditer(text):
        if ADDRESS in match.group(2):
            heading = re.findall(r"^#+ (.*)$", text[: match.start()], re.MULTILINE)[-1]
            found[f"{heading}, {match.group(1)} {len(found)}"] = match.groups()
    return found


BLOCKS = blocks()


def test_there_are_examples_of_each_kind():
    for language in ("python", "javascript", "sh"):
        assert sum(kind == language for kind, _ in BLOCKS.values()) >= 6


@pytest.fixture(scope="module")
def readme_server(tmp_path_factory):
    """Some examples let the model talk as long as it likes: here, up to 512 tokens."""
    running = wharf.start("serve", tmp_path_factory.mktemp("readme"), "--max-model-len", "512")
    yield running
    running.stop()


@pytest.mark.parametrize(("language", "code"), BLOCKS.values(), ids=BLOCKS)
def test_an_example_of_the_readme_runs(readme_server, tmp_path, language, code):
    address = readme_server.plain
    model = OpenAI(base_url=address, api_key="none").models.list().data[0].id
    code = code.replace(ADDRESS, address).replace('"smollm2"', f'"{model}"')
    match language:
        case "python":
            command = [sys.executable, "-c", code]
        case "sh":
            command = ["sh", "-ec", code]
        case "javascript":
            if not (NODE_TESTS / "node_modules/openai").is_dir() or not shutil.which("node"):
                pytest.skip("the Node SDK is not installed (npm ci in tests/clients/node)")
            (tmp_path / "node_modules").symlink_to(NODE_TESTS / "node_modules")
            (tmp_path / "example.mjs").write_text(code)
            command = ["node", "example.mjs"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    if language == "sh":
        is_error_example = '"temperature": 3' in code
        assert ('"error"' in done.stdout) == is_error_example, done.stdout
