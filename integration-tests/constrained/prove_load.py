"""What constraints cost the streams that have none. Prints Markdown; exits with 1 where a limit is exceeded.

    prove_load.py [--runs 5] [--streams 32] [--tokens 128]

A run measures the inter-token times of the same free streams in five surroundings, one after the other: beside as many
more free streams, beside as many constrained ones, alone, beside a flood of one-token requests without schemas, and
beside the same flood with schemas. No two schemas are alike, so every one is compiled. The order changes from run to
run, and what a run says is the ratio of two of its own figures.
"""

import argparse
import asyncio
import itertools
import random
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import load  # noqa: E402
from harness.server import Server  # noqa: E402

from constrained import cases  # noqa: E402

WORDS = "river stone lamp winter garden ladder music harbour pencil thunder window basket copper meadow signal".split()
PROMPT_TOKENS = 32
FLOOD_CLIENTS = 8
LIMIT_MIXED, LIMIT_FLOOD = 1.10, 1.15
SURROUNDINGS = ("free", "constrained", "alone", "flood without schemas", "flood")


@dataclass
class Sample:
    """One surrounding of one run: the free streams' gaps in seconds, and how many requests the others made."""

    gaps: list[float]
    others: int

    @property
    def p50(self) -> float:
        return median(self.gaps)

    @property
    def p99(self) -> float:
        return quantiles(self.gaps, n=100, method="inclusive")[98]


class Requests:
    """Bodies of requests; prompts and schemas never repeat."""

    def __init__(self, tokens: int):
        self.tokens = tokens
        self.numbers = itertools.count()

    def body(self, tokens: int, constrained: bool) -> dict:
        number = next(self.numbers)
        rng = random.Random(number)
        words = " ".join(f"{rng.choice(WORDS)} {rng.randrange(1000)}" for _ in range(PROMPT_TOKENS))
        parameters = {"max_new_tokens": tokens, "truncate": PROMPT_TOKENS, "temperature": 1.0, "seed": number}
        if constrained:
            # Long enough that the length cuts it off, as it does the free ones.
            item = {"type": "object", "properties": {f"n{number}": cases.schema(rng)}, "required": [f"n{number}"]}
            schema = {"type": "array", "items": item | {"additionalProperties": False}, "minItems": tokens}
            parameters["grammar"] = {"type": "json", "value": schema}
        else:
            parameters["ignore_eos"] = True
        return {"inputs": words, "parameters": parameters}


async def beside(http, url: str, requests: Requests, streams: int, surrounding: str) -> Sample:
    """Measures `streams` free streams; the others send their next request when the last one ended, until these end."""
    stop, made = asyncio.Event(), 0
    others = {"free": streams, "constrained": streams, "alone": 0}.get(surrounding, FLOOD_CLIENTS)
    tokens = requests.tokens if others == streams else 1
    constrained = surrounding in ("constrained", "flood")

    async def other():
        nonlocal made
        while not stop.is_set():
            await asked(http, url, requests.body(tokens, constrained), check=False)
            made += 1

    background = [asyncio.create_task(other()) for _ in range(others)]
    bodies = [requests.body(requests.tokens, False) for _ in range(streams)]
    records = await asyncio.gather(*(asked(http, url, body, check=True) for body in bodies))
    stop.set()
    await asyncio.gather(*background)
    gaps = [later - sooner for r in records for sooner, later in itertools.pairwise(r.event_times)]
    return Sample(gaps, made)


async def asked(http, url: str, body: dict, check: bool) -> load.Stream:
    record = await load.stream(http, f"{url}/generate_stream", body)
    short = check and len(record.event_times) != body["parameters"]["max_new_tokens"]
    # A schema that is refused is compiled as far as it goes, and no failure.
    if record.status not in (200, 422) or record.broken or (record.error and check) or short:
        raise SystemExit(f"{body}: {record.status} {record.body} {record.broken} {record.error}")
    return record


async def measure(url: str, arguments: argparse.Namespace) -> list[dict[str, Sample]]:
    requests = Requests(arguments.tokens)
    runs = []
    async with load.session() as http:
        for kind in SURROUNDINGS:
            await beside(http, url, Requests(8), 4, kind)
        for run in range(arguments.runs):
            order = SURROUNDINGS if run % 2 == 0 else SURROUNDINGS[::-1]
            samples = {kind: await beside(http, url, requests, arguments.streams, kind) for kind in order}
            print(f"run {run + 1}: " + ", ".join(f"{k} {s.p99 * 1000:.1f} ms" for k, s in samples.items()), file=sys.stderr)
            runs.append(samples)
    return runs


def table(runs: list[dict[str, Sample]]):
    print("| run | " + " | ".join(SURROUNDINGS) + " | constrained / free | flood / alone |")
    print("|---|" + "---:|" * (len(SURROUNDINGS) + 2))
    for number, run in enumerate(runs, 1):
        cells = [f"{run[kind].p50 * 1000:.1f} / {run[kind].p99 * 1000:.1f} ms" for kind in SURROUNDINGS]
        ratios = [f"{ratio(run, *pair):.3f}" for pair in (("constrained", "free"), ("flood", "alone"))]
        print(f"| {number} | " + " | ".join(cells + ratios) + " |")


def ratio(run: dict[str, Sample], above: str, below: str) -> float:
    return run[above].p99 / run[below].p99


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128)
    arguments = parser.parse_args()
    seats = str(2 * arguments.streams + FLOOD_CLIENTS)
    with tempfile.TemporaryDirectory() as temporary:
        server = Server(Path(temporary) / "log", "--max-batch-size", seats, "--max-concurrent-requests", seats)
        try:
            server.start()
            runs = asyncio.run(measure(server.url, arguments))
            server.stop()
        finally:
            server.kill()
    print(f"{arguments.streams} free streams of {arguments.tokens} tokens, demo model; p50 / p99 of their inter-token")
    print(f"times beside {arguments.streams} other streams (free, constrained), alone, and beside {FLOOD_CLIENTS} clients that")
    print("send one-token requests without pause. Every constrained request brings a schema of its own.\n")
    table(runs)
    answered = {kind: sum(run[kind].others for run in runs) for kind in SURROUNDINGS if kind != "alone"}
    print("\nRequests of the others: " + ", ".join(f"{kind} {count}" for kind, count in answered.items()) + ".\n")
    met = True
    for above, below, limit in (("constrained", "free", LIMIT_MIXED), ("flood", "alone", LIMIT_FLOOD)):
        middle = median(ratio(run, above, below) for run in runs)
        met &= middle <= limit
        verdict = "met" if middle <= limit else "not met"
        print(f"- {above} / {below}: median p99 ratio {middle:.3f}; at most {limit:.2f}: {verdict}")
    control = median(ratio(run, "flood", "flood without schemas") for run in runs)
    print(f"- flood / the same flood without schemas: median p99 ratio {control:.3f}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
