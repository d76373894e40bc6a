from dataclasses import dataclass

import pytest
from harness.client import Client
from harness.contracts import conforms
from harness.server import Server


@dataclass
class Listener:
    """A server under one profile, and what its answers under /v1 must look like."""

    server: Server
    profile: str

    @property
    def client(self) -> Client:
        return Client(self.server.port)

    @property
    def base_url(self) -> str:
        return f"{self.server.url}/v1"

    @property
    def is_tgi(self) -> bool:
        return self.profile == "tgi"

    def check(self, name: str, value):
        """Against the contract: to the letter in TGI's own profile."""
        conforms(name, value, to_the_letter=self.is_tgi)


@pytest.fixture(scope="session")
def openai(server):
    """The default profile."""
    return Listener(server, "openai")


@pytest.fixture(scope="session")
def tgi(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("tgi") / "log", "--profile", "tgi")
    try:
        server.start()
        yield Listener(server, "tgi")
        server.stop()
    finally:
        server.kill()


@pytest.fixture(params=["openai", "tgi"])
def listener(request):
    """Each test runs under both."""
    return request.getfixturevalue(request.param)
