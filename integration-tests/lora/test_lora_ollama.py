"""A model of Ollama's that is its base with an adapter: a layer of the manifest, as `ADAPTER` in a Modelfile makes it."""

import hashlib
import json

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
