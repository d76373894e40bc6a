"""Figures of the CPU device and the server that need no peer's server, written to docs/benchmarks/cpu.md.

    .venv/prove/bin/python tools/bench/cpu/bench.py [--rounds 3] [--only prompts …]

Needs the file that `make bench-peer` makes, and a machine that does nothing else, with two cores at least.
"""

import argparse
import json
import os
import resource
import subprocess
import sys

import figures
from figures import PACE, QUANTIZED, ROOT, STREAMS

RESULT = ROOT / "docs/benchmarks/cpu.md"
MB = 1_000_000
ALL = ("prompts", "second turn", "overhead", "memory and start", "decode")


def measured(arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    cores = sorted(os.sched_getaffinity(0))
    threads, rounds = len(cores), arguments.rounds
    every, clients = ",".join(map(str, cores)), ",".join(map(str, cores[1:]))
    runs = {
        "prompts": lambda: figures.prompts(threads, rounds),
        "second turn": lambda: figures.second_turn(threads, rounds),
        "overhead": lambda: figures.overhead(str(cores[0]), clients, rounds),
        "memory and start": lambda: figures.memory_and_start(threads, rounds),
        "decode": lambda: figures.decode(every, threads, rounds),
    }
    results = {}
    for name in arguments.only or ALL:
        results[name] = runs[name]()
        print(f"{name}: {json.dumps(results[name])}", file=sys.stderr, flush=True)
    return results


def row(figure: str, value: str, wanted: str, reached: bool) -> str:
    return f"| {figure} | {value} | {wanted} | {'yes' if reached else '**no**'} |"


def rows(results: dict[str, dict[str, float]]):
    if found := results.get("prompts"):
        ratio = found["ours"] / found["torch"]
        value = f"{found['ours']:.0f} against {found['torch']:.0f} tokens/s, {ratio:.2f} ×"
        figure = "prompt of 512 tokens, Qwen2.5-0.5B shape: ours in bf16 against torch in f32"
        yield row(figure, value, "≥ 1 ×", ratio >= 1)
    if found := results.get("second turn"):
        ratio = found["first"] / found["second"]
        value = f"{1000 * found['first']:.0f} and {1000 * found['second']:.0f} ms, {ratio:.1f} ×"
        figure = "first token of a chat's turn of 2,000 tokens, and of the turn after it"
        yield row(figure, value, "≥ 10 ×", ratio >= 10)
    if found := results.get("overhead"):
        for streams in (16, 128, STREAMS):
            micros = found[f"micros {streams}"]
            figure = f"server's processor time per streamed token, null model, {streams} streams"
            yield row(figure, f"{micros:.2f} µs", "≤ 6.7 µs", micros <= 6.7)
        gap, bare = found["p99"] - PACE, found["bare p99"] - PACE
        figure = f"{STREAMS} streams at once, null model, server on one core: p99 added to the engine's pace of {PACE} ms"
        yield row(figure, f"{gap:.1f} ms (a bare loop with as much work: {bare:.1f} ms)", "< 5 ms", gap < 5)
    if found := results.get("memory and start"):
        over = (found["resident"] - found["size"] - found["kv"]) / MB
        parts = f"{found['resident'] / MB:.0f} MB; file {found['size'] / MB:.0f}, KV {found['kv'] / MB:.0f}"
        yield row("resident memory over file and KV, 1B Q4_K_M", f"{over:.0f} MB ({parts})", "≤ 150 MB", over <= 150)
        ready = found["ready"]
        yield row("start to ready, the same file in the page cache", f"{ready:.2f} s", "< 2 s", ready < 2)
    if found := results.get("decode"):
        value = f"{found['rate'] / 1e9:.1f} of {found['ceiling'] / 1e9:.1f} GB/s, {100 * found['share']:.0f} %"
        figure = "one stream's decode, 1B Q4_K_M: weights read, of the rate that memory is read with"
        yield row(figure, value, "≥ 90 %", found["share"] >= 0.9)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=ALL, help="prints only, writes nothing")
    arguments = parser.parse_args()
    if not QUANTIZED.exists():
        sys.exit(f"{QUANTIZED.relative_to(ROOT)} is not there: `make bench-peer` makes it")
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("two cores are needed: one for the server, one for its clients")
    # A thousand streams are as many sockets on either side.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    load = os.getloadavg()[0]
    table = ["| figure | measured | wanted | reached |", "|---|---|---|---|", *rows(measured(arguments))]
    print("\n".join(table))
    if arguments.only:
        return
    head = [ROOT / "tools/prove/header.sh", "The CPU device and the server, without a peer"]
    text = subprocess.run(head, check=True, stdout=subprocess.PIPE, text=True).stdout
    text += f"Medians of {arguments.rounds} rounds; load average {load:.1f} at the start. `make prove-cpu`.\n\n"
    RESULT.write_text(text + "\n".join(table) + "\n")


if __name__ == "__main__":
    main()
