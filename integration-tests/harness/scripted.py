"""A model that writes a script: the demo model whose layers add nothing, so that each token decides the next one."""

import random
import struct
from pathlib import Path

from tokenizers import Tokenizer

from .checkpoints import copy_of_demo, edit_json, read_safetensors, write_safetensors

END = 1
#: A line of the script wins over chance, which is one for a sum of 256 signs.
WEIGHT = 1 / 16


def bfloat16(number: float) -> bytes:
    return struct.pack("<f", number)[2:]


def scripted(folder: Path, lines: list[tuple[str, str]], template: str) -> Path:
    """A model in `folder` that, after a prompt that ends with a line's first text, writes its second one and ends. No two
    lines may go on differently after the same token."""
    copy_of_demo(folder)
    edit_json(folder / "config.json", tie_word_embeddings=False)
    edit_json(folder / "tokenizer_config.json", chat_template=template)
    header, data = read_safetensors(folder / "model.safetensors")
    vocabulary, width = header["model.embed_tokens.weight"]["shape"]
    follows = transitions(Tokenizer.from_file(str(folder / "tokenizer.json")), lines)
    rng = random.Random(3)
    signs = [[rng.choice((-1, 1)) for _ in range(width)] for _ in range(vocabulary)]
    head = [[0.0] * width for _ in range(vocabulary)]
    for token, after in follows.items():
        head[after] = [weight + WEIGHT * sign for weight, sign in zip(head[after], signs[token])]
    parts = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        added = name.endswith(("o_proj.weight", "down_proj.weight"))
        parts[name] = (entry, bytes(end - begin) if added else data[begin:end])
    entry = header["model.embed_tokens.weight"]
    parts["model.embed_tokens.weight"] = (entry, b"".join(bfloat16(sign) for row in signs for sign in row))
    parts["lm_head.weight"] = (dict(entry), b"".join(bfloat16(weight) for row in head for weight in row))
    parts["model.norm.weight"] = (header["model.norm.weight"], bfloat16(1) * width)
    write(folder / "model.safetensors", parts)
    return folder


def transitions(tokenizer: Tokenizer, lines: list[tuple[str, str]]) -> dict[int, int]:
    follows: dict[int, int] = {}
    for prompt, text in lines:
        last = tokenizer.encode(prompt, add_special_tokens=False).ids[-1]
        tokens = [last, *tokenizer.encode(text, add_special_tokens=False).ids, END]
        for token, after in zip(tokens, tokens[1:]):
            assert follows.setdefault(token, after) == after, f"two ways on after {tokenizer.id_to_token(token)!r}"
    return follows


def write(path: Path, parts: dict[str, tuple[dict, bytes]]):
    header, data, at = {}, [], 0
    for name, (entry, values) in parts.items():
        header[name] = entry | {"data_offsets": [at, at + len(values)]}
        data.append(values)
        at += len(values)
    write_safetensors(path, header, b"".join(data))
