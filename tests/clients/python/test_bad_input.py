"""Anything at all on any route gives a 4xx in the OpenAI error shape and leaves the server serving."""

import json
import socket
from urllib.parse import urlsplit

import httpx
import pytest

JSON = {"Content-Type": "application/json"}
VALID = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}


def chat(**fields) -> bytes:
    return json.dumps(VALID | fields).encode()


def raw(field: str, value: str) -> bytes:
    """A valid request but for one field, whose JSON text is given."""
    return (json.dumps(VALID)[:-1] + f', "{field}": {value}}}').encode()


# name: body of POST /v1/chat/completions
BODIES = {
    "no body": b"",
    "not JSON": b"hello",
    "cut": b'{"messages": [{"role": "us',
    "trailing comma": b'{"messages": [],}',
    "two values": chat() + b"{}",
    "null": b"null",
    "a number": b"1",
    "a string": b'"messages"',
    "a list": b"[]",
    "an empty object": b"{}",
    "messages null": raw("messages", "null"),
    "messages an object": raw("messages", "{}"),
    "messages of null": raw("messages", "[null]"),
    "no messages": raw("messages", "[]"),
    "an unknown role": raw("messages", '[{"role": "pirate", "content": "x"}]'),
    "no role": raw("messages", '[{"content": "x"}]'),
    "user without content": raw("messages", '[{"role": "user"}]'),
    "content a number": raw("messages", '[{"role": "user", "content": 1}]'),
    "content deep": raw("messages", '[{"role": "user", "content": ' + "[" * 500 + "]" * 500 + "}]"),
    "invalid UTF-8": b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}',
    "half a character": b'{"messages": [{"role": "user", "content": "\xf0\x9f"}]}',
    "half a surrogate pair": raw("messages", '[{"role": "user", "content": "\\ud83d"}]'),
    "raw control character": b'{"messages": [{"role": "user", "content": "\x01"}]}',
    "NaN": raw("temperature", "NaN"),
    "Infinity": raw("temperature", "Infinity"),
    "1e999": raw("temperature", "1e999"),
    "minus zero tokens": raw("max_tokens", "-0"),
    "negative tokens": raw("max_tokens", "-5"),
    "half a token": raw("max_tokens", "0.5"),
    "more tokens than 64 bits": raw("max_tokens", "-" + "9" * 40),
    "negative n": raw("n", "-1"),
    "huge n": raw("n", "1000000000"),
    "negative top_logprobs": raw("top_logprobs", "-1"),
    "100,000 stop strings": chat(stop=["x"] * 100_000),
    "a million bytes of stop string, five times": chat(stop=["x" * 1_000_000] * 5),
    "100,000 logit biases, one wrong": chat(
        logit_bias={str(i): 0 for i in range(100_000)} | {"x": 1}),
    "logit bias of no token": chat(logit_bias={"4294967296": 1}),
    "empty allowed_token_ids": chat(allowed_token_ids=[]),
    "100,000 bad words": chat(bad_words=["x"] * 100_000),
    "empty bad word": chat(bad_words=[""]),
    "deep nesting": b'{"messages": ' + b"[" * 200_000,
    "deep nesting, closed": raw("metadata", "[" * 100_000 + "]" * 100_000),
    "deep objects": raw("chat_template_kwargs", '{"a":' * 50_000 + "1" + "}" * 50_000),
    "a template of the client": chat(chat_template="{{ 1/0 }}"),
    "both ways to go on": chat(add_generation_prompt=True, continue_final_message=True),
    "wrong cache salt": chat(cache_salt=5),
    "empty cache salt": chat(cache_salt=""),
    "stream a number": chat(stream=2),
    "stream options a list": chat(stream=True, stream_options=[1]),
    "an unknown model": chat(model="no-such-model"),
    "tools of nothing": chat(tools=[{}]),
    "an unknown response format": chat(response_format={"type": "poem"}),
    "response format without type": chat(response_format={}),
    "100,000 messages without role": chat(messages=[{"content": "x"}] * 100_000),
}


@pytest.fixture(params=["instance", "plain"])
def base(request, server) -> str:
    return server.endpoint if request.param == "instance" else server.plain


def assert_refused(answer: httpx.Response) -> None:
    assert 400 <= answer.status_code < 500, (answer.status_code, answer.text[:500])
    assert answer.headers["content-type"].startswith("application/json")
    assert_error_shape(answer.json())


def assert_error_shape(body) -> None:
    error = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str) and error["message"]
    assert isinstance(error["type"], str) and error["type"]
    assert error["param"] is None or isinstance(error["param"], str)
    assert error["code"] is None or isinstance(error["code"], str)
    # The message speaks to a client: no Rust names, no panic.
    for leak in ("panicked", "unwrap", "src/", "wharf_", "serde"):
        assert leak not in error["message"]
    assert len(error["message"]) < 5000


@pytest.fixture(autouse=True)
def still_serving(server):
    yield
    answer = httpx.post(server.endpoint + "/chat/completions", json=VALID, timeout=60)
    assert answer.status_code == 200, answer.text
    assert server.process.poll() is None


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_bad_body_is_refused(server, body):
    assert_refused(httpx.post(
        server.endpoint + "/chat/completions", content=body, headers=JSON, timeout=60))


SOME = ["not JSON", "an empty object", "invalid UTF-8", "deep nesting", "a list"]


@pytest.mark.parametrize("route", ["/completions", "/../tokenize", "/../detokenize"])
@pytest.mark.parametrize("name", SOME)
def test_a_bad_body_is_refused_on_every_route(server, route, name):
    url = server.root + route.removeprefix("/..") if ".." in route else server.endpoint + route
    assert_refused(httpx.post(url, content=BODIES[name], headers=JSON, timeout=60))


COMPLETIONS = {
    "prompt null": {"prompt": None},
    "prompt a number": {"prompt": 5},
    "prompt an object": {"prompt": {}},
    "no prompts": {"prompt": []},
    "mixed prompts": {"prompt": ["a", 1]},
    "negative token": {"prompt": [-1]},
    "no such token": {"prompt": [99_999_999]},
    "a token of 2^40": {"prompt": [2**40]},
    "an empty token list": {"prompt": [[]]},
    "too many logprobs": {"prompt": "a", "logprobs": 99},
    "suffix": {"prompt": "a", "suffix": "b"},
    "best of more than n": {"prompt": "a", "n": 2, "best_of": 5},
    "100,000 prompts": {"prompt": ["a"] * 100_000, "max_tokens": 1},
}


@pytest.mark.parametrize("body", COMPLETIONS.values(), ids=COMPLETIONS)
def test_a_bad_completion_is_refused(server, body):
    assert_refused(httpx.post(server.endpoint + "/completions", json=body, timeout=60))


TOKENS = {
    "tokenize: prompt and messages": ("/tokenize", {"prompt": "a", "messages": VALID["messages"]}),
    "tokenize: prompt a list": ("/tokenize", {"prompt": ["a"]}),
    "tokenize: no messages": ("/tokenize", {"messages": []}),
    "detokenize: negative": ("/detokenize", {"tokens": [-1]}),
    "detokenize: no such token": ("/detokenize", {"tokens": [99_999_999]}),
    "detokenize: text": ("/detokenize", {"tokens": "abc"}),
    "detokenize: nothing": ("/detokenize", {"tokens": None}),
}


@pytest.mark.parametrize(("route", "body"), TOKENS.values(), ids=TOKENS)
def test_a_bad_tokenization_is_refused(server, route, body):
    assert_refused(httpx.post(server.root + route, json=body, timeout=60))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/chat/completions"), ("PUT", "/chat/completions"), ("DELETE", "/chat/completions"),
        ("PATCH", "/completions"), ("GET", "/completions"), ("POST", "/models"),
        ("DELETE", "/models/x"), ("BREW", "/chat/completions"),
    ],
)
def test_a_wrong_method_is_refused(base, method, path):
    answer = httpx.request(method, base + path, timeout=60)
    assert_refused(answer)
    assert answer.status_code == 405


@pytest.mark.parametrize(
    "path",
    ["/nothing", "/chat", "/chat/completions/", "/chat/completions/x", "/models/no-such-model",
     "/models/%00", "/models/%ff", "//chat/completions", "/%2e%2e/%2e%2e/etc/passwd", "/" + "x" * 5000],
)
def test_an_unknown_path_is_not_found(base, path):
    answer = httpx.post(base + path, json=VALID, timeout=60)
    if path.startswith("/models/"):
        answer = httpx.get(base + path, timeout=60)
    assert_refused(answer)


@pytest.mark.parametrize(
    "path",
    ["/", "/x", "/not-a-uuid/3900/v1/models", "/00000000-0000-4000-8000-000000000000/3900/v1/models",
     "/00000000-0000-4000-8000-000000000000/99999999999/v1/models",
     "/00000000-0000-4000-8000-000000000000/-1/v1/models", "/%00/%00/%00", "/v2/models"],
)
def test_a_path_outside_every_instance_is_not_found(server, path):
    answer = httpx.post(server.origin + path, json=VALID, timeout=60)
    assert_refused(answer)


@pytest.mark.parametrize(
    "headers",
    [{"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"},
     {"Content-Type": "multipart/form-data; boundary=x"}, {"Content-Type": ""},
     {"Content-Type": "application/xml"}],
    ids=lambda headers: headers["Content-Type"] or "empty",
)
def test_a_wrong_content_type_is_refused(base, headers):
    assert_refused(httpx.post(
        base + "/chat/completions", content=chat(), headers=headers, timeout=60))


def test_a_compressed_body_is_refused(base):
    headers = JSON | {"Content-Encoding": "gzip"}
    assert_refused(httpx.post(
        base + "/chat/completions", content=b"\x1f\x8b\x08junk", headers=headers, timeout=60))


def test_a_body_past_the_limit_is_too_large(base):
    body = b'{"messages": "' + b"x" * (33 << 20) + b'"}'
    answer = httpx.post(base + "/chat/completions", content=body, headers=JSON, timeout=60)
    assert_refused(answer)
    assert answer.status_code == 413


def test_a_body_past_the_limit_without_a_length_is_too_large(base):
    def chunks():
        yield b'{"messages": "'
        for _ in range(40):
            yield b"x" * (1 << 20)

    answer = httpx.post(base + "/chat/completions", content=chunks(), headers=JSON, timeout=60)
    assert_refused(answer)
    assert answer.status_code == 413


GARBAGE = {
    "noise": bytes(range(256)) * 8,
    "TLS": bytes.fromhex("16030100a5010000a1"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "two lengths": b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
                   b"Content-Length: 9\r\n\r\nabcde",
    "a length and chunks": b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
                           b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a wrong chunk size": b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
                          b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a negative length": b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "endless headers": b"GET /v1/models HTTP/1.1\r\n" + b"x: y\r\n" * 20_000,
    "a body that never comes": b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
                               b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{",
}


@pytest.mark.parametrize("sent", GARBAGE.values(), ids=GARBAGE)
def test_what_is_not_http_harms_nothing(server, sent):
    """Below HTTP there is no error object to send: a 4xx or a closed connection will do."""
    address = urlsplit(server.origin)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.settimeout(2)
        try:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(65536)
        except OSError:
            # Closed before, or while, we spoke; or silent.
            return
    assert not answer or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), answer[:200]
