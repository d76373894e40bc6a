"""ollama-rs, unmodified, in a crate of its own."""

import json
import subprocess
from pathlib import Path

import ollama as library
import pytest
from harness.gguf_files import quantize
from harness.registry import Registry

CRATE = Path(__file__).with_name("rust")


@pytest.mark.timeout(300)
def test_every_call_of_the_client_for_rust(start_server, encoder, tmp_path):
    build = ["cargo", "build", "--quiet", "--locked", "--manifest-path", CRATE / "Cargo.toml"]
    subprocess.run(build, check=True, timeout=280)
    stores = ["--model-store", str(tmp_path / "models"), "--model-folder", str(encoder.folder)]
    server = start_server(*stores, env={"REGISTRY_PRIVATE_HOST": "127.0.0.1"})
    quantize(tmp_path / "demo.gguf", "Q8_0")
    client = library.Client(server.url)
    client.create("base", files={"demo.gguf": client.create_blob(tmp_path / "demo.gguf")})
    registry = Registry(tmp_path)
    try:
        remote = f"{registry.start().host}/library/rust:v1"
        program = CRATE / "target/debug/weirgate-ollama-rs-check"
        done = subprocess.run([program, server.url, "base", encoder.name, remote], capture_output=True, text=True, timeout=50)
        assert done.returncode == 0, done.stderr
    finally:
        registry.kill()
    found = json.loads(done.stdout)
    assert found["whole"] == found["streamed"] != "" and 0 < found["count"] <= 16
    assert found["answer"] == found["chatted"] != ""
    question = "Which port do you listen on?"
    (first, short), (second, long) = found["turns"]
    assert first == found["answer"] and second and long > short > 0, "what was said before is sent, too"
    assert found["histories"] == [[question, first, question, second]] * 2
    assert len(found["vectors"]) == 2
    for vector, text in zip(found["vectors"], ("a question", "x")):
        assert vector == pytest.approx(encoder.vector(text), abs=1e-5)
    assert found["created"] == found["pushed"] == found["pulled"] == "success"
    assert found["pushes"][0] == "retrieving manifest" and found["pushes"][-1] == "success"
    assert any(status.startswith("pushing ") for status in found["pushes"][1:-2])
    assert found["statuses"][-1] == "success" and found["pulls"][0] == "pulling manifest"
    assert found["pulls"][-1] == "success" and found["before"] == found["after"] + 1
    assert "num_predict" in found["parameters"] and found["info"]["general.architecture"] == "llama"
    assert "completion" in found["capabilities"] and "not found" in found["missing"]
