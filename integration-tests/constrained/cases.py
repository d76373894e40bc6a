"""Schemas, regular expressions and tools, made from a seed; and what Python says about the texts they led to.

Sizes are bounded, so that even a model without any sense comes to an end.
"""

import json
import random
import re

import jsonschema

WORDS = ["id", "name", "größe", "is ok", "tags", "a/b", "ünit", "x", "value", "kind", "note", 'quo"te', "日本"]
PATTERNS = ["^[a-z]{2,5}$", "^[A-Z][0-9]{3}$", "^(red|green|blue)-[0-9a-f]{2}$", "^\\+?[0-9]{4,8}$"]
FORMATS = {
    "date": r"\d{4}-\d\d-\d\d",
    "uuid": r"[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}",
    "ipv4": r"(\d{1,3}\.){3}\d{1,3}",
}


def schema(rng: random.Random, depth: int = 0):
    """A schema whose values are small."""
    simple = [_string, _integer, _number, _enum, _const, lambda _: {"type": "boolean"}, lambda _: {"type": "null"}]
    nested = [_object, _object, _array, _tuple, _any_of, _nullable]
    return rng.choice(simple if depth > 2 else simple + nested * 2)(rng) if depth else _object(rng)


def _string(rng):
    kind = rng.randrange(4)
    if kind == 0:
        return {"type": "string", "pattern": rng.choice(PATTERNS)}
    if kind == 1:
        return {"type": "string", "format": rng.choice(list(FORMATS))}
    low = rng.randrange(3)
    return {"type": "string", "minLength": low, "maxLength": low + rng.randrange(8)}


def _integer(rng):
    low = rng.randrange(-1000, 1000)
    return {"type": "integer", "minimum": low, "maximum": low + rng.randrange(2000)}


def _number(rng):
    low = rng.randrange(-50, 50)
    return {"type": "number", "minimum": low, "maximum": low + rng.randrange(1, 80)}


def _enum(rng):
    values = ["a", "ä\n", 'say "hi"', 0, -1.5, None, True, [1, 2], {"k": "v"}]
    return {"enum": rng.sample(values, rng.randrange(1, 6))}


def _const(rng):
    return {"const": rng.choice(["fixed", 42, False, None, [], {"deep": {"er": 1}}])}


def _object(rng, depth=1):
    names = rng.sample(WORDS, rng.randrange(1, 5))
    required = [name for name in names if rng.random() < 0.6]
    properties = {name: schema(rng, depth + rng.randrange(1, 3)) for name in names}
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _array(rng):
    low = rng.randrange(2)
    return {"type": "array", "items": schema(rng, 3), "minItems": low, "maxItems": low + rng.randrange(3)}


def _tuple(rng):
    return {"type": "array", "prefixItems": [schema(rng, 3), schema(rng, 3)], "items": False, "minItems": 2}


def _any_of(rng):
    return {"anyOf": [_integer(rng), _string(rng), _object(rng, 2)]}


def _nullable(rng):
    return {"type": ["integer", "null"], "minimum": 0, "maximum": 99}


def regex(rng: random.Random, depth: int = 0) -> str:
    """A regular expression that Python and Rust read alike, of bounded texts."""
    atoms = ["[a-f]", "[0-9]", "x", "ab", "[^\\W\\d_]", "é", "\\.", "-", "[A-Z]{2}", "\\[\\]", "😀"]
    if depth > 2:
        return rng.choice(atoms)
    part = lambda: regex(rng, depth + 1)  # noqa: E731
    kind = rng.randrange(5)
    if kind == 0:
        return "(" + "|".join(part() for _ in range(rng.randrange(2, 4))) + ")"
    if kind == 1:
        low = rng.randrange(3)
        return f"({part()}){{{low},{low + rng.randrange(1, 4)}}}"
    if kind == 2:
        return f"({part()})?" + rng.choice(atoms)
    return "".join(part() for _ in range(rng.randrange(1, 4)))


def grammars(seed: int, count: int):
    """Pairs of a kind and its text, three schemas to one regular expression."""
    rng = random.Random(seed)
    kinds = ["json", "json", "json", "regex"]
    return [(kind, schema(rng) if kind == "json" else regex(rng)) for kind, _ in zip(kinds * count, range(count))]


def tools(seed: int, count: int) -> list[dict]:
    rng = random.Random(seed)
    names = [f"{rng.choice(['get', 'set', 'find'])}_{rng.choice(['user', 'file', 'job'])}_{n}" for n in range(count)]
    return [
        {"type": "function", "function": {"name": name, "description": "does it", "parameters": _object(rng, 2)}}
        for name in names
    ]


def violation(kind: str, grammar, text: str) -> str | None:
    """What is wrong with a finished text."""
    if kind == "regex":
        return None if re.fullmatch(grammar, text) else f"{text!r} is no match of {grammar}"
    return schema_violation(grammar, text)


def schema_violation(schema: dict, text: str) -> str | None:
    try:
        value = json.loads(text)
    except ValueError as error:
        return f"{text!r} is no JSON: {error}"
    try:
        jsonschema.Draft202012Validator(schema, format_checker=CHECKER).validate(value)
    except jsonschema.ValidationError as error:
        return f"{text} is not valid: {error.message}"
    return None


CHECKER = jsonschema.FormatChecker(formats=())
for _name, _pattern in FORMATS.items():
    CHECKER.checks(_name)(lambda value, pattern=_pattern: not isinstance(value, str) or re.fullmatch(pattern, value))


def call_violation(tools: list[dict], call: dict) -> str | None:
    """What is wrong with a complete call."""
    known = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
    function = call["function"]
    if function["name"] not in known:
        return f"there is no tool {function['name']!r}"
    return schema_violation(known[function["name"]], function["arguments"])
