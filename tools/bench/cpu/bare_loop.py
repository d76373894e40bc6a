"""What this machine adds to a pace by itself: a loop that begins a step of fixed work at a fixed pace, and does nothing
else. Prints the gaps between the steps' ends in milliseconds, as JSON.

    taskset -c 0 python tools/bench/cpu/bare_loop.py PACE WORK STEPS

`PACE` is from one step's begin to the next, `WORK` the processor time of a step on a processor that nothing holds up,
both in milliseconds.
"""

import gc
import json
import sys
import time
from statistics import quantiles

TRIALS = 200
ROUNDS = 10_000


def work(rounds: int) -> int:
    value = 1
    for _ in range(rounds):
        value = value * 5 & 0xFFFF
    return value


def rounds_per_millisecond() -> float:
    """Of the fastest trial: what holds up the others is what is to be measured."""
    fastest = float("inf")
    for _ in range(TRIALS):
        started = time.perf_counter()
        work(ROUNDS)
        fastest = min(fastest, time.perf_counter() - started)
    return ROUNDS / (1000 * fastest)


def gaps(pace: float, rounds: int, steps: int) -> list[float]:
    ends = []
    begin = time.perf_counter()
    for _ in range(steps + 1):
        work(rounds)
        ends.append(time.perf_counter())
        # As the engine keeps its pace: from the begin of the step before, however late that was.
        time.sleep(max(0.0, begin + pace / 1000 - time.perf_counter()))
        begin = time.perf_counter()
    return [1000 * (end - before) for before, end in zip(ends, ends[1:])]


def main():
    pace, milliseconds, steps = float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    gc.disable()
    found = gaps(pace, round(milliseconds * rounds_per_millisecond()), steps)
    hundredths = quantiles(found, n=100)
    print(json.dumps({"p50": hundredths[49], "p99": hundredths[98]}))


if __name__ == "__main__":
    main()
