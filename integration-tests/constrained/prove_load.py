"""What constraints cost the streams that have none. Prints Markdown; exits with 1 where a limit is exceeded.

    prove_load.py [--runs 5] [--streams 32] [--tokens 64] [--model-id FOLDER]

A run measures the inter-token times of free streams in five surroundings, one after the other: beside as many more free
streams, beside as many constrained ones, alone, beside a flood of one-token requests without schemas, and beside the
same flood with schemas. No two schemas are alike, so every one is compiled. Prompts that are computed beside a stream
hold it up in any surrounding, so two p99 are told: of all times, which the limits are about, and of those since all
streams of a surrounding have begun. The order of the surroundings changes from run to run, and what a run says is the
ratio of two of its own figures.
"""

import argparse
import asyncio
import itertools
import json
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.server import DEMO_MODEL, Server  # noqa: E402

from constrained import cases  # noqa: E402

WORDS = "river stone lamp winter garden ladder music harbour pencil thunder window basket copper meadow signal".split()
PROMPT_TOKENS = 32
FLOOD_CLIENTS = 8
LIMIT_MIXED, LIMIT_FLOOD = 1.10, 1.15
PAIRS = (("constrained", "free"), ("flood", "alone"))
SURROUNDINGS = ("free", "constrained", "alone", "flood without schemas", "flood")
# The others outlast the streams that are measured, though a grammar's forced tokens need no step.
OUTLAST = 6


@dataclass
class Sample:
    """One surrounding of one run: the free streams' gaps in seconds, and how many requests the others ended."""

    gaps: list[float]
    # Since all streams of the surrounding have begun.
    settled: list[float]
    others: int

    def figures(self) -> str:
        return f"{median(self.gaps) * 1000:.1f} / {p99(self.gaps) * 1000:.1f} / {p99(self.settled) * 1000:.1f}"


def p99(gaps: list[float]) -> float:
    return quantiles(gaps, n=100, method="inclusive")[98]


class Requests:
    """Bodies of requests; prompts and schemas never repeat."""

    def __init__(self):
        self.numbers = itertools.count()

    def body(self, tokens: int, prompt_tokens: int, constrained: bool) -> dict:
        number = next(self.numbers)
        rng = random.Random(number)
        words = " ".join(f"{rng.choice(WORDS)} {rng.randrange(1000)}" for _ in range(PROMPT_TOKENS))
        parameters = {"max_new_tokens": tokens, "truncate": prompt_tokens, "temperature": 1.0, "seed": number}
        if constrained:
            # Long enough that the length cuts it off, as it does the free ones.
            item = {"type": "object", "properties": {f"n{number}": cases.schema(rng)}, "required": [f"n{number}"]}
            schema = {"type": "array", "items": item | {"additionalProperties": False}, "minItems": tokens}
            parameters["grammar"] = {"type": "json", "value": schema}
        else:
            parameters["ignore_eos"] = True
        return {"inputs": words, "parameters": parameters}


async def times(port: int, route: str, body: dict, found: list[float] | None = None) -> list[float]:
    """When each event of a stream came; `found` keeps them where the stream is given up.

    Reads no JSON: whatever this does, it takes from the server's processors."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        text = json.dumps(body).encode()
        head = f"POST {route} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(text)}\r\n\r\n".encode() + text)
        status = (await reader.readline()).split()[1:2]
        # A schema that is refused is compiled as far as it goes, and no failure.
        if status not in ([b"200"], [b"422"]):
            raise SystemExit(f"{body}: {status} {await reader.read()}")
        found, rest = [] if found is None else found, b""
        while data := await reader.read(1 << 16):
            rest += data
            found += [time.monotonic()] * rest.count(b"data:")
            rest = rest[rest.rfind(b"data:") + 5 :][-4:] if b"data:" in rest else rest[-4:]
        return found
    finally:
        writer.close()


async def beside(port: int, requests: Requests, arguments: argparse.Namespace, surrounding: str) -> Sample:
    """Measures the free streams; the others begin with them, and are given up when they end."""
    streams, ended = arguments.streams, 0
    constrained = surrounding in ("constrained", "flood")

    long_records = []

    async def long():
        body = requests.body(arguments.tokens * OUTLAST, PROMPT_TOKENS, constrained)
        long_records.append([])
        await times(port, "/generate_stream", body, long_records[-1])

    async def flood():
        nonlocal ended
        while True:
            await times(port, "/generate", requests.body(1, 1, constrained))
            ended += 1

    others = {"free": [long] * streams, "constrained": [long] * streams, "alone": []}
    background = [asyncio.create_task(other()) for other in others.get(surrounding, [flood] * FLOOD_CLIENTS)]
    bodies = [requests.body(arguments.tokens, PROMPT_TOKENS, False) for _ in range(streams)]
    records = await asyncio.gather(*(times(port, "/generate_stream", body) for body in bodies))
    for task in background:
        if task.done() and task.exception():
            raise task.exception()
        task.cancel()
    await asyncio.gather(*background, return_exceptions=True)
    if any(len(record) != arguments.tokens for record in records):
        raise SystemExit(f"{surrounding}: streams of {sorted({len(record) for record in records})} tokens")
    begun = max(record[0] for record in records + [record for record in long_records if record])
    pairs = [pair for record in records for pair in itertools.pairwise(record)]
    settled = [later - sooner for sooner, later in pairs if sooner >= begun]
    if len(settled) < streams or not all(long_records):
        raise SystemExit(f"{surrounding}: the streams were too short for all others to begin beside them")
    return Sample([later - sooner for sooner, later in pairs], settled, ended)


async def measure(port: int, arguments: argparse.Namespace) -> list[dict[str, Sample]]:
    requests = Requests()
    runs = []
    short = argparse.Namespace(streams=4, tokens=48)
    for kind in SURROUNDINGS:
        await beside(port, requests, short, kind)
    for run in range(arguments.runs):
        order = SURROUNDINGS if run % 2 == 0 else SURROUNDINGS[::-1]
        samples = {kind: await beside(port, requests, arguments, kind) for kind in order}
        figures = ", ".join(f"{kind} {sample.figures()}" for kind, sample in samples.items())
        print(f"run {run + 1}: {figures}", file=sys.stderr)
        runs.append(samples)
    return runs


def table(runs: list[dict[str, Sample]]):
    print("| run | " + " | ".join(SURROUNDINGS) + " | constrained / free | flood / alone |")
    print("|---|" + "---:|" * (len(SURROUNDINGS) + 2))
    for number, run in enumerate(runs, 1):
        cells = [run[kind].figures() for kind in SURROUNDINGS]
        ratios = [" / ".join(f"{one:.3f}" for one in ratio(run, *pair)) for pair in PAIRS]
        print(f"| {number} | " + " | ".join(cells + ratios) + " |")


def ratio(run: dict[str, Sample], above: str, below: str) -> tuple[float, float]:
    """Of the p99 of all times, and of those since all streams have begun."""
    return p99(run[above].gaps) / p99(run[below].gaps), p99(run[above].settled) / p99(run[below].settled)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--model-id", default=str(DEMO_MODEL))
    arguments = parser.parse_args()
    seats = str(2 * arguments.streams + FLOOD_CLIENTS)
    limits = ["--max-batch-size", seats, "--max-concurrent-requests", seats]
    with tempfile.TemporaryDirectory() as temporary:
        server = Server(Path(temporary) / "log", "--model-id", arguments.model_id, *limits)
        try:
            server.start(ready_seconds=120)
            runs = asyncio.run(measure(server.port, arguments))
            server.stop()
        finally:
            server.kill()
    model = Path(arguments.model_id).name
    streams = f"{arguments.streams} free streams of {arguments.tokens} tokens, model `{model}`"
    print(f"{streams}; inter-token times in ms: p50, p99, p99 since all streams")
    print(f"have begun. Beside {arguments.streams} other streams (free, constrained), alone, beside {FLOOD_CLIENTS}")
    print("clients that send one-token requests without pause. Every constrained request brings a schema of its own.")
    print("The last columns are ratios of the two p99.\n")
    table(runs)
    answered = {kind: sum(run[kind].others for run in runs) for kind in SURROUNDINGS[3:]}
    print("\nRequests of the floods: " + ", ".join(f"{kind} {count}" for kind, count in answered.items()) + ".\n")
    met = True
    for (above, below), limit in zip(PAIRS, (LIMIT_MIXED, LIMIT_FLOOD), strict=True):
        middle = [median(of) for of in zip(*(ratio(run, above, below) for run in runs), strict=True)]
        met &= middle[0] <= limit
        verdict = "met" if middle[0] <= limit else "not met"
        bound = f"at most {limit:.2f}: {verdict}"
        print(f"- {above} / {below}: median p99 ratio {middle[0]:.3f}, {bound} ({middle[1]:.3f} since all have begun)")
    control = [median(of) for of in zip(*(ratio(run, *SURROUNDINGS[:2:-1]) for run in runs), strict=True)]
    figures = f"{control[0]:.3f} ({control[1]:.3f} since all have begun)"
    print(f"- flood / the same flood without schemas: median p99 ratio {figures}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
