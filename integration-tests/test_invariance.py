"""Settings that may change speed and never a token or a log-probability."""

import pytest
from harness import metrics
from harness.client import Client
from harness.server import DEMO_MODEL

PROMPTS = ["Once upon a time", "The fox and the miller. " * 12, "One morning in the warm valley, " * 30]
SETTINGS = {
    "one thread": ["--threads", "1"],
    "prompts in pieces of 7": ["--max-batch-prefill-tokens", "7"],
    "one sequence a step": ["--max-batch-size", "1"],
    "no prefix cache": [],
    # The CPU is deterministic in any case.
    "deterministic": ["--deterministic"],
}


def answers(client: Client) -> list:
    """Greedy and sampled, each asked twice so that a warm cache is part of it."""
    told = []
    for prompt in PROMPTS * 2:
        for extra in ({}, {"do_sample": True, "temperature": 1.3, "top_p": 0.95, "seed": 11}):
            parameters = {"max_new_tokens": 48, "details": True, "ignore_eos": True, "top_n_tokens": 2} | extra
            told.append(client.post_ok("/generate", {"inputs": prompt, "parameters": parameters}))
    return told


@pytest.fixture(scope="module")
def usual(server):
    return answers(Client(server.port))


def test_cold_equals_warm(usual, client):
    samples = metrics.parse(client.get("/metrics").text)
    assert metrics.total(samples, "weirgate_prefix_cache_hit_tokens_total") > 0, "nothing was warm"
    half = len(usual) // 2
    assert usual[:half] == usual[half:]


@pytest.mark.parametrize("name", SETTINGS)
def test_same_tokens_and_logprobs(start_server, usual, name):
    env = {"PREFIX_CACHING": "0"} if name == "no prefix cache" else None
    assert answers(Client(start_server(*SETTINGS[name], env=env).port)) == usual


def test_speculation_tells_the_same_sooner(start_server, usual):
    client = Client(start_server("--speculate", "4").port)
    assert answers(client) == usual
    samples = metrics.parse(client.get("/metrics").text)
    assert metrics.total(samples, "tgi_request_skipped_tokens_sum") > 0, "no guess came true"


def test_a_folder_tells_the_same_as_the_binary(start_server, usual):
    assert answers(Client(start_server("--model-id", str(DEMO_MODEL)).port)) == usual
