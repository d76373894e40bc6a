"""Small files written by the `gguf` package, for the reader's tests.

    pip install gguf==0.19.0
    python tools/parity/gguf_samples.py models/tests/goldens
"""

import sys
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFEndian, GGUFValueType, GGUFWriter, quants


def add_metadata(writer):
    for name, kind, value in [
        ("u8", GGUFValueType.UINT8, 255), ("i8", GGUFValueType.INT8, -128),
        ("u16", GGUFValueType.UINT16, 65535), ("i16", GGUFValueType.INT16, -32768),
        ("u32", GGUFValueType.UINT32, 4294967295), ("i32", GGUFValueType.INT32, -2147483648),
        ("u64", GGUFValueType.UINT64, 2**53), ("i64", GGUFValueType.INT64, -(2**53)),
        ("f32", GGUFValueType.FLOAT32, 0.1), ("f64", GGUFValueType.FLOAT64, 0.1),
        ("flag", GGUFValueType.BOOL, True), ("text", GGUFValueType.STRING, "größer ▁ 🦙"),
    ]:
        writer.add_key_value(f"test.{name}", value, kind)
    writer.add_array("test.texts", ["", "a", "ßß"])
    writer.add_array("test.numbers", [3, -4, 5])


def add_tensors(writer):
    writer.add_tensor("f32", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.add_tensor("f16", np.arange(5, dtype=np.float16))
    blocks = quants.quantize(np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64), GGMLQuantizationType.Q8_0)
    writer.add_tensor("q8_0", blocks, raw_dtype=GGMLQuantizationType.Q8_0)
    writer.add_tensor("deep", np.arange(24, dtype=np.float32).reshape(2, 3, 4))


def write(path, **options):
    writer = GGUFWriter(path, "test", **options)
    add_metadata(writer)
    add_tensors(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main(folder):
    write(folder / "sample.gguf")
    write(folder / "big-endian.gguf", endianess=GGUFEndian.BIG)
    write(folder / "split.gguf", split_max_tensors=2)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
