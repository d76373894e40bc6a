"""`docs/deviations.md` lists what differs from TGI on purpose; each row names tests that are there."""

import re

import pytest
from harness.server import ROOT

PAGE = (ROOT / "docs/deviations.md").read_text()
TESTS = ROOT / "integration-tests"
FOLDERS = [
    ROOT,
    TESTS,
    *(TESTS / name for name in ("conformance", "openai", "observability")),
    ROOT / "text/src/template/tests",
]
#: The last section is read by `test_openapi.py`.
TABLES = PAGE.partition("\n## OpenAPI document")[0]


def rows() -> list[tuple[list[str], list[str]]]:
    """Cells of each row, with the heads of their columns."""
    found, head = [], None
    for line in TABLES.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else None
        if cells is None:
            head = None
        elif head is None:
            head = cells
        elif not set(line) <= set("|-"):
            found.append((head, cells))
    return found


ROWS = rows()


@pytest.mark.parametrize("head, row", ROWS, ids=[row[0] for _, row in ROWS])
def test_every_deviation_names_its_test(head, row):
    assert head[-1] == "test" and len(row) == len(head)
    if row[-1] in ("as above", "`make prove-templates`"):
        return
    text = None
    for name, tests in re.findall(r"`([^`]+)`([^`,]*(?:, \w+)*)", row[-1]):
        file, _, test = name.partition("::") if re.search(r"\.(py|rs|json)\b", name) else ("", "", name)
        if file:
            found = [folder / file for folder in FOLDERS if (folder / file).is_file()]
            assert found, f"there is no {file}"
            text = found[0].read_text()
        elif (TESTS / name).is_dir() or (ROOT / name).is_dir() or name.startswith("make "):
            continue
        assert text is not None, f"{name} is in no file"
        for test in re.findall(r"\w+\*?", f"{test} {tests}"):
            pattern = rf"\b{test[:-1]}" if test.endswith("*") else rf"\b{test}\b"
            assert re.search(pattern, text), f"{file or row[-1]} has no {test}"
    assert text is not None or re.search(r"`[^`]+/`", row[-1]), row[-1]
