import pytest
from harness import metrics
from harness.client import Client
from harness.reference import ReferenceModel
from harness.server import BINARY, DEMO_MODEL, Server, wait_for


@pytest.fixture(scope="session", autouse=True)
def binary_exists():
    assert BINARY.exists(), f"{BINARY} is missing; `make build` makes it"


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The demo model with default settings, shared by all tests that leave it as it was."""
    server = Server(tmp_path_factory.mktemp("server") / "log")
    try:
        server.start()
        yield server
        wait_for(lambda: metrics.engine(Client(server.port).get("/metrics").text).idle, 5, "idle after the last test")
        server.stop()
    finally:
        server.kill()


@pytest.fixture
def client(server):
    return Client(server.port)


@pytest.fixture
def start_server(tmp_path):
    """Starts servers of the test's own; whichever still run at its end are stopped and must end well."""
    servers = []

    def start(*args: str, **options) -> Server:
        servers.append(Server(tmp_path / f"log-{len(servers)}", *args, **options))
        return servers[-1].start()

    try:
        yield start
        for server in servers:
            if server.process.poll() is None:
                server.stop()
    finally:
        for server in servers:
            server.kill()


@pytest.fixture(scope="session")
def reference():
    """The demo model's tokenizer and chat template as other software reads them."""
    return ReferenceModel(DEMO_MODEL)
