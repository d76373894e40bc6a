"""The full number of generations, from the worst model there is: random weights, temperature 1.5. Prints Markdown."""

import random
import struct
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.checkpoints import copy_of_demo, read_safetensors, write_safetensors  # noqa: E402
from harness.server import Server  # noqa: E402

from constrained import cases, generate  # noqa: E402

GRAMMARS = 200
GENERATIONS = 2000
TOOL_SETS = 100
FORMATS = {"F16": ("e", 2), "F32": ("f", 4)}


def randomize(folder: Path):
    """Every matrix is noise; norms stay, so that the noise reaches the end."""
    path = folder / "model.safetensors"
    header, data = read_safetensors(path)
    data, rng = bytearray(data), random.Random(7)
    for name, entry in header.items():
        if name == "__metadata__" or len(entry["shape"]) < 2:
            continue
        begin, end = entry["data_offsets"]
        if entry["dtype"] == "BF16":
            values = (struct.pack("<f", rng.gauss(0, 0.1))[2:] for _ in range((end - begin) // 2))
            data[begin:end] = b"".join(values)
        else:
            code, size = FORMATS[entry["dtype"]]
            count = (end - begin) // size
            data[begin:end] = struct.pack(f"<{count}{code}", *(rng.gauss(0, 0.1) for _ in range(count)))
    write_safetensors(path, header, bytes(data))


def row(name: str, outcome: generate.Outcome) -> str:
    total = outcome.finished + outcome.cut + len(outcome.refused)
    return f"| {name} | {total} | {outcome.finished} | {outcome.cut} | {len(outcome.refused)} | {len(outcome.wrong)} |"


def main() -> int:
    with tempfile.TemporaryDirectory() as temporary:
        folder = copy_of_demo(Path(temporary) / "model")
        randomize(folder)
        server = Server(Path(temporary) / "log", "--model-id", str(folder))
        try:
            server.start()
            grammars = cases.grammars(seed=2, count=GRAMMARS)
            grammars = [grammar for _ in range(GENERATIONS // GRAMMARS) for grammar in grammars]
            texts = generate.run(server.port, grammars, generate.grammar)
            sets = [cases.tools(seed, 1 + seed % 5) for seed in range(TOOL_SETS)]
            sets = [tools for _ in range(GENERATIONS // TOOL_SETS) for tools in sets]
            calls = generate.run(server.port, sets, generate.tool_call)
            server.stop()
        finally:
            server.kill()
    print("Random weights, temperature 1.5; finished texts are checked with Python's `jsonschema` and `re`.\n")
    print("| | generations | finished | cut by the length | refused | wrong |")
    print("|---|---:|---:|---:|---:|---:|")
    print(row(f"{GRAMMARS} schemas and regular expressions", texts))
    print(row(f"{TOOL_SETS} sets of tools, `tool_choice` required", calls))
    wrong = texts.wrong + calls.wrong + texts.refused + calls.refused
    for line in wrong[:20]:
        print(f"\n- {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
