"""Ollama's own client for Node, unmodified."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from harness import metrics
from harness.gguf_files import quantize
from harness.ollama_store import install
from harness.server import wait_for

NODE = Path(sys.executable).with_name("node")
SCRIPTS = Path(__file__).with_name("node")


def run(script: str, *arguments: str) -> dict:
    done = subprocess.run([NODE, SCRIPTS / script, *arguments], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def results(ollama):
    return run("check.mjs", ollama.url, ollama.model)


def test_calls(results, ollama):
    assert results["version"]["version"].startswith("0.")
    assert results["list"]["models"][0]["model"] == results["ps"]["models"][0]["model"] == ollama.model
    assert results["show"]["details"]["family"]
    assert results["generate"]["response"] and results["generate"]["done"]
    content = "".join(part["message"]["content"] for part in results["chatStream"])
    assert content == results["chat"]["message"]["content"]


def test_errors_are_typed(results):
    assert results["notFound"]["status"] == 404 and "not found" in results["notFound"]["message"]


def test_abort_frees_the_slot(results, ollama):
    assert results["aborted"]["name"] == "AbortError" and results["received"] < 10_000
    idle = lambda: metrics.engine(ollama.client.get("/metrics").text).idle  # noqa: E731
    wait_for(idle, 5, "idle after the abort")


def test_calls_that_a_script_answers(caller, thinker, start_server, tmp_path):
    quantize(tmp_path / "demo.gguf", "Q8_0")
    install(tmp_path / "models", "alpha", (tmp_path / "demo.gguf").read_bytes())
    shelf = start_server(env={"OLLAMA_MODELS": str(tmp_path / "models")})
    got = run("calls.mjs", caller.url, caller.model, thinker.url, thinker.model, shelf.url, "alpha")
    assert json.loads(got["json"]["response"]) == {"port": 3210} and got["json"]["done_reason"] == "stop"
    assert json.loads(got["schema"]["message"]["content"])["large"] in (True, False)
    for parts in ([got["call"]], got["callStream"]):
        calls = [call["function"] for part in parts for call in part["message"].get("tool_calls") or []]
        assert [(call["name"], call["arguments"]) for call in calls] == [("weather", {"city": "Oslo"})]
    words = "Ahoy, the tide is high"
    assert got["logprobs"]["message"]["content"] == words
    assert len(got["logprobs"]["logprobs"]) == got["logprobs"]["eval_count"]
    assert all(len(entry["top_logprobs"]) == 2 for entry in got["logprobs"]["logprobs"])
    assert got["first"]["response"] == got["again"]["response"] == got["raw"]["response"] == words
    assert got["again"]["prompt_eval_count"] == len(got["first"]["context"]) + got["first"]["prompt_eval_count"]
    assert got["raw"]["prompt_eval_count"] < got["first"]["prompt_eval_count"] and "context" not in got["raw"]
    for name in ("image", "chatImage"):
        assert got[name]["status"] == 400 and "image input" in got[name]["message"], got[name]
    assert (got["think"]["message"]["thinking"].strip(), got["think"]["message"]["content"]) == ("Hm", "Aye")
    assert (got["thinkNot"]["message"].get("thinking") or "", got["thinkNot"]["message"]["content"]) == ("", "Aye")
    assert "".join(part.get("thinking") or "" for part in got["thinkStream"]).strip() == "Hm"
    assert "".join(part["response"] for part in got["thinkStream"]) == "Aye"
    assert got["cannotThink"]["status"] == 400 and "does not support thinking" in got["cannotThink"]["message"]
    own = "weirgate-demo:latest"
    assert (got["load"]["done_reason"], got["loaded"]) == ("load", ["alpha:latest", own])
    assert (got["unload"]["done_reason"], got["unloaded"]) == ("unload", [own])
