"""Has schemathesis ask for what the server has, which `furnished.py` tells, in place of names that it makes up."""

import json
import os
from typing import Any
from zlib import crc32

import schemathesis

KNOWN: dict[str, list] = json.loads(os.environ.get("FUZZ_KNOWN", "{}"))


@schemathesis.hook
def before_call(context, case, kwargs):
    """Three of four values become what is there where there is any; the same ones every time."""
    for values in (case.path_parameters, case.query, case.body):
        if isinstance(values, dict):
            for name, value in values.items():
                values[name] = known(case, name, value)


def known(case, name: str, value: Any) -> Any:
    keys = (f"{case.operation.path} {name}", f"{case.method} {name}", name)
    choice = next((KNOWN[key] for key in keys if key in KNOWN), None)
    draw = crc32(repr(value).encode())
    return choice[draw // 4 % len(choice)] if choice and draw % 4 else value
