from collections import defaultdict

import pytest
from contract import ROWS
from harness.client import Client
from launch import LIMITS, serving

_outcomes: dict[str, set[str]] = defaultdict(set)


@pytest.fixture(scope="session", params=["tgi", "openai"])
def small(request, tmp_path_factory):
    """A server with small limits, in each profile."""
    with serving(tmp_path_factory, "--profile", request.param, *LIMITS) as server:
        client = Client(server.port)
        client.profile = request.param
        yield client


@pytest.fixture(scope="session", params=["tgi", "openai"])
def either(request, tmp_path_factory):
    """The whole model, in each profile."""
    with serving(tmp_path_factory, "--profile", request.param, env={"COMPUTE_TYPE": "1-test"}) as server:
        client = Client(server.port)
        client.profile = request.param
        yield client


@pytest.fixture(scope="session")
def closed(tmp_path_factory):
    """One place, no grammars, no best_of; and the engine stops for ever after a few steps."""
    args = ["--max-concurrent-requests", 1, "--disable-grammar-support", "--max-best-of", 1]
    stalled = ["--fault-stall-after-steps", 3, "--watchdog-timeout", 0, "--graceful-termination-timeout", 0]
    with serving(tmp_path_factory, "--profile", "tgi", *args, *stalled) as server:
        yield Client(server.port)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.when == "call" or report.failed:
        for mark in item.iter_markers("row"):
            assert mark.args[0] in ROWS, f"{mark.args[0]} is no row of the contract"
            _outcomes[mark.args[0]].add(report.outcome)


def pytest_terminal_summary(terminalreporter):
    if not _outcomes:
        return
    passed = {row for row, outcomes in _outcomes.items() if outcomes == {"passed"}}
    terminalreporter.write_line(f"TGI's contract: {len(passed)} of {len(ROWS)} rows pass")
    missing = sorted(ROWS - passed)
    if missing:
        terminalreporter.write_line(f"  not among them: {', '.join(missing)}")
