import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pytest  # noqa: E402
from managed import Managed  # noqa: E402


@pytest.fixture
def manage(tmp_path):
    """Starts servers of the test's own below one folder; those that run at its end are stopped and must end well."""
    servers = []

    def start(*args: str, **options) -> Managed:
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
