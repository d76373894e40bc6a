"""The short part of `make prove-http`: the same requests every time, in either profile."""

import json

import pytest
from fuzz_http.run import run
from harness.server import ROOT

#: Where every operation has something to act on, in the server that is asked.
FURNISHED = "/api/v1/", "/v1/models"


@pytest.mark.timeout(180)
@pytest.mark.parametrize("profile", ["openai", "tgi"])
def test_answers_are_as_documented(profile, tmp_path):
    result = run(profile, "examples,fuzzing", cases=8, folder=tmp_path, seconds=160)
    assert result.clean, result.output[-6000:]
    document = json.loads((ROOT / "openapi.json").read_text())
    assert result.report["operations"]["tested"] == sum(len(item) for item in document["paths"].values())
    assert result.report["test_cases"]["generated"] >= 400
    # Operations that answered nothing but 401 and 403, or nothing but 404.
    unreached = result.report["warnings"]["missing_auth"] + result.report["warnings"]["missing_test_data"]
    assert not [name for name in unreached if name.split()[1].startswith(FURNISHED)]
