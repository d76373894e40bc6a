"""The demo model as quantized checkpoints of the published formats, and the same weights as floats.

Matrices are rounded to a grid here, packed as the formats describe, and multiplied out in float32 for the reference.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .checkpoints import copy_of_demo, read_safetensors, write_safetensors
from .server import DEMO_MODEL

AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]
TYPES = {np.dtype("float32"): "F32", np.dtype("float16"): "F16", np.dtype("int32"): "I32", np.dtype("int64"): "I64",
         np.dtype("int8"): "I8"}  # fmt: skip


class Stored:
    """Bytes of a type that numpy lacks."""

    def __init__(self, dtype: str, shape, data: bytes):
        self.dtype, self.shape, self.data = dtype, list(shape), data


@dataclass
class Grid:
    """`scale * (code - zero)`: codes `[rows, cols]`, scales and zeros `[rows, groups]`, the group of each column."""

    bits: int
    codes: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray
    group_of: np.ndarray

    def values(self) -> np.ndarray:
        scales = self.scales.astype(np.float32)[:, self.group_of]
        return scales * (self.codes - self.zeros[:, self.group_of]).astype(np.float32)


def to_grid(values: np.ndarray, bits: int, group: int, symmetric: bool, order: np.ndarray | None = None) -> Grid:
    """Rounds to the nearest point; the columns of a group are neighbours in `order`."""
    rows, cols = values.shape
    group = group if group > 0 else cols
    order = np.arange(cols) if order is None else order
    group_of = np.empty(cols, np.int64)
    group_of[order] = np.arange(cols) // group
    parts = values[:, order].reshape(rows, cols // group, group)
    top = 2**bits - 1
    if symmetric:
        scales = np.abs(parts).max(axis=2) / (top // 2)
        zeros = np.full(scales.shape, 2 ** (bits - 1), np.int64)
    else:
        low, high = np.minimum(parts.min(axis=2), 0), np.maximum(parts.max(axis=2), 0)
        scales = (high - low) / top
    scales = np.maximum(scales, 1e-4).astype(np.float16)
    if not symmetric:
        zeros = np.clip(np.rint(-low / scales.astype(np.float32)), 0, top).astype(np.int64)
    steps = np.rint(values / scales.astype(np.float32)[:, group_of]).astype(np.int64)
    codes = np.clip(steps + zeros[:, group_of], 0, top)
    return Grid(bits, codes, scales, zeros, group_of)


def pack(fields: np.ndarray, bits: int) -> np.ndarray:
    """Packs along the first axis, from the lowest bits on, with zeros at the end."""
    per_word = 32 // bits
    fields = np.pad(fields, [(0, -len(fields) % per_word), (0, 0)]).astype(np.uint32)
    words = np.zeros((len(fields) // per_word, fields.shape[1]), np.uint32)
    for place in range(per_word):
        words |= fields[place::per_word] << np.uint32(bits * place)
    return words.view(np.int32)


def awq(grid: Grid) -> dict:
    def words(fields):
        """Eight neighbours of a row of `[n, rows]` in a word."""
        eights = fields.reshape(fields.shape[0], -1, 8)[:, :, AWQ_ORDER]
        return np.ascontiguousarray(pack(eights.reshape(-1, 8).T, 4).reshape(fields.shape[0], -1))

    return {"qweight": words(grid.codes.T), "qzeros": words(grid.zeros.T), "scales": np.ascontiguousarray(grid.scales.T)}


def gptq(grid: Grid, less_one: bool) -> dict:
    zeros = (grid.zeros - int(less_one)) & (2**grid.bits - 1)
    return {
        "qweight": pack(grid.codes.T, grid.bits),
        "qzeros": np.ascontiguousarray(pack(zeros, grid.bits).T),
        "scales": np.ascontiguousarray(grid.scales.T),
        "g_idx": grid.group_of.astype(np.int32),
    }


def packed(grid: Grid, with_zeros: bool) -> dict:
    tensors = {
        "weight_packed": np.ascontiguousarray(pack(grid.codes.T, grid.bits).T),
        "weight_scale": grid.scales,
        "weight_shape": np.array(grid.codes.shape, np.int64),
    }
    return tensors | ({"weight_zero_point": pack(grid.zeros, grid.bits)} if with_zeros else {})


def int8(grid: Grid) -> dict:
    return {"weight": (grid.codes - 128).astype(np.int8), "weight_scale": grid.scales.astype(np.float32)}


def e4m3_values() -> np.ndarray:
    """What the bytes 0 to 126 stand for, ascending."""
    byte = np.arange(127)
    exponent, mantissa = byte >> 3, byte & 7
    return np.where(exponent == 0, mantissa / 512, (1 + mantissa / 8) * 2.0 ** (exponent - 7)).astype(np.float32)


def fp8(values: np.ndarray, scales: np.ndarray, name: str = "weight_scale") -> tuple[dict, np.ndarray]:
    """The nearest floats; scales `[rows, cols]`, `[rows, 1]`, one, or one for each block of 128 x 128."""
    rows, cols = values.shape
    in_blocks = name.endswith("_inv")
    spread = np.kron(scales, np.ones((128, 128), np.float32))[:rows, :cols] if in_blocks else scales
    known = e4m3_values()
    scaled = np.abs(values / spread)
    above = np.clip(np.searchsorted(known, scaled), 1, 126)
    nearest = np.where(known[above] - scaled < scaled - known[above - 1], above, above - 1)
    data = (nearest + 128 * (values < 0)).astype(np.uint8)
    tensors = {"weight": Stored("F8_E4M3", values.shape, data.tobytes()), name: scales.astype(np.float32)}
    return tensors, np.sign(values) * known[nearest] * spread


def scales_of(values: np.ndarray, kind: str) -> np.ndarray:
    """What makes 448 of the largest magnitude of a matrix, a row or a block."""
    rows, cols = values.shape
    size = np.abs(values)
    if kind == "row":
        largest = size.max(axis=1, keepdims=True)
    elif kind == "block":
        padded = np.pad(size, [(0, -rows % 128), (0, -cols % 128)])
        largest = padded.reshape(len(padded) // 128, 128, -1, 128).max(axis=(1, 3))
    else:
        largest = size.max().reshape(1)
    return (largest / 448).astype(np.float32)


def gptq_config(bits: int, **more) -> dict:
    return {"quant_method": "gptq", "bits": bits, "group_size": 128, "damp_percent": 0.01} | more


def compressed_config(form: str, **weights) -> dict:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    return {"quant_method": "compressed-tensors", "format": form, "quantization_status": "compressed",
            "config_groups": {"group_0": group}, "ignore": ["lm_head"], "kv_cache_scheme": None}  # fmt: skip


@dataclass
class Scheme:
    """How a checkpoint is quantized; `to_grid`'s arguments but the values, or the kind of scales of fp8."""

    config: dict
    bits: int = 4
    group: int = 128
    symmetric: bool = True
    shuffled: bool = False
    floats: str | None = None
    extra: dict = field(default_factory=dict)

    def matrix(self, values: np.ndarray, rng: np.random.Generator) -> tuple[dict, np.ndarray]:
        """The tensors that a matrix becomes, by the ends of their names, and what they mean."""
        if self.floats:
            name = "weight_scale_inv" if self.floats == "block" else "weight_scale"
            tensors, meant = fp8(values, scales_of(values, self.floats), name)
            return tensors | self.extra, meant
        order = rng.permutation(values.shape[1]) if self.shuffled else None
        grid = to_grid(values, self.bits, self.group, self.symmetric, order)
        method, form = self.config["quant_method"], self.config.get("format")
        if method == "awq":
            return awq(grid), grid.values()
        if method == "gptq":
            return gptq(grid, self.config.get("checkpoint_format") != "gptq_v2"), grid.values()
        if form == "int-quantized":
            return int8(grid), grid.values()
        return packed(grid, not self.symmetric), grid.values()


SCHEMES = {
    "awq": Scheme(
        {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "gemm"},
        group=64,
        symmetric=False,
    ),
    "gptq-4bit": Scheme(gptq_config(4, sym=True, desc_act=False)),
    "gptq-4bit-asym": Scheme(gptq_config(4, sym=False, desc_act=False), symmetric=False),
    "gptq-4bit-v2": Scheme(gptq_config(4, sym=False, checkpoint_format="gptq_v2"), symmetric=False),
    "gptq-4bit-act": Scheme(gptq_config(4, sym=True, desc_act=True), shuffled=True),
    "gptq-8bit": Scheme(gptq_config(8, sym=True), bits=8, group=-1),
    "gptq-8bit-asym": Scheme(gptq_config(8, sym=False), bits=8, symmetric=False),
    "fp8": Scheme(
        {"quant_method": "fp8", "activation_scheme": "static"},
        floats="matrix",
        extra={"input_scale": np.ones(1, np.float32)},
    ),
    "fp8-blocks": Scheme(
        {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}, floats="block"
    ),
    "w4a16": Scheme(compressed_config("pack-quantized", num_bits=4, type="int", strategy="group"), group=32),
    "w4a16-asym": Scheme(
        compressed_config("pack-quantized", num_bits=4, type="int", strategy="group"), symmetric=False
    ),
    "w8a16": Scheme(compressed_config("pack-quantized", num_bits=8, type="int", strategy="channel"), bits=8, group=-1),
    "w8a8": Scheme(compressed_config("int-quantized", num_bits=8, type="int", strategy="channel"), bits=8, group=-1),
    "w8a8-fp8": Scheme(compressed_config("float-quantized", num_bits=8, type="float", strategy="channel"), floats="row"),
}


def write_tensors(path: Path, tensors: dict):
    header, parts, at = {}, [], 0
    for name, tensor in tensors.items():
        if isinstance(tensor, Stored):
            dtype, shape, data = tensor.dtype, tensor.shape, tensor.data
        else:
            dtype, shape, data = TYPES[tensor.dtype], list(tensor.shape), np.ascontiguousarray(tensor).tobytes()
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        parts.append(data)
        at += len(data)
    write_safetensors(path, header, b"".join(parts))


def write_both(folder: Path, scheme: Scheme) -> tuple[Path, Path]:
    """The demo model quantized, and with the quantized weights as float32."""
    header, data = read_safetensors(DEMO_MODEL / "model.safetensors")
    rng = np.random.default_rng(7)
    quantized, floats = {}, {}
    for name, info in header.items():
        if name == "__metadata__":
            continue
        begin, end = info["data_offsets"]
        if "_proj." not in name:
            quantized[name] = floats[name] = Stored(info["dtype"], info["shape"], data[begin:end])
            continue
        values = np.frombuffer(data[begin:end], "<u2").astype(np.uint32) << 16
        tensors, meant = scheme.matrix(values.view(np.float32).reshape(info["shape"]), rng)
        module = name.removesuffix(".weight")
        quantized |= {f"{module}.{part}": tensor for part, tensor in tensors.items()}
        floats[name] = meant.astype(np.float32)
    folders = copy_of_demo(folder / "quantized"), copy_of_demo(folder / "floats")
    for target, tensors in zip(folders, (quantized, floats), strict=True):
        write_tensors(target / "model.safetensors", tensors)
    config = json.loads((folders[0] / "config.json").read_text())
    (folders[0] / "config.json").write_text(json.dumps(config | {"quantization_config": scheme.config}))
    return folders
