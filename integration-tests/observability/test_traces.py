"""Traces over OTLP, as OpenTelemetry's own classes read them."""

import http.client
import json
import time

import pytest
from harness.client import Client
from harness.collector import Collector
from harness.server import run_to_exit, wait_for

PROMPT = "Once upon a time"
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=value,other=1"}
PHASES = ["validation", "queue", "prefill", "decode"]
BODY = {"inputs": PROMPT, "parameters": {"max_new_tokens": 8, "do_sample": False, "ignore_eos": True}}


@pytest.fixture
def collector():
    collector = Collector()
    try:
        yield collector.start()
    finally:
        collector.stop()


@pytest.fixture
def traced(start_server, collector):
    return start_server("--otlp-endpoint", collector.endpoint, "--otlp-service-name", "prose")


def test_a_request_and_its_phases(traced, collector, reference):
    begun = time.time_ns()
    assert Client(traced.port).post("/generate", BODY, SAMPLED).status == 200
    (root,) = collector.wait_for_roots(1)
    ended = time.time_ns()
    assert root.trace == TRACE
    assert root.span.parent_span_id.hex() == PARENT
    assert root.span.trace_state == SAMPLED["tracestate"]
    assert root.name == "POST /generate"
    assert root.resource["service.name"] == "prose"
    assert root.attributes == {
        "gen_ai.request.model": "weirgate-demo",
        "gen_ai.usage.input_tokens": len(reference.ids(PROMPT)),
        "gen_ai.usage.output_tokens": 8,
    }
    assert not root.failed
    assert begun <= root.span.start_time_unix_nano < root.span.end_time_unix_nano <= ended

    phases = collector.phases_of(root)
    assert list(phases) == PHASES
    assert len({each.span.span_id for each in [root, *phases.values()]}) == 5
    # Each phase begins where the one before it ends, and together they are the request.
    moment = root.span.start_time_unix_nano
    for name in PHASES:
        assert phases[name].trace == TRACE
        assert abs(phases[name].span.start_time_unix_nano - moment) < 1000
        moment = phases[name].span.end_time_unix_nano
        assert moment >= phases[name].span.start_time_unix_nano
    assert abs(moment - root.span.end_time_unix_nano) < 1000


def test_streams_and_other_dialects(traced, collector):
    client = Client(traced.port)
    client.stream("/generate_stream", BODY)
    client.post_ok("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3})
    client.post_ok("/v1/completions", {"prompt": ["One", "Two"], "max_tokens": 3})
    roots = collector.wait_for_roots(4)
    names = ["POST /generate_stream", "POST /v1/chat/completions", "POST /v1/completions", "POST /v1/completions"]
    assert sorted(root.name for root in roots) == names
    for root in roots:
        assert root.span.parent_span_id == b""
        assert list(collector.phases_of(root)) == PHASES
    # The prompts of one call stand in one trace; the calls in traces of their own.
    assert len({root.trace for root in roots}) == 3
    assert len({root.trace for root in roots if root.name == "POST /v1/completions"}) == 1


def test_requests_that_fail(traced, collector):
    client = Client(traced.port)
    assert client.post("/generate", {"inputs": PROMPT, "parameters": {"temperature": 0.0}}, SAMPLED).status == 422
    (invalid,) = collector.wait_for_roots(1)
    assert invalid.failed and "temperature" in invalid.span.status.message
    assert invalid.attributes["error.type"] == "validation"
    assert list(collector.phases_of(invalid)) == ["validation"]

    connection = http.client.HTTPConnection("127.0.0.1", traced.port, timeout=30)
    body = {"inputs": PROMPT, "parameters": {"max_new_tokens": 900, "do_sample": False, "ignore_eos": True}}
    connection.request("POST", "/generate_stream", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    response.readline()
    response.close()
    connection.close()
    gone = collector.wait_for_roots(2)[1]
    assert gone.failed and gone.attributes["error.type"] == "dropped"
    assert 0 < gone.attributes["gen_ai.usage.output_tokens"] < 900
    assert list(collector.phases_of(gone)) == PHASES


def test_the_callers_decision_not_to_sample_is_kept(traced, collector):
    client = Client(traced.port)
    client.post("/generate", BODY, {"traceparent": f"00-{TRACE}-{PARENT}-00"})
    other = "1" * 32
    client.post("/generate", BODY, {"traceparent": f"00-{other}-{PARENT}-01"})
    # A header that the standard forbids begins a trace of its own.
    client.post("/generate", BODY, {"traceparent": f"00-{TRACE.upper()}-{PARENT}-01"})
    first, second = collector.wait_for_roots(2)
    assert first.trace == other
    assert second.trace not in (TRACE, TRACE.upper()) and second.span.parent_span_id == b""


def test_the_last_spans_are_sent_on_the_way_out(traced, collector):
    Client(traced.port).post_ok("/generate", BODY)
    traced.stop()
    assert len(collector.roots()) == 1


def test_the_log_names_the_trace(start_server):
    """With or without a collector."""
    server = start_server("--json-output", env={"LOG_LEVEL": "debug"})
    client = Client(server.port)
    client.post("/generate", BODY, SAMPLED)
    other = "2" * 32
    client.post("/generate_stream", BODY, {"traceparent": f"00-{other}-{PARENT}-00"})
    client.post("/generate", BODY)

    def ends() -> list[dict]:
        lines = [json.loads(line) for line in server.output().splitlines() if line.startswith("{")]
        return [line for line in lines if line["fields"]["message"] == "a request ended well"]

    wait_for(lambda: len(ends()) == 3, 5, "three requests in the log")
    traces = [[span["trace_id"] for span in line.get("spans", [])] for line in ends()]
    assert traces == [[TRACE], [other], []]


def test_an_absent_collector_costs_nothing_but_its_traces(start_server):
    collector = Collector()
    server = start_server("--otlp-endpoint", collector.endpoint)
    client = Client(server.port)
    client.post_ok("/generate", BODY)
    wait_for(lambda: "traces are dropped" in server.output(), 10, "the warning")
    client.post_ok("/generate", BODY)
    try:
        collector.start()
        client.post_ok("/generate", BODY)
        # What was dropped stays dropped; what comes now arrives.
        wait_for(lambda: collector.roots(), 10, "spans after the collector came")
        collector.refuse = True
        client.post_ok("/generate", BODY)
        wait_for(lambda: server.output().count("traces are dropped") == 2, 10, "a warning of the new outage")
        assert "too much" in server.output()
    finally:
        collector.stop()


@pytest.mark.parametrize("endpoint", ["https://collector:4317", "collector:4317", "http://collector:4318/v1/traces"])
def test_endpoints_that_cannot_work_are_refused(endpoint):
    code, output, _ = run_to_exit(["--otlp-endpoint", endpoint])
    assert code == 1
    assert "otlp_endpoint" in output and endpoint in output
