"""TGI's validation rules, row by row: status, content type, error_type and text, on its own routes in every profile and
under /v1 in each profile's form."""

import json

import pytest
from harness.contracts import conforms
from launch import MAX_INPUT, MAX_TOTAL, endless_stream

PROMPT = "Once upon a time"
PREFIX = "Input validation error: "


def row(number: int | str, *values):
    return pytest.param(*values, id=f"{number}-{json.dumps(values[0])[:50]}", marks=pytest.mark.row(f"rule.{number}"))


# Parameters of /generate, and what TGI says after the prefix.
PARAMETERS = [
    row(1, {"best_of": 2}, "you must use sampling when `best_of` is > 1"),
    row(2, {"temperature": 0.0}, "`temperature` must be strictly positive"),
    row(2, {"temperature": -1.0}, "`temperature` must be strictly positive"),
    row(3, {"repetition_penalty": 0.0}, "`repetition_penalty` must be strictly positive"),
    row(4, {"frequency_penalty": 2.5}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    row(4, {"frequency_penalty": -2.5}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    row(5, {"top_p": 0.0}, "`top_p` must be > 0.0 and < 1.0"),
    row(5, {"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
    row(6, {"typical_p": 0.0}, "`typical_p` must be > 0.0 and < 1.0"),
    row(6, {"typical_p": 1.0}, "`typical_p` must be > 0.0 and < 1.0"),
    row(7, {"top_k": 0}, "`top_k` must be strictly positive"),
    row(7, {"top_k": -1}, "`top_k` must be strictly positive"),
    row(8, {"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
    row(9, {"stop": list("abcde")}, "`stop` supports up to 4 stop sequences. Given: 5"),
    row(10, {"best_of": 2, "do_sample": True, "seed": 1}, "`seed` must not be set when `best_of` > 1"),
    row(11, {"top_n_tokens": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
    row(13, {"truncate": 0}, f"`truncate` must be strictly positive and less than {MAX_INPUT}. Given: 0"),
    row(
        13,
        {"truncate": MAX_INPUT + 1},
        f"`truncate` must be strictly positive and less than {MAX_INPUT}. Given: {MAX_INPUT + 1}",
    ),
    row(17, {"grammar": {"type": "json", "value": 1}}, "grammar is not supported"),
    row(21, {"best_of": 3, "do_sample": True}, "`best_of` must be > 0 and <= 2. Given: 3"),
    # Two faults at once: the order of evaluation decides.
    pytest.param(
        {"temperature": 0.0, "top_k": 0},
        "`temperature` must be strictly positive",
        marks=pytest.mark.row("note.penalty-order"),
    ),
    pytest.param(
        {"best_of": 3, "temperature": 0.0},
        "`best_of` must be > 0 and <= 2. Given: 3",
        marks=pytest.mark.row("note.penalty-order"),
    ),
    pytest.param(
        {"truncate": 0, "max_new_tokens": MAX_TOTAL},
        f"`truncate` must be strictly positive and less than {MAX_INPUT}. Given: 0",
        marks=pytest.mark.row("note.penalty-order"),
    ),
    # What TGI knows only as a warning, or not at all, is refused by name rather than ignored.
    ({"adapter_id": "mine"}, '`adapter_id` "mine" is not loaded'),
    ({"min_p": 1.5}, "`min_p` must be >= 0.0 and <= 1.0. Given: 1.5"),
    ({"min_tokens": 5, "max_new_tokens": 4}, "`min_tokens` must be >= 0 and <= 4. Given: 5"),
]


def refusal(text: str) -> dict:
    body = {"error": PREFIX + text, "error_type": "validation"}
    conforms("ErrorResponse", body)
    return body


def refused(response, body: dict, status: int = 422):
    assert (response.status, response.json()) == (status, body)
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize("parameters, text", PARAMETERS)
@pytest.mark.parametrize("path", ["/generate", "/", "/invocations"])
def test_refused_with_a_status(small, path, parameters, text):
    refused(small.post(path, {"inputs": PROMPT, "parameters": parameters}), refusal(text))


@pytest.mark.parametrize("parameters, text", [case for case in PARAMETERS if "best_of" not in str(case)])
@pytest.mark.parametrize("path", ["/generate_stream", "/"])
def test_refused_inside_the_stream(small, path, parameters, text):
    headers, events = small.stream(path, {"inputs": PROMPT, "parameters": parameters, "stream": True})
    assert events == [refusal(text)]
    assert headers["content-type"] == "text/event-stream"


@pytest.mark.parametrize("path", ["/vertex", "/v2/models/m/versions/1/infer"])
def test_refused_in_a_prediction(small, path):
    parameters = {"temperature": 0.0}
    data = list(PROMPT.encode())
    body = {
        "instances": [{"inputs": PROMPT, "parameters": parameters}],
        "id": "1",
        "parameters": parameters,
        "inputs": [{"name": "in", "shape": [1], "datatype": "BYTES", "data": data}],
        "outputs": [{"name": "out"}],
    }
    refused(small.post(path, body), refusal("`temperature` must be strictly positive"))


@pytest.mark.row("rule.12")
@pytest.mark.parametrize("path", ["/generate", "/"])
def test_empty_inputs(small, path):
    refused(small.post(path, {"inputs": "", "parameters": {"max_new_tokens": 1}}), refusal("`inputs` cannot be empty"))


@pytest.mark.row("rule.15")
def test_prompt_and_output_too_long_together(small, reference):
    count = len(reference.ids(PROMPT))
    response = small.post("/generate", {"inputs": PROMPT, "parameters": {"max_new_tokens": MAX_TOTAL}})
    text = (
        f"`inputs` tokens + `max_new_tokens` must be <= {MAX_TOTAL}. "
        f"Given: {count} `inputs` tokens and {MAX_TOTAL} `max_new_tokens`"
    )
    refused(response, refusal(text))
    # TGI counts, and tells, at most 1024 tokens of output.
    response = small.post("/generate", {"inputs": PROMPT, "parameters": {"max_new_tokens": 100_000}})
    refused(response, refusal(text.replace(f"and {MAX_TOTAL} ", "and 1024 ")))
    exact = {"max_new_tokens": MAX_TOTAL - count, "details": True, "ignore_eos": True}
    details = small.post_ok("/generate", {"inputs": PROMPT, "parameters": exact})["details"]
    assert details["generated_tokens"] == MAX_TOTAL - count


@pytest.mark.row("rule.16")
def test_prompt_too_long(small, reference):
    inputs = "the fox " * 25
    count = len(reference.ids(inputs))
    assert MAX_INPUT < count < MAX_TOTAL, f"the prompt has {count} tokens; adjust it"
    response = small.post("/generate", {"inputs": inputs, "parameters": {"max_new_tokens": 1}})
    refused(response, refusal(f"`inputs` must have less than {MAX_INPUT} tokens. Given: {count}"))


# What follows the prefix are the words of whoever reads the grammar.
@pytest.mark.parametrize(
    "grammar, start",
    [
        row(18, {"type": "json", "value": "{"}, "grammar is not valid: "),
        row(18, {"type": "json", "value": "[1,"}, "grammar is not valid: "),
        row(
            19,
            {"type": "json", "value": {"properties": {"a": {"type": "array", "uniqueItems": True}}}},
            "cannot compile regex from schema: ",
        ),
        row(
            19,
            {"type": "json_schema", "value": {"schema": {"properties": {"a": {"type": "array", "uniqueItems": True}}}}},
            "cannot compile regex from schema: ",
        ),
    ],
)
def test_grammars_that_do_not_become_one(small, grammar, start):
    body = {"inputs": PROMPT, "parameters": {"grammar": grammar, "max_new_tokens": 4}}
    response = small.post("/generate", body)
    answer = response.json()
    conforms("ErrorResponse", answer)
    assert (response.status, answer["error_type"]) == (422, "validation")
    assert answer["error"].startswith(PREFIX + start)
    assert small.stream("/generate_stream", body)[1] == [answer]


def test_a_schema_needs_no_properties(small):
    grammar = {"type": "json", "value": {"enum": ["yes", "no"]}}
    body = {"inputs": PROMPT, "parameters": {"grammar": grammar, "max_new_tokens": 20}}
    assert small.post_ok("/generate", body)["generated_text"] in ('"yes"', '"no"')


@pytest.mark.parametrize(
    "parameters, text",
    [
        row(22, {"best_of": 2, "do_sample": True}, "`best_of` != 1 is not supported when streaming tokens"),
        row(22, {"best_of": 0}, "`best_of` != 1 is not supported when streaming tokens"),
        row(
            23,
            {"decoder_input_details": True},
            "`decoder_input_details` == true is not supported when streaming tokens",
        ),
    ],
)
def test_streams_do_not_take(small, parameters, text):
    _, events = small.stream("/generate_stream", {"inputs": PROMPT, "parameters": parameters})
    assert events == [refusal(text)]


@pytest.mark.row("rule.24")
def test_image_on_a_text_model(small):
    part = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/cat.png"}}
    response = small.post("/v1/chat/completions", {"messages": [{"role": "user", "content": [part]}]})
    text = PREFIX + "invalid image content: this model takes text only"
    if small.profile == "tgi":
        refused(response, {"error": text, "error_type": "validation"})
    else:
        assert (response.status, response.json()["error"]["message"]) == (400, text)


# The rules by OpenAI's names. TGI's profile keeps all of TGI's bounds; OpenAI's has OpenAI's status and object.
CHAT = [
    ({"temperature": -1.0}, "temperature", "`temperature` must be strictly positive"),
    ({"frequency_penalty": 2.5}, "frequency_penalty", "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ({"top_p": 0.0}, "top_p", "`top_p` must be > 0.0 and < 1.0"),
    ({"max_tokens": 0}, "max_tokens", "`max_new_tokens` must be strictly positive"),
    ({"stop": list("abcde")}, "stop", "`stop` supports up to 4 stop sequences. Given: 5"),
]


@pytest.mark.parametrize("fields, param, text", CHAT, ids=[next(iter(case[0])) for case in CHAT])
@pytest.mark.parametrize(
    "path, body",
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
        ("/v1/completions", {"prompt": "Once"}),
        ("/invocations", {"messages": [{"role": "user", "content": "Hi"}]}),
    ],
    ids=["chat", "completions", "invocations"],
)
def test_refused_under_v1(small, path, body, fields, param, text):
    response = small.post(path, body | fields)
    if small.profile == "tgi":
        refused(response, refusal(text))
        return
    answer = response.json()
    assert (response.status, answer["error_type"]) == (400, "validation")
    assert answer["error"] | {"code": None} == {
        "message": PREFIX + text,
        "type": "invalid_request_error",
        "param": param,
        "code": None,
    }


def test_tgi_rejects_where_openai_has_a_neutral_value(small):
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "top_p": 1.0}
    response = small.post("/v1/chat/completions", body)
    if small.profile == "tgi":
        refused(response, refusal("`top_p` must be > 0.0 and < 1.0"))
    else:
        assert response.status == 200


# --- Rules that need a server of another kind.


@pytest.mark.parametrize(
    "parameters, text",
    [
        row(17, {"grammar": {"type": "regex", "value": "a+"}}, "grammar is not supported"),
        row(20, {"best_of": 2, "do_sample": True}, "`best_of` != 1 is not allowed for this endpoint"),
    ],
)
def test_switched_off(closed, parameters, text):
    refused(closed.post("/generate", {"inputs": PROMPT, "parameters": parameters}), refusal(text))


@pytest.mark.row("rule.0")
@pytest.mark.parametrize(
    "path, body",
    [
        ("/generate", {"inputs": PROMPT}),
        ("/generate_stream", {"inputs": PROMPT}),
        ("/", {"inputs": PROMPT, "stream": True}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "stream": True}),
        ("/v1/completions", {"prompt": "Once"}),
        ("/vertex", {"instances": [{"inputs": PROMPT}]}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_no_place_free(occupied, path, body):
    # Nothing is looked at before the place: what is wrong with the request is not told.
    response = occupied.post(path, body | {"parameters": {"temperature": 0.0}, "temperature": -1.0})
    body = {"error": "Model is overloaded", "error_type": "overloaded"}
    refused(response, body, 429)
    assert response.headers["retry-after"] == "1"


@pytest.fixture(scope="module")
def occupied(closed):
    """The server while its one place is taken by a stream that never ends."""
    with endless_stream(closed):
        yield closed
