"""The figures of all rounds as Markdown."""

import subprocess
from statistics import median

from build import OPTIONS, PACKAGE, VERSION
from ceilings import Ceilings
from models import Model
from one_stream import TURN_OUTPUT, TURNS
from paths import PEER_BIN, ROOT
from sides import BATCHES, CONTEXT, OUTPUT, PROMPT, RAMP_UP, REQUESTS, SLOT, SLOTS, Pin

# Row, what it is called, and whether more is better.
ROWS = (
    ("prompt", f"prompt of {PROMPT}, tokens/s", True),
    ("decode 1", "decode, one stream, tokens/s", True),
    *((f"decode {batch}", f"decode, batch {batch}, tokens/s", True) for batch in BATCHES),
    ("server", f"server, {SLOTS} streams at once, output tokens/s", True),
    ("first token", "the same, p99 first token, ms", False),
    ("between tokens", "the same, p99 between tokens, ms", False),
    ("server, in turn", f"server, {SLOTS} streams begun in {RAMP_UP} s, output tokens/s", True),
    ("first token, in turn", "the same, p99 first token, ms", False),
    ("between tokens, in turn", "the same, p99 between tokens, ms", False),
)
# Row → what the ratio is to be for each quantization; a bound from above where less is better.
REACH = {
    "prompt": {"Q8_0": 2.0, "Q4_K_M": 2.0, "Q4_0": 2.0},
    "decode 1": {"Q8_0": 1.2, "Q4_K_M": 1.1, "Q4_0": 1.15},
    "decode 8": {"Q8_0": 1.5, "Q4_K_M": 2.0, "Q4_0": 1.5},
    "server": {"Q8_0": 1.5, "Q4_K_M": 2.0, "Q4_0": 1.5},
    "first token": {"Q8_0": 0.6, "Q4_K_M": 0.6, "Q4_0": 0.6},
    "between tokens": {"Q8_0": 0.3, "Q4_K_M": 0.3, "Q4_0": 0.3},
}
# One stream is judged where weights come from memory, not from a cache.
LARGE = "Llama-3.2-1B"

Runs = list[dict[str, dict[str, float]]]
"""For each round: side → row → value."""


def report(rounds: dict[str, Runs], models: list[Model], ceilings: list[Ceilings], pin: Pin, load: float) -> str:
    parts = [header(), conditions(rounds, ceilings, pin, load)]
    best = Ceilings(max(c.bytes_per_s for c in ceilings), max(c.int8_per_s for c in ceilings))
    for model in models:
        parts += [f"## {model.name}\n", table(rounds[model.name], model, best), types(model)]
    return "\n".join(parts)


def header() -> str:
    command = [ROOT / "tools/prove/header.sh", "Against llama.cpp"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.rstrip() + "\n"


def conditions(rounds: dict[str, Runs], ceilings: list[Ceilings], pin: Pin, load: float) -> str:
    count = min(len(runs) for runs in rounds.values())
    version = subprocess.run(
        [PEER_BIN / "llama-server", "--version"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ).stdout
    compiler = next((line for line in version.splitlines() if line.startswith("built with")), "").strip()
    memory = ", ".join(f"{c.bytes_per_s / 1e9:.1f}" for c in ceilings)
    int8 = ", ".join(f"{c.int8_per_s / 1e9:.0f}" for c in ceilings)
    return f"""\
`make bench-peer`. The same files (random weights, quantized by llama.cpp's own `llama-quantize`) on the same
processors ({pin.cores}; {pin.threads} threads; the load generator, too), in turns. Rounds: {count}; medians with
the least and the greatest, and the median of the rounds' ratios, Weirgate to llama.cpp. Load average {load:.1f} at the
start.

- llama.cpp: the sources in {PACKAGE} {VERSION}, {compiler or "compiler unknown"},
  `{" ".join(OPTIONS)}`
- prompts: `llama-bench -p {PROMPT}` and `weirgate-benchmark engine -b 1 -s {PROMPT}`
- decode: `llama-batched-bench -npp {CONTEXT} -ntg {OUTPUT}`, `weirgate-benchmark engine -s {CONTEXT} -d {OUTPUT + 1}`
- one stream: the same with {TURN_OUTPUT} tokens, in {TURNS} turns a round; the turn whose ratio is the median counts
- server: `llama-server -np {SLOTS} -cb -c {SLOTS * SLOT}` and `weirgate`, both driven by `weirgate-benchmark load` with
  {SLOTS} clients, {REQUESTS} requests of {CONTEXT} random token ids in and {OUTPUT} tokens out, streamed; twice: all clients
  begin at once, so that all streams decode and end together; and they begin one after the other (`--ramp-up {RAMP_UP}`), so
  that prompts come while others decode
- ceilings (`kernels/benches/cpu.rs`) at the start and after each round: memory read {memory} GB/s, int8 dot
  products from registers {int8} GOP/s. "Of the ceiling" is Weirgate's median against the best of them: int8 for
  prompts, the lower of both for a batch. For one stream it is the median share, over all turns, of the rate that memory
  was read with for a second before and after (all weights once a token; in one or eight streams a thread, whichever is faster).
"""


def table(runs: Runs, model: Model, ceilings: Ceilings) -> str:
    lines = ["| | Weirgate | llama.cpp | ratio | to reach | of the ceiling |", "|---|---|---|---|---|---|"]
    for row, name, more in ROWS:
        if row not in runs[0]["weirgate"]:
            continue
        ours, theirs = ([run[side][row] for run in runs] for side in ("weirgate", "llama.cpp"))
        ratio = median(a / b for a, b in zip(ours, theirs, strict=True))
        judged_as = row.removesuffix(", in turn")
        reach = None if row == "decode 1" and model.shape != LARGE else REACH[judged_as][model.quantization]
        most = ceilings.most(row, model)
        share = median(run["weirgate"]["share"] for run in runs) if row == "decode 1" else most and median(ours) / most
        lines.append(
            f"| {name} | {spread(ours)} | {spread(theirs)} | **{ratio:.2f}** | {judged(ratio, reach, more)} "
            f"| {f'{100 * share:.0f} %' if share else ''} |"
        )
    return "\n".join(lines) + "\n"


def spread(values: list[float]) -> str:
    digits = 1 if median(values) < 1000 else 0
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def judged(ratio: float, reach: float | None, more: bool) -> str:
    if reach is None:
        return ""
    reached = ratio >= reach if more else ratio <= reach
    return f"{'≥' if more else '≤'} {reach}{'' if reached else ', not reached'}"


def types(model: Model) -> str:
    size = model.path.stat().st_size / 1e9
    return f"{size:.2f} GB; " + "; ".join(f"{kind}: {found}" for kind, found in model.types.items()) + "\n"
