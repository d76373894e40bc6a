"""Random small schemas, and which texts of a few pieces are valid under each: grammar/tests/data/schemas.jsonl.gz.

    .venv/test/bin/python tools/constraints/make_goldens.py

The first line has the pieces, how many of them a text has at most, and all such texts that are JSON. Every other line
has a schema, a bitmap in hexadecimal of the texts that are valid (`jsonschema` says so, and properties come in the
schema's order), and whether the schema leaves a value open, of which a backend may take a part only. Texts with a
negative zero, or a key that comes twice, are left out.
"""

import gzip
import itertools
import json
import random
from pathlib import Path

import jsonschema

OUT = Path(__file__).resolve().parents[2] / "grammar/tests/data/schemas.jsonl.gz"
PIECES = ["{", "}", "[", "]", ",", '"', "a", '"a":', '"b":', ',"b":', "1", "-", "0", "true", "null"]
LENGTH = 6
SCHEMAS = 160
NAMES = ["a", "b"]


def texts() -> dict:
    """The JSON texts of the pieces, each once, with its value. They are too short for a key within a key."""
    found = {}
    for length in range(1, LENGTH + 1):
        for pieces in sequences(length):
            text = "".join(pieces)
            if text not in found and not any(("-0" in text, *(text.count(f'"{name}":') > 1 for name in NAMES))):
                try:
                    found[text] = json.loads(text)
                except ValueError:
                    continue
    return found


def sequences(length: int):
    """All sequences but many that are no JSON by their first piece and their last."""
    if length == 1:
        yield from ((piece,) for piece in PIECES)
        return
    for first, last in (('"', '"'), ("{", "}"), ("[", "]")):
        yield from ((first, *rest, last) for rest in itertools.product(PIECES, repeat=length - 2))
    digits = [piece for piece in PIECES if piece in "01-"]
    yield from itertools.product(digits, repeat=length)


def schema(rng: random.Random, depth: int = 0) -> dict:
    simple = [_typed, _typed, _string, _enum, _integer]
    nested = [_array, _array, _tuple, _object, _object, _any_of, _ref, _map]
    return rng.choice(simple if depth > 1 else simple + nested * 2)(rng, depth)


def _typed(rng, _):
    return {"type": rng.choice(["boolean", "null", "integer", "string", ["integer", "null"], ["string", "boolean"]])}


def _string(rng, _):
    low = rng.randrange(3)
    return {"type": "string", "minLength": low, "maxLength": low + rng.randrange(3)}


def _integer(rng, _):
    low = rng.randrange(-12, 12)
    return {"type": "integer", "minimum": low, "maximum": low + rng.randrange(30)}


def _enum(rng, _):
    values = ["a", "", "aa", "-", 0, -1, 11, None, True, [1], [], {"a": 1}, {"b": [2]}, {}]
    chosen = rng.sample(values, rng.randrange(1, 5))
    return {"const": chosen[0]} if len(chosen) == 1 else {"enum": chosen}


def _array(rng, depth):
    low = rng.randrange(3)
    result = {"type": "array", "minItems": low}
    if rng.random() < 0.7:
        result["items"] = schema(rng, depth + 1)
    if rng.random() < 0.6:
        result["maxItems"] = low + rng.randrange(3)
    return result


def _tuple(rng, depth):
    items = [schema(rng, depth + 1) for _ in range(rng.randrange(1, 3))]
    return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}


def _object(rng, depth):
    names = NAMES[: rng.randrange(1, 3)]
    if rng.random() < 0.3:
        names = names[::-1]
    return {
        "type": "object",
        "properties": {name: schema(rng, depth + 1) for name in names},
        "required": [name for name in names if rng.random() < 0.5],
        "additionalProperties": False,
    }


def _map(rng, depth):
    result = {"type": "object", "minProperties": rng.randrange(2)}
    if rng.random() < 0.7:
        result["additionalProperties"] = schema(rng, depth + 1)
    return result


def _any_of(rng, depth):
    if rng.random() < 0.3:
        return {"oneOf": [{"type": "null"}, schema(rng, 2) | {"type": "integer"}]}
    return {"anyOf": [schema(rng, depth + 1) for _ in range(2)]}


def _ref(rng, depth):
    return {"$ref": f"#/$defs/{rng.choice('xy')}"}


def whole(rng: random.Random) -> dict:
    return schema(rng) | {"$defs": {"x": schema(rng, 2), "y": schema(rng, 2)}}


def in_order(schema, root, value) -> bool:
    """Whether the properties come as the schema lists them, under the parts of it that `value` is valid under."""
    if "$ref" in schema:
        return in_order(root["$defs"][schema["$ref"][-1]], root, value)
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema:
            parts = [part for part in schema[keyword] if valid(part, root, value)]
            return any(in_order(part, root, value) for part in parts)
    if isinstance(value, list):
        items = schema.get("prefixItems") or [schema.get("items", {})] * len(value)
        return all(in_order(item, root, each) for item, each in zip(items, value))
    if isinstance(value, dict) and not {"enum", "const"} & schema.keys():
        properties = schema.get("properties")
        known = [name for name in properties or value if name in value]
        parts = [(properties or {}).get(name, schema.get("additionalProperties", {})) for name in known]
        return list(value) == known and all(in_order(part, root, value[name]) for part, name in zip(parts, known))
    return True


def valid(schema, root, value) -> bool:
    return jsonschema.Draft202012Validator(schema | {"$defs": root["$defs"]}).is_valid(value)


def leaves_open(schema) -> bool:
    if not isinstance(schema, dict):
        return isinstance(schema, list) and any(map(leaves_open, schema))
    open_array = schema.get("type") == "array" and not {"items", "prefixItems"} & schema.keys()
    open_object = schema.get("type") == "object" and not {"properties", "additionalProperties"} & schema.keys()
    return open_array or open_object or any(map(leaves_open, schema.values()))


def main():
    universe = texts()
    rng = random.Random(11)
    lines = [{"pieces": PIECES, "length": LENGTH, "texts": list(universe)}]
    while len(lines) <= SCHEMAS:
        root = whole(rng)
        checker = jsonschema.Draft202012Validator(root)
        bits = ["1" if checker.is_valid(value) and in_order(root, root, value) else "0" for value in universe.values()]
        if "1" in bits:
            digits = -(-len(bits) // 4)
            bitmap = f"{int(''.join(bits).ljust(4 * digits, '0'), 2):0{digits}x}"
            lines.append({"schema": root, "open": leaves_open(root), "valid": bitmap})
    OUT.parent.mkdir(exist_ok=True)
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    OUT.write_bytes(gzip.compress(text.encode(), mtime=0))
    print(f"{OUT.name}: {len(universe)} texts, {SCHEMAS} schemas, {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
