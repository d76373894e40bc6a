"""Ollama's own client for Node, unmodified."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from harness import metrics
from harness.server import wait_for

NODE = Path(sys.executable).with_name("node")
SCRIPT = Path(__file__).with_name("node") / "check.mjs"


@pytest.fixture(scope="module")
def results(ollama):
    done = subprocess.run([NODE, SCRIPT, ollama.url, ollama.model], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


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
