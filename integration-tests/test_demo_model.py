"""The demo model answers questions about Weirgate, word for word what transformers generates from the same weights."""

import json
from pathlib import Path

import pytest

EXPECTED = json.loads((Path(__file__).parents[1] / "tools/demo_model/expected.json").read_text())


@pytest.mark.parametrize("case", EXPECTED["questions"], ids=lambda case: case["messages"][-1]["content"])
def test_answers(client, case):
    body = {"messages": case["messages"], "temperature": 0, "max_tokens": 96}
    choice = client.post_ok("/v1/chat/completions", body)["choices"][0]
    assert choice["message"]["content"] == case["answer"]
    assert choice["finish_reason"] == "stop"


def test_there_are_a_dozen():
    assert len(EXPECTED["questions"]) >= 12
