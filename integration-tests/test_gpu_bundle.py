"""The bundle for hosts with a GPU: it fits its limit and runs to its end without a GPU. `make gpu-bundle` builds it first."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "out/gpu-bundle"
LIMIT = 60 << 20


@pytest.fixture(scope="module")
def bundle() -> Path:
    if not (BUNDLE / "manifest.json").exists():
        pytest.skip("needs `make gpu-bundle`, which takes minutes")
    return BUNDLE


def test_everything_needed_is_in_the_folder(bundle: Path):
    programs = {file.stem for file in (bundle / "bin").iterdir()}
    assert programs == {"weirgate", "weirgate-benchmark", "gpu-ops", "gpu-parity", "gpu-speed"}
    assert sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file()) < LIMIT


def test_dry_run_on_the_cpu(bundle: Path, tmp_path: Path):
    command = [sys.executable, bundle / "check.py", "--device", "cpu", "--out", tmp_path]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    steps = json.loads((tmp_path / "gpu.json").read_text())["steps"]
    assert not [name for name, step in steps.items() if "error" in step]
    # A prompt of 64 tokens and one of 32: each was measured, in order of their lengths.
    assert steps["decode"]["step_s"] > 0 and steps["prefill"]["tokens"] == 64
    assert steps["serve"]["succeeded"] == steps["serve"]["requests"] == 4
    # Tiny sizes of benches/cuda.rs: 2 sequences of 40 tokens, 2 heads of 16 for keys and values, in f16.
    assert steps["speed"]["attention_decode"]["bytes"] == 2 * 40 * 2 * 2 * 16 * 2
    report = (tmp_path / "gpu.md").read_text()
    assert "| whole prefill, 8k prompt |" in report


def test_soak_on_the_cpu(bundle: Path):
    command = [sys.executable, bundle / "soak.py", "--device", "cpu", "--seconds", "1"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
    assert ", 0 requests failed," in run.stdout and "0 KV blocks used at the end" in run.stdout
