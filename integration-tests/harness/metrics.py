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


@dataclass
class Family:
    """One series as the exposition text declares it."""

    type: str
    help: str
    samples: dict[tuple[str, tuple[tuple[str, str], ...]], float]

    def labels(self) -> dict[str, set[str]]:
        """Every label but `le` and its values."""
        found: dict[str, set[str]] = {}
        for _, pairs in self.samples:
            for name, value in pairs:
                if name != "le":
                    found.setdefault(name, set()).add(value)
        return found

    def bounds(self) -> dict[tuple[tuple[str, str], ...], list[str]]:
        """A histogram's upper bounds as written, for each set of its other labels."""
        found: dict[tuple[tuple[str, str], ...], list[str]] = {}
        for name, pairs in self.samples:
            if name.endswith("_bucket"):
                others = tuple(pair for pair in pairs if pair[0] != "le")
                found.setdefault(others, []).append(dict(pairs)["le"])
        return found


LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')


def families(text: str) -> dict[str, Family]:
    """The declared series by name; fails on samples outside their family, double and missing declarations."""
    found: dict[str, Family] = {}
    help_of: dict[str, str] = {}
    current = None
    for line in text.splitlines():
        if line.startswith("# HELP "):
            _, _, name, words = line.split(" ", 3)
            assert name not in help_of, f"HELP twice: {name}"
            help_of[name] = words
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in found, f"TYPE twice: {name}"
            current, found[name] = name, Family(kind, help_of[name], {})
        else:
            match = SAMPLE.match(line)
            assert match, f"not a sample: {line!r}"
            histogram = found[current].type == "histogram"
            allowed = {current + suffix for suffix in ("_bucket", "_sum", "_count")} if histogram else {current}
            assert match["name"] in allowed, f"{line!r} stands in the family {current}"
            key = (match["name"], tuple(LABEL.findall(match["labels"] or "")))
            found[current].samples[key] = float(match["value"])
    return found
