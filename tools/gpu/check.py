"""Checks and measures a bundle (`make gpu-bundle`) on a host with a GPU, in less than eight minutes.

    check.py                           every step on cuda:0; writes gpu.json and gpu.md into the folder of --out
    check.py --device cpu              tiny sizes, to see that all of it runs; needs no GPU and no torch
    check.py --steps ceilings,speed    some steps only
    check.py --gemm own                without cuBLASLt, though it may be there; writes gpu-own-gemm.json and .md
    check.py --seed N                  with the inputs of another run, whose gpu.json says N

Needs Python with numpy, and for the figures torch and transformers. A step that fails does not stop the others; the
exit status says whether one did, was left out for lack of time, or found a figure below its floor.
"""

import argparse
import json
import secrets
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import report  # noqa: E402
import steps  # noqa: E402

# In order: what later steps need comes first, and the longest last.
STEPS = {
    step.__name__: step
    for step in (
        steps.ops,
        steps.parity,
        steps.ceilings,
        steps.speed,
        steps.checkpoint,
        steps.decode,
        steps.prefill,
        steps.serve,
        steps.batch,
        steps.decode_4bit,
        steps.deterministic,
        steps.shards,
        steps.training,
        steps.peer,
    )
}
# Seconds for all steps, and with how many of them left no other is begun.
BUDGET = 470
LEAST = 30
NO_TIME = "no time left"


def unpack(work: Path):
    """The programs, executable."""
    folder = work / "bin"
    if not folder.exists():
        partial = work / "bin.partial"
        with tarfile.open(HERE / "programs.tar.xz") as archive:
            archive.extractall(partial, filter="data")
        partial.rename(folder)


def facts(arguments: argparse.Namespace) -> dict:
    manifest = json.loads((HERE / "manifest.json").read_text())
    found = {"date": datetime.now(UTC).date().isoformat(), "commit": manifest["commit"], "device": arguments.device}
    found["seed"] = arguments.seed
    found["large products"] = "our own kernels" if arguments.gemm == "own" else "cuBLASLt where it is found"
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        found["gpu"] = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    return found


def take(name: str, context: steps.Context) -> dict:
    begun = time.perf_counter()
    try:
        result = STEPS[name](context)
    # Whatever goes wrong in one step is its result; the others still count.
    except Exception as error:  # noqa: BLE001
        result = {"error": f"{type(error).__name__}: {error}"}
    result["took_s"] = time.perf_counter() - begun
    print(f"{name}: {report.outcome(result)} ({result['took_s']:.1f} s)", flush=True)
    if "error" in result:
        print(result["error"], file=sys.stderr, flush=True)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--out", type=Path, default=Path.cwd())
    parser.add_argument("--work", type=Path, help="for programs and the random model; default: a temporary folder")
    parser.add_argument("--gemm", choices=["auto", "own"], default="auto", help="whose kernels make large products")
    parser.add_argument("--steps", default=",".join(STEPS))
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 32) + 1, help="of the inputs of the op tests")
    parser.add_argument("--seconds", type=float, default=BUDGET, help="for all steps; a step takes what is left at most")
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.seconds
    temporary = None if arguments.work else tempfile.TemporaryDirectory()
    work = (arguments.work or Path(temporary.name)).resolve()
    unpack(work)
    dry = arguments.device == "cpu"
    context = steps.Context(arguments.device, work, dry, end, arguments.gemm, arguments.seed)
    result = facts(arguments) | {"figures": [], "steps": {}}
    for name in arguments.steps.split(","):
        if context.left() < LEAST:
            result["steps"][name] = {"skipped": NO_TIME, "took_s": 0.0}
            continue
        result["steps"][name] = take(name, context)
    figures = report.figures(result["steps"], context.shape, dry)
    result["figures"] = [asdict(figure) for figure in figures]
    arguments.out.mkdir(parents=True, exist_ok=True)
    stem = "gpu" if arguments.gemm == "auto" else "gpu-own-gemm"
    (arguments.out / f"{stem}.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    text = report.markdown(result)
    (arguments.out / f"{stem}.md").write_text(text)
    print(text)
    return int(any(map(went_wrong, result["steps"].values())) or any(figure.passed is False for figure in figures))


def went_wrong(step: dict) -> bool:
    return "error" in step or step.get("skipped") == NO_TIME


if __name__ == "__main__":
    sys.exit(main())
