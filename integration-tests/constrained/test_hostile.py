"""Grammars that are made to hurt: refused or served in bounded time, and nobody else notices."""

import sys
import threading
import time

import pytest
from harness.client import Client

LIST = {"$defs": {"n": {"type": "object", "properties": {"next": {"$ref": "#/$defs/n"}}, "additionalProperties": False}}}
SCHEMAS = {
    "recursive": LIST | {"$ref": "#/$defs/n"},
    "a reference to itself": {"$ref": "#"},
    "10,000 values": {"enum": [f"value {n}" for n in range(10_000)]},
    "nested a thousand deep": None,
    "anyOf of anyOf": {},
    "many optional properties": {
        "type": "object",
        "properties": {f"p{n}": {"type": "integer", "minimum": 0, "maximum": 9} for n in range(400)},
    },
    "a large array": {"type": "array", "minItems": 1_000_000, "items": {"type": "null"}},
    "a large string": {"type": "string", "minLength": 1_000_000},
}
deep = {"type": "null"}
for _ in range(1000):
    deep = {"type": "array", "items": deep}
SCHEMAS["nested a thousand deep"] = deep
level = {"const": 1}
for n in range(12):
    level = {"anyOf": [level, {"type": "object", "properties": {f"k{n}": level}}]}
SCHEMAS["anyOf of anyOf"] = level
REGEXES = ["(a+)+$", "((a{1,100}){1,100}){1,100}", "(.*.*.*.*)*x", "[a-z]{1,20000}", "(", "(x|xx|xxx){500}y", "\\p{L}{5000}"]
SECONDS = 10


@pytest.fixture
def deep_json():
    """Python writes JSON by recursion."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    yield
    sys.setrecursionlimit(limit)


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("deep_json")
def test_hostile_grammars_are_bounded_and_hold_nobody_up(server):
    stop = threading.Event()
    others: list[float] = []

    def other():
        client = Client(server.port)
        while not stop.is_set():
            begun = time.monotonic()
            client.post_ok("/generate", {"inputs": "Once", "parameters": {"max_new_tokens": 5}})
            others.append(time.monotonic() - begun)

    thread = threading.Thread(target=other)
    thread.start()
    try:
        client = Client(server.port, timeout=60)
        grammars = [("json", schema) for schema in SCHEMAS.values()] + [("regex", regex) for regex in REGEXES]
        for kind, value in grammars:
            begun = time.monotonic()
            parameters = {"max_new_tokens": 20, "grammar": {"type": kind, "value": value}}
            answer = client.post("/generate", {"inputs": "x", "parameters": parameters})
            assert answer.status in (200, 400, 422), f"{kind} {str(value)[:80]}: {answer.status} {answer.text[:200]}"
            assert time.monotonic() - begun < SECONDS, f"{kind} {str(value)[:80]}"
    finally:
        stop.set()
        thread.join()
    assert len(others) > len(grammars), "the other client went on"


def test_refusals_say_what_and_where(client):
    schema = {"type": "object", "properties": {"a": {"type": "array", "contains": {"type": "integer"}}}}
    answer = client.post("/generate", {"inputs": "x", "parameters": {"grammar": {"type": "json", "value": schema}}})
    assert answer.status == 422
    assert "'contains' at '/properties/a'" in answer.json()["error"], answer.text
    body = {"messages": [{"role": "user", "content": "x"}]}
    own = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    for stream in (False, True):
        answer = client.post("/v1/chat/completions", body | {"response_format": own, "stream": stream})
        assert answer.status == 400
        assert answer.json()["error"]["param"] == "response_format"
        assert "'contains' at '/properties/a'" in answer.json()["error"]["message"]


def test_a_client_that_leaves_frees_its_place(server, client):
    import socket

    schema = '{"enum":[' + ",".join(f'"{n}"' for n in range(30_000)) + "]}"
    body = '{"inputs":"x","parameters":{"grammar":{"type":"json","value":' + schema + "}}}"
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            head = f"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body.encode())
    assert client.post_ok("/generate", {"inputs": "x", "parameters": {"max_new_tokens": 1}})
