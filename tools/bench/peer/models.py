"""Random weights in the shapes of known models: f16 by the `gguf` package, quantized by llama.cpp's own quantizer."""

import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from paths import MODELS, PEER_BIN, ROOT

sys.path.insert(0, str(ROOT / "tools/bench"))

import make_random_model as qwen  # noqa: E402

SEED = 20251
CONTEXT = 4096


@dataclass(frozen=True)
class Shape:
    name: str
    architecture: str
    pre_tokenizer: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    first_special: int
    rope_base: float
    norm_eps: float
    qkv_bias: bool
    quantizations: tuple[str, ...]


SHAPES = (
    Shape(
        *("Llama-3.2-1B", "llama", "llama-bpe", 16, 2048, 8192, 32, 8, 128_256, 128_000, 500_000.0, 1e-5, False),
        ("Q8_0", "Q4_K_M", "Q4_0"),
    ),
    # K types take 256 columns, and 896 is no multiple of that.
    Shape(
        *("Qwen2.5-0.5B", "qwen2", "qwen2", qwen.LAYERS, qwen.HIDDEN, qwen.INTERMEDIATE, qwen.HEADS, qwen.KV_HEADS),
        *(qwen.VOCABULARY, qwen.FIRST_SPECIAL, 1_000_000.0, 1e-6, True),
        ("Q8_0", "Q4_0"),
    ),
)


@dataclass(frozen=True)
class Model:
    """One file, and what a product with all of its matrices takes."""

    shape: str
    quantization: str
    path: Path
    types: dict[str, str]
    """Matrix, without its layer's number → its types and how often they occur."""
    prompt_operations: int
    """Multiplications and additions for a token in all matrices but the head."""
    head_operations: int
    """The same in the head, which a prompt needs once, a token generated always."""
    read_bytes: int
    """Bytes of weights that a step of decoding reads: all of them, the embedding as the head."""

    @property
    def name(self) -> str:
        return f"{self.shape} {self.quantization}"


def models(names: list[str]) -> list[Model]:
    """Those whose names are asked for (all where none is), made where they are not there yet."""
    MODELS.mkdir(parents=True, exist_ok=True)
    chosen = []
    for shape in SHAPES:
        wanted = [q for q in shape.quantizations if not names or f"{shape.name} {q}" in names]
        paths = [MODELS / f"{shape.name.lower()}-{q.lower()}.gguf" for q in wanted]
        missing = {q: path for q, path in zip(wanted, paths, strict=True) if not path.exists()}
        if missing:
            make(shape, missing)
        chosen += [describe(shape, q, path) for q, path in zip(wanted, paths, strict=True)]
    return chosen


def make(shape: Shape, paths: dict[str, Path]):
    f16 = MODELS / f"{shape.name.lower()}-f16.gguf"
    write(shape, f16)
    for quantization, path in paths.items():
        partial = path.with_suffix(".partial")
        subprocess.run([PEER_BIN / "llama-quantize", f16, partial, quantization, "2"], check=True)
        partial.rename(path)
    f16.unlink()


def tensors(shape: Shape):
    """GGUF's name → shape, rows first."""
    head = shape.hidden // shape.heads
    yield "token_embd.weight", (shape.vocabulary, shape.hidden)
    yield "output_norm.weight", (shape.hidden,)
    for layer in range(shape.layers):
        block = f"blk.{layer}"
        yield f"{block}.attn_norm.weight", (shape.hidden,)
        yield f"{block}.ffn_norm.weight", (shape.hidden,)
        for name, heads in (("q", shape.heads), ("k", shape.kv_heads), ("v", shape.kv_heads)):
            yield f"{block}.attn_{name}.weight", (heads * head, shape.hidden)
            if shape.qkv_bias:
                yield f"{block}.attn_{name}.bias", (heads * head,)
        yield f"{block}.attn_output.weight", (shape.hidden, shape.hidden)
        for name in ("gate", "up"):
            yield f"{block}.ffn_{name}.weight", (shape.intermediate, shape.hidden)
        yield f"{block}.ffn_down.weight", (shape.hidden, shape.intermediate)


def write(shape: Shape, path: Path):
    writer = gguf.GGUFWriter(path, shape.architecture)
    writer.add_name(f"{shape.name} shape, random weights")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(CONTEXT)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.intermediate)
    writer.add_block_count(shape.layers)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.hidden // shape.heads)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    add_tokenizer(writer, shape)
    random = np.random.default_rng(SEED)
    for name, dims in tensors(shape):
        values = qwen.values(name, dims, random)
        writer.add_tensor(name, values if len(dims) == 1 else values.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tokenizer(writer: gguf.GGUFWriter, shape: Shape):
    """Byte-level BPE with a single merge: any text can be encoded, and every id can be decoded."""
    tokens = [*qwen.byte_characters(), "Ġw"]
    tokens += [f"Ġw{token}" for token in range(len(tokens), shape.first_special)]
    tokens += [f"<|special_{token}|>" for token in range(shape.first_special, shape.vocabulary)]
    control = shape.vocabulary - shape.first_special
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(shape.pre_tokenizer)
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * shape.first_special + [gguf.TokenType.CONTROL] * control)
    writer.add_token_merges(["Ġ w"])
    writer.add_bos_token_id(shape.first_special)
    writer.add_eos_token_id(shape.first_special + 1)
    writer.add_add_bos_token(False)


def describe(shape: Shape, quantization: str, path: Path) -> Model:
    types: dict[str, Counter] = {}
    operations = head = read = 0
    for tensor in gguf.GGUFReader(path).tensors:
        if len(tensor.shape) < 2:
            continue
        kind = ".".join(part for part in tensor.name.split(".") if not part.isdigit() and part not in ("blk", "weight"))
        types.setdefault(kind, Counter())[tensor.tensor_type.name] += 1
        read += int(tensor.n_bytes)
        if kind == "token_embd":
            head += 2 * int(tensor.n_elements)
        else:
            operations += 2 * int(tensor.n_elements)
    shown = {kind: ", ".join(f"{count} × {name}" for name, count in found.items()) for kind, found in types.items()}
    return Model(shape.name, quantization, path, shown, operations, head, read)
