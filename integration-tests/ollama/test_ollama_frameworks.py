"""Clients over Ollama's: LlamaIndex, LiteLLM; and OpenAI's SDK with Ollama's names."""

import json
import os
import subprocess
from pathlib import Path

import openai as library
import pytest
from harness.ollama_api import chat
from harness.server import ROOT

PYTHON = ROOT / ".venv/openai/bin/python"
SCRIPT = Path(__file__).with_name("over_ollama.py")
QUESTION = [{"role": "user", "content": "Which port do you listen on?"}]


@pytest.fixture(scope="module")
def results(ollama):
    # LiteLLM would fetch its price list from the internet.
    environment = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    command = [PYTHON, SCRIPT, ollama.url, ollama.model]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def content(ollama):
    return chat(ollama, options={"num_predict": 16})["message"]["content"]


@pytest.mark.timeout(120)
def test_llama_index(results, content, ollama):
    got = results["llama_index"]
    assert got["chat"] == got["stream"] == got["async"] == content
    assert got["complete"] == got["stream_complete"] != ""
    assert 0 < got["raw"] <= 16
    shown = ollama.client.post_ok("/api/show", {"model": ollama.model})["model_info"]
    assert got["context"] == next(size for name, size in shown.items() if name.endswith(".context_length"))


@pytest.mark.timeout(120)
def test_litellm(results, content):
    got = results["litellm"]
    assert got["ollama_chat"]["text"] == got["ollama_chat"]["stream"] == content
    assert got["ollama"]["text"] and got["ollama"]["stream"]
    for route in ("ollama", "ollama_chat"):
        assert 0 < got[route]["usage"] <= 16 and got[route]["finish_reason"] in ("stop", "length")
    assert "not found" in got["refusal"]


def test_openais_sdk_takes_ollamas_names(ollama, content):
    client = library.OpenAI(base_url=f"{ollama.url}/v1", api_key="ollama", max_retries=0)
    assert client.models.list().data
    for name in (ollama.model, ollama.model.removesuffix(":latest")):
        answer = client.chat.completions.create(model=name, messages=QUESTION, temperature=0, max_tokens=16)
        assert answer.choices[0].message.content == content
    stream = client.chat.completions.create(
        model=ollama.model, messages=QUESTION, temperature=0, max_tokens=16, stream=True
    )
    assert "".join(part.choices[0].delta.content or "" for part in stream) == content
