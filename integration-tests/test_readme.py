"""The README's examples, run as a reader would."""

import re
import subprocess

import pytest
from harness.readme import examples
from harness.server import ROOT

EXAMPLES = examples((ROOT / "README.md").read_text())


def run(command: str, port: int) -> str:
    command = command.replace("127.0.0.1:3000", f"127.0.0.1:{port}")
    assert str(port) in command, f"does not ask the server: {command}"
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", command], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_there_are_examples():
    assert len(EXAMPLES) >= 3


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_example(server, example):
    example.check(run(example.command, server.port))


def test_the_ready_line_has_a_curl_that_works(server):
    """The one line printed when ready ends in a command to try."""
    (command,) = re.findall(r"curl .*", server.output())
    assert "error" not in run(command, server.port)
