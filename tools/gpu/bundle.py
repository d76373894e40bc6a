"""Builds out/gpu-bundle: all that `check.py` needs on a host with a GPU, a driver, Python and torch. Needs no GPU.

    bundle.py            or: make gpu-bundle

Binaries are stripped and compressed; `check.py` unpacks them. The folder must stay under 60 MiB.
"""

import json
import lzma
import shutil
import subprocess
import sys
import tarfile
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "out/gpu-bundle"
LIMIT = 60 << 20
SCRIPTS = ["check.py", "steps.py", "peer.py", "ceilings.py", "report.py", "soak.py", "sanitize.py", "model.py"]
# Name in the bundle → what cargo is asked to build.
PROGRAMS = {
    "weirgate": ["build", "-p", "weirgate"],
    "weirgate-benchmark": ["build", "-p", "weirgate-benchmark"],
    "gpu-ops": ["test", "--no-run", "-p", "weirgate-kernels", "--test", "gpu"],
    "gpu-parity": ["test", "--no-run", "-p", "weirgate-engine", "--test", "gpu"],
    "gpu-speed": ["test", "--no-run", "-p", "weirgate-kernels", "--bench", "cuda"],
}


def build(command: list[str]) -> Path:
    """The executable that a cargo command makes."""
    verb, *rest = command
    run = subprocess.run(
        ["cargo", verb, "--release", "--message-format=json-render-diagnostics", *rest],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    messages = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    programs = [message["executable"] for message in messages if message.get("executable")]
    if not programs:
        sys.exit(f"cargo {' '.join(command)} made no executable")
    return Path(programs[-1])


def pack(name: str, program: Path):
    """Strips and compresses a program."""
    with tempfile.TemporaryDirectory() as folder:
        stripped = Path(folder) / name
        subprocess.run(["strip", "-o", stripped, program], check=True)
        with lzma.open(BUNDLE / "bin" / f"{name}.xz", "wb", preset=3) as packed:
            packed.write(stripped.read_bytes())


def pack_sanitizer():
    """compute-sanitizer and its libraries, for hosts without it."""
    cuda = ROOT / ".cuda"
    libraries = ("lib*anitizer*.so", "libInterceptor*.so", "libTreeLauncher*.so")
    files = [cuda / "bin/compute-sanitizer", cuda / "bin/libsanitizer-collection.so"]
    files += [file for pattern in libraries for file in (cuda / "lib").glob(pattern)]
    with tarfile.open(BUNDLE / "sanitizer.tar.xz", "w:xz", preset=3) as archive:
        for file in files:
            archive.add(file, file.relative_to(cuda))


def manifest() -> dict:
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
    clean = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", ":!docs"], check=False).returncode == 0
    return {
        "commit": commit.stdout.strip() + ("" if clean else " with uncommitted changes"),
        "built": datetime.now(UTC).date().isoformat(),
    }


def main():
    shutil.rmtree(BUNDLE, ignore_errors=True)
    (BUNDLE / "bin").mkdir(parents=True)
    programs = {name: build(command) for name, command in PROGRAMS.items()}
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(pack, programs.keys(), programs.values()))
    for script in SCRIPTS:
        shutil.copy(ROOT / "tools/gpu" / script, BUNDLE)
    shutil.copy(ROOT / "tools/bench/make_random_model.py", BUNDLE)
    pack_sanitizer()
    (BUNDLE / "manifest.json").write_text(json.dumps(manifest()))
    size = sum(file.stat().st_size for file in BUNDLE.rglob("*") if file.is_file())
    print(f"{BUNDLE.relative_to(ROOT)}: {size / (1 << 20):.1f} MiB")
    if size > LIMIT:
        sys.exit(f"the bundle is larger than {LIMIT >> 20} MiB")


if __name__ == "__main__":
    main()
