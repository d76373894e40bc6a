"""The bundle for hosts with a GPU, built from what is built already, runs to its end without one, at tiny sizes."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from harness.server import KEPT_VARIABLES, ROOT

LIMIT = 60 << 20
# The table of figures that a GPU has to reach, in its order.
FIGURES = [
    "decode, batch 1, bf16, 1k context",
    "decode, batch 1, 4-bit weights",
    "paged decode attention alone (batch 64, 4k context)",
    "prefill attention alone (8k, causal)",
    "whole prefill, 8k prompt",
    "host time that the GPU waits for, batch 256",
    "server, 256 concurrent, 1k in / 512 out, HTTP",
    "the same, of what the engine's step times predict",
    "start to ready, 16 GB of safetensors in page cache",
    "cost of `--deterministic`, batch 1, 1k prompt",
]


# The fixtures belong to the first test that needs them.
pytestmark = pytest.mark.timeout(960)


def run(*command: str | Path, seconds: float = 120, environment: dict[str, str] | None = None) -> str:
    """Standard output of a script that must end well."""
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    command = [sys.executable, *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=environment or kept)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "gpu-bundle"
    # The servers as they are; of the three other programs, what is not built yet is built here.
    run(ROOT / "tools/gpu/bundle.py", "--reduced", folder, seconds=900, environment=dict(os.environ))
    return folder


@pytest.fixture(scope="module")
def checked(bundle: Path, tmp_path_factory) -> Path:
    """The folder with what a dry run of all steps wrote."""
    out = tmp_path_factory.mktemp("checked")
    run(bundle / "check.py", "--device", "cpu", "--out", out)
    return out


def test_everything_needed_is_in_the_folder(bundle: Path):
    with tarfile.open(bundle / "programs.tar.xz") as archive:
        programs = set(archive.getnames())
    assert programs == {"weirgate", "weirgate-benchmark", "gpu-ops", "gpu-parity", "gpu-speed"}
    assert {"check.py", "soak.py", "sanitize.py", "manifest.json"} <= {file.name for file in bundle.iterdir()}
    assert sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file()) < LIMIT


def test_every_step_ran(checked: Path):
    steps = json.loads((checked / "gpu.json").read_text())["steps"]
    assert not [name for name, step in steps.items() if "error" in step]
    skipped = {name: step["skipped"] for name, step in steps.items() if "skipped" in step}
    assert skipped == dict.fromkeys(["ops", "parity", "peer"], "needs a GPU")
    # The tests that a GPU's host runs are in the programs.
    assert steps["ops"]["listed"] > 20 and steps["parity"]["listed"] > 8
    # One prompt of 64 tokens.
    assert steps["decode"]["step_s"] > 0 and steps["prefill"]["tokens"] == 64
    assert steps["batch"]["batch"] == 4 and 0 < steps["batch"]["host_s"] < steps["batch"]["step_s"]
    assert steps["serve"]["succeeded"] == steps["serve"]["requests"] == 4
    assert steps["shards"]["succeeded"] == 4 and steps["shards"]["output_tokens_per_s"] > 0
    # Tiny sizes of benches/cuda.rs: 2 sequences of 40 tokens, 2 heads of 16 for keys and values, in f16.
    assert steps["speed"]["attention_decode"]["bytes"] == 2 * 40 * 2 * 2 * 16 * 2


def test_every_figure_is_in_the_report(checked: Path):
    report = (checked / "gpu.md").read_text()
    section = report.split("## Figures")[1].split("##")[0]
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in section.splitlines() if "|" in line]
    figures = {name: found for name, _, found in rows[2:]}
    assert list(figures) == FIGURES
    # Nothing is left out but the peer, which needs a GPU.
    assert [name for name, found in figures.items() if "not measured" in found] == [FIGURES[6]]
    assert figures[FIGURES[6]].endswith(" tokens/s, peer not measured")
    assert all(any(digit.isdigit() for digit in found) for found in figures.values()), figures


def test_a_step_that_fails_is_told(bundle: Path, tmp_path: Path):
    """A checkpoint that is missing: `decode` fails, the report says so, and so does the exit status."""
    command = [sys.executable, bundle / "check.py", "--device", "cpu", "--out", tmp_path, "--steps", "decode,ops"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stdout + done.stderr
    steps = json.loads((tmp_path / "gpu.json").read_text())["steps"]
    assert "error" in steps["decode"] and "error" not in steps["ops"]
    assert "FAILED: " in (tmp_path / "gpu.md").read_text()


def test_soak_on_the_cpu(bundle: Path):
    output = run(bundle / "soak.py", "--device", "cpu", "--seconds", "1")
    assert ", 0 requests failed," in output and "0 KV blocks used at the end" in output


def test_the_sanitizer_has_tests_to_run(bundle: Path):
    output = run(bundle / "sanitize.py", "--device", "cpu", "--filter", "sample")
    assert "sample::a_large_vocabulary: test" in output and "attention" not in output
