"""Checks answers against the shapes TGI publishes."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

CONTRACT = Path(__file__).resolve().parents[1] / "contracts/tgi-2.4.1.schema.json"


@cache
def _validator(name: str) -> jsonschema.Draft202012Validator:
    document = json.loads(CONTRACT.read_text())
    assert name in document["$defs"], name
    return jsonschema.Draft202012Validator({"$defs": document["$defs"], "$ref": f"#/$defs/{name}"})


def conforms(name: str, value: Any):
    """Fails unless `value` is a TGI `name`."""
    errors = [f"{error.json_path}: {error.message}" for error in _validator(name).iter_errors(value)]
    assert not errors, f"not a {name}: {errors}\n{json.dumps(value)}"
