"""What OpenAI's profile refuses under /v1, in its own form. The rules themselves are tested row by row in
`conformance/`."""

import pytest
from harness.client import Client
from harness.server import Server


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A server with limits small enough to run into."""
    args = ["--max-input-tokens", "48", "--max-total-tokens", "64", "--payload-limit", "20000"]
    server = Server(tmp_path_factory.mktemp("validation") / "log", *args)
    try:
        server.start()
        yield Client(server.port)
        server.stop()
    finally:
        server.kill()


# Under /v1 OpenAI's clients are the audience: its statuses and its error object, with TGI's text and error_type.
@pytest.mark.parametrize(
    "path, body, error_type, param, text",
    [
        (
            "/v1/completions",
            {"prompt": "Once", "suffix": "end"},
            "suffix not supported",
            "suffix",
            "Suffix is not supported and can be achieved by preprocessing the prompt.",
        ),
        (
            "/v1/completions",
            {"prompt": list("abcde")},
            "batch size exceeded",
            "prompt",
            "Number of prompts exceeds the maximum allowed batch size of 4",
        ),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "Hi"}], "logprobs": True, "top_logprobs": 21},
            "validation",
            "top_logprobs",
            "Input validation error: `top_n_tokens` must be >= 0 and <= 20. Given: 21",
        ),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "Hi"}], "temperature": -1.0},
            "validation",
            "temperature",
            "Input validation error: `temperature` must be strictly positive",
        ),
    ],
    ids=["suffix", "prompts", "top_logprobs", "temperature"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_v1_refuses(small, path, body, error_type, param, text, stream):
    response = small.post(path, body | {"stream": stream})
    assert response.status == 400
    answer = response.json()
    assert answer["error_type"] == error_type
    assert answer["error"]["message"] == text
    assert answer["error"]["type"] == "invalid_request_error"
    assert answer["error"]["param"] == param


@pytest.mark.parametrize(
    "body", [b"{", b"{}", b'{"messages": 3}', b'{"messages": [{"content": "no role"}]}', b'{"messages": []}']
)
def test_v1_bodies_that_are_no_request(small, body):
    response = small.post("/v1/chat/completions", body)
    assert response.status == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_v1_wants_json(small):
    response = small.post("/v1/chat/completions", b"{}", {"Content-Type": "text/plain"})
    assert response.status == 415


def test_after_all_refusals_it_still_serves(small):
    answer = small.post_ok("/generate", {"inputs": "Once", "parameters": {"max_new_tokens": 4, "details": True}})
    assert answer["details"]["generated_tokens"] == 4
