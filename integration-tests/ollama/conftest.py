import pytest
from harness.client import Client
from harness.ollama_api import Ollama


@pytest.fixture(scope="session")
def ollama(server):
    name = Client(server.port).get("/api/tags").json()["models"][0]["name"]
    return Ollama(server, name)
