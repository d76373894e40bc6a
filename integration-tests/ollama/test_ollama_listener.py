"""OLLAMA_HOST: another address for Ollama's clients, unless it is the one that is listened on anyway."""

import contextlib

import ollama as library
import pytest
from harness.client import Client
from harness.server import Server, free_port


@contextlib.contextmanager
def listening(folder, port: int, host: str, *args: str):
    server = Server(folder / "log", *args, env={"OLLAMA_HOST": host}, port=port).start()
    try:
        yield server
        server.stop()
    finally:
        server.kill()


def test_another_address_speaks_to_ollamas_clients(tmp_path):
    port, own = free_port(), free_port()
    with listening(tmp_path, port, f"127.0.0.1:{own}", "--profile", "tgi", "--payload-limit", "20000"):
        assert Client(own).get("/").text == "Ollama is running"
        assert (Client(port).get("/").status, Client(port).get("/").text) == (200, "")
        for path, body in (
            ("/api/chat", {"messages": [{"role": "user", "content": "word " * 5000}]}),
            ("/api/generate", {"prompt": "word " * 5000}),
        ):
            refused = Client(own).post(path, {"model": "weirgate-demo"} | body)
            assert refused.status == 413 and "length limit exceeded" in refused.json()["error"], refused.text
        client = library.Client(f"http://127.0.0.1:{own}")
        (model,) = client.list().models
        answer = client.generate(model.model, "Once upon a time", options={"temperature": 0, "num_predict": 4})
        assert (answer.eval_count, answer.done_reason) == (4, "length")


@pytest.mark.parametrize("host", ["http://127.0.0.1:{}", "127.0.0.1:{}", "0.0.0.0:{}"])
def test_the_variable_of_the_clients_may_name_this_server(tmp_path, host):
    port = free_port()
    with listening(tmp_path, port, host.format(port)):
        assert library.Client(f"http://127.0.0.1:{port}").list().models
