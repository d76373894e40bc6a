"""Weirgate against llama.cpp on this machine: builds the peer, makes the files, measures both in turns.

    .venv/peer/bin/python tools/bench/peer/bench.py [--quick] [--servers] [--rounds 5] [--models "Llama-3.2-1B Q8_0" …]

Writes docs/benchmarks/peer-SHAPE.md, one for each shape, anew after every round, so that a run that is ended early leaves what
it has found (--quick, --servers: prints only). `make bench-peer` builds our side before.
"""

import argparse
import json
import os
import sys

from build import build
from ceilings import Ceilings, measure
from models import SHAPES, Model, models
from one_stream import one_stream
from paths import RESULTS, RUNS
from report import report
from sides import REQUESTS, SLOTS, Pin, our_engine, our_server, peer_engine, peer_server

VOCABULARY = {shape.name: shape.first_special for shape in SHAPES}


def one_round(pin: Pin, model: Model, requests: int, ours_first: bool, servers_only: bool) -> dict[str, dict[str, float]]:
    engines = [("llama.cpp", peer_engine), ("weirgate", our_engine)]
    servers = [("llama.cpp", peer_server), ("weirgate", our_server)]
    order = -1 if ours_first else 1
    figures = {side: {} for side, _ in engines}
    if not servers_only:
        figures = {side: run(pin, model.path) for side, run in engines[::order]}
        for side, found in one_stream(pin, model).items():
            figures[side] |= found
    for side, run in servers[::order]:
        figures[side] |= run(pin, model.path, VOCABULARY[model.shape], requests)
    return figures


def reports(
    rounds: dict[str, list], chosen: list[Model], ceilings: list[Ceilings], pin: Pin, load: float
) -> dict[str, str]:
    """By shape."""
    shapes = dict.fromkeys(model.shape for model in chosen)
    files = {shape: [model for model in chosen if model.shape == shape] for shape in shapes}
    return {shape: report(rounds, files[shape], ceilings, pin, load) for shape in shapes}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round, fewer requests, nothing written")
    parser.add_argument("--servers", action="store_true", help="the rows of the servers, nothing written")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", nargs="*", default=[], help='e.g. "Llama-3.2-1B Q8_0"; all where none is given')
    parser.add_argument("--cores", help="as taskset takes them; all where not given")
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    pin = Pin(",".join(map(str, cores)), len(cores))
    if arguments.cores:
        os.sched_setaffinity(0, {int(core) for core in arguments.cores.split(",")})
        pin = Pin(arguments.cores, len(os.sched_getaffinity(0)))
    build()
    chosen = models(arguments.models)
    load = os.getloadavg()[0]
    ceilings = [measure(pin)]
    rounds: dict[str, list] = {model.name: [] for model in chosen}
    RESULTS.mkdir(parents=True, exist_ok=True)
    for number in range(1 if arguments.quick else arguments.rounds):
        for model in chosen:
            requests = 2 * SLOTS if arguments.quick else REQUESTS
            figures = one_round(pin, model, requests, number % 2 == 1, arguments.servers)
            rounds[model.name].append(figures)
            print(f"round {number + 1}, {model.name}: {json.dumps(figures)}", file=sys.stderr, flush=True)
            RUNS.write_text(json.dumps(rounds, indent=1))
        ceilings.append(measure(pin))
        texts = reports(rounds, chosen, ceilings, pin, load)
        if not (arguments.quick or arguments.servers):
            for shape, text in texts.items():
                (RESULTS / f"peer-{shape.lower()}.md").write_text(text)
    print(*texts.values(), sep="\n")


if __name__ == "__main__":
    main()
