"""Refusals under /v1, by profile: status, content type and shape."""

import json

import pytest
from harness.contracts import conforms
from harness.server import Server

PROFILES = ("tgi", "openai", "ollama", "jan")
MESSAGES = [{"role": "user", "content": "Hi"}]
KEY = "Secret-Key-1"
OBJECT = {"message", "type", "param", "code"}

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
#: path, body, TGI's status, the others', error_type, param, code, the beginning of the message
CASES = {
    "not JSON": (CHAT, b"{", 400, 400, None, None, None, "Failed to parse the request body as JSON: "),
    "not a request": (CHAT, {"messages": 1}, 422, 400, None, None, None, "Failed to deserialize the JSON body into "),
    "top_p": (CHAT, {"messages": MESSAGES, "top_p": 1.5}, 422, 400, "validation", "top_p", None,
              "Input validation error: `top_p` must be > 0.0 and < 1.0"),
    "temperature": (CHAT, {"messages": MESSAGES, "temperature": -1}, 422, 400, "validation", "temperature", None,
                    "Input validation error: `temperature` must be strictly positive"),
    "max_tokens": (CHAT, {"messages": MESSAGES, "max_tokens": 0}, 422, 400, "validation", "max_tokens", None,
                   "Input validation error: `max_new_tokens` must be strictly positive"),
    "stop": (CHAT, {"messages": MESSAGES, "stop": list("abcde")}, 422, 400, "validation", "stop", None,
             "Input validation error: `stop` supports up to 4 stop sequences. Given: 5"),
    "frequency_penalty": (CHAT, {"messages": MESSAGES, "frequency_penalty": 3}, 422, 400, "validation",
                          "frequency_penalty", None,
                          "Input validation error: `frequency_penalty` must be >= -2.0 and <= 2.0"),
    "no prompt": (TEXT, {"prompt": ""}, 422, 400, "validation", None, None,
                  "Input validation error: `inputs` cannot be empty"),
    "too long": (TEXT, {"prompt": "a " * 9000, "max_tokens": 2}, 422, 400, "validation", None,
                 "context_length_exceeded", "Input validation error: `inputs` "),
    "suffix": (TEXT, {"prompt": "a", "suffix": "b"}, 422, 400, "suffix not supported", "suffix", None,
               "Suffix is not supported and can be achieved by preprocessing the prompt."),
    "batch": (TEXT, {"prompt": ["a"] * 5}, 422, 400, "batch size exceeded", "prompt", None,
              "Number of prompts exceeds the maximum allowed batch size of 4"),
    "adapter": (TEXT, {"prompt": "a", "adapter_id": "x"}, 422, 400, "validation", "adapter_id", None,
                "Input validation error: `adapter_id` \"x\" is not loaded"),
}


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """One server per profile, each with a key."""
    started = {}
    try:
        for profile in (*PROFILES, "management"):
            log = tmp_path_factory.mktemp(profile) / "log"
            started[profile] = Server(log, "--profile", profile, "--api-key", KEY)
            started[profile].start()
        yield started
        for server in started.values():
            server.stop()
    finally:
        for server in started.values():
            server.kill()


def post(server, path, body, key=KEY, **headers):
    from harness.client import Client

    return Client(server.port).post(path, body, {"Authorization": f"Bearer {key}", **headers})


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("profile", PROFILES)
def test_refusals(servers, profile, name):
    path, body, tgi_status, status, error_type, param, code, message = CASES[name]
    response = post(servers[profile], path, body)
    if profile != "tgi":
        assert response.status == status
        answer = response.json()
        assert set(answer) == {"error", "error_type"} and set(answer["error"]) == OBJECT
        assert answer["error"]["message"].startswith(message)
        assert answer["error"]["type"] == "invalid_request_error"
        assert (answer["error"]["param"], answer["error"]["code"]) == (param, code)
        assert answer["error_type"] == (error_type or "validation")
        return
    assert response.status == tgi_status
    if error_type is None:
        assert response.headers["content-type"] == "text/plain; charset=utf-8"
        assert response.text.startswith(message)
        return
    assert response.headers["content-type"] == "application/json"
    conforms("ErrorResponse", response.json())
    assert response.json()["error"].startswith(message)
    assert response.json()["error_type"] == error_type


@pytest.mark.parametrize("name", CASES)
def test_refusals_of_the_management_api(servers, name):
    """Its own form at its own root, and as under `/api/v1` elsewhere."""
    path, body, _, status, error_type, param, _, message = CASES[name]
    for server, path in ((servers["management"], path), (servers["openai"], f"/api{path}")):
        response = post(server, path, body)
        assert response.status == (422 if status == 400 else status)
        (problem,) = response.json()["detail"]
        assert set(response.json()) == {"detail"} and set(problem) == {"loc", "msg", "type"}
        assert problem["loc"] == ["body", *([param] if param else [])]
        if error_type:
            assert problem["msg"].startswith(message)
        assert post(server, path, body, key="wrong").status == 401


@pytest.mark.parametrize("profile", PROFILES)
def test_a_refused_stream_is_told_by_its_status_but_in_tgis_profile(servers, profile):
    response = post(servers[profile], CHAT, {"messages": MESSAGES, "stream": True, "top_p": 1.5})
    if profile == "tgi":
        assert (response.status, response.headers["content-type"]) == (200, "text/event-stream")
        error = {"message": "Input validation error: `top_p` must be > 0.0 and < 1.0", "http_status_code": 422}
        assert response.text == f"data: {json.dumps({'error': error}, separators=(',', ':'))}\n\ndata: [DONE]\n\n"
    else:
        assert (response.status, response.headers["content-type"]) == (400, "application/json")
        assert response.json()["error"]["param"] == "top_p"


@pytest.mark.parametrize("profile", PROFILES)
def test_a_missing_key(servers, profile):
    response = post(servers[profile], CHAT, {"messages": MESSAGES}, key="wrong")
    assert response.status == 401
    if profile == "tgi":
        assert response.body == b""
    else:
        assert response.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("profile", PROFILES)
def test_other_content_types_and_long_bodies(servers, profile):
    response = post(servers[profile], CHAT, b"{}", **{"Content-Type": "text/plain"})
    assert response.status == 415
    long = post(servers[profile], CHAT, {"messages": MESSAGES, "user": "x" * 2_000_001})
    assert long.status == 413
    if profile == "tgi":
        assert response.text.startswith("Expected request with `Content-Type: application/json`")
        assert long.text == "Failed to buffer the request body: length limit exceeded"
    else:
        assert set(response.json()["error"]) == set(long.json()["error"]) == OBJECT


@pytest.mark.parametrize("profile", ["tgi", "openai"])
def test_too_many_at_once(start_server, profile):
    from harness.client import Client

    server = start_server("--profile", profile, "--max-concurrent-requests", "1")
    # Two prompts need two places.
    for stream in (False, True):
        response = Client(server.port).post(TEXT, {"prompt": ["a", "b"], "stream": stream})
        assert response.status == 429 and int(response.headers["retry-after"]) >= 1
        if profile == "tgi":
            assert response.json() == {"error": "Model is overloaded", "error_type": "overloaded"}
        else:
            assert response.json()["error"]["code"] == "rate_limit_exceeded"
            assert response.json()["error_type"] == "overloaded"
