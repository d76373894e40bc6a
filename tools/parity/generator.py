"""The portable weight generator, in numpy. `testkit/src/generator.rs` is the same in Rust; both check themselves
against the constants below, so a change on one side alone is caught."""

import json
from pathlib import Path

import numpy as np

CHECKPOINTS = Path(__file__).resolve().parents[2] / "testkit" / "checkpoints"
GOLDEN_RATIO = np.uint64(0x9E3779B97F4A7C15)


def splitmix64(state):
    """The output of splitmix64 for each state, before the increment: state is `seed + n * GOLDEN_RATIO`."""
    with np.errstate(over="ignore"):
        z = np.asarray(state, dtype=np.uint64) + GOLDEN_RATIO
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def fnv1a(text):
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value


def stream(seed, name, count):
    """`count` pseudo-random 64-bit words that belong to `(seed, name)`."""
    with np.errstate(over="ignore"):
        start = splitmix64(np.uint64(seed)) ^ np.uint64(fnv1a(name))
        return splitmix64(start + np.arange(count, dtype=np.uint64) * GOLDEN_RATIO)


def uniform(seed, name, count):
    """f32 values in [-1, 1), each a multiple of 2^-23."""
    return ((stream(seed, name, count) >> np.uint64(40)).astype(np.float32) - np.float32(2**23)) / np.float32(2**23)


def tensor(definition, name, shape):
    """The f32 values of a tensor before rounding to the checkpoint's dtype."""
    center, scale = 0.0, 0.3
    if name.endswith("norm.weight"):
        center = definition["norm_center"]
    elif name == "model.embed_tokens.weight":
        scale = definition["embedding_scale"]
    elif len(shape) == 2:
        scale = 1.6 * (3.0 / shape[1]) ** 0.5
    values = uniform(definition["seed"], name, int(np.prod(shape)))
    return (np.float32(center) + np.float32(scale) * values).reshape(shape)


def to_bytes(values, dtype):
    """Rounded to nearest even and serialized."""
    if dtype == "F32":
        return values.astype("<f4").tobytes()
    if dtype == "F16":
        return values.astype("<f2").tobytes()
    bits = values.astype("<f4").view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return rounded.astype("<u2").tobytes()


def checksum(tensors):
    """A 64-bit sum over `{name: bytes}`; depends on every byte, its place and its tensor's name."""
    total = np.uint64(0)
    with np.errstate(over="ignore"):
        for name, data in tensors.items():
            words = np.frombuffer(data + bytes(-len(data) % 8), dtype="<u8")
            places = np.uint64(fnv1a(name)) + np.arange(len(words), dtype=np.uint64) * GOLDEN_RATIO
            total += splitmix64(words ^ splitmix64(places)).sum(dtype=np.uint64)
    return f"{int(total):016x}"


def prompt(seed, index, length, vocab):
    """`length` token ids below `vocab`; prompt `index` of the checkpoint with this seed."""
    return [int(word % np.uint64(vocab)) for word in stream(seed, f"prompt/{index}", length)]


# Eight short prompts, four that cross position 100 within 64 tokens, eight beyond it.
PROMPT_LENGTHS = [4 + 3 * k for k in range(8)] + [60 + 5 * k for k in range(4)] + [101 + 4 * k for k in range(8)]


def definitions():
    """`{name: definition}`, in order; `config` is the text of the checkpoint's config.json."""
    table = json.loads((CHECKPOINTS / "definitions.json").read_text())
    for name, definition in table.items():
        definition["config"] = (CHECKPOINTS / name / "config.json").read_text()
    return table


def self_check():
    """Against published values of the two functions, and against the constants the Rust side also asserts."""
    states = np.uint64(1234567) + np.arange(3, dtype=np.uint64) * GOLDEN_RATIO
    assert splitmix64(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert fnv1a("a") == 0xAF63DC4C8601EC8C and fnv1a("foobar") == 0x85944171F73967E8
    probe = {"seed": 7, "embedding_scale": 0.5, "norm_center": 1.0}
    sums = {}
    for dtype in ("F32", "F16", "BF16"):
        names = {"model.embed_tokens.weight": (11, 6), "model.norm.weight": (6,), "lm_head.weight": (11, 6)}
        sums[dtype] = checksum({n: to_bytes(tensor(probe, n, s), dtype) for n, s in names.items()})
    assert sums == PROBE_CHECKSUMS, sums
    assert prompt(7, 3, 4, 257) == PROBE_PROMPT, prompt(7, 3, 4, 257)


PROBE_CHECKSUMS = {"F32": "521d2503c39ad688", "F16": "32d53f809a1fbdbe", "BF16": "f3427c92b689942e"}
PROBE_PROMPT = [48, 65, 12, 111]

if __name__ == "__main__":
    self_check()
    print("the generator gives the expected values")
