"""GGUF files of the demo model, written by `weirgate quantize` and by the `gguf` package."""

import json
import subprocess
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind

from .server import BINARY, DEMO_MODEL, clean_environment


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


def requantize(source: Path, out: Path, kind: Kind):
    """A copy of `source` whose matrices the `gguf` package has quantized."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(out, arch=reader.get_field("general.architecture").contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        element = field.types[1] if len(field.types) > 1 else None
        writer.add_key_value(field.name, field.contents(), field.types[0], element)
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


def original_tensors() -> dict[str, np.ndarray]:
    """The demo model's matrices in f32, under GGUF's names, rows in GGUF's order."""
    config = json.loads((DEMO_MODEL / "config.json").read_text())
    raw = (DEMO_MODEL / "model.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    parts = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
             "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
             "mlp.down_proj": "ffn_down"}  # fmt: skip
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    tensors = {}
    for name, info in header.items():
        if name == "__metadata__" or len(info["shape"]) != 2:
            continue
        start, end = info["data_offsets"]
        bits = np.frombuffer(data[start:end], dtype=np.uint16).astype(np.uint32) << 16
        values = bits.view(np.float32).reshape(info["shape"])
        if name == "model.embed_tokens.weight":
            tensors["token_embd.weight"] = values
            continue
        _, _, layer, part = name.removesuffix(".weight").split(".", 3)
        part = parts[part]
        if part in heads:
            # llama.cpp rotates neighbours, (0, 1), (2, 3), …; the checkpoint halves, (0, d/2), (1, d/2 + 1), ….
            rows, columns = values.shape
            halves = values.reshape(heads[part], 2, rows // heads[part] // 2, columns)
            values = halves.swapaxes(1, 2).reshape(rows, columns)
        tensors[f"blk.{layer}.{part}.weight"] = values
    return tensors
