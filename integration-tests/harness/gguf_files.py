"""GGUF files of the demo model, written by `weirgate quantize` and by the `gguf` package."""

import json
import subprocess
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind

from .checkpoints import copy_of_demo, read_safetensors
from .quantized_checkpoints import Stored, write_tensors
from .server import BINARY, DEMO_MODEL, clean_environment

PARTS = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down"}  # fmt: skip


def quantize(out: Path, kind: str, folder: Path = DEMO_MODEL) -> str:
    """Runs `weirgate quantize` and returns what it printed."""
    done = subprocess.run(
        [str(BINARY), "quantize", str(folder), str(out), "--type", kind],
        env=clean_environment(None),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def requantize(source: Path, out: Path, kind: Kind, **sizes: int):
    """A copy of `source` whose matrices the `gguf` package has quantized; with further keys of its architecture."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(out, arch=reader.get_field("general.architecture").contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        element = field.types[1] if len(field.types) > 1 else None
        writer.add_key_value(field.name, field.contents(), field.types[0], element)
    for name, size in sizes.items():
        writer.add_uint32(f"{writer.arch}.{name}", size)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        if values.ndim == 1:
            writer.add_tensor(tensor.name, values.astype(np.float32))
        else:
            writer.add_tensor(tensor.name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(name: str) -> str:
    """Of one of the demo model's matrices."""
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    _, _, layer, part = name.removesuffix(".weight").split(".", 3)
    return f"blk.{layer}.{PARTS[part]}.weight"


def heads_of(name: str) -> int | None:
    """Of the matrices whose rows GGUF has in another order."""
    config = json.loads((DEMO_MODEL / "config.json").read_text())
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    return next((count for part, count in heads.items() if f".{part}." in name), None)


def by_neighbours(values: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp rotates neighbours, (0, 1), (2, 3), …; the checkpoint halves, (0, d/2), (1, d/2 + 1), …."""
    rows, columns = values.shape
    return values.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def by_halves(values: np.ndarray, heads: int) -> np.ndarray:
    rows, columns = values.shape
    return values.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def original_tensors() -> dict[str, np.ndarray]:
    """The demo model's matrices in f32, under GGUF's names, rows in GGUF's order."""
    header, data = read_safetensors(DEMO_MODEL / "model.safetensors")
    tensors = {}
    for stored, info in header.items():
        if stored == "__metadata__" or len(info["shape"]) != 2:
            continue
        start, end = info["data_offsets"]
        bits = np.frombuffer(data[start:end], dtype=np.uint16).astype(np.uint32) << 16
        values, name = bits.view(np.float32).reshape(info["shape"]), gguf_name(stored)
        heads = heads_of(name)
        tensors[name] = by_neighbours(values, heads) if heads else values
    return tensors


def write_widened(source: Path, folder: Path) -> Path:
    """The demo model's folder with the matrices of `source` in f32, as the `gguf` package reads them."""
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(source).tensors}
    copy_of_demo(folder)
    header, data = read_safetensors(folder / "model.safetensors")
    tensors = {}
    for original, info in header.items():
        if original == "__metadata__":
            continue
        start, end = info["data_offsets"]
        if len(info["shape"]) != 2:
            tensors[original] = Stored(info["dtype"], info["shape"], data[start:end])
            continue
        name = gguf_name(original)
        values = gguf.quants.dequantize(stored[name].data, stored[name].tensor_type).astype(np.float32)
        assert list(values.shape) == info["shape"], name
        heads = heads_of(name)
        tensors[original] = by_halves(values, heads) if heads else values
    write_tensors(folder / "model.safetensors", tensors)
    return folder
