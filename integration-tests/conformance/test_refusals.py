"""TGI's refusals outside of its validation rules: status, content type, error_type and text."""

import json
import shutil

import pytest
from harness.client import Client
from harness.contracts import conforms
from harness.server import DEMO_MODEL
from launch import PAYLOAD, serving

CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
JSON_ROUTES = ["/generate", "/generate_stream", "/", "/invocations", "/vertex", "/tokenize", "/chat_tokenize"]
JSON_ROUTES += ["/v2/models/m/versions/1/infer", "/v1/chat/completions", "/v1/completions"]


def refused(client: Client, response, error: str, error_type: str, status: int = 422):
    """In TGI's profile TGI's body, else OpenAI's object around the same text and type."""
    body = response.json()
    assert response.headers["content-type"] == "application/json"
    if client.profile == "tgi":
        assert (response.status, body) == (status, {"error": error, "error_type": error_type})
        conforms("ErrorResponse", body)
    else:
        assert (response.status, body["error"]["message"], body["error_type"]) == (400, error, error_type)


@pytest.mark.row("refusal.suffix")
def test_suffix(small):
    response = small.post("/v1/completions", {"prompt": "Once", "suffix": "end"})
    text = "Suffix is not supported and can be achieved by preprocessing the prompt."
    refused(small, response, text, "suffix not supported")


@pytest.mark.row("refusal.batch")
def test_more_prompts_than_allowed(small):
    response = small.post("/v1/completions", {"prompt": list("abcde"), "max_tokens": 1})
    text = "Number of prompts exceeds the maximum allowed batch size of 4"
    refused(small, response, text, "batch size exceeded")


@pytest.mark.row("refusal.no-prompts")
def test_no_prompts(small):
    response = small.post("/v1/completions", {"prompt": []})
    if small.profile == "tgi":
        assert (response.status, response.headers["content-type"]) == (422, "text/plain; charset=utf-8")
        assert "Empty array detected" in response.text
    else:
        assert (response.status, response.json()["error"]["type"]) == (400, "invalid_request_error")
        assert "Empty array detected" in response.json()["error"]["message"]


@pytest.mark.row("refusal.top-logprobs")
def test_too_many_top_logprobs(small):
    limit = 5 if small.profile == "tgi" else 20
    body = CHAT | {"logprobs": True, "top_logprobs": limit + 1}
    response = small.post("/v1/chat/completions", body)
    text = f"`top_n_tokens` must be >= 0 and <= {limit}. Given: {limit + 1}"
    refused(small, response, f"Input validation error: {text}", "validation")


@pytest.mark.row("refusal.vertex-empty")
def test_no_instances(small):
    response = small.post("/vertex", {"instances": []})
    text = "Input validation error"
    assert (response.status, response.json()) == (422, {"error": text, "error_type": text})


@pytest.fixture(scope="module", params=[None, "{{ raise_exception('no system prompt') }}"], ids=["none", "raising"])
def odd_template(request, tmp_path_factory):
    """A model without a chat template, or with one that refuses everything."""
    folder = tmp_path_factory.mktemp("model") / "demo"
    shutil.copytree(DEMO_MODEL, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = request.param
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    for other in folder.glob("chat_template*"):
        other.unlink()
    with serving(tmp_path_factory, "--profile", "tgi", "--model-id", folder) as server:
        client = Client(server.port)
        client.profile = "tgi"
        client.text = "no system prompt" if request.param else "template not found"
        yield client


@pytest.mark.row("refusal.raise")
@pytest.mark.row("refusal.no-template")
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat_tokenize", "/invocations"])
@pytest.mark.parametrize("streaming", [False, True])
def test_templates_that_fail(odd_template, path, streaming):
    response = odd_template.post(path, CHAT | {"stream": streaming})
    body = response.json()
    conforms("ErrorResponse", body)
    assert (response.status, body["error_type"]) == (422, "template_error")
    assert body["error"].startswith("Template error: ") and odd_template.text in body["error"]


# Bodies that are no request: plain text in axum's words. Under /v1 OpenAI's profile has its own form.


def told_in_plain_text(client: Client, path: str) -> bool:
    return client.profile == "tgi" or not path.startswith("/v1/")


def plain(response, status: int, start: str):
    assert response.status == status
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.text.startswith(start), response.text


@pytest.mark.parametrize("path", JSON_ROUTES)
@pytest.mark.parametrize(
    "body, headers, status, start",
    [
        pytest.param(
            b'{"inputs": 3, "messages": 3, "prompt": {}, "instances": 3}',
            None,
            422,
            "Failed to deserialize the JSON body into the target type: ",
            marks=pytest.mark.row("refusal.data"),
            id="data",
        ),
        pytest.param(
            b"{",
            None,
            400,
            "Failed to parse the request body as JSON: ",
            marks=pytest.mark.row("refusal.syntax"),
            id="syntax",
        ),
        pytest.param(
            b"{}",
            {"Content-Type": "text/plain"},
            415,
            "Expected request with `Content-Type: application/json`",
            marks=pytest.mark.row("refusal.type"),
            id="type",
        ),
        pytest.param(
            b'{"inputs": "' + b"a" * PAYLOAD + b'"}',
            None,
            413,
            "Failed to buffer the request body: length limit exceeded",
            marks=pytest.mark.row("refusal.large"),
            id="large",
        ),
    ],
)
def test_bodies_that_are_no_request(small, path, body, headers, status, start):
    response = small.post(path, body, headers)
    if told_in_plain_text(small, path):
        plain(response, status, start)
    else:
        assert response.status == (400 if status == 422 else status)
        assert response.json()["error"]["message"].startswith(start)


@pytest.mark.row("refusal.key")
def test_no_key(guarded):
    for path in JSON_ROUTES:
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            response = guarded.post(path, {"inputs": "a"}, headers)
            assert (response.status, response.body) == (401, b""), path


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    with serving(tmp_path_factory, "--profile", "tgi", "--api-key", "Secret") as server:
        yield Client(server.port)
