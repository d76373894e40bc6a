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
        """Tokens per second at the ceiling that bounds the row; `None` where no single one does."""
        if row == "prompt":
            head = model.head_operations / PROMPT
            return self.int8_per_s / (model.prompt_operations + head)
        if row == "decode 1":
            return self.bytes_per_s / model.read_bytes
        if row.startswith("decode "):
            batch = int(row.split()[1])
            by_memory = batch * self.bytes_per_s / model.read_bytes
            return min(by_memory, self.int8_per_s / (model.prompt_operations + model.head_operations))
        return None


def measure(pin: Pin) -> Ceilings:
    os.chdir(ROOT)
    # No matrix has this name, so the ceilings are all it measures.
    text = pin.output(
        *("cargo", "bench", "--quiet", "-p", "weirgate-kernels", "--profile", "release", "--bench", "cpu"),
        *("--", pin.threads, "only the ceilings"),
    )
    bandwidth = re.search(r"memory, read: ([\d.]+) GB/s", text)
    int8 = re.search(r"int8 dot products from registers: ([\d.]+) GOP/s", text)
    if not bandwidth or not int8:
        raise RuntimeError(f"no ceilings in: {text}")
    return Ceilings(float(bandwidth[1]) * 1e9, float(int8[1]) * 1e9)
