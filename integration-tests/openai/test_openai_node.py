"""OpenAI's own client for Node, unmodified."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

NODE = Path(sys.executable).with_name("node")
SCRIPT = Path(__file__).with_name("node") / "check.mjs"


@pytest.fixture(scope="module")
def results(openai):
    done = subprocess.run([NODE, SCRIPT, openai.base_url, "none"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_chat(results):
    content = results["chat"]["choices"][0]["message"]["content"]
    *chunks, usage = results["chatStream"]
    assert content
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == content
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == results["chat"]["usage"]["completion_tokens"]


def test_the_helper_that_accumulates_a_stream(results):
    content = results["chat"]["choices"][0]["message"]["content"]
    assert [choice["message"]["content"] for choice in results["helper"]["choices"]] == [content] * 2


def test_choices_and_logprobs(results):
    assert [choice["index"] for choice in results["choices"]["choices"]] == [0, 1, 2]
    tokens = results["logprobs"]["choices"][0]["logprobs"]["content"]
    assert len(tokens) == results["logprobs"]["usage"]["completion_tokens"]
    assert all(len(token["top_logprobs"]) == 2 for token in tokens)


def test_a_tool_is_called(results):
    calls = [
        [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in choice["message"]["tool_calls"]]
        for choice in (results[name]["choices"][0] for name in ("tool", "toolStream"))
    ]
    assert calls[0] == calls[1]
    name, arguments = calls[0][0]
    assert name == "weather" and arguments["city"] in ("Paris", "Rome")
    assert results["tool"]["choices"][0]["finish_reason"] == "tool_calls"


def test_completions(results):
    texts = ["", ""]
    for chunk in results["completionStream"]:
        texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert texts == [choice["text"] for choice in results["completion"]["choices"]]


def test_models(results):
    assert len(results["models"]) == 1


def test_errors_are_typed(results):
    bad = {"name": "BadRequestError", "status": 400, "code": None, "param": "top_p"}
    assert results["badRequest"] == results["badStream"] == bad
    expected = {"name": "NotFoundError", "status": 404, "code": "model_not_found", "param": "model"}
    assert results["notFound"] == expected
