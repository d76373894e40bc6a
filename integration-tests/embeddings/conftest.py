import json
import sys
from pathlib import Path

import pytest
from harness.client import Client
from harness.server import ROOT, Server

sys.path.insert(0, str(ROOT / "tools" / "parity"))

import encoders  # noqa: E402

# Vectors and scores of texts by sentence-transformers, from tools/parity/make_encoder_goldens.py.
GOLDENS = json.loads((Path(__file__).parent / "goldens.json").read_text())


@pytest.fixture(scope="session")
def goldens():
    return GOLDENS


@pytest.fixture(scope="session")
def serve_encoder(tmp_path_factory):
    """Starts a server for a tiny encoder, once for each name, pooling and default prompt."""
    running = {}

    def serve(name: str, pooling: str | None = "mean", default_prompt: str | None = None) -> Server:
        key = (name, pooling, default_prompt)
        if key not in running:
            folder = tmp_path_factory.mktemp("encoder")
            encoders.write_sentence_model(name, folder / name, pooling, default_prompt, query="a model of: ")
            running[key] = Server(folder / "log", "--model-id", str(folder / name))
            running[key].start()
        return running[key]

    try:
        yield serve
        for server in running.values():
            server.stop()
    finally:
        for server in running.values():
            server.kill()


@pytest.fixture
def embedder(serve_encoder):
    return Client(serve_encoder("bert").port)


@pytest.fixture
def ranker(serve_encoder):
    return Client(serve_encoder("bert-ranker", None).port)
