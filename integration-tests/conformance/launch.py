"""Servers that a module's tests share."""

import contextlib
import http.client
import json

from harness.server import Server, wait_for

# Limits small enough to run into.
MAX_INPUT, MAX_TOTAL, PAYLOAD = 48, 64, 20_000
LIMITS = ["--max-input-tokens", MAX_INPUT, "--max-total-tokens", MAX_TOTAL, "--payload-limit", PAYLOAD]


@contextlib.contextmanager
def serving(tmp_path_factory, *args, env=None, command=(), hostname="127.0.0.1"):
    server = Server(tmp_path_factory.mktemp("server") / "log", *map(str, args), env=env, command=command)
    server.args[server.args.index("--hostname") + 1] = hostname
    try:
        server.start()
        yield server
        server.stop()
    finally:
        server.kill()


@contextlib.contextmanager
def endless_stream(client):
    """A stream of an engine that stopped: it holds its place and says nothing more. Gives the response."""
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=30)
    body = json.dumps({"inputs": "Once upon a time", "parameters": {"max_new_tokens": 200, "ignore_eos": True}})

    def admitted():
        connection.request("POST", "/generate_stream", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status == 200:
            return response
        response.read()
        return None

    try:
        yield wait_for(admitted, 20, "a place")
    finally:
        connection.close()
