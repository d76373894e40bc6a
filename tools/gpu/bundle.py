"""Builds out/gpu-bundle: all that `check.py` needs on a host with a GPU, a driver, Python and torch. Needs no GPU.

    bundle.py                   or: make gpu-bundle
    bundle.py --reduced FOLDER  from target/release as it is, without the sanitizer and hardly compressed: for dry runs

Binaries are stripped and compressed as one, since all have the same kernels; `check.py` unpacks them. The folder must
stay under 60 MiB.
"""

import argparse
import json
import lzma
import shutil
import subprocess
import sys
import tarfile
import tempfile
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "out/gpu-bundle"
LIMIT = 60 << 20
# Bytes within which the packer finds what it has packed before: more than the largest program has.
DICTIONARY = 64 << 20
SCRIPTS = ["check.py", "steps.py", "peer.py", "ceilings.py", "report.py", "soak.py", "sanitize.py", "model.py"]
SERVERS = ["weirgate", "weirgate-benchmark"]
WORKER = "weirgate-finetune"
# Name in the bundle → folder of the package and name of the target. Built as `cargo test --workspace` builds, so that
# nothing is compiled twice.
TESTS = {"gpu-ops": ("kernels", "gpu"), "gpu-parity": ("engine", "gpu"), "gpu-speed": ("kernels", "cuda")}


def cargo(*command: str) -> dict[tuple[str, str], Path]:
    """The executables that a cargo command makes, by the folder of their package and the name of their target."""
    run = subprocess.run(
        ["cargo", *command, "--release", "--message-format=json-render-diagnostics"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    messages = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    return {
        (Path(message["manifest_path"]).parent.name, message["target"]["name"]): Path(message["executable"])
        for message in messages
        if message.get("executable")
    }


def programs(reduced: bool) -> dict[str, Path]:
    """All programs of the bundle, built. The reduced one takes the servers as they are, and a worker that knows no GPU."""
    if not reduced:
        subprocess.run(["make", "build", "finetune-cuda"], cwd=ROOT, check=True)
    found = {name: ROOT / "target/release" / name for name in SERVERS}
    found[WORKER] = ROOT / ("target/release" if reduced else "target/cuda/release") / WORKER
    tests = cargo("test", "--no-run", "--workspace", "--test", "gpu", "--bench", "cuda")
    found |= {name: tests[target] for name, target in TESTS.items()}
    if missing := [str(program) for program in found.values() if not program.exists()]:
        sys.exit(f"not built: {', '.join(missing)}")
    return found


def pack(programs: dict[str, Path], packed: Path, preset: int):
    """Strips and compresses programs."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": preset, "dict_size": DICTIONARY}]
    with (
        tempfile.TemporaryDirectory() as folder,
        lzma.open(packed, "wb", filters=filters) as out,
        tarfile.open(fileobj=out, mode="w|") as archive,
    ):
        for name, program in programs.items():
            stripped = Path(folder) / name
            subprocess.run(["strip", "-o", stripped, program], check=True)
            archive.add(stripped, name)


def pack_sanitizer(bundle: Path):
    """compute-sanitizer and its libraries, for hosts without it."""
    cuda = ROOT / ".cuda"
    libraries = ("lib*anitizer*.so", "libInterceptor*.so", "libTreeLauncher*.so")
    files = [cuda / "bin/compute-sanitizer", cuda / "bin/libsanitizer-collection.so"]
    files += [file for pattern in libraries for file in (cuda / "lib").glob(pattern)]
    with tarfile.open(bundle / "sanitizer.tar.xz", "w:xz", preset=3) as archive:
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


def build(bundle: Path, reduced: bool):
    shutil.rmtree(bundle, ignore_errors=True)
    bundle.mkdir(parents=True)
    pack(programs(reduced), bundle / "programs.tar.xz", preset=0 if reduced else 3)
    for script in SCRIPTS:
        shutil.copy(ROOT / "tools/gpu" / script, bundle)
    shutil.copy(ROOT / "tools/bench/make_random_model.py", bundle)
    if not reduced:
        pack_sanitizer(bundle)
    (bundle / "manifest.json").write_text(json.dumps(manifest()))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reduced", type=Path, metavar="FOLDER", help="where to build a bundle for dry runs")
    arguments = parser.parse_args()
    bundle = arguments.reduced or BUNDLE
    build(bundle, reduced=bool(arguments.reduced))
    size = sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file())
    print(f"{bundle}: {size / (1 << 20):.1f} MiB")
    if size > LIMIT:
        sys.exit(f"the bundle is larger than {LIMIT >> 20} MiB")


if __name__ == "__main__":
    main()
