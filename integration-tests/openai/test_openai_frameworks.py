"""Clients over OpenAI's own, unmodified: langchain-openai and litellm, in an environment of their own."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from harness.server import ROOT

PYTHON = ROOT / ".venv/openai/bin/python"
SCRIPT = Path(__file__).with_name("over_openai.py")


@pytest.fixture(scope="module")
def results(openai):
    # LiteLLM would fetch its price list from the internet.
    environment = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    done = subprocess.run(
        [PYTHON, SCRIPT, openai.base_url], capture_output=True, text=True, timeout=110, env=environment
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def answer(openai):
    body = {
        "messages": [{"role": "user", "content": "Which port do you listen on?"}], "temperature": 0, "max_tokens": 24
    }
    return openai.client.post_ok("/v1/chat/completions", body)


@pytest.fixture(scope="module")
def text(openai):
    body = {"prompt": "Once upon a time", "temperature": 0, "max_tokens": 8}
    return openai.client.post_ok("/v1/completions", body)["choices"][0]["text"]


@pytest.mark.timeout(120)
def test_langchain(results, answer, text):
    got, content = results["langchain"], answer["choices"][0]["message"]["content"]
    assert got["chat"] == got["stream"] == content
    assert got["batch"] == [content] * 2
    assert got["stopped"] == content[: content.index(content[5:8])]
    assert got["finish_reason"] == answer["choices"][0]["finish_reason"]
    assert got["usage"]["output_tokens"] == answer["usage"]["completion_tokens"] == got["logprobs"]
    assert got["usage"]["input_tokens"] == answer["usage"]["prompt_tokens"]
    assert got["text"] == got["text_stream"] == text
    assert "BadRequestError" in got["refusal"]


@pytest.mark.timeout(120)
def test_litellm(results, answer, text):
    got, content = results["litellm"], answer["choices"][0]["message"]["content"]
    assert got["chat"] == got["stream"] == content
    assert got["finish_reason"] == answer["choices"][0]["finish_reason"]
    assert got["usage"]["total_tokens"] == answer["usage"]["total_tokens"]
    assert got["n"] == 2
    assert got["text"] == text
    assert "BadRequestError" in got["refusals"]["top_p"]
    assert "ContextWindowExceededError" in got["refusals"]["long"]
