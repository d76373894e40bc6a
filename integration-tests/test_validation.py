"""Every refusal of TGI's /generate and /v1 that this form can reach: status, error_type and text."""

import json

import pytest
from harness.client import Client
from harness.server import Server

MAX_INPUT, MAX_TOTAL = 48, 64


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A server with limits small enough to run into."""
    args = ["--max-input-tokens", str(MAX_INPUT), "--max-total-tokens", str(MAX_TOTAL), "--payload-limit", "20000"]
    server = Server(tmp_path_factory.mktemp("validation") / "log", *args)
    try:
        server.start()
        yield Client(server.port)
        server.stop()
    finally:
        server.kill()


# Parameters of /generate and what TGI says after "Input validation error: ".
GENERATE = [
    ({"best_of": 2}, "you must use sampling when `best_of` is > 1"),
    ({"temperature": 0.0}, "`temperature` must be strictly positive"),
    ({"temperature": -1.0}, "`temperature` must be strictly positive"),
    ({"repetition_penalty": 0.0}, "`repetition_penalty` must be strictly positive"),
    ({"frequency_penalty": 2.5}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ({"frequency_penalty": -2.5}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ({"top_p": 0.0}, "`top_p` must be > 0.0 and < 1.0"),
    ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
    ({"typical_p": 0.0}, "`typical_p` must be > 0.0 and < 1.0"),
    ({"typical_p": 1.0}, "`typical_p` must be > 0.0 and < 1.0"),
    ({"top_k": 0}, "`top_k` must be strictly positive"),
    ({"top_k": -1}, "`top_k` must be strictly positive"),
    ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
    ({"stop": list("abcde")}, "`stop` supports up to 4 stop sequences. Given: 5"),
    ({"best_of": 2, "do_sample": True, "seed": 1}, "`seed` must not be set when `best_of` > 1"),
    ({"top_n_tokens": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
    ({"truncate": 0}, f"`truncate` must be strictly positive and less than {MAX_INPUT}. Given: 0"),
    (
        {"truncate": MAX_INPUT + 1},
        f"`truncate` must be strictly positive and less than {MAX_INPUT}. Given: {MAX_INPUT + 1}",
    ),
    ({"best_of": 3, "do_sample": True}, "`best_of` must be > 0 and <= 2. Given: 3"),
    ({"grammar": {"type": "regex", "value": "a+"}}, "grammar is not supported"),
    # Two faults at once: TGI's order decides which is told.
    ({"temperature": 0.0, "top_k": 0}, "`temperature` must be strictly positive"),
    ({"best_of": 3, "temperature": 0.0}, "`best_of` must be > 0 and <= 2. Given: 3"),
]


def refusal(text: str) -> dict:
    return {"error": f"Input validation error: {text}", "error_type": "validation"}


@pytest.mark.parametrize(
    "parameters, text", GENERATE, ids=lambda value: json.dumps(value) if isinstance(value, dict) else ""
)
def test_generate_refuses(small, parameters, text):
    response = small.post("/generate", {"inputs": "Once", "parameters": parameters})
    assert (response.status, response.json()) == (422, refusal(text))


@pytest.mark.parametrize(
    "parameters, text",
    [case for case in GENERATE if "best_of" not in case[0]],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_generate_stream_refuses_inside_the_stream(small, parameters, text):
    _, events = small.stream("/generate_stream", {"inputs": "Once", "parameters": parameters})
    assert events == [refusal(text)]


@pytest.mark.parametrize(
    "parameters, text",
    [
        ({"best_of": 2, "do_sample": True}, "`best_of` != 1 is not supported when streaming tokens"),
        ({"best_of": 0}, "`best_of` != 1 is not supported when streaming tokens"),
        ({"decoder_input_details": True}, "`decoder_input_details` == true is not supported when streaming tokens"),
    ],
)
def test_streams_do_not_take(small, parameters, text):
    _, events = small.stream("/generate_stream", {"inputs": "Once", "parameters": parameters})
    assert events == [refusal(text)]


def test_empty_inputs(small):
    response = small.post("/generate", {"inputs": "", "parameters": {"max_new_tokens": 1}})
    assert (response.status, response.json()) == (422, refusal("`inputs` cannot be empty"))


def test_prompt_and_output_too_long_together(small, reference):
    inputs = "Once upon a time"
    count = len(reference.ids(inputs))
    response = small.post("/generate", {"inputs": inputs, "parameters": {"max_new_tokens": MAX_TOTAL}})
    text = (
        f"`inputs` tokens + `max_new_tokens` must be <= {MAX_TOTAL}. "
        f"Given: {count} `inputs` tokens and {MAX_TOTAL} `max_new_tokens`"
    )
    assert (response.status, response.json()) == (422, refusal(text))
    exact = small.post_ok("/generate", {"inputs": inputs, "parameters": {"max_new_tokens": MAX_TOTAL - count}})
    assert exact["generated_text"]


def test_prompt_too_long(small, reference):
    inputs = "the fox " * MAX_INPUT
    count = len(reference.ids(inputs))
    assert count > MAX_TOTAL
    response = small.post("/generate", {"inputs": inputs[: len("the fox ") * 25], "parameters": {"max_new_tokens": 1}})
    count = len(reference.ids(inputs[: len("the fox ") * 25]))
    assert MAX_INPUT < count < MAX_TOTAL, f"the prompt has {count} tokens; adjust it"
    text = f"`inputs` must have less than {MAX_INPUT} tokens. Given: {count}"
    assert (response.status, response.json()) == (422, refusal(text))


def test_truncate_keeps_the_last_tokens(small, reference):
    inputs = "the fox " * MAX_INPUT + "and then"
    parameters = {"max_new_tokens": 4, "truncate": 8, "details": True, "do_sample": False}
    cut = small.post("/generate", {"inputs": inputs, "parameters": parameters})
    assert cut.headers["x-prompt-tokens"] == "8"
    ids = reference.ids(inputs)[-8:]
    same = small.post_ok("/generate", {"inputs": reference.text(ids), "parameters": parameters | {"truncate": None}})
    if reference.ids(reference.text(ids)) == ids:
        assert cut.json()["details"]["tokens"] == same["details"]["tokens"]


# Bodies that are no request at all: plain text, as axum words it.
@pytest.mark.parametrize(
    "body, headers, status, text",
    [
        (b"{", None, 400, "Failed to parse the request body as JSON"),
        (b"{}", None, 422, "Failed to deserialize the JSON body into the target type: missing field `inputs`"),
        (b'{"inputs": 3}', None, 422, "Failed to deserialize the JSON body into the target type: inputs"),
        (
            b'{"inputs": "a"}',
            {"Content-Type": "text/plain"},
            415,
            "Expected request with `Content-Type: application/json`",
        ),
        (b'{"inputs": "' + b"a" * 20000 + b'"}', None, 413, "length limit exceeded"),
    ],
    ids=["syntax", "missing", "type", "content-type", "too-large"],
)
def test_bodies_that_are_no_request(small, body, headers, status, text):
    response = small.post("/generate", body, headers)
    assert response.status == status
    assert response.headers["content-type"].startswith("text/plain")
    assert text in response.text


def test_best_of_zero_is_one(small):
    body = {"inputs": "Once", "parameters": {"best_of": 0, "max_new_tokens": 4, "details": True}}
    details = small.post_ok("/generate", body)["details"]
    assert details["generated_tokens"] == 4
    assert details.get("best_of_sequences") is None


def test_best_of_picks_the_likeliest(small):
    body = {"inputs": "Once", "parameters": {"best_of": 2, "do_sample": True, "max_new_tokens": 6, "details": True}}
    details = small.post_ok("/generate", body)["details"]
    (other,) = details["best_of_sequences"]

    def mean(sequence):
        return sum(token["logprob"] for token in sequence["tokens"]) / len(sequence["tokens"])

    assert mean(details) >= mean(other)


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
