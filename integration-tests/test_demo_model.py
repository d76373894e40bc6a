"""The demo model answers questions about Weirgate, word for word what transformers generates from the same weights."""

import json
from pathlib import Path

import pytest
from harness.client import Client

EXPECTED = json.loads((Path(__file__).parents[1] / "tools/demo_model/expected.json").read_text())


@pytest.mark.parametrize("case", EXPECTED["questions"], ids=lambda case: case["messages"][-1]["content"])
def test_answers(client, case):
    body = {"messages": case["messages"], "temperature": 0, "max_tokens": 96}
    choice = client.post_ok("/v1/chat/completions", body)["choices"][0]
    assert choice["message"]["content"] == case["answer"]
    assert choice["finish_reason"] == "stop"


def test_there_are_a_dozen():
    assert len(EXPECTED["questions"]) >= 12


@pytest.mark.parametrize("shards", ["2", "4"])
def test_shards_answer_the_same(shards, start_server):
    client = Client(start_server("--num-shard", shards).port)
    for case in EXPECTED["questions"]:
        body = {"messages": case["messages"], "temperature": 0, "max_tokens": 96}
        assert client.post_ok("/v1/chat/completions", body)["choices"][0]["message"]["content"] == case["answer"]


@pytest.mark.parametrize(("asked", "stored"), [("float16", "f16"), ("bfloat16", "bf16"), ("bf16", "bf16")])
def test_a_kv_cache_of_sixteen_bits_answers_the_same(asked, stored, start_server):
    server = start_server("--kv-cache-dtype", asked, "--device", "cpu")
    assert f" MiB in {stored}\n" in server.output()
    client = Client(server.port)
    for case in EXPECTED["questions"]:
        body = {"messages": case["messages"], "temperature": 0, "max_tokens": 96}
        assert client.post_ok("/v1/chat/completions", body)["choices"][0]["message"]["content"] == case["answer"]
