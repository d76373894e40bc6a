"""Goldens of the block types: random bytes, and what the `gguf` package makes of them.

    pip install gguf==0.19.0
    python tools/parity/gguf_blocks.py models/tests/goldens/gguf_blocks.bin

The file is a sequence of records: the type's name (16 bytes, padded with zeros), the number of bytes of blocks and of
f32 values (u32 each), the blocks, the values.
"""

import struct
import sys

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T

BLOCKS = {32: 24, 256: 8}
# Where each type keeps its f16 numbers, which must be finite for a comparison to mean something.
HALVES = {
    T.Q8_0: [0], T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2],
    T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208],
    T.IQ4_NL: [0], T.IQ4_XS: [0], T.MXFP4: [],
}


def blocks_of(kind, rng):
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (BLOCKS[elements], size), dtype=np.uint8)
    for at in HALVES[kind]:
        halves = rng.normal(0, 0.1, len(blocks)).astype(np.float16)
        # The smallest and the largest numbers too, and both zeros.
        halves[:5] = np.array([0.0, -0.0, 6e-8, 65504.0, -65504.0], dtype=np.float16)
        blocks[:, at:at + 2] = rng.permutation(halves).view(np.uint8).reshape(-1, 2)
    if kind == T.MXFP4:
        # 12 * 2 ** 124 is the largest value that f32 can hold.
        blocks[:, 0] = rng.integers(96, 160, len(blocks))
        blocks[:6, 0] = [0, 1, 2, 127, 128, 251]
    return blocks


def main(path):
    rng = np.random.default_rng(20)
    with open(path, "wb") as out:
        for kind in HALVES:
            blocks = blocks_of(kind, rng)
            values = gguf.quants.dequantize(blocks.reshape(-1), kind).astype(np.float32)
            assert np.isfinite(values).all(), kind
            out.write(struct.pack("<16sII", kind.name.encode(), blocks.size, values.size))
            out.write(blocks.tobytes())
            out.write(values.tobytes())


if __name__ == "__main__":
    main(sys.argv[1])
