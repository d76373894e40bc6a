"""SageMaker's contract: its request forms replayed as its runtime sends them, on the port it expects."""

import json

import pytest
from harness.client import Client, events
from harness.contracts import conforms
from harness.server import Server

#: What SageMaker's runtime adds to a caller's body.
HEADERS = {
    "Content-Type": "application/json",
    "Accept": "*/*",
    "X-Amzn-SageMaker-Custom-Attributes": "trace=1",
    "User-Agent": "AHC/2.0",
}
CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "temperature": 0}
COMPLETION = {"prompt": "Once upon a time", "max_tokens": 4, "temperature": 0}
GENERATE = {"inputs": "Once upon a time", "parameters": {"max_new_tokens": 4, "details": True}}


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    """Started with the one argument `serve`, as SageMaker starts a container; only the port is the test's."""
    server = Server(tmp_path_factory.mktemp("sagemaker") / "log", command=["serve"])
    try:
        server.start()
        yield Client(server.port)
        server.stop()
    finally:
        server.kill()


def test_ping(endpoint):
    response = endpoint.get("/ping")
    assert (response.status, response.body) == (200, b"")


def test_generate(endpoint):
    response = endpoint.post("/invocations", GENERATE, HEADERS)
    assert response.status == 200
    (answer,) = response.json()
    conforms("GenerateResponse", answer)
    assert answer["generated_text"].startswith("Once upon a time")
    assert answer == endpoint.post("/", GENERATE).json()[0]


def test_chat(endpoint):
    answer = endpoint.post("/invocations", CHAT, HEADERS).json()
    conforms("ChatCompletion", answer)
    assert answer["choices"] == endpoint.post("/v1/chat/completions", CHAT).json()["choices"]


def test_completion(endpoint):
    answer = endpoint.post("/invocations", COMPLETION, HEADERS).json()
    conforms("CompletionFinal", answer)
    assert answer["choices"] == endpoint.post("/v1/completions", COMPLETION).json()["choices"]


@pytest.mark.parametrize(
    "body, path", [(GENERATE, "/"), (CHAT, "/v1/chat/completions"), (COMPLETION, "/v1/completions")]
)
def test_response_stream(endpoint, body, path):
    """InvokeEndpointWithResponseStream: the same events as on the form's own route."""
    replies = [endpoint.request("POST", where, body | {"stream": True}, HEADERS) for where in ("/invocations", path)]
    for reply in replies:
        assert reply.headers["Content-Type"].startswith("text/event-stream")
    here, there = ([strip(event) for event in events(iter(reply.body.splitlines(True)))] for reply in replies)
    assert here == there
    assert len(here) >= 4


def strip(event):
    """Without what differs from one request to the next."""
    return {k: v for k, v in event.items() if k not in ("id", "created")} if isinstance(event, dict) else event


@pytest.mark.parametrize("body", [{}, {"text": "Once"}, {"inputs": 5}, [], "Once"])
def test_none_of_the_forms(endpoint, body):
    response = endpoint.post("/invocations", json.dumps(body).encode(), HEADERS)
    assert response.status == 422
    assert response.headers["Content-Type"].startswith("text/plain")
