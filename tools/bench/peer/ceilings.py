"""What the machine can do, by the kernels' own bench program: bytes and int8 operations per second."""

import os
import re
from dataclasses import dataclass

from models import Model
from paths import ROOT
from sides import PROMPT, Pin


@dataclass(frozen=True)
class Ceilings:
    bytes_per_s: float
    int8_per_s: float

    def most(self, row: str, model: Model) -> float | None:
        """Tokens per second at the ceiling that bounds the row; `None` where no single one does, or it is found in turns."""
        if row == "prompt":
            head = model.head_operations / PROMPT
            return self.int8_per_s / (model.prompt_operations + head)
        if row.startswith("decode ") and (batch := int(row.split()[1])) > 1:
            by_memory = batch * self.bytes_per_s / model.read_bytes
            return min(by_memory, self.int8_per_s / (model.prompt_operations + model.head_operations))
        return None


def measure(pin: Pin) -> Ceilings:
    # No matrix has this name, so the ceilings are all it measures.
    text = run(pin, "only the ceilings")
    return Ceilings(found(r"memory, read: ([\d.]+) GB/s", text), found(r"from registers: ([\d.]+) GOP/s", text))


def sustained_read(pin: Pin) -> float:
    """Bytes per second that memory is read with during a second."""
    return found(r"sustained read: ([\d.]+) GB/s", run(pin, "memory"))


def run(pin: Pin, what: str) -> str:
    os.chdir(ROOT)
    return pin.output(
        *("cargo", "bench", "--quiet", "-p", "weirgate-kernels", "--profile", "release", "--bench", "cpu"),
        *("--", pin.threads, what),
    )


def found(pattern: str, text: str) -> float:
    figure = re.search(pattern, text)
    if not figure:
        raise RuntimeError(f"no {pattern} in: {text}")
    return float(figure[1]) * 1e9
