"""Requests nobody sane sends: each is answered, none with a server error, and afterwards the server is as before."""

import asyncio
import json
import random
import socket

import pytest
from harness import load, metrics
from harness.client import Client
from harness.server import Server, wait_for

ROUTES = ["/", "/generate", "/generate_stream", "/tokenize", "/v1/chat/completions", "/v1/completions"]
ROUTES += [f"/api/{name}" for name in ("generate", "chat", "create", "embed", "show")]
MODEL = "weirgate-demo"
SHORT = {"num_predict": 2, "num_ctx": 16, "temperature": 0.5, "stop": ["x"]}
VALID = {
    "/api/generate": {"model": MODEL, "prompt": "Once", "options": SHORT, "logprobs": True, "keep_alive": "1m"},
    "/api/chat": {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "options": SHORT, "format": "json"},
    "/api/create": {"model": "made", "from": MODEL, "parameters": {"stop": ["x"]}, "quantize": "q8_0", "stream": False},
    "/api/embed": {"model": MODEL, "input": ["Once", "upon"], "dimensions": 3, "options": {"num_ctx": 8}},
    "/api/show": {"model": MODEL, "verbose": True, "options": {"top_k": 3}},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "temperature": 0.5},
    "/v1/completions": {"prompt": "Once", "max_tokens": 2, "stop": ["x"], "logit_bias": {"5": 1}},
}
GENERATE = {"inputs": "Once", "parameters": {"max_new_tokens": 2, "top_k": 5, "stop": ["x"], "details": True}}

# Values at the edges of their types and rules.
EXTREMES = [
    {"temperature": 1e-45, "do_sample": True},
    {"temperature": 3e38, "do_sample": True},
    {"temperature": 1e39, "do_sample": True},
    {"repetition_penalty": 1e-38},
    {"repetition_penalty": 3e38},
    {"frequency_penalty": 2.0, "repetition_penalty": 1e-30},
    {"top_p": 1e-30, "do_sample": True},
    {"top_p": 0.99999994, "do_sample": True},
    {"typical_p": 1e-30, "do_sample": True},
    {"top_k": 2**31 - 1, "do_sample": True},
    {"min_p": 1.0, "do_sample": True},
    {"seed": 2**64 - 1, "do_sample": True},
    {"seed": 2**64},
    {"seed": -1},
    {"max_new_tokens": 2**32 - 1, "stop": ["e"]},
    {"max_new_tokens": 2**32},
    {"min_tokens": 2**32 - 1},
    {"stop": [""]},
    {"stop": ["\u0000"]},
    {"stop": ["x" * 100_000]},
    {"truncate": 1},
    {"best_of": 2**63},
    {"top_n_tokens": 5, "temperature": 1e-45, "do_sample": True},
    {"watermark": True, "top_k": 1, "temperature": 1e-30, "do_sample": True},
]


def idle(client: Client) -> bool:
    return metrics.engine(client.get("/metrics").text).idle


@pytest.mark.parametrize("parameters", EXTREMES, ids=lambda value: json.dumps(value)[:60])
@pytest.mark.parametrize("route", ["/generate", "/generate_stream"])
def test_extreme_parameters(client, parameters, route):
    parameters = {"max_new_tokens": 8, "details": True} | parameters
    response = client.post(route, {"inputs": "Once upon a time", "parameters": parameters})
    # What is beyond all numbers of 32 bits is refused while the body is read.
    beyond = parameters.get("temperature", 0) > 3.5e38
    assert response.status in ((400, 422) if beyond else (200, 422)), response.text
    assert "NaN" not in response.text and "Infinity" not in response.text
    if response.status == 200 and route == "/generate":
        details = response.json()["details"]
        assert all(0 <= token["id"] < 4096 for token in details["tokens"])
        assert all(token["logprob"] is None or token["logprob"] <= 0 for token in details["tokens"])


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": [4096]},
        {"prompt": [-1]},
        {"prompt": [2**40]},
        {"prompt": [[]]},
        {"prompt": []},
        {"prompt": [[1, 2], []]},
        {"prompt": ""},
        {"prompt": [1, 2, 3] * 1000},
        {"logit_bias": {"4096": 1}},
        {"logit_bias": {"x": 1}},
        {"logit_bias": {"1": 101}},
        {"logit_bias": {str(n): -100 for n in range(1025)}},
        {"n": 0},
        {"n": 10**6},
        {"n": -1},
        {"max_tokens": 0},
        {"top_p": 2.0},
        {"presence_penalty": 3},
        {"best_of": 2, "n": 3},
        {"logprobs": 10**6},
        {"stop": ["a"] * 5},
        {"stop": {"a": 1}},
        {"stream": "yes"},
    ],
    ids=lambda value: json.dumps(value)[:40],
)
def test_v1_refuses_nonsense(client, fields):
    response = client.post("/v1/completions", {"prompt": "Once", "max_tokens": 2} | fields)
    assert response.status == 400, response.text
    assert response.json()["error"]["message"]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"\xff\xfe",
        b'{"inputs": "\xff"}',
        b'{"inputs": "\\ud800"}',
        b'{"inputs": "a", "inputs": "b"}',
        b"[" * 100_000,
        b'{"inputs":' * 5_000,
        b'{"messages": [{"role": "user", "content": ' + b"[" * 1_000 + b"]" * 1_000 + b"}]}",
        b'{"inputs": 1e999}',
        b'{"prompt": 1e999}',
    ],
    ids=lambda body: repr(body[:24]),
)
def test_bodies_from_hell(client, route, body):
    response = client.post(route, body)
    assert 400 <= response.status < 500, f"{response.status} {response.text[:200]}"


def mutations(body: dict, generator: random.Random) -> bytes:
    """The JSON of `body` with a few bytes changed, doubled, or taken out."""
    data = bytearray(json.dumps(body).encode())
    for _ in range(generator.randint(1, 4)):
        at = generator.randrange(len(data))
        match generator.randrange(4):
            case 0:
                data[at] = generator.choice(b'"{}[],:0-9.eE\\x\x00\xff')
            case 1:
                del data[at : at + generator.randint(1, 6)]
            case 2:
                data[at:at] = data[at : at + generator.randint(1, 12)]
            case 3:
                data[at:at] = generator.choice([b"null", b"-1", b"1e400", b"99999999999", b"true", b'""', b"[]", b"{}"])
    return bytes(data)


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A server whose answers end soon though what was to end them was mutated: Ollama's are ten contexts long at most."""
    server = Server(tmp_path_factory.mktemp("short") / "log", "--max-total-tokens", "64")
    try:
        yield Client(server.start().port)
        server.stop()
    finally:
        server.kill()


@pytest.mark.parametrize("route", ROUTES)
def test_mutated_bodies(short, route):
    generator = random.Random(route)
    for _ in range(150):
        body = mutations(VALID.get(route, GENERATE), generator)
        response = short.post(route, body)
        assert response.status < 500, f"{body!r}: {response.status} {response.text[:200]}"
    wait_for(lambda: idle(short), 5, "idle")


@pytest.mark.parametrize("path", ["/debug/pprof/", "/debug/pprof", "/debug/pprof/heap", "/debug/pprof/profile?seconds=1"])
def test_nothing_shows_the_servers_inside(client, path):
    """Ollama's default routes have Go's profiler among them."""
    for method in ("GET", "POST", "HEAD"):
        assert client.request(method, path).status == 404, method


@pytest.mark.parametrize(
    "head",
    [
        b"GARBAGE\r\n\r\n",
        b"GET /health HTTP/9.9\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /generate HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
        b"Content-Type: application/json\r\n\r\nzz\r\n",
        b"GET /health HTTP/1.1\r\n" + b"".join(b"x-%d: y\r\n" % n for n in range(500)) + b"\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /%00%ff/../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=lambda head: repr(head[:30]),
)
def test_heads_that_are_no_http(client, server, head):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        try:
            connection.sendall(head)
            answer = connection.recv(4096)
        except (ConnectionResetError, BrokenPipeError):
            answer = b""
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer
    assert client.get("/health").status == 200


def test_a_body_that_never_comes_holds_no_place(start_server):
    server = start_server("--max-concurrent-requests", "2")
    head = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    connections = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(8)]
    try:
        for connection in connections:
            connection.sendall(head)
        assert Client(server.port).post("/generate", GENERATE).status == 200
    finally:
        for connection in connections:
            connection.close()


def test_clients_that_come_and_go(start_server):
    """400 requests of all kinds, most of them abandoned at a random moment: the books are right afterwards."""
    server = start_server(
        "--max-batch-total-tokens", "2048", "--max-total-tokens", "1024", "--max-concurrent-requests", "64"
    )
    generator = random.Random(7)

    async def visit(http):
        route = generator.choice(["/generate", "/generate_stream", "/v1/completions"])
        prompt = "Once upon a time " * generator.randint(1, 40)
        tokens = generator.randint(1, 200)
        if route.startswith("/v1"):
            body = {
                "prompt": prompt,
                "max_tokens": tokens,
                "n": generator.randint(1, 3),
                "stream": generator.random() < 0.5,
            }
        else:
            body = {"inputs": prompt, "parameters": {"max_new_tokens": tokens, "ignore_eos": True}}
        send = load.stream if route.endswith("stream") else load.plain
        task = asyncio.create_task(send(http, server.url + route, body))
        stays = generator.random() < 0.2
        await asyncio.wait([task], timeout=None if stays else generator.random() * 0.5)
        if task.done():
            assert task.result().status in (200, 429), task.result()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def crowd():
        async with load.session() as http:

            async def one_after_another():
                for _ in range(10):
                    await visit(http)

            await asyncio.gather(*(one_after_another() for _ in range(40)))

    asyncio.run(asyncio.wait_for(crowd(), 50))
    client = Client(server.port)
    wait_for(lambda: idle(client), 5, "idle after the crowd")
    answer = client.post_ok("/generate", GENERATE)
    assert answer["details"]["generated_tokens"] == 2
