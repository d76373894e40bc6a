"""Ollama's routes: calls, and checks against its published contract."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jsonschema
import ollama as library
from harness.client import Client
from harness.server import Server

PROMPT = "Once upon a time"
QUESTION = [{"role": "user", "content": "Which port do you listen on?"}]
GREEDY = {"temperature": 0, "num_predict": 24}
CONTRACT = Path(__file__).resolve().parents[1] / "contracts/ollama-0.1.44.json"
#: What the contract calls an answer of these routes, be it a line of a stream or all of it.
ANSWERS = {"/api/generate": "GenerateResponse", "/api/chat": "ChatResponse"}
ANSWERS |= dict.fromkeys(("/api/create", "/api/pull", "/api/push"), "ProgressResponse")


class Awaited:
    """Ollama's async client for Python, each of whose calls is waited for: what is asked of the other one may be asked of
    it, too."""

    def __init__(self, host: str):
        self.client, self.loop = library.AsyncClient(host), asyncio.new_event_loop()

    def __getattr__(self, name: str):
        def call(*values, **named):
            answer = self.loop.run_until_complete(getattr(self.client, name)(*values, **named))
            return self.each(answer) if isinstance(answer, AsyncIterator) else answer

        return call

    def each(self, parts: AsyncIterator) -> Iterator:
        while (part := self.loop.run_until_complete(anext(parts, None))) is not None:
            yield part


#: The two clients, for tests of every call.
CLIENTS = {"sync": library.Client, "async": Awaited}


@cache
def validator(name: str) -> jsonschema.Draft202012Validator:
    document = json.loads(CONTRACT.read_text())
    assert name in document["components"]["schemas"], name
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    checker = jsonschema.FormatChecker()
    assert "date-time" in checker.checkers, "rfc3339-validator is missing; `make setup` installs it"
    return jsonschema.Draft202012Validator(schema, format_checker=checker)


def conforms(name: str, value):
    """Fails unless `value` is what Ollama's contract calls `name`; a property that it does not know may be there, too."""
    errors = [f"{error.json_path}: {error.message}" for error in validator(name).iter_errors(value)]
    assert not errors, f"not a {name}: {errors}\n{json.dumps(value)}"


@dataclass
class Ollama:
    server: Server
    model: str

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def client(self) -> Client:
        return Client(self.server.port)

    def lines(self, path: str, body: dict) -> list[dict]:
        """The objects of a streamed answer, in the one framing that every client reads, each as the contract has it."""
        response = self.client.post(path, body)
        assert response.status == 200, response.text
        assert response.headers["content-type"] == "application/x-ndjson"
        assert response.text.endswith("\n") and "\n\n" not in response.text
        lines = [json.loads(line) for line in response.text.splitlines()]
        for line in lines:
            conforms(ANSWERS[path], line)
        return lines

    def whole(self, path: str, body: dict) -> dict:
        """The one object of an answer that is not streamed, as the contract has it."""
        response = self.client.post(path, body | {"stream": False})
        assert response.status == 200, f"{path}: {response.status} {response.text}"
        assert response.headers["content-type"] == "application/json"
        conforms(ANSWERS[path], response.json())
        return response.json()


def generate(ollama: Ollama, **more):
    options = GREEDY | more.pop("options", {})
    return ollama.whole("/api/generate", {"model": ollama.model, "prompt": PROMPT, "options": options} | more)


def chat(ollama: Ollama, **more):
    options = GREEDY | more.pop("options", {})
    return ollama.whole("/api/chat", {"model": ollama.model, "messages": QUESTION, "options": options} | more)
