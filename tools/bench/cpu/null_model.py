"""A checkpoint with next to no arithmetic, a Qwen2 of one layer and 32 channels: what a server does beside it is its
own overhead. Its tokens are words, never parts of characters. Needs numpy only; nothing is written if it is there."""

import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "tools/bench"), str(ROOT / "integration-tests")]

import make_random_model as qwen  # noqa: E402
from harness.checkpoints import write_safetensors  # noqa: E402

FOLDER = ROOT / "out/null-model"
HIDDEN, HEADS, FIRST_SPECIAL = 32, 1, 384
VOCABULARY = FIRST_SPECIAL + len(qwen.SPECIAL)

CONFIG = qwen.CONFIG | {
    "hidden_size": HIDDEN,
    "intermediate_size": HIDDEN,
    "max_position_embeddings": 4096,
    "num_attention_heads": HEADS,
    "num_hidden_layers": 1,
    "num_key_value_heads": HEADS,
    "vocab_size": VOCABULARY,
    "bos_token_id": FIRST_SPECIAL,
    "eos_token_id": FIRST_SPECIAL + 2,
}


def tensors() -> dict[str, tuple[int, ...]]:
    layer, square = "model.layers.0", (HIDDEN, HIDDEN)
    shapes = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "model.norm.weight": (HIDDEN,)}
    shapes |= {f"{layer}.{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
    shapes |= {f"{layer}.self_attn.{name}_proj.weight": square for name in "qkvo"}
    shapes |= {f"{layer}.self_attn.{name}_proj.bias": (HIDDEN,) for name in "qkv"}
    return shapes | {f"{layer}.mlp.{name}_proj.weight": square for name in ("gate", "up", "down")}


def weights(path: Path):
    random = np.random.default_rng(qwen.SEED)
    header, data = {}, b""
    for name, shape in tensors().items():
        values = qwen.values(name, shape, random)
        part = qwen.bf16(values).tobytes()
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [len(data), len(data) + len(part)]}
        data += part
    write_safetensors(path, header, data)


def main(folder: Path = FOLDER) -> Path:
    complete = folder / "config.json"
    if not complete.exists():
        folder.mkdir(parents=True, exist_ok=True)
        weights(folder / "model.safetensors")
        qwen.write_json(folder / "tokenizer.json", qwen.tokenizer(FIRST_SPECIAL))
        qwen.write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
        qwen.write_json(complete, CONFIG)
    return folder


if __name__ == "__main__":
    print(main())
