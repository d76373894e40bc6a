import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness.client import Client
from harness.ollama_api import Ollama
from harness.scripted import scripted
from harness.server import ROOT, Server

sys.path.insert(0, str(ROOT / "tools" / "parity"))

import encoders  # noqa: E402

#: Vectors by sentence-transformers, from tools/parity/make_encoder_goldens.py.
GOLDENS = json.loads((ROOT / "integration-tests/embeddings/goldens.json").read_text())

#: The prompt ends with the last character of the question, and the script goes by that.
TEMPLATE = (
    "{% if tools %}{{ tools | tojson }} <tool_call>{% endif %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant{{ messages[-1].content[-1] }}"
)
SCRIPT = [
    ("assistant?", "<tool_call>"),
    ('city": "', 'Oslo"}'),
    # Nothing comes after an only argument.
    (" true", "}"),
    (" false", "}"),
    ("true", "}"),
    ("assistant#", '{"port":3210}'),
    ("assistant!", "Ahoy, the tide is high"),
]
#: Begins with its reasoning, unless it is told not to.
THINKING_TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}assistant"
    "{% if enable_thinking is not defined or enable_thinking %}<think>\n{% else %}<think></think>!{% endif %}"
)
THINKING_SCRIPT = [("<think>\n", "Hm</think>Aye"), ("assistant!", "Aye")]


def named(server: Server) -> Ollama:
    return Ollama(server, Client(server.port).get("/api/tags").json()["models"][0]["name"])


@pytest.fixture(scope="session")
def ollama(server):
    return named(server)


def writing(folder, script: list[tuple[str, str]], template: str):
    """A server for a model that writes a script."""
    server = Server(folder / "log", "--model-id", str(scripted(folder / "scripted", script, template)))
    try:
        yield named(server.start())
        server.stop()
    finally:
        server.kill()


@pytest.fixture(scope="session")
def caller(tmp_path_factory):
    """Asked with `?` it calls a tool, with `#` it writes JSON, and with `!` words."""
    yield from writing(tmp_path_factory.mktemp("caller"), SCRIPT, TEMPLATE)


@pytest.fixture(scope="session")
def thinker(tmp_path_factory):
    yield from writing(tmp_path_factory.mktemp("thinker"), THINKING_SCRIPT, THINKING_TEMPLATE)


@dataclass
class Encoder:
    """A checkpoint that makes vectors, to be served out of a folder."""

    folder: Path
    name: str

    def vector(self, text: str) -> list[float]:
        """What sentence-transformers makes of one of its texts."""
        return GOLDENS["mean"][GOLDENS["sentences"].index(text)]


@pytest.fixture(scope="session")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    encoders.write_sentence_model("bert", folder / "tiny/bert")
    return Encoder(folder, "tiny/bert")
