"""Model folders made from the demo model, each broken in one way."""

import json
import shutil
import struct
from pathlib import Path

from .server import DEMO_MODEL


def copy_of_demo(folder: Path) -> Path:
    """Config and tokenizer copied, weights copied too (they are small), so that a test may change any of it."""
    shutil.copytree(DEMO_MODEL, folder)
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
