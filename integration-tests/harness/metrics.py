"""Reads the Prometheus text format."""

import re

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
