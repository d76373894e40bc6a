"""Model folders made from the demo model, each broken in one way."""

import json
import shutil
import struct
from pathlib import Path

import numpy as np

from .server import DEMO_MODEL


def copy_of_demo(folder: Path) -> Path:
    """Config and tokenizer copied, weights copied too (they are small), so that a test may change any of it."""
    shutil.copytree(DEMO_MODEL, folder)
    return folder


def random_llama(folder: Path, seed: int, **sizes: int) -> Path:
    """A model of random weights in f16 with the demo model's tokenizer; `sizes`: `hidden_size`, `intermediate_size`,
    `num_hidden_layers` and `num_attention_heads`, of 64 elements each."""
    copy_of_demo(folder)
    config = json.loads((folder / "config.json").read_text())
    heads, hidden, wide = sizes["num_attention_heads"], sizes["hidden_size"], sizes["intermediate_size"]
    edit_json(folder / "config.json", **sizes, num_key_value_heads=heads, head_dim=64, tie_word_embeddings=True)
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden), "model.norm.weight": (hidden,)}
    for layer in range(sizes["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        shapes |= {f"{prefix}.self_attn.{name}_proj.weight": (64 * heads, hidden) for name in "qkv"}
        shapes |= {f"{prefix}.self_attn.o_proj.weight": (hidden, 64 * heads)}
        shapes |= {f"{prefix}.mlp.{name}_proj.weight": (wide, hidden) for name in ("gate", "up")}
        shapes[f"{prefix}.mlp.down_proj.weight"] = (hidden, wide)
        shapes |= {f"{prefix}.{name}_layernorm.weight": (hidden,) for name in ("input", "post_attention")}
    rng = np.random.default_rng(seed)
    header, parts, offset = {}, [], 0
    for name, shape in shapes.items():
        parts.append((rng.standard_normal(shape, dtype=np.float32) * 0.02).astype(np.float16).tobytes())
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [offset, offset + len(parts[-1])]}
        offset += len(parts[-1])
    write_safetensors(folder / "model.safetensors", header, b"".join(parts))
    return folder


def add_pooling(folder: Path, pooling: str) -> Path:
    """Makes a decoder's folder one of sentence-transformers'."""
    modules = [{"path": path, "type": kind} for path, kind in (("", "Transformer"), ("1_Pooling", "Pooling"))]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode": pooling}))
    return folder


def edit_json(path: Path, **changes):
    """Sets top-level keys; a value of `None` removes the key."""
    document = json.loads(path.read_text())
    for key, value in changes.items():
        if value is None:
            document.pop(key, None)
        else:
            document[key] = value
    path.write_text(json.dumps(document))


def read_safetensors(path: Path) -> tuple[dict, bytes]:
    """Header and data of a safetensors file (8 bytes of length, JSON, data)."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def write_safetensors(path: Path, header: dict, data: bytes):
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def drop_tensor(path: Path, name: str):
    """Removes one tensor and closes the gap, so that the file itself stays valid."""
    header, data = read_safetensors(path)
    begin, end = header.pop(name)["data_offsets"]
    for entry in header.values():
        if "data_offsets" in entry and entry["data_offsets"][0] >= end:
            entry["data_offsets"] = [offset - (end - begin) for offset in entry["data_offsets"]]
    write_safetensors(path, header, data[:begin] + data[end:])


def reshape_tensor(path: Path, name: str, shape: list[int]):
    """Gives a tensor another shape of as many elements."""
    header, data = read_safetensors(path)
    header[name]["shape"] = shape
    write_safetensors(path, header, data)
