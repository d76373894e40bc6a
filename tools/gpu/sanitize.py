"""compute-sanitizer's memcheck and racecheck over the op tests, which use small shapes. Needs a GPU.

    sanitize.py [--filter NAME]
    sanitize.py --device cpu      lists the tests that it would run
"""

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import check  # noqa: E402

TOOLS = {"memcheck": ["--leak-check", "no"], "racecheck": ["--racecheck-report", "all"]}


def sanitizer(work: Path) -> str:
    """The host's own, which fits its driver, else the bundle's."""
    if found := shutil.which("compute-sanitizer"):
        return found
    with tarfile.open(HERE / "sanitizer.tar.xz") as archive:
        archive.extractall(work / "cuda", filter="data")
    return str(work / "cuda/bin/compute-sanitizer")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--filter", default="", help="only tests whose names contain this")
    parser.add_argument("--seconds", type=float, default=270, help="for each tool")
    arguments = parser.parse_args()
    dirty = 0
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        check.unpack(work)
        tests = [str(work / "bin/gpu-ops"), "--test-threads=1", *([arguments.filter] if arguments.filter else [])]
        if arguments.device == "cpu":
            return subprocess.run([*tests, "--list"]).returncode
        for tool, flags in TOOLS.items():
            command = [sanitizer(work), "--tool", tool, *flags, "--error-exitcode", "9", *tests]
            try:
                run = subprocess.run(command, capture_output=True, text=True, timeout=arguments.seconds)
            except subprocess.TimeoutExpired:
                print(f"{tool}: not finished in {arguments.seconds:.0f} s")
                dirty += 1
                continue
            output = run.stdout + run.stderr
            summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: .*", output)
            print(f"{tool}: {summary[-1] if summary else 'no summary'}, exit status {run.returncode}")
            if run.returncode or not summary:
                print(output[-6000:])
                dirty += 1
    return int(dirty > 0)


if __name__ == "__main__":
    sys.exit(main())
