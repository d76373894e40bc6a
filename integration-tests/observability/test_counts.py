"""The counters before and after a scripted load equal what the load did, to the request and to the token."""

import contextlib
import http.client
import json

import pytest
from harness import metrics
from harness.client import Client, events
from harness.server import wait_for

PROMPT = "Once upon a time"
GREEDY = {"do_sample": False, "details": True}
FAILURES = ("dropped", "generation", "incomplete", "overloaded", "template", "validation")


class Watch:
    """What was counted since it was made, once the server is idle again."""

    def __init__(self, client: Client):
        self.client = client
        self.before = self._samples()

    def _samples(self) -> dict[str, float]:
        wait_for(lambda: metrics.engine(self.client.get("/metrics").text).idle, 20, "an idle engine")
        return metrics.parse(self.client.get("/metrics").text)

    def check(self, **expected: float):
        """Requests and tokens as expected, every other request counter unchanged, and the sums consistent."""
        after = self._samples()
        bare = {key.partition("{")[0] for key in after}
        assert not [name for name in expected if name not in bare and name not in FAILURES]

        def grown(name: str, label: str = "") -> float:
            keys = [key for key in after if key.partition("{")[0] == name and label in key]
            assert keys, f"no series {name} {label}"
            return sum(after[key] - self.before[key] for key in keys)

        counted = {failure: grown("tgi_request_failure", f'err="{failure}"') for failure in FAILURES}
        names = ("tgi_request_count", "tgi_request_success", "tgi_request_generated_tokens_sum")
        counted |= {name: grown(name) for name in names}
        known = {name: expected.get(name, 0) for name in counted}
        assert counted == known

        success = known["tgi_request_success"]
        assert known["tgi_request_count"] == success + sum(known[failure] for failure in FAILURES)
        for name in (
            "duration",
            "validation_duration",
            "queue_duration",
            "inference_duration",
            "mean_time_per_token_duration",
            "generated_tokens",
        ):
            assert grown(f"tgi_request_{name}_count") == success, name
        assert grown("weirgate_request_duration_seconds_count", 'outcome="success"') == success
        assert grown("weirgate_request_duration_seconds_count", 'outcome="cancelled"') == known["dropped"]
        assert grown("weirgate_request_cancellations_total") == known["dropped"]
        assert grown("tgi_request_input_length_sum") == grown("weirgate_prompt_tokens_total")
        steps = grown("tgi_batch_inference_count")
        assert steps == grown("tgi_batch_inference_success") == grown("weirgate_engine_steps_total")
        for name in ("inference", "forward", "decode", "filter"):
            assert grown(f"tgi_batch_{name}_duration_count") == steps, name
        for name in set(expected) - set(known):
            assert grown(name) == expected[name], name


def done(requests: int, prompt: int, tokens: int, sequences: int | None = None) -> dict[str, float]:
    """The counts of requests that all ended well."""
    sequences = requests if sequences is None else sequences
    return {
        "tgi_request_count": requests,
        "tgi_request_success": requests,
        "tgi_request_generated_tokens_sum": tokens,
        "tgi_request_input_length_count": requests,
        "tgi_request_input_length_sum": prompt,
        "tgi_request_max_new_tokens_count": requests,
        "weirgate_prompt_tokens_total": prompt,
        "weirgate_generated_tokens_total": tokens,
        "weirgate_time_to_first_token_seconds_count": requests,
        "weirgate_inter_token_latency_seconds_count": tokens - sequences,
    }


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    """A server with little room: three requests at once, one sequence per step."""
    from harness.server import Server

    log = tmp_path_factory.mktemp("counted") / "log"
    places = ("--max-concurrent-requests", "3", "--max-client-batch-size", "8")
    server = Server(log, *places, "--max-batch-size", "1", "--max-total-tokens", "1024")
    try:
        server.start()
        yield Client(server.port)
        server.stop()
    finally:
        server.kill()


def test_generate(counted, reference):
    watch, tokens = Watch(counted), 0
    for length in (1, 7, 20):
        answer = counted.post_ok("/generate", {"inputs": PROMPT, "parameters": GREEDY | {"max_new_tokens": length}})
        tokens += answer["details"]["generated_tokens"]
    assert tokens == 28
    watch.check(**done(3, 3 * len(reference.ids(PROMPT)), tokens))


def test_a_stream_and_the_root_route(counted, reference):
    watch = Watch(counted)
    body = {"inputs": PROMPT, "parameters": GREEDY | {"max_new_tokens": 9}}
    _, events = counted.stream("/generate_stream", body)
    assert len(events) == 9
    answer = counted.post_ok("/", body)
    prompt = 2 * len(reference.ids(PROMPT))
    watch.check(**done(2, prompt, 9 + answer[0]["details"]["generated_tokens"]))


def test_a_stop_string_counts_the_tokens_the_client_got(counted, reference):
    body = {"inputs": PROMPT, "parameters": GREEDY | {"max_new_tokens": 24}}
    words = counted.post_ok("/generate", body)["generated_text"].split()
    watch = Watch(counted)
    body["parameters"]["stop"] = [words[3]]
    answer = counted.post_ok("/generate", body)
    details = answer["details"]
    assert details["finish_reason"] == "stop_sequence"
    assert details["generated_tokens"] == len(details["tokens"]) < 24
    watch.check(**done(1, len(reference.ids(PROMPT)), details["generated_tokens"]))


def test_several_answers_are_one_request(counted):
    watch = Watch(counted)
    body = {
        "model": "tgi",
        "messages": [{"role": "user", "content": "Hello"}],
        "n": 3,
        "max_tokens": 12,
        "temperature": 1.0,
        "seed": 5,
    }
    usage = counted.post_ok("/v1/chat/completions", body)["usage"]
    watch.check(**done(1, usage["prompt_tokens"], usage["completion_tokens"], sequences=3))


def test_best_of_counts_all_it_generated(counted, reference):
    watch = Watch(counted)
    parameters = {"best_of": 2, "do_sample": True, "max_new_tokens": 6, "details": True}
    details = counted.post_ok("/generate", {"inputs": PROMPT, "parameters": parameters})["details"]
    tokens = details["generated_tokens"] + sum(other["generated_tokens"] for other in details["best_of_sequences"])
    watch.check(**done(1, len(reference.ids(PROMPT)), tokens, sequences=2))


def test_each_prompt_of_a_completion_is_a_request(counted):
    watch = Watch(counted)
    body = {"model": "tgi", "prompt": ["One", "Two words", "Three more words"], "max_tokens": 5, "temperature": 0}
    usage = counted.post_ok("/v1/completions", body)["usage"]
    watch.check(**done(3, usage["prompt_tokens"], usage["completion_tokens"]))


def test_invalid_requests(counted):
    watch = Watch(counted)
    bad = {"inputs": PROMPT, "parameters": {"temperature": 0.0}}
    assert counted.post("/generate", bad).status == 422
    counted.post("/generate_stream", bad)
    too_long = {"inputs": "word " * 3000}
    assert counted.post("/generate", too_long).status == 422
    both = {"inputs": PROMPT, "parameters": {"max_new_tokens": 5000}}
    assert counted.post("/generate", both).status == 422
    chat = {"model": "tgi", "messages": [{"role": "user", "content": "Hi"}], "top_logprobs": 4000, "logprobs": True}
    assert counted.post("/v1/chat/completions", chat).status in (400, 422)
    watch.check(tgi_request_count=5, validation=5)


def test_prompts_that_came_with_an_invalid_one_fail_as_it_does(counted):
    """Nobody went away, so nothing is counted as dropped."""
    watch = Watch(counted)
    body = {"model": "tgi", "prompt": ["One", "word " * 3000, "Three"], "max_tokens": 5}
    assert counted.post("/v1/completions", body).status in (400, 422)
    watch.check(tgi_request_count=3, validation=3)
    assert counted.post("/v1/completions", body | {"prompt": "One", "temperature": -1}).status in (400, 422)
    watch.check(tgi_request_count=4, validation=4)


def test_what_is_no_request_is_not_counted(counted):
    """As in text-generation-inference: a body that cannot be read, and what only looks."""
    watch = Watch(counted)
    assert counted.post("/generate", b"{").status >= 400
    assert counted.post("/generate", {"parameters": {}}).status >= 400
    assert counted.get("/info").status == 200
    assert counted.post("/tokenize", {"inputs": PROMPT}).status == 200
    assert counted.post("/no/such/route", {}).status == 404
    watch.check()


@contextlib.contextmanager
def streaming(client: Client, tokens: int):
    """A stream that has had its first event; closed at the end, whether it is done or not."""
    body = {"inputs": PROMPT, "parameters": {"max_new_tokens": tokens, "do_sample": False, "ignore_eos": True}}
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=30)
    connection.request("POST", "/generate_stream", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    assert response.status == 200
    stream = events(iter(response.readline, b""))
    next(stream)
    try:
        yield stream
    finally:
        response.close()
        connection.close()


def test_a_client_that_goes_away(counted, reference):
    watch = Watch(counted)
    with streaming(counted, 900) as stream:
        received = 1 + sum(1 for _ in zip(range(4), stream, strict=False))
    prompt = len(reference.ids(PROMPT))
    watch.check(tgi_request_count=1, dropped=1, weirgate_prompt_tokens_total=prompt)
    assert received == 5
    name = "weirgate_generated_tokens_total"
    counted_tokens = metrics.total(watch._samples(), name) - metrics.total(watch.before, name)
    assert received <= counted_tokens < 900


def test_a_client_that_goes_away_in_the_queue_got_no_token(counted):
    """One sequence at a time: whoever comes second waits."""
    with streaming(counted, 900):
        before = metrics.parse(counted.get("/metrics").text)
        waiting = http.client.HTTPConnection("127.0.0.1", counted.port, timeout=30)
        body = json.dumps({"inputs": "Hello", "parameters": {"max_new_tokens": 5}})
        waiting.request("POST", "/generate", body, {"Content-Type": "application/json"})

        def now(name: str) -> float:
            return metrics.total(metrics.parse(counted.get("/metrics").text), name)

        wait_for(lambda: now("weirgate_requests_waiting") == 1, 5, "the second request in the queue")
        assert now("weirgate_requests_running") == 1
        assert now("tgi_queue_size") == 1
        assert now("tgi_batch_current_size") == 1
        assert 0 < now("weirgate_kv_cache_utilization_ratio") < 1
        waiting.close()
        wait_for(lambda: now("weirgate_requests_waiting") == 0, 5, "the queue empty")
        assert now("weirgate_time_to_first_token_seconds_count") == metrics.total(
            before, "weirgate_time_to_first_token_seconds_count"
        )
        wait_for(lambda: now("weirgate_request_cancellations_total") > 0, 5, "the cancellation counted")


def test_refused_for_want_of_a_place(counted):
    """A call with more prompts than there are places gets none."""
    watch = Watch(counted)
    body = {"model": "tgi", "prompt": ["One", "Two", "Three", "Four"], "max_tokens": 5}
    assert [counted.post("/v1/completions", body).status for _ in range(2)] == [429, 429]
    watch.check(tgi_request_count=8, overloaded=8)


def test_a_template_that_raises(start_server, tmp_path):
    template = "{{ raise_exception('no roles here') }}"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    client = Client(start_server("--tokenizer-config-path", str(tmp_path / "tokenizer_config.json")).port)
    watch = Watch(client)
    body = {"model": "tgi", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
    assert client.post("/v1/chat/completions", body).status in (400, 422)
    watch.check(tgi_request_count=1, template=1)
