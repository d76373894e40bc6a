"""Writes a checkpoint of Qwen2.5-0.5B's shape with random bf16 weights, to measure speed without any download.

    make_random_model.py [FOLDER]      default: out/random-qwen2-0.5b

Needs numpy only. The same seed gives the same bytes. Nothing is written if the folder is already complete.
"""

import json
import struct
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "out/random-qwen2-0.5b"
SEED = 20250
LAYERS, HIDDEN, INTERMEDIATE, VOCABULARY = 24, 896, 4864, 151_936
HEADS, KV_HEADS, HEAD_SIZE = 14, 2, 64
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
FIRST_SPECIAL = 151_643

CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "intermediate_size": INTERMEDIATE,
    "max_position_embeddings": 32_768,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": KV_HEADS,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": VOCABULARY,
    "bos_token_id": FIRST_SPECIAL,
    "eos_token_id": FIRST_SPECIAL + 2,
}
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def shapes() -> dict[str, tuple[int, ...]]:
    """Tensor name → shape, in file order. The head is tied to the embedding."""
    tensors = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        tensors[f"{prefix}.input_layernorm.weight"] = (HIDDEN,)
        tensors[f"{prefix}.post_attention_layernorm.weight"] = (HIDDEN,)
        for name, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            tensors[f"{prefix}.self_attn.{name}_proj.weight"] = (heads * HEAD_SIZE, HIDDEN)
            tensors[f"{prefix}.self_attn.{name}_proj.bias"] = (heads * HEAD_SIZE,)
        tensors[f"{prefix}.self_attn.o_proj.weight"] = (HIDDEN, HEADS * HEAD_SIZE)
        tensors[f"{prefix}.mlp.gate_proj.weight"] = (INTERMEDIATE, HIDDEN)
        tensors[f"{prefix}.mlp.up_proj.weight"] = (INTERMEDIATE, HIDDEN)
        tensors[f"{prefix}.mlp.down_proj.weight"] = (HIDDEN, INTERMEDIATE)
    tensors["model.norm.weight"] = (HIDDEN,)
    return tensors


def values(name: str, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """f32. Norms are one; matrices have variance 1 / inputs, so that activations keep their size through the layers."""
    if "norm" in name:
        return np.ones(shape, np.float32)
    scale = 0.02 if len(shape) == 1 else shape[-1] ** -0.5
    return random.standard_normal(shape, np.float32) * np.float32(scale)


def bf16(array: np.ndarray) -> np.ndarray:
    """The nearest bf16 of finite f32 values, ties to even, as its 16 bits."""
    bits = array.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write_weights(path: Path):
    header, offset = {}, 0
    for name, shape in shapes().items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    random = np.random.default_rng(SEED)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes().items():
            file.write(bf16(values(name, shape, random)).tobytes())


def byte_characters() -> list[str]:
    """The printable character that byte-level BPE writes for each byte, by byte value."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(0x100 + rest.index(byte)) for byte in range(256)]


def tokenizer(first_special: int = FIRST_SPECIAL) -> dict:
    """Byte-level BPE without merges: any text can be encoded, byte by byte, and every id up to the special tokens, which
    begin at `first_special`, can be decoded."""
    vocabulary = {character: byte for byte, character in enumerate(byte_characters())}
    for token in range(256, first_special):
        vocabulary[f"Ġw{token}"] = token
    added = [
        {"id": first_special + n, "content": text, "single_word": False, "lstrip": False, "rstrip": False}
        | {"normalized": False, "special": True}
        for n, text in enumerate(SPECIAL)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None}
        | {"end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": vocabulary, "merges": []},
    }


def write_json(path: Path, document: dict):
    path.write_text(json.dumps(document, ensure_ascii=False))


def main(folder: Path) -> Path:
    # Written last, so that its presence says that all the rest is there.
    complete = folder / "config.json"
    if complete.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(folder / "model.safetensors")
    write_json(folder / "tokenizer.json", tokenizer())
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": None,
            "eos_token": SPECIAL[2],
            "chat_template": CHAT_TEMPLATE,
            "model_max_length": CONFIG["max_position_embeddings"],
        },
    )
    write_json(folder / "generation_config.json", {"eos_token_id": [FIRST_SPECIAL + 2, FIRST_SPECIAL]})
    write_json(complete, CONFIG)
    return folder


if __name__ == "__main__":
    print(main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER))
