"""Checks and measures a bundle (`make gpu-bundle`) on a host with a GPU, in less than eight minutes.

    check.py                           every step on cuda:0; writes gpu.json and gpu.md into the folder of --out
    check.py --device cpu              tiny sizes, to see that all of it runs; needs no GPU and no torch
    check.py --steps ceilings,speed    some steps only
    check.py --gemm own                without cuBLASLt, though it may be there; writes gpu-own-gemm.json and .md

Needs Python with numpy, and for the figures torch and transformers. A step that fails does not stop the others; the
exit status says whether one did.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
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
        steps.peer,
    )
}
# No step is begun after this many seconds.
BUDGET = 440


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
    arguments = parser.parse_args()
    begun = time.perf_counter()
    temporary = None if arguments.work else tempfile.TemporaryDirectory()
    work = (arguments.work or Path(temporary.name)).resolve()
    unpack(work)
    context = steps.Context(arguments.device, work, dry=arguments.device == "cpu", gemm=arguments.gemm)
    result = facts(arguments) | {"steps": {}}
    for name in arguments.steps.split(","):
        if time.perf_counter() - begun > BUDGET:
            result["steps"][name] = {"skipped": "no time left", "took_s": 0.0}
            continue
        result["steps"][name] = take(name, context)
    arguments.out.mkdir(parents=True, exist_ok=True)
    stem = "gpu" if arguments.gemm == "auto" else "gpu-own-gemm"
    (arguments.out / f"{stem}.json").write_text(json.dumps(result, indent=1) + "\n")
    text = report.markdown(result, context.shape)
    (arguments.out / f"{stem}.md").write_text(text)
    print(text)
    return int(any("error" in step for step in result["steps"].values()))


if __name__ == "__main__":
    sys.exit(main())
