"""One server for the whole run, as frameworks are told of it: a base URL and a model's name."""

import pytest
from openai import OpenAI

import server as wharf


@pytest.fixture(scope="session")
def endpoint(tmp_path_factory):
    running = wharf.start("serve", tmp_path_factory.mktemp("serve"))
    yield running.endpoint
    assert running.process.poll() is None, f"the server ended:\n{running.printed()}"
    running.stop()


@pytest.fixture(scope="session")
def model(endpoint) -> str:
    return OpenAI(base_url=endpoint, api_key="none").models.list().data[0].id
