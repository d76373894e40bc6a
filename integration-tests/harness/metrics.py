"""Reads the Prometheus text format."""

import re
from dataclasses import dataclass

SAMPLE = re.compile(r"^(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?P<labels>\{[^}]*\})? (?P<value>\S+)$")


def parse(text: str) -> dict[str, float]:
    """`name` or `name{labels}` → value."""
    samples = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        match = SAMPLE.match(line)
        assert match, f"not a sample: {line!r}"
        key = match["name"] + (match["labels"] or "")
        assert key not in samples, f"twice: {key}"
        samples[key] = float(match["value"])
    return samples


def total(samples: dict[str, float], name: str) -> float:
    """The sum of a series over all its labels."""
    values = [value for key, value in samples.items() if key.partition("{")[0] == name]
    assert values, f"no series {name}"
    return sum(values)


@dataclass
class Engine:
    """What the engine holds at one moment."""

    running: float
    waiting: float
    used_blocks: float

    @property
    def idle(self) -> bool:
        return self == Engine(0, 0, 0)


def engine(text: str) -> Engine:
    """From the text of /metrics; also fails if the engine ever found its own books wrong."""
    samples = parse(text)
    assert total(samples, "weirgate_integrity_errors_total") == 0
    names = ("weirgate_sequences_running", "weirgate_sequences_waiting", "weirgate_kv_blocks_used")
    return Engine(*(total(samples, name) for name in names))
