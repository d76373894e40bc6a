"""Rules for HTTP that came out of other servers' advisories (reference reliability, sections 2.1, 2.2 and 2.4)."""

import http.client
import json
import re
import socket
import time

import pytest
from harness.client import Client
from harness.server import resident_bytes, run_to_exit, wait_for
from launch import serving

PROMPT = "Once upon a time"
OK = {"inputs": PROMPT, "parameters": {"max_new_tokens": 2}}
# Addresses, folders, source files: what an error must not tell.
INTERNAL = re.compile(r"0x7f|/home|/root|/tmp|panicked at|src/|\.rs:")


def send(port: int, data: bytes, seconds: float = 10) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        try:
            connection.sendall(data)
            return connection.recv(65536)
        except (ConnectionResetError, BrokenPipeError):
            return b""


def test_pages_of_another_name_do_not_reach_a_loopback_server(client):
    """CVE-2024-28224: DNS rebinding."""
    assert client.request("GET", "/info", headers={"Host": "evil.example"}).status == 403
    assert client.post("/generate", OK, {"Host": "evil.example:3000"}).status == 403
    for host in ("localhost", f"localhost:{client.port}", "127.0.0.1", "[::1]:3000", socket.gethostname()):
        assert client.request("GET", "/info", headers={"Host": host}).status == 200, host
    # A name without a dot is the local network's, which can be made to say anything.
    assert client.request("GET", "/info", headers={"Host": "router"}).status == 403


def test_bodies_are_what_their_type_says(client):
    for response in (client.get("/info"), client.post("/generate", b"{"), client.get("/nowhere")):
        assert response.headers["x-content-type-options"] == "nosniff"


def test_a_name_is_only_ever_echoed_as_json(client):
    """CVE-2024-48057: a name that is markup."""
    name = "<script>alert(1)</script>"
    response = client.post("/v1/completions", {"prompt": "a", "max_tokens": 1, "model": name})
    assert response.headers["content-type"] == "application/json"
    response = client.post("/generate", {"inputs": "a", "parameters": {"adapter_id": name}})
    assert (response.status, response.headers["content-type"]) == (422, "application/json")


def test_one_warning_where_anybody_may_use_the_model(tmp_path_factory):
    with serving(tmp_path_factory) as loopback:
        assert "no API key" not in loopback.output()
    with serving(tmp_path_factory, hostname="0.0.0.0") as public:
        assert public.output().count("no API key is set") == 1
        assert Client(public.port).post("/generate", OK).status == 200
        assert Client(public.port).request("GET", "/info", headers={"Host": "model.example"}).status == 200
    with serving(tmp_path_factory, "--api-key", "k", hostname="0.0.0.0") as keyed:
        assert "no API key" not in keyed.output()


def test_a_server_meant_to_be_guarded_does_not_start_open(tmp_path):
    empty = tmp_path / "keys"
    empty.write_text("# none yet\n")
    for args, said in (
        (["--api-key-file", str(empty)], "it holds no key"),
        (["--api-key-file", str(tmp_path / "missing")], "No such file"),
        (["--api-key", ""], "`api_key` cannot be empty"),
    ):
        code, output, _ = run_to_exit(args)
        assert code == 1 and said in output, output


# CVE-2025-62426 and others: every numeric field with values at the edges of types. Never a server's error.
NUMBERS = ["best_of", "temperature", "repetition_penalty", "frequency_penalty", "top_k", "top_p", "typical_p"]
NUMBERS += ["max_new_tokens", "truncate", "seed", "top_n_tokens", "min_p", "min_tokens"]
EDGES = ["-1", "0", "NaN", "1e308", str(2**63), '"1"', "null", "0.5", "[]", "{}", "true", "-0.0", "1e-320"]


@pytest.mark.parametrize("field", NUMBERS)
@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/invocations", "/vertex"])
def test_numbers_at_the_edges(client, path, field):
    for value in EDGES:
        limit = "" if field == "max_new_tokens" else '"max_new_tokens": 2, '
        parameters = f'"inputs": "{PROMPT}", "parameters": {{{limit}"{field}": {value}}}'
        body = f'{{"instances": [{{{parameters}}}]}}' if path == "/vertex" else f"{{{parameters}}}"
        response = client.post(path, body.encode())
        assert response.status in (200, 400, 422), (value, response.text)
        assert not INTERNAL.search(response.text), response.text


@pytest.mark.parametrize("path", ["/generate", "/invocations", "/vertex", "/chat_tokenize", "/v1/chat/completions"])
@pytest.mark.parametrize("deep", ["[" * 100_000, '{"a":' * 100_000, "(" * 60_000], ids=["arrays", "objects", "parens"])
def test_depth(client, path, deep):
    for body in (deep, f'{{"inputs": {deep}', f'{{"messages": {deep}', f'{{"instances": {deep}'):
        response = client.post(path, body.encode())
        assert 400 <= response.status < 500
        assert not INTERNAL.search(response.text), response.text


def test_a_deep_schema(client):
    schema = '{"properties": {"a": ' * 20_000 + "{}" + "}}" * 20_000
    body = f'{{"inputs": "a", "parameters": {{"grammar": {{"type": "json", "value": {schema}}}}}}}'
    assert client.post("/generate", body.encode()).status in (400, 422)
    text = json.dumps(schema)
    body = f'{{"inputs": "a", "parameters": {{"grammar": {{"type": "json", "value": {text}}}}}}}'
    assert client.post("/generate", body.encode()).status == 422


def test_regular_expressions_that_explode(client):
    for pattern in ("(" * 60_000, "((a{1,100}){1,100}){1,100}", "(a|a)*" * 200 + "b", "[" * 5000, "a{1000000000}"):
        grammar = {"type": "regex", "value": pattern}
        started = time.monotonic()
        response = client.post("/generate", {"inputs": "a", "parameters": {"grammar": grammar, "max_new_tokens": 2}})
        assert response.status in (200, 422), pattern[:20]
        assert time.monotonic() - started < 10, pattern[:20]
    assert client.post_ok("/generate", OK)


def test_lists_are_refused_before_they_are_worked_on(client):
    many = ["x" * 3] * 200_000
    for body in ({"stop": many}, {"stop": ["a"] * 5}):
        response = client.post("/generate", {"inputs": "a", "parameters": {"max_new_tokens": 2} | body})
        assert response.status == 422 and "stop sequences" in response.text
    assert client.post("/v1/completions", {"prompt": ["a"] * 100_000}).status == 400
    assert client.post("/vertex", {"instances": [{"inputs": "a"}] * 10_000}).status == 429


def test_empty_things(client):
    empty_text = [{"inputs": ""}, {"inputs": "", "parameters": {"truncate": 1}}]
    for body in empty_text:
        assert client.post("/generate", body).status == 422
    for messages in ([], [{"role": "user", "content": ""}], [{"role": "system", "content": "a"}], [{"role": "user"}]):
        for path in ("/v1/chat/completions", "/chat_tokenize", "/invocations"):
            status = client.post(path, {"messages": messages, "max_tokens": 1}).status
            assert status in (200, 400, 422), (path, messages)


def test_a_head_without_end(server):
    """CVE-2025-48956: one GET with a huge header."""
    before = resident_bytes(server.router_pid())
    head = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 50_000_000 + b"\r\n\r\n"
    answer = send(server.port, head)
    assert answer == b"" or answer.startswith((b"HTTP/1.1 431", b"HTTP/1.1 400"))
    assert resident_bytes(server.router_pid()) - before < 5_000_000


def test_a_body_without_end(server):
    """CVE-2025-23310: chunks of one byte; and a body of 100 MB."""
    head = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    chunks = b"1\r\n[\r\n" * 3_000_000
    before = resident_bytes(server.router_pid())
    assert send(server.port, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)[:12] in (b"HTTP/1.1 413", b"")
    started = time.monotonic()
    body = b"[" * 3_000_000
    assert send(server.port, head + b"Content-Length: 100000000\r\n\r\n" + body)[:12] in (b"HTTP/1.1 413", b"")
    assert time.monotonic() - started < 5
    assert resident_bytes(server.router_pid()) - before < 32_000_000


def test_compressed_bodies_are_not_inflated(client):
    """CVE-2024-12886: a body that is small until it is inflated."""
    response = client.post("/generate", b"\x1f\x8b\x08\x00", {"Content-Encoding": "gzip"})
    assert response.status in (400, 415)


def test_slow_heads_do_not_hold_others_up(server, client):
    """Slowloris: many connections whose request never ends."""
    connections = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(300)]
    try:
        for connection in connections:
            connection.sendall(b"POST /generate HTTP/1.1\r\nHost: localhost\r\nX: ")
        for _ in range(3):
            assert client.post_ok("/generate", OK)
            for connection in connections:
                connection.sendall(b"a")
    finally:
        for connection in connections:
            connection.close()


def test_a_prompt_makes_no_connection(client):
    """CVE-2026-0599: TGI downloaded what a prompt's Markdown named."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.5)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/a.png"
        text = f"Look: ![]({url})"
        assert client.post("/generate", {"inputs": text, "parameters": {"max_new_tokens": 2}}).status == 200
        chat = [{"role": "user", "content": text}]
        assert client.post("/v1/chat/completions", {"messages": chat, "max_tokens": 2}).status == 200
        parts = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
        for path in ("/v1/chat/completions", "/chat_tokenize", "/invocations"):
            assert client.post(path, {"messages": parts, "max_tokens": 2}).status in (400, 422)
        with pytest.raises(TimeoutError):
            listener.accept()


def test_a_request_past_its_time_ends_with_an_error(tmp_path_factory):
    args = ["--max-request-seconds", 1, "--max-batch-size", 1]
    with serving(tmp_path_factory, *args) as server:
        client = Client(server.port)
        body = {"inputs": PROMPT, "parameters": {"max_new_tokens": 2000, "ignore_eos": True}}
        text = "Request failed during generation: the request's deadline passed"
        # One at a time and each longer than its share: those that wait run out of time.
        connections = []
        for _ in range(24):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
            connection.request("POST", "/generate", json.dumps(body), {"Content-Type": "application/json"})
            connections.append(connection)
        answers = [connection.getresponse() for connection in connections]
        late = [json.loads(answer.read()) for answer in answers if answer.status == 424]
        assert late and all(answer == {"error": text, "error_type": "generation"} for answer in late)
        wait_for(lambda: client.post("/generate", OK).status == 200, 5, "it serves on")
