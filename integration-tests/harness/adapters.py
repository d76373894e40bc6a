"""LoRA adapters of the demo model with random matrices, as PEFT and as llama.cpp store them, and the model with one merged
into its weights."""

import json
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from .server import DEMO_MODEL

CONFIG = json.loads((DEMO_MODEL / "config.json").read_text())
HIDDEN, WIDTH, LAYERS = CONFIG["hidden_size"], CONFIG["intermediate_size"], CONFIG["num_hidden_layers"]
HEADS, KV_HEADS = CONFIG["num_attention_heads"], CONFIG["num_key_value_heads"]
QUERIES, KEYS = (heads * CONFIG["head_dim"] for heads in (HEADS, KV_HEADS))
# Rows, columns, and GGUF's name.
MODULES = {
    "self_attn.q_proj": (QUERIES, HIDDEN, "attn_q"),
    "self_attn.k_proj": (KEYS, HIDDEN, "attn_k"),
    "self_attn.v_proj": (KEYS, HIDDEN, "attn_v"),
    "self_attn.o_proj": (HIDDEN, QUERIES, "attn_output"),
    "mlp.gate_proj": (WIDTH, HIDDEN, "ffn_gate"),
    "mlp.up_proj": (WIDTH, HIDDEN, "ffn_up"),
    "mlp.down_proj": (HIDDEN, WIDTH, "ffn_down"),
}


@dataclass
class Adapter:
    """`pairs[layer, module]` is `(a, b)`; what is added to the weights is `alpha / rank * b @ a`."""

    pairs: dict[tuple[int, str], tuple[np.ndarray, np.ndarray]]
    rank: int
    alpha: float


def random_adapter(seed: int, rank: int = 4, modules=tuple(MODULES), strength: float = 0.12) -> Adapter:
    generator = np.random.default_rng(seed)

    def matrix(rows, cols, scale):
        return (generator.standard_normal((rows, cols)) * scale).astype(np.float32)

    pairs = {}
    for layer in range(LAYERS):
        for module in modules:
            rows, cols, _ = MODULES[module]
            pairs[layer, module] = matrix(rank, cols, cols**-0.5), matrix(rows, rank, strength)
    return Adapter(pairs, rank, alpha=2 * rank)


def write_safetensors(path: Path, tensors: dict[str, np.ndarray]):
    tensors = {name: np.ascontiguousarray(values, dtype="<f4") for name, values in tensors.items()}
    header, at = {}, 0
    for name, values in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [at, at + values.nbytes]}
        at += values.nbytes
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for values in tensors.values():
            file.write(values.tobytes())


def write_peft(folder: Path, adapter: Adapter, **settings) -> Path:
    """A folder as PEFT saves one."""
    folder.mkdir(parents=True, exist_ok=True)
    targets = sorted({module.split(".")[1] for _, module in adapter.pairs})
    config = {"peft_type": "LORA", "r": adapter.rank, "lora_alpha": adapter.alpha, "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps(config | settings))
    tensors = {}
    for (layer, module), pair in adapter.pairs.items():
        for side, values in zip("AB", pair, strict=True):
            tensors[f"base_model.model.model.layers.{layer}.{module}.lora_{side}.weight"] = values
    write_safetensors(folder / "adapter_model.safetensors", tensors)
    return folder


def write_gguf(path: Path, adapter: Adapter) -> Path:
    """A file as llama.cpp's converter writes one: query and key rows in the order of its `llama`."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(adapter.alpha))
    for (layer, module), (a, b) in adapter.pairs.items():
        heads = {"self_attn.q_proj": HEADS, "self_attn.k_proj": KV_HEADS}.get(module)
        if heads:
            rows, cols = b.shape
            b = b.reshape(heads, 2, rows // heads // 2, cols).swapaxes(1, 2).reshape(rows, cols)
        name = f"blk.{layer}.{MODULES[module][2]}.weight.lora_"
        writer.add_tensor(name + "a", a)
        writer.add_tensor(name + "b", np.ascontiguousarray(b))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_model(folder: Path, adapter: Adapter | None = None) -> Path:
    """The demo model in f32, with the adapter merged into it."""
    shutil.copytree(DEMO_MODEL, folder)
    tensors = demo_tensors()
    for (layer, module), (a, b) in (adapter.pairs if adapter else {}).items():
        change = b.astype(np.float64) @ a.astype(np.float64) * (adapter.alpha / adapter.rank)
        tensors[f"model.layers.{layer}.{module}.weight"] += change
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


def demo_tensors() -> dict[str, np.ndarray]:
    """The demo model's tensors, which are stored in bf16."""
    raw = (DEMO_MODEL / "model.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    tensors = {}
    for name, info in header.items():
        if name != "__metadata__":
            start, end = info["data_offsets"]
            bits = np.frombuffer(data[start:end], dtype=np.uint16).astype(np.uint32) << 16
            tensors[name] = bits.view(np.float32).astype(np.float64).reshape(info["shape"])
    return tensors
