"""Checks answers against the shapes TGI publishes."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

CONTRACT = Path(__file__).resolve().parents[1] / "contracts/tgi-2.4.1.schema.json"


# What the contract itself says where the file above follows OpenAI.
TO_THE_LETTER = {
    "ChatCompletionDelta": {
        "type": "object",
        "required": ["role", "content"],
        "properties": {"role": {"type": "string"}, "content": {"type": "string"}},
    },
    "CompletionComplete": {
        "type": "object",
        "required": ["index", "text", "finish_reason"],
        "properties": {
            "finish_reason": {"type": "string"},
            "index": {"type": "integer", "minimum": 0},
            "logprobs": {"type": ["array", "null"], "items": {"type": "number"}},
            "text": {"type": "string"},
        },
    },
}


@cache
def _validator(name: str, to_the_letter: bool) -> jsonschema.Draft202012Validator:
    definitions = json.loads(CONTRACT.read_text())["$defs"]
    assert name in definitions, name
    if to_the_letter:
        assert TO_THE_LETTER.keys() <= definitions.keys()
        definitions |= TO_THE_LETTER
    return jsonschema.Draft202012Validator({"$defs": definitions, "$ref": f"#/$defs/{name}"})


def conforms(name: str, value: Any, to_the_letter: bool = False):
    """Fails unless `value` is a TGI `name`; `to_the_letter` also where OpenAI's clients expect something else."""
    validator = _validator(name, to_the_letter)
    errors = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]
    assert not errors, f"not a {name}: {errors}\n{json.dumps(value)}"
