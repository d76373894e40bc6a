"""What 16 LoRA adapters in one batch cost: 64 requests at once with and without them, on one server with the shape of
Qwen2.5-0.5B, interleaved. Prints a table; exits 1 below the goal.

    .venv/prove/bin/python tools/bench/lora.py [--rank 16] [--runs 5]
"""

import argparse
import json
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "integration-tests"))

import make_random_model as model  # noqa: E402
from harness.server import Server  # noqa: E402

ADAPTERS, REQUESTS = 16, 64
PROMPT_TOKENS, OUTPUT_TOKENS = 16, 48
GOAL = 0.7
PATIENCE = 600


def write_adapter(folder: Path, rank: int, seed: int):
    """All projections of all layers in bf16, as PEFT saves them."""
    folder.mkdir()
    modules = {name: shape for name, shape in model.shapes().items() if name.endswith("_proj.weight")}
    targets = sorted({name.split(".")[-2] for name in modules})
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    header, parts, offset = {}, [], 0
    random = np.random.default_rng(seed)
    for name, (rows, cols) in modules.items():
        for side, shape in (("A", (rank, cols)), ("B", (rows, rank))):
            values = random.standard_normal(shape, np.float32) * np.float32(0.3 * shape[1] ** -0.5)
            data = model.bf16(values).tobytes()
            key = f"base_model.model.{name.removesuffix('.weight')}.lora_{side}.weight"
            header[key] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + len(data)]}
            parts.append(data)
            offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


def load(url: str, seed: int, adapters: list[str]) -> dict:
    command = [ROOT / ".venv/test/bin/python", ROOT / "tools/bench/load.py", "--url", url, "--seed", str(seed)]
    command += ["--concurrency", str(REQUESTS), "--prompt-tokens", str(PROMPT_TOKENS)]
    command += ["--output-tokens", str(OUTPUT_TOKENS)] + (["--adapters", ",".join(adapters)] if adapters else [])
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=PATIENCE).stdout)


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, list[dict]]:
    names = [f"adapter-{n}" for n in range(ADAPTERS)]
    for seed, name in enumerate(names):
        write_adapter(folder / name, arguments.rank, seed)
    listed = ",".join(f"{name}={folder / name}" for name in names)
    server = Server(folder / "log", "--model-id", str(model.main(model.FOLDER)), "--lora-adapters", listed)
    measured = {"base": [], "adapters": []}
    try:
        server.start(ready_seconds=180)
        load(server.url, 1_000_000, [])
        for run in range(arguments.runs):
            for side, adapters in (("base", []), ("adapters", names)):
                measured[side].append(load(server.url, 10_000 * run + 1000 * bool(adapters), adapters))
                print(f"run {run + 1}, {side}: {json.dumps(measured[side][-1])}", file=sys.stderr, flush=True)
        server.stop()
    finally:
        server.kill()
    return measured


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(arguments, Path(folder))
    print(
        f"{REQUESTS} requests at once, {PROMPT_TOKENS} prompt and {OUTPUT_TOKENS} output tokens each, on random bf16 weights of "
        f"Qwen2.5-0.5B's shape; {ADAPTERS} adapters of rank {arguments.rank} on all seven projections of every layer, in bf16, "
        f"each for {REQUESTS // ADAPTERS} of the requests. Medians of {arguments.runs} interleaved runs on one server; load "
        f"average {before:.1f} at the start.\n"
    )
    print("| | base | 16 adapters | ratio | each run |\n|---|---|---|---|---|")
    base, with_adapters = ([run["output_tokens_per_s"] for run in measured[side]] for side in ("base", "adapters"))
    ratio = median(with_adapters) / median(base)
    each = ", ".join(f"{b:.1f} → {a:.1f}" for b, a in zip(base, with_adapters, strict=True))
    print(f"| output tokens/s, prompts included | {median(base):.1f} | {median(with_adapters):.1f} | **{ratio:.2f}** | {each} |")
    if ratio < GOAL:
        sys.exit(f"{ratio:.2f} of the base model's throughput; {GOAL} is the goal")


if __name__ == "__main__":
    main()
