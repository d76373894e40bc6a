"""The short part of `make prove-http`: the same requests every time, in either profile."""

import pytest
from fuzz_http.run import run


@pytest.mark.parametrize("profile", ["openai", "tgi"])
def test_answers_are_as_documented(profile, tmp_path):
    result = run(profile, "examples,fuzzing", cases=8, folder=tmp_path, seconds=55)
    assert result.clean, result.output[-6000:]
    assert result.report["operations"]["tested"] >= 20
    assert result.report["test_cases"]["generated"] >= 100
