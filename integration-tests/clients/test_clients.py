"""Client libraries as published, unmodified, each in an environment that it can live in."""

import json
import subprocess
from pathlib import Path

import pytest
from harness.server import ROOT, Server

DRIVE = Path(__file__).with_name("drive.py")
#: The newest huggingface_hub, and the last one before 1.0, which the others need.
NEWEST, EARLIER = ROOT / ".venv/test/bin/python", ROOT / ".venv/clients/bin/python"


@pytest.fixture(scope="module", params=["openai", "tgi"])
def url(request, tmp_path_factory):
    """Both profiles: what a container of TGI is swapped for, and what OpenAI's users see."""
    server = Server(tmp_path_factory.mktemp("clients") / "log", "--profile", request.param)
    try:
        yield server.start().url
        server.stop()
    finally:
        server.kill()


def drive(python: Path, name: str, url: str) -> dict:
    assert python.exists(), f"{python} is missing; `make setup` makes it"
    done = subprocess.run([python, DRIVE, name, url], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    print(f"{name.removesuffix('_tools')} {result['version']}")
    return result


def test_text_generation(url):
    result = drive(EARLIER, "text_generation", url)
    whole = result["whole"]
    assert whole["details"]["finish_reason"] == "length"
    assert [len(top) for top in whole["details"]["top_tokens"]] == [2] * 6
    assert "".join(token["text"] for token in whole["details"]["tokens"]) == whole["generated_text"]
    assert "".join(part["token"]["text"] for part in result["parts"]) == whole["generated_text"]
    assert result["parts"][-1]["generated_text"] == whole["generated_text"]
    assert result["others"] == 1
    assert result["chat"]["choices"][0]["message"]["role"] == "assistant"
    assert result["chat"]["usage"]["completion_tokens"] == 4
    assert result["refused"] == "Input validation error: `stop` supports up to 4 stop sequences. Given: 5"


@pytest.mark.parametrize("python", [NEWEST, EARLIER], ids=["newest", "earlier"])
def test_huggingface_hub(url, python):
    result = drive(python, "huggingface_hub", url)
    detailed = result["detailed"]
    # The client posts to `/`, which puts the prompt before the text unless told otherwise.
    assert result["plain"] == detailed["generated_text"]
    texts = [token["text"] for token in detailed["details"]["tokens"]]
    assert "Once upon a time" + "".join(texts) == detailed["generated_text"]
    assert result["pieces"] == texts
    assert [part["token"]["text"] for part in result["parts"]] == texts
    assert result["parts"][-1]["details"] == {
        "finish_reason": "length",
        "generated_tokens": 6,
        "input_length": 4,
        "seed": None,
    }
    (choice,) = result["chat"]["choices"]
    assert choice["finish_reason"] == "length"
    assert [len(entry["top_logprobs"]) for entry in choice["logprobs"]["content"]] == [2] * 4
    streamed = [choice["delta"]["content"] for chunk in result["chunks"] for choice in chunk["choices"]]
    assert "".join(text or "" for text in streamed) == choice["message"]["content"] != ""
    assert "`temperature` must be strictly positive" in result["refused"]


@pytest.mark.parametrize("python", [NEWEST, EARLIER], ids=["newest", "earlier"])
def test_huggingface_hub_tools(url, python):
    (choice,) = drive(python, "huggingface_hub_tools", url)["chat"]["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "weather"
    arguments = call["function"]["arguments"]
    arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    assert arguments["city"] in ("Oslo", "Lima")


def test_langchain_huggingface(url):
    result = drive(EARLIER, "langchain_huggingface", url)
    assert "".join(result["pieces"]) == result["text"].removeprefix("Once upon a time") != ""
    assert "".join(result["chunks"]) == result["chat"] != ""
    assert result["reason"] == "length"
    assert result["usage"]["output_tokens"] == 4
