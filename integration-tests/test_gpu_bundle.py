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
    assert programs == {"weirgate", "weirgate-benchmark", "weirgate-finetune", "gpu-ops", "gpu-parity", "gpu-speed"}
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
    # By the worker without CUDA, twice.
    assert steps["training"]["on"] == "cpu" and steps["training"]["steps"] == 3
    assert steps["training"]["losses_apart"] == 0 and steps["training"]["last_loss"] > 1
    # Tiny sizes of benches/cuda.rs: 2 sequences of 40 tokens, 2 heads of 16 for keys and values, in f16.
    assert steps["speed"]["attention_decode"]["bytes"] == 2 * 40 * 2 * 2 * 16 * 2


def test_every_figure_is_in_the_report(checked: Path):
    result = json.loads((checked / "gpu.json").read_text())
    # A dry run has nothing to reach.
    assert [(figure["figure"], figure["passed"]) for figure in result["figures"]] == [(name, None) for name in FIGURES]
    assert result["seed"] > 0
    report = (checked / "gpu.md").read_text()
    section = report.split("## Figures")[1].split("##")[0]
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in section.splitlines() if "|" in line]
    figures = {name: found for name, _, found, *_ in rows[2:]}
    assert list(figures) == FIGURES
    assert figures == {figure["figure"]: figure["found"] for figure in result["figures"]}
    assert {reached for *_, reached in rows[2:]} == {"–"}
    # Where there is a roofline, the report has it beside what was found.
    assert [name for name, *_, at_best, _ in rows[2:] if at_best == "–"] == [FIGURES[5], FIGURES[6], *FIGURES[8:]]
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


def test_steps_that_have_no_time_are_told(bundle: Path, tmp_path: Path):
    command = [sys.executable, bundle / "check.py", "--device", "cpu", "--out", tmp_path, "--steps", "ops"]
    command += ["--seconds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stdout + done.stderr
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert result["steps"] == {"ops": {"skipped": "no time left", "took_s": 0.0}}


def found_by_steps(slow: float) -> dict:
    """What the steps may find on a chip, or on one so much slower, of which torch takes no notice."""
    step = {"context": 1024, "step_s": 0.016 * slow, "host_s": 1e-4 * slow**6, "prefill_s": 0.1}
    op = {"bytes": 9e9, "operations": 7e11, "seconds": 0.01 * slow}
    return {
        "ceilings": {"copy_bytes_per_s": 1e12, "matmul_flops": 1e14},
        "speed": {"attention_decode": op, "attention_prefill": op},
        "decode": step,
        "decode_4bit": step | {"step_s": 0.006 * slow**2},
        "prefill": {"tokens": 8192, "seconds": 2 * slow},
        "batch": step | {"batch": 256},
        "serve": {"output_tokens_per_s": 14000 / slow**2, "ready_s": 6 * slow, "output": 512},
        "peer": {"output_tokens_per_s_below": 1500},
        "deterministic": step,
    }


def test_figures_are_held_against_their_floors(bundle: Path):
    script = "import json, model, report, sys; found, dry, column = json.loads(sys.argv[1]); "
    script += "print(json.dumps([getattr(f, column) for f in report.figures(found, model.LLAMA_8B, dry)]))"

    def passed(found: dict, dry: bool = False, column: str = "passed") -> list:
        return json.loads(run("-c", script, json.dumps([found, dry, column]), environment={"PYTHONPATH": str(bundle)}))

    # What `--deterministic` costs is told alone.
    assert passed(found_by_steps(slow=1)) == [True] * 9 + [None]
    assert passed(found_by_steps(slow=2)) == [False] * 9 + [None]
    assert passed(found_by_steps(slow=2), dry=True) == [None] * 10
    # 7.5 billion weights in 16 and 4.5 bits, and 1,024 tokens of 128 KiB, at 1 TB/s; 9 GB; 7e11 operations at 1e14 a second.
    assert passed(found_by_steps(slow=1), column="at_best")[:4] == ["15.14 ms", "4.36 ms", "9.00 ms", "7.00 ms"]
    assert passed({}) == [None] * 10
    # Of what failed there is no figure.
    broken = found_by_steps(slow=1) | {"decode": {"error": "RuntimeError"}, "peer": {"error": "ImportError"}}
    assert passed(broken) == [None, None, *[True] * 4, None, True, True, None]


def test_soak_on_the_cpu(bundle: Path):
    output = run(bundle / "soak.py", "--device", "cpu", "--seconds", "1")
    assert ", 0 requests failed," in output and "0 KV blocks used at the end" in output


def test_the_sanitizer_has_tests_to_run(bundle: Path):
    output = run(bundle / "sanitize.py", "--device", "cpu", "--filter", "sample")
    assert "sample::a_large_vocabulary: test" in output and "attention" not in output
