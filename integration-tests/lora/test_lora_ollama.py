"""A model of Ollama's that is its base with an adapter: a layer of the manifest, as `ADAPTER` in a Modelfile makes it."""

import hashlib
import json
import shutil

import ollama
import pytest
from harness.adapters import random_adapter, write_gguf, write_peft
from harness.client import Client
from harness.gguf_files import quantize

PROMPT = "Once upon a time, there was"
OPTIONS = {"temperature": 0, "num_predict": 16, "repeat_penalty": 1.0}


def install(root, name: str, **files: bytes):
    """Writes a model as Ollama lays it out: its layers by what they are."""
    (root / "blobs").mkdir(parents=True, exist_ok=True)
    layers = []
    for kind, content in files.items():
        digest = hashlib.sha256(content).hexdigest()
        (root / "blobs" / f"sha256-{digest}").write_bytes(content)
        media = f"application/vnd.ollama.image.{kind}"
        layers.append({"mediaType": media, "digest": f"sha256:{digest}", "size": len(content)})
    config = {"mediaType": "application/vnd.docker.container.image.v1+json"} | {
        key: value for key, value in layers.pop(0).items() if key != "mediaType"
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": config,
        "layers": layers,
    }
    path = root / "manifests/registry.ollama.ai/library" / name / "latest"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(manifest))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """`plain`, and `tuned`, which is `plain` with an adapter; and the adapter as PEFT stores it."""
    root = tmp_path_factory.mktemp("store")
    adapter = random_adapter(7)
    quantize(root / "base.gguf", "F16")
    weights = (root / "base.gguf").read_bytes()
    tuned = write_gguf(root / "adapter.gguf", adapter).read_bytes()
    write_peft(root / "peft", adapter)
    config = {"model_format": "gguf", "model_family": "llama", "model_families": ["llama"], "model_type": "5M", "file_type": "F16"}
    params = json.dumps(OPTIONS).encode()
    install(root / "models", "plain", x=json.dumps(config).encode(), model=weights, params=params)
    install(root / "models", "tuned", x=json.dumps(config).encode(), model=weights, adapter=tuned, params=params)
    wrong = write_gguf(root / "wrong.gguf", random_adapter(8)).read_bytes()
    # One layer more than the model has.
    install(root / "models", "broken", x=json.dumps(config).encode(), model=weights, adapter=wrong.replace(b"blk.4", b"blk.9"))
    return root


def test_a_model_with_an_adapter_is_loaded_with_it(start_server, store):
    server = start_server(
        "--model-id", str(store / "base.gguf"), "--lora-adapters", f"same={store / 'peft'}",
        env={"OLLAMA_MODELS": str(store / "models")},
    )  # fmt: skip
    client = ollama.Client(host=server.url)
    texts = {
        name: client.generate(model=name, prompt=PROMPT, raw=True, options=OPTIONS).response for name in ("plain", "tuned")
    }
    raw = Client(server.port)
    expected = raw.post_ok("/generate", {"inputs": PROMPT, "parameters": {"max_new_tokens": 16, "adapter_id": "same"}})
    assert texts["tuned"] == expected["generated_text"] != texts["plain"]
    with pytest.raises(ollama.ResponseError):
        client.generate(model="broken", prompt=PROMPT, options=OPTIONS)
    assert client.generate(model="tuned", prompt=PROMPT, raw=True, options=OPTIONS).response == texts["tuned"]


def test_models_are_made_with_adapters(start_server, store, tmp_path):
    """By a Modelfile and by today's fields; of a GGUF file, and of a folder of PEFT's, which becomes one."""
    server = start_server(
        "--model-id", str(store / "base.gguf"), "--lora-adapters", f"same={store / 'peft'}",
        "--model-store", str(tmp_path / "models"),
    )  # fmt: skip
    client, raw = ollama.Client(host=server.url), Client(server.port)

    def answer(name: str) -> str:
        return client.generate(model=name, prompt=PROMPT, raw=True, options=OPTIONS).response

    expected = raw.post_ok("/generate", {"inputs": PROMPT, "parameters": {"max_new_tokens": 16, "adapter_id": "same"}})
    client.create("plain", files={"base.gguf": client.create_blob(store / "base.gguf")})
    assert answer("plain") != expected["generated_text"]
    adapter = client.create_blob(store / "adapter.gguf")
    modelfile = f"FROM plain\nADAPTER @{adapter}\nSYSTEM You are tuned."
    lines = raw.post("/api/create", {"name": "by-modelfile", "modelfile": modelfile}).text.splitlines()
    assert json.loads(lines[-1]) == {"status": "success"}
    assert client.create("by-field", from_="plain", adapters={"adapter.gguf": adapter}).status == "success"
    folder = {path.name: client.create_blob(path) for path in (store / "peft").iterdir()}
    statuses = [part.status for part in client.create("by-folder", from_="plain", adapters=folder, stream=True)]
    assert "converting adapter" in statuses and statuses[-1] == "success"
    smaller = client.create("quantized", from_="plain", adapters=folder, quantize="q8_0")
    assert smaller.status == "success" and client.show("quantized").details.quantization_level == "Q8_0"
    for name in ("by-modelfile", "by-field", "by-folder"):
        assert answer(name) == expected["generated_text"], name
    # A model made from one that has an adapter has it, too.
    client.create("heir", from_="by-folder", system="Other words.")
    assert answer("heir") == expected["generated_text"]
    wrong = (store / "adapter.gguf").read_bytes().replace(b"blk.4", b"blk.9")
    (tmp_path / "wrong.gguf").write_bytes(wrong)
    for adapters, said in (
        ({"wrong.gguf": client.create_blob(tmp_path / "wrong.gguf")}, "is not part of what can be adapted"),
        ({"base.gguf": client.create_blob(store / "base.gguf")}, "expected adapter"),
        ({"a.gguf": adapter, "b.gguf": adapter}, "only one adapter"),
        ({"adapter_model.safetensors": folder["adapter_model.safetensors"]}, "is missing"),
        ({"../x.gguf": adapter}, "file path must be relative"),
        ({"x.gguf": "sha256:" + "0" * 64}, "not found"),
    ):
        with pytest.raises(ollama.ResponseError, match=said) as error:
            client.create("refused", from_="plain", adapters=adapters)
        assert error.value.status_code in (400, 404) and str(tmp_path) not in str(error.value)
    assert "refused:latest" not in {model.model for model in client.list().models}


def test_a_modelfile_names_what_the_operator_offers(start_server, store, tmp_path):
    """Files of one folder, where `--modelfile-folder` names it; and a model for its adapter."""
    offered = tmp_path / "offered"
    shutil.copytree(store / "peft", offered / "shop/peft")
    for name in ("base.gguf", "adapter.gguf"):
        shutil.copy(store / name, offered / name)
    (offered / "shop/file").write_text(f"FROM {offered / 'base.gguf'}\nADAPTER adapter.gguf\nSYSTEM You are tuned.")
    (offered / "out.gguf").symlink_to(store / "base.gguf")
    (offered / "long").write_text("#" * (5 << 20))
    server = start_server(
        "--model-id", str(store / "base.gguf"), "--lora-adapters", f"same={store / 'peft'}",
        "--model-store", str(tmp_path / "models"), "--modelfile-folder", str(offered),
    )  # fmt: skip
    client, raw = ollama.Client(host=server.url), Client(server.port)

    def create(name: str, **fields):
        return raw.post("/api/create", {"name": name, "stream": False} | fields)

    asked = {"inputs": PROMPT, "parameters": {"max_new_tokens": 16, "adapter_id": "same"}}
    expected = raw.post_ok("/generate", asked)["generated_text"]
    for name, fields in {
        "file": {"path": "shop/file"},
        "whole": {"modelfile": "FROM base.gguf"},
        "model": {"modelfile": "FROM whole\nADAPTER file"},
        "folder": {"modelfile": "FROM whole\nADAPTER ./shop/peft"},
    }.items():
        assert create(name, **fields).json() == {"status": "success"}, name
    for name in ("file", "model", "folder"):
        answer = client.generate(model=name, prompt=PROMPT, raw=True, options=OPTIONS)
        assert answer.response == expected, name
    assert client.generate(model="whole", prompt=PROMPT, raw=True, options=OPTIONS).response != expected
    assert "has no adapter" in create("none", modelfile="FROM whole\nADAPTER whole").json()["error"]
    refused = [
        {"modelfile": f"FROM {store / 'base.gguf'}"},
        {"modelfile": "FROM ../store/base.gguf"},
        {"modelfile": "FROM ./out.gguf"},
        {"modelfile": "FROM whole\nADAPTER /etc/passwd"},
        {"path": "/etc/passwd"},
        {"path": "shop"},
    ]
    for fields in refused:
        answer = create("no", **fields)
        assert answer.status == 400 and "--modelfile-folder" in answer.json()["error"], answer.text
    assert create("no", path="long").status == 400
    closed = Client(start_server("--model-store", str(tmp_path / "other")).port)
    for fields in ({"path": "shop/file"}, {"modelfile": "FROM ./base.gguf"}):
        answer = closed.post("/api/create", {"name": "no", "stream": False} | fields)
        assert answer.status == 400 and "--modelfile-folder" in answer.json()["error"], answer.text
