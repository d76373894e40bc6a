import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pytest  # noqa: E402
from harness.postgres import Postgres  # noqa: E402
from managed import Managed  # noqa: E402

#: Where servers keep their jobs whose test does not say: in SQLite, or in PostgreSQL.
DATABASE = os.environ.get("WEIRGATE_TEST_DATABASE", "SQLite")


@pytest.fixture(scope="session")
def postgres(tmp_path_factory):
    """The PostgreSQL of all tests; `None` where they run on SQLite."""
    assert DATABASE in ("SQLite", "PostgreSQL"), f"WEIRGATE_TEST_DATABASE={DATABASE}"
    if DATABASE == "SQLite":
        yield None
        return
    with Postgres(tmp_path_factory.mktemp("databases") / "postgres") as postgres:
        yield postgres


@pytest.fixture
def manage(tmp_path, postgres):
    """Starts servers of the test's own below one folder; those that run at its end are stopped and must end well."""
    servers = []

    def start(*args: str, **options) -> Managed:
        if "--state-database" not in args:
            options["postgres"] = postgres
        servers.append(Managed(tmp_path, *args, **options))
        return servers[-1].start()

    try:
        yield start
        for server in servers:
            if server.process.poll() is None:
                server.stop()
    finally:
        for server in servers:
            server.kill()
