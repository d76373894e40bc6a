"""Names that lead out of the server's folders: refused on every API, and nothing there is opened."""

import contextlib
import errno
import os
import shutil
from urllib.parse import quote

import pytest
from harness.client import Client
from harness.gguf_files import quantize
from harness.server import DEMO_MODEL
from managed import LINE

CANARY = "canary-9f3b"


@pytest.fixture
def planted(tmp_path):
    """What must not be served, read, changed or waited for; the names that would lead there."""
    outside = tmp_path / "outside"
    shutil.copytree(DEMO_MODEL, outside / "folder")
    quantize(outside / "secret.gguf", "Q8_0")
    (outside / "train.jsonl").write_text(LINE.replace("It is this.", CANARY))
    # Whoever opens this one waits until somebody writes.
    os.mkfifo(outside / "pipe.gguf")
    os.mkfifo(outside / "pipe.jsonl")
    targets = ["folder", "secret", "secret.gguf", "pipe.gguf", "train.jsonl", "pipe.jsonl"]
    forms = [
        f"{outside}/{{}}", f"file://{outside}/{{}}", f"/{outside}/{{}}", "../outside/{}", "../../outside/{}",
        "models/../../outside/{}", "./../outside/{}", "....//outside/{}", "..\\outside\\{}", "~/../outside/{}",
        "x:../outside/{}", "../outside/{}:latest", "%2e%2e/outside/{}", "hub/models--a--b/../../../outside/{}",
    ]  # fmt: skip
    names = [form.format(target) for form in forms for target in targets]
    return outside, names + ["/proc/self/environ", "file:///proc/self/environ", "../../proc/self/environ", "..", "."]


@contextlib.contextmanager
def untouched(outside):
    def state():
        return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in outside.rglob("*")}

    before = state()
    yield
    assert state() == before
    for pipe in outside.glob("pipe.*"):
        with pytest.raises(OSError) as nobody:
            os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        assert nobody.value.errno == errno.ENXIO, f"somebody reads {pipe.name}"


def start(manage, tmp_path):
    (tmp_path / "jan").mkdir()
    (tmp_path / "ollama/manifests").mkdir(parents=True)
    folders = {"JAN_MODELS": tmp_path / "jan", "OLLAMA_MODELS": tmp_path / "ollama", "MODEL_STORE": tmp_path / "models"}
    return manage(env={name: str(path) for name, path in folders.items()} | {"SECRET": CANARY})


def refused(response, asked):
    assert 400 <= response.status < 500, (asked, response.status, response.text)
    assert CANARY not in response.text, asked


def test_no_name_of_a_model_leads_out_of_the_folders(manage, tmp_path, planted):
    outside, names = planted
    server = start(manage, tmp_path)
    client = Client(server.port)
    listed = {model["id"] for model in client.get("/v1/models").json()["data"]}
    with untouched(outside):
        for name in names:
            messages = [{"role": "user", "content": "Hi"}]
            for path, body in (
                ("/v1/chat/completions", {"model": name, "messages": messages, "max_tokens": 1}),
                ("/v1/completions", {"model": name, "prompt": "Hi", "max_tokens": 1}),
                ("/v1/embeddings", {"model": name, "input": "Hi"}),
                ("/api/generate", {"model": name, "prompt": "Hi", "stream": False}),
                ("/api/chat", {"model": name, "messages": messages, "stream": False}),
                ("/api/show", {"model": name}),
                ("/api/copy", {"source": name, "destination": "mine"}),
                ("/api/create", {"model": "mine", "files": {name: f"sha256:{'0' * 64}"}, "stream": False}),
                ("/api/create", {"model": "mine", "modelfile": f"FROM {name}", "path": name, "stream": False}),
            ):
                refused(client.post(path, body), (path, body))
            refused(client.request("DELETE", "/api/delete", {"model": name}), name)
            escaped = quote(name, safe="")
            for method, path in (("GET", escaped), ("DELETE", escaped), ("PUT", f"{escaped}/start")):
                refused(client.request(method, f"/v1/models/{path}"), (method, path))
        assert {model["id"] for model in client.get("/v1/models").json()["data"]} == listed


def test_no_name_of_a_training_or_a_deployment_leads_out_of_the_folders(manage, tmp_path, planted):
    outside, names = planted
    server = start(manage, tmp_path)
    api, dataset = server.api, server.api.add_dataset()
    with untouched(outside):
        for name in names:
            fields = {"name": "a", "model_id": "weirgate-demo", "dataset_id": dataset}
            for wrong in ({"dataset_id": name}, {"model_id": name}):
                refused(api.request("POST", "finetune/", fields | wrong), wrong)
            for wrong in ({"model_id": name}, {"model_id": "weirgate-demo", "adapter_ids": [name]}):
                refused(api.request("POST", "deploy/", wrong), wrong)
            escaped = quote(name, safe="")
            refused(api.request("DELETE", f"models/?model_id={escaped}"), name)
            refused(api.request("GET", f"datasets/{escaped}/"), name)
            refused(api.request("GET", f"finetune/{escaped}/curve/"), name)
        assert api.ok("GET", "jobs/") == [], "no job came of it"
    assert CANARY not in server.output()
