"""The wire formats of TGI's own routes. They are the same in every profile; the shapes are the contract's."""

import pytest
from harness.client import Client
from harness.contracts import conforms
from launch import endless_stream, serving

PROMPT = "Once upon a time"
GREEDY = {"max_new_tokens": 12, "do_sample": False}


def generate(client: Client, **parameters):
    return client.post_ok("/generate", {"inputs": PROMPT, "parameters": GREEDY | parameters})


def stream(client: Client, **parameters):
    return client.stream("/generate_stream", {"inputs": PROMPT, "parameters": GREEDY | parameters})


@pytest.mark.row("format.generate")
def test_generate(either):
    answer = generate(either)
    assert set(answer) == {"generated_text"}
    conforms("GenerateResponse", answer)
    answer = generate(either, return_full_text=True)
    assert answer["generated_text"].startswith(PROMPT)


@pytest.mark.row("format.root")
def test_root_is_an_array_with_the_full_text(either):
    (answer,) = either.post_ok("/", {"inputs": PROMPT, "parameters": GREEDY})
    conforms("GenerateResponse", answer)
    assert answer["generated_text"] == PROMPT + generate(either)["generated_text"]
    (answer,) = either.post_ok("/", {"inputs": PROMPT, "parameters": GREEDY | {"return_full_text": False}})
    assert answer == generate(either)


@pytest.mark.row("format.details")
def test_details(either, reference):
    answer = generate(either, details=True)
    conforms("GenerateResponse", answer)
    details = answer["details"]
    assert set(details) == {"finish_reason", "generated_tokens", "seed", "prefill", "tokens"}
    assert details["generated_tokens"] == len(details["tokens"]) == GREEDY["max_new_tokens"]
    assert (details["finish_reason"], details["seed"], details["prefill"]) == ("length", None, [])
    ids = [token["id"] for token in details["tokens"]]
    assert reference.text(reference.ids(PROMPT) + ids) == PROMPT + answer["generated_text"]
    assert "".join(token["text"] for token in details["tokens"]) == answer["generated_text"]


@pytest.mark.row("note.seed-null")
def test_the_seed_is_told_where_the_request_sampled(either):
    assert generate(either, details=True, seed=7)["details"]["seed"] is None
    assert generate(either, details=True, seed=7, do_sample=True)["details"]["seed"] == 7
    assert isinstance(generate(either, details=True, temperature=0.9)["details"]["seed"], int)


@pytest.mark.row("note.do-sample")
def test_no_parameters_sample_and_empty_ones_do_not(tmp_path_factory):
    with serving(tmp_path_factory, "--profile", "tgi", "--default-max-new-tokens", 30) as server:
        client = Client(server.port)
        greedy = client.post_ok("/generate", {"inputs": PROMPT, "parameters": {}})
        assert client.post_ok("/generate", {"inputs": PROMPT, "parameters": {}}) == greedy
        sampled = [client.post_ok("/generate", {"inputs": PROMPT})["generated_text"] for _ in range(4)]
        assert len(set(sampled) | {greedy["generated_text"]}) > 2


@pytest.mark.row("format.input-details")
def test_input_details(tmp_path_factory, reference):
    with serving(tmp_path_factory, "--enable-prefill-logprobs") as server:
        answer = generate(Client(server.port), decoder_input_details=True)
    conforms("GenerateResponse", answer)
    prefill = answer["details"]["prefill"]
    assert [token["id"] for token in prefill] == reference.ids(PROMPT)
    assert prefill[0]["logprob"] is None
    assert all(token["logprob"] <= 0 for token in prefill[1:])


@pytest.mark.row("format.top-tokens")
def test_top_tokens(either):
    answer = generate(either, details=True, top_n_tokens=3)
    conforms("GenerateResponse", answer)
    details = answer["details"]
    assert len(details["top_tokens"]) == len(details["tokens"])
    for token, top in zip(details["tokens"], details["top_tokens"]):
        assert top[0] == token, "greedy takes the likeliest"
        logprobs = [candidate["logprob"] for candidate in top]
        assert len(top) >= 3 and logprobs == sorted(logprobs, reverse=True)


@pytest.mark.row("format.best-of")
@pytest.mark.row("note.best-of-zero")
def test_best_of(either):
    answer = generate(either, details=True, best_of=2, do_sample=True, temperature=1.5)
    conforms("GenerateResponse", answer)
    details = answer["details"]
    (other,) = details["best_of_sequences"]

    def mean(sequence):
        return sum(token["logprob"] for token in sequence["tokens"]) / len(sequence["tokens"])

    assert mean(details) >= mean(other)
    none = generate(either, details=True, best_of=0)["details"]
    assert none == generate(either, details=True)["details"]


@pytest.mark.row("note.best-of-negative")
def test_a_negative_best_of_is_no_number(either):
    response = either.post("/generate", {"inputs": PROMPT, "parameters": {"best_of": -1}})
    assert response.status == 422
    assert response.text.startswith("Failed to deserialize the JSON body into the target type: parameters.best_of: ")


@pytest.mark.row("format.framing")
@pytest.mark.row("format.stream-headers")
@pytest.mark.parametrize("path", ["/generate_stream", "/"])
def test_framing(either, path):
    response = either.post(path, {"inputs": PROMPT, "parameters": GREEDY, "stream": True})
    assert response.status == 200
    assert response.headers["content-type"] == "text/event-stream"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    *events, rest = response.body.split(b"\n\n")
    assert rest == b"" and len(events) == GREEDY["max_new_tokens"]
    for event in events:
        assert event.startswith(b'data: {"') and b"\n" not in event


@pytest.mark.row("format.framing")
def test_silence_is_broken_by_comments(closed):
    """TGI's keep-alive comment comes after 15 seconds without an event; this engine stopped after a few."""
    with endless_stream(closed) as response:
        lines = []
        while not lines or lines[-1] != b":\n":
            lines.append(response.readline())
        assert all(line == b"\n" or line.startswith(b"data: ") for line in lines[:-1])
        assert response.readline() == b"\n"


@pytest.mark.row("format.stream-events")
@pytest.mark.row("format.stream-end")
def test_stream_events(either, reference):
    _, events = stream(either, details=True)
    plain = generate(either, details=True)
    assert [event["index"] for event in events] == list(range(1, len(events) + 1))
    assert [event["token"] for event in events] == plain["details"]["tokens"]
    for event in events:
        conforms("StreamResponse", event)
        assert set(event) == {"index", "token", "generated_text", "details"}
    assert all(event["generated_text"] is None and event["details"] is None for event in events[:-1])
    assert events[-1]["generated_text"] == plain["generated_text"]
    assert events[-1]["details"] == {
        "finish_reason": "length",
        "generated_tokens": GREEDY["max_new_tokens"],
        "seed": None,
        "input_length": len(reference.ids(PROMPT)),
    }
    _, events = stream(either, top_n_tokens=2, return_full_text=True)
    assert all(len(event["top_tokens"]) >= 2 for event in events)
    assert events[-1]["details"] is None
    assert events[-1]["generated_text"] == PROMPT + plain["generated_text"]
    _, events = either.stream("/", {"inputs": PROMPT, "parameters": GREEDY, "stream": True})
    assert events[-1]["generated_text"] == PROMPT + plain["generated_text"]


@pytest.mark.row("format.stream-errors")
def test_an_error_is_an_event_of_a_200(either):
    headers, events = stream(either, temperature=0.0)
    (event,) = events
    conforms("ErrorResponse", event)
    assert headers["x-accel-buffering"] == "no"


FIGURES = ["x-prompt-tokens", "x-generated-tokens", "x-total-time", "x-validation-time", "x-queue-time"]
FIGURES += ["x-inference-time", "x-time-per-token"]


@pytest.mark.row("format.headers")
def test_headers(either, reference):
    for path in ("/generate", "/", "/invocations"):
        headers = either.post(path, {"inputs": PROMPT, "parameters": GREEDY}).headers
        figures = {name: int(headers[name]) for name in FIGURES}
        assert figures["x-prompt-tokens"] == len(reference.ids(PROMPT))
        assert figures["x-generated-tokens"] == GREEDY["max_new_tokens"]
        assert headers["x-compute-characters"] == str(len(PROMPT))
        # Seconds and milliseconds of the same time.
        assert abs(float(headers["x-compute-time"]) * 1000 - figures["x-total-time"]) < 1.001
        assert figures["x-total-time"] >= figures["x-inference-time"]
    headers, _ = stream(either)
    assert headers["x-compute-characters"] == str(len(PROMPT))
    assert headers["x-compute-type"]
    assert not any(name in headers for name in FIGURES)
    for path in ("/tokenize", "/chat_tokenize", "/vertex"):
        body = {"inputs": "a", "messages": [{"role": "user", "content": "a"}], "instances": [{"inputs": "a"}]}
        assert not [name for name in either.post(path, body).headers if name.lower().startswith("x-compute")]


@pytest.mark.row("format.compute-type")
def test_compute_type_is_the_variables(tmp_path_factory, client):
    with serving(tmp_path_factory, env={"COMPUTE_TYPE": "4-nvidia-l4"}) as server:
        response = Client(server.port).post("/generate", {"inputs": PROMPT, "parameters": GREEDY})
        assert response.headers["x-compute-type"] == "4-nvidia-l4"
    assert client.post("/generate", {"inputs": PROMPT, "parameters": GREEDY}).headers["x-compute-type"] == "cpu"


@pytest.mark.row("format.warped-logprobs")
def test_logprobs_are_those_of_the_processed_distribution(either):
    parameters = {"details": True, "max_new_tokens": 1, "seed": 1}
    (only,) = generate(either, do_sample=True, top_k=1, **parameters)["details"]["tokens"]
    assert only["logprob"] == pytest.approx(0.0, abs=1e-6), "of one candidate the probability is 1"
    (plain,) = generate(either, **parameters)["details"]["tokens"]
    assert only["id"] == plain["id"] and plain["logprob"] < -1e-4


@pytest.mark.row("format.stop-kept")
def test_the_stop_text_stays(either):
    whole = generate(either, max_new_tokens=40)["generated_text"]
    stop = next(word for word in whole.split() if len(word) > 3 and whole.count(word) == 1)
    answer = generate(either, max_new_tokens=40, stop=[stop], details=True)
    assert answer["generated_text"] == whole[: whole.index(stop) + len(stop)]
    assert answer["details"]["finish_reason"] == "stop_sequence"


def ended(client: Client) -> dict:
    """A continuation that the model ends itself."""
    for seed in range(40):
        parameters = {"details": True, "max_new_tokens": 400, "do_sample": True, "seed": seed}
        answer = generate(client, **parameters)
        if answer["details"]["finish_reason"] == "eos_token":
            return answer
    raise AssertionError("the model ended none of 40 texts")


@pytest.mark.row("format.length-before-eos")
@pytest.mark.row("format.special-left-out")
def test_the_end_of_a_text(either, reference):
    answer = ended(either)
    details = answer["details"]
    last = details["tokens"][-1]
    assert last["special"] and last["text"] and not answer["generated_text"].endswith(last["text"])
    # The length is looked at first: the same tokens, the last one being the last allowed.
    count = details["generated_tokens"]
    parameters = {"details": True, "do_sample": True, "seed": details["seed"], "max_new_tokens": count}
    same = generate(either, **parameters)["details"]
    assert [token["id"] for token in same["tokens"]] == [token["id"] for token in details["tokens"]]
    assert same["finish_reason"] == "length"


@pytest.mark.row("note.truncate-last")
def test_truncate_keeps_the_last_tokens(either, reference):
    inputs = "the fox " * 40 + "and then the king said"
    parameters = GREEDY | {"truncate": 8, "details": True}
    cut = either.post("/generate", {"inputs": inputs, "parameters": parameters})
    assert cut.headers["x-prompt-tokens"] == "8"
    ids = reference.ids(inputs)[-8:]
    same = either.post_ok("/v1/completions", {"prompt": ids, "max_tokens": 12, "temperature": 0.0})
    assert same["choices"][0]["text"] == cut.json()["generated_text"]


@pytest.mark.row("note.counted-output")
@pytest.mark.row("note.open-end")
def test_output_beyond_1024_tokens(either, tmp_path_factory, reference):
    """TGI counts at most 1024 tokens, so a request for more is taken and ends at the limit."""
    limits = ["--max-input-tokens", 100, "--max-total-tokens", 1100]
    count = len(reference.ids(PROMPT))
    with serving(tmp_path_factory, *limits, "--default-max-new-tokens", "none") as server:
        client = Client(server.port)
        for parameters in ({"max_new_tokens": 100_000}, {}):
            parameters = {"ignore_eos": True, "details": True} | parameters
            answer = client.post_ok("/generate", {"inputs": PROMPT, "parameters": parameters})
            assert answer["details"]["generated_tokens"] == 1100 - count
    default = either.post_ok("/generate", {"inputs": PROMPT, "parameters": {"ignore_eos": True, "details": True}})
    assert default["details"]["generated_tokens"] == 100
