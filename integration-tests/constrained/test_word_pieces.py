"""A model whose tokens are word pieces: most begin with a blank, which the decoder leaves out before some."""

import json
import re
import string

import pytest
from harness.checkpoints import copy_of_demo

from constrained import cases, generate

SIZE = 4096
SPECIAL = ["<|pad|>", "<|end|>", "<|start|>"]
SCHEMAS = [
    {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "size": {"enum": ["s", "x, y", "don't go"]}},
        "required": ["name", "size"],
        "additionalProperties": False,
    },
    {"type": "array", "items": {"type": "integer", "minimum": -5, "maximum": 120}, "minItems": 2, "maxItems": 5},
    {"type": "string", "pattern": "^[a-c]{2}, [0-9]+!?$", "maxLength": 12},
    {"anyOf": [{"const": {"a": [True, None]}}, {"const": "a b"}]},
    {"type": "object", "properties": {"when": {"type": "string", "format": "date"}}, "required": ["when"],
     "additionalProperties": False},
]  # fmt: skip


def word_pieces(words: list[str]) -> dict:
    """A tokenizer.json with every printable character, as a word of its own and within words, and some words."""
    characters = [c for c in string.printable if not c.isspace()]
    texts = SPECIAL + ["[UNK]"] + characters + ["##" + c for c in characters]
    texts += sorted({word for word in words if re.fullmatch("[a-zA-Z]{2,}", word)})
    texts = texts[:SIZE]
    texts += [f"##unused{n}" for n in range(SIZE - len(texts))]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": n, "content": text} | flags for n, text in enumerate(SPECIAL)],
        "normalizer": None,
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": None,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "vocab": {text: n for n, text in enumerate(texts)},
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
        },
    }


@pytest.mark.timeout(120)
def test_what_word_pieces_write_is_valid(start_server, tmp_path):
    folder = copy_of_demo(tmp_path / "pieces")
    path = folder / "tokenizer.json"
    words = [text.lstrip("Ġ") for text in json.loads(path.read_text())["model"]["vocab"]]
    path.write_text(json.dumps(word_pieces(words)))
    server = start_server("--model-id", str(folder))
    jobs = [("json", schema) for schema in SCHEMAS for _ in range(10)]
    outcome = generate.run(server.port, jobs, generate.grammar)
    assert not outcome.refused, outcome.refused[:3]
    assert not outcome.wrong, outcome.wrong[:3]
    assert outcome.finished >= 40, outcome
    assert cases.violation("json", jobs[0][1], "{}")
