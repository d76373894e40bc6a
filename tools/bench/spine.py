"""Tokens per second of the server against transformers, interleaved, written to docs/evidence/throughput.md.

    .venv/prove/bin/python tools/bench/spine.py [--runs 3]

The server is measured through HTTP by streaming clients (`load.py`), transformers by a bare loop
(`transformers_decode.py`): same checkpoints, same bf16 weights, same number of threads, never both at once.
"""

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "integration-tests"))

import make_random_model  # noqa: E402
from harness.server import DEMO_MODEL, Server  # noqa: E402

BENCH = ROOT / "tools/bench"
EVIDENCE = ROOT / "docs/evidence/throughput.md"
CONCURRENCY = (1, 16)
PROMPT_TOKENS, OUTPUT_TOKENS = 128, 64
# Each run measures every point this often and keeps the middle one.
REPEATS = 3
# Seconds for one side's part of a run; on a machine that is busy with other things no figure is worth waiting for.
PATIENCE = 900
# The least share of transformers' decode speed that is accepted at the 0.5B shape.
FLOOR = 0.5


def ours(folder: Path, threads: int) -> list[dict]:
    with tempfile.TemporaryDirectory() as scratch:
        server = Server(Path(scratch) / "log", "--model-id", str(folder), "--threads", str(threads))
        try:
            server.start(ready_seconds=120)
            load(server.url, 1, 16, seed=1_000_000)
            results = [
                middle_of(
                    [load(server.url, n, OUTPUT_TOKENS, seed=1000 * n + 100 * repeat) for repeat in range(REPEATS)]
                )
                for n in CONCURRENCY
            ]
            server.stop()
            return results
        finally:
            server.kill()


def middle_of(results: list[dict]) -> dict:
    return sorted(results, key=lambda result: result["decode_tokens_per_s"])[len(results) // 2]


def load(url: str, concurrency: int, output_tokens: int, seed: int) -> dict:
    command = [ROOT / ".venv/test/bin/python", BENCH / "load.py", "--url", url, "--concurrency", str(concurrency)]
    command += ["--prompt-tokens", str(PROMPT_TOKENS), "--output-tokens", str(output_tokens), "--seed", str(seed)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=PATIENCE).stdout)


def transformers(folder: Path, threads: int) -> list[dict]:
    command = [sys.executable, BENCH / "transformers_decode.py", folder, "--threads", str(threads)]
    command += [flag for n in CONCURRENCY for flag in ("--batch", str(n))] + ["--repeats", str(REPEATS)]
    command += ["--prompt-tokens", str(PROMPT_TOKENS), "--output-tokens", str(OUTPUT_TOKENS)]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=PATIENCE
    )
    results = [json.loads(line) for line in done.stdout.splitlines()]
    return [middle_of([result for result in results if result["concurrency"] == n]) for n in CONCURRENCY]


def middle(runs: list[list[dict]], index: int, *path: str) -> float:
    def value(result):
        for key in path:
            result = result[key]
        return result

    return median(value(run[index]) for run in runs)


def rows(name: str, us: list[list[dict]], them: list[list[dict]]) -> tuple[list[str], list[float]]:
    lines, ratios = [], []
    for index, concurrency in enumerate(CONCURRENCY):
        mine, other = (middle(runs, index, "decode_tokens_per_s") for runs in (us, them))
        all_mine, all_other = (middle(runs, index, "output_tokens_per_s") for runs in (us, them))
        first, gap = middle(us, index, "ttft_s", "p50"), middle(us, index, "itl_s", "p50")
        their_first = middle(them, index, "ttft_s", "p50")
        ratios.append(mine / other)
        lines.append(
            f"| {name} | {concurrency} | {mine:.1f} | {other:.1f} | **{mine / other:.2f}** "
            f"| {all_mine:.1f} | {all_other:.1f} | {1000 * first:.0f} / {1000 * their_first:.0f} "
            f"| {1000 * gap:.1f} / {1000 * middle(us, index, 'itl_s', 'p99'):.1f} |"
        )
    return lines, ratios


def report(measured: dict, load_average: float, arguments: argparse.Namespace) -> float:
    head = subprocess.run([ROOT / "tools/prove/header.sh", "Throughput"], check=True, stdout=subprocess.PIPE, text=True)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers"))
    lines = [
        f"{PROMPT_TOKENS} prompt tokens, {OUTPUT_TOKENS} output tokens, bf16 weights, {arguments.threads} threads; "
        f"medians of {arguments.runs} interleaved runs (each the middle of {REPEATS} repeats); load average "
        f"{load_average:.1f} at the start. The other side is {versions}, a bare greedy loop on one padded batch "
        "without a server. Decode counts the tokens made while every request is decoding; overall is output tokens by "
        "wall time, prompts included.",
        "",
        "| model | concurrent | decode tokens/s | transformers | ratio | overall tokens/s | transformers "
        "| first token ms, ours / theirs | gap ms p50 / p99 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    least = float("inf")
    for name, (us, them) in measured.items():
        table, ratios = rows(name, us, them)
        lines += table
        # The floor is about kernels; the demo model is so small that both sides mostly measure overhead.
        if name != "demo model":
            least = min(least, *ratios)
    lines += ["", "Every run (decode tokens/s at " + " and ".join(map(str, CONCURRENCY)) + " concurrent):", ""]
    for name, sides in measured.items():
        for side, runs in zip(("Weirgate", "transformers"), sides, strict=True):
            numbers = "; ".join(" and ".join(f"{r['decode_tokens_per_s']:.1f}" for r in run) for run in runs)
            lines.append(f"- {name}, {side}: {numbers}")
    EVIDENCE.parent.mkdir(parents=True, exist_ok=True)
    EVIDENCE.write_text(head.stdout + "\n".join(lines) + "\n")
    return least


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    load_average = os.getloadavg()[0]
    models = {"demo model": DEMO_MODEL, "Qwen2.5-0.5B shape": make_random_model.main(make_random_model.FOLDER)}
    measured = {name: ([], []) for name in models}
    for run in range(arguments.runs):
        for name, folder in models.items():
            for side, measure in zip(measured[name], (ours, transformers), strict=True):
                side.append(measure(folder, arguments.threads))
                print(f"run {run + 1}: {name}, {measure.__name__}: {json.dumps(side[-1])}", flush=True)
    least = report(measured, load_average, arguments)
    print(f"wrote {EVIDENCE.relative_to(ROOT)}; least ratio {least:.2f}")
    if least < FLOOR:
        sys.exit(f"decode is {least:.2f} of transformers' speed; {FLOOR} is the least")


if __name__ == "__main__":
    main()
