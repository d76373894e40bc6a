"""The vendor's own client against a server that has what it asks for: a model that is deployed, one that makes embeddings,
and one that ranks texts."""

import json
import subprocess
import sys

import pytest
from harness import fake_hub
from harness.client import Client
from harness.server import DEMO_MODEL, ROOT, clean_environment, wait_for
from managed import HERE, in_hub_cache

sys.path.insert(0, str(ROOT / "tools" / "parity"))

import encoders  # noqa: E402

PYTHON = ROOT / ".venv/clients/bin/python"
TEXTS = ["a small house", "the red car", "Ein Haus am See, 2024!"]
#: Its embeddings are cut by the tokenizer of this model, which it fetches.
TOKENIZER = "Salesforce/SFR-Embedding-Mistral"


@pytest.mark.timeout(120)
def test_chat_embeddings_and_ranking(manage, tmp_path):
    assert PYTHON.exists(), f"{PYTHON} is missing; `make setup` makes it"
    in_hub_cache(tmp_path / "hf", "acme/chat")
    # Either could be taken for the other: both are encoders.
    for kind, pooling in (("bert-ranker", None), ("bert", "mean")):
        snapshot = tmp_path / f"hf/hub/models--acme--{kind}/snapshots" / fake_hub.COMMIT
        encoders.write_sentence_model(kind, snapshot, pooling)
    server = manage()
    api, plain = server.api, Client(server.port)
    job = api.ok("POST", "deploy/", {"model_id": "acme/chat", "adapter_ids": []})
    wait_for(lambda: api.ok("GET", f"jobs/{job['id']}/")["progress"] == {"deployed": True}, 20, "deployed")

    with fake_hub.serving(TOKENIZER, DEMO_MODEL) as hub:
        environment = clean_environment({"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "own")})
        command = [PYTHON, HERE / "over_compressa.py", f"{server.url}/v1"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    got = json.loads(done.stdout)
    print(f"langchain-compressa {got['version']}")

    def chat(*messages: tuple[str, str]) -> str:
        messages = [{"role": role, "content": content} for role, content in messages]
        body = {"model": "acme/chat", "messages": messages, "temperature": 0}
        return plain.post_ok("/v1/chat/completions", body)["choices"][0]["message"]["content"]

    question = ("user", "Which port do you listen on?")
    assert got["chat"] == chat(question) != ""
    assert got["usage"]["input_tokens"] > 0 and got["usage"]["output_tokens"] > 0
    assert got["system"] == chat(("system", "Be brief."), question) == "".join(got["chunks"]) != ""
    assert len([chunk for chunk in got["chunks"] if chunk]) > 1, "in pieces"

    vectors = plain.post_ok("/v1/embeddings", {"model": "acme/bert", "input": TEXTS})["data"]
    assert got["documents"] == [pytest.approx(entry["embedding"], abs=1e-6) for entry in vectors]
    assert got["query"] == pytest.approx(vectors[0]["embedding"], abs=1e-6)

    body = {"model": "acme/bert-ranker", "query": "a house", "documents": TEXTS}
    results = plain.post_ok("/rerank", body)["results"]
    expected = [(result["index"], pytest.approx(result["relevance_score"], abs=1e-6)) for result in results]
    assert [tuple(pair) for pair in got["ranked"]] == expected and len(expected) == 3
    assert [(entry["index"], entry["relevance_score"]) for entry in got["first"]] == expected[:1]
    assert "NotFoundError" in got["refused"]["kinds"] and "none" in got["refused"]["text"]
