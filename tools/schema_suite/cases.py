"""Writes JSON-Schema-Test-Suite as lines of JSON, one per schema: its draft, keyword, schema and instances.

    python cases.py OUT.jsonl

The suite comes with the source archive of the Python package `jsonschema`, in the version that the tests use.
"""

import importlib.metadata
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

DRAFTS = {
    "draft4": "http://json-schema.org/draft-04/schema#",
    "draft6": "http://json-schema.org/draft-06/schema#",
    "draft7": "http://json-schema.org/draft-07/schema#",
    "draft2019-09": "https://json-schema.org/draft/2019-09/schema",
    "draft2020-12": "https://json-schema.org/draft/2020-12/schema",
}


def archive(folder: str) -> Path:
    version = importlib.metadata.version("jsonschema")
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", folder]
    subprocess.run([*pip, f"jsonschema=={version}"], check=True)
    return next(Path(folder).glob("*.tar.gz"))


def main() -> None:
    out = Path(sys.argv[1])
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, tarfile.open(archive(folder)) as files, out.open("w") as lines:
        for member in sorted(files.getmembers(), key=lambda member: member.name):
            *_, tests, draft, name = ["", "", *Path(member.name).parts]
            # Files in folders below a draft's are optional parts.
            if tests != "tests" or draft not in DRAFTS or not name.endswith(".json"):
                continue
            for group in json.load(files.extractfile(member)):
                schema = group["schema"]
                if isinstance(schema, dict):
                    schema = {"$schema": DRAFTS[draft]} | schema
                case = {"name": f"{draft} {name.removesuffix('.json')}: {group['description']}", "schema": schema}
                lines.write(json.dumps(case | {"tests": group["tests"]}) + "\n")


if __name__ == "__main__":
    main()
