"""`docs/deviations.md` lists what differs from TGI on purpose; each row names a test that is there."""

import re

import pytest
from harness.server import ROOT

PAGE = (ROOT / "docs/deviations.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith("| row ")
]
FOLDERS = [ROOT, ROOT / "integration-tests", ROOT / "integration-tests/conformance"]


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_every_deviation_names_its_test(row):
    assert len(row) == 4, "row, behaviour, reason, test"
    files = re.findall(r"`([^`]+\.(?:py|rs))`((?: \w+(?:, (?=\w))?)*)", row[3])
    assert files or row[3] == "as above", row[3]
    for name, tests in files:
        found = [folder / name for folder in FOLDERS if (folder / name).is_file()]
        assert found, f"there is no {name}"
        for test in re.findall(r"\w+", tests):
            assert re.search(rf"\b{test}\b", found[0].read_text()), f"{name} has no {test}"
