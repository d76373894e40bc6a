"""Every command of the management document, as it is written there but for the server's address and the ids that a
server gives; every reply against a schema written by hand."""

import json
import re
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import schemas
from buckets import Bucket, stored_in
from harness import fake_hub
from harness.checkpoints import add_pooling, copy_of_demo
from harness.client import Client
from harness.postgres import Postgres
from harness.server import DEMO_MODEL, ROOT, wait_for
from managed import LINE, curl, in_hub_cache, progress

sys.path.insert(0, str(ROOT / "tools" / "parity"))

import encoders  # noqa: E402

COMMANDS = (Path(__file__).resolve().parents[1] / "contracts/management-api.curl").read_text().strip().split("\n\n")
# Of the document's examples.
DATASET = "01be6d68-f790-434b-aa6d-5bd492aef202"
FINISHED, DEPLOYED = "4d78d943-1896-4d7b-9f11-b10cc2389ba3", "8a63349c-078f-4e98-8968-4f011593329c"


class Replay:
    def __init__(self, server, folder: Path):
        self.server, self.folder, self.ids, self.played = server, folder, {}, []

    def __call__(self, fragment: str, schema: dict | None, method: str = "GET"):
        """Plays the one command with this in its address; its reply."""
        chosen = [c for c in COMMANDS if re.search(rf"'{method}' \\\n'[^']*/api/v1/{fragment}'", c)]
        assert len(chosen) == 1, (fragment, method, len(chosen))
        self.played.append(chosen[0])
        command = chosen[0].replace("http://localhost:8080", self.server.url)
        for known, own in self.ids.items():
            command = command.replace(known, own)
        status, kind, body = curl(command, self.folder)
        assert status == 200, f"{command}\n{status} {body}"
        if schema is None:
            return body
        assert kind == "application/json"
        reply = json.loads(body)
        schemas.check(reply, schema)
        return reply


def test_the_page_has_every_command_of_the_document(manage):
    paths = Client(manage().port).get("/api/docs/openapi.json").json()["paths"]
    offered = [(method.upper(), path) for path, item in paths.items() for method in item]
    # Parameters of paths have names there and values in the document.
    offered = [(method, re.sub(r"\{\w+\}", "[0-9a-f-]{36}", path).rstrip("/") + "/?") for method, path in offered]
    asked = [re.match(r"curl -X '(\w+)' \\\n'http://localhost:8080([^'?]*)", command).groups() for command in COMMANDS]
    assert len(set(asked)) == len(COMMANDS) == 19
    for method, address in asked:
        found = [pattern for offers, pattern in offered if offers == method and re.fullmatch(pattern, address)]
        assert len(found) == 1, f"{method} {address}: {found}"


@pytest.mark.parametrize("store", ["folder", "bucket"])
@pytest.mark.parametrize("database", ["SQLite", "PostgreSQL"])
def test_every_command_of_the_document(manage, tmp_path, database, store):
    for name in ("model_id1", "NousResearch/Llama-2-7b-chat-hf"):
        in_hub_cache(tmp_path / "hf", name)
    embedder = tmp_path / "hf/hub/models--acme--embedder/snapshots" / fake_hub.COMMIT
    encoders.write_sentence_model("bert", embedder)
    (tmp_path / "train.jsonl").write_text(LINE * 3)
    args, env = [], {}
    with ExitStack() as stack:
        hub = stack.enter_context(fake_hub.serving("mymodel_id", DEMO_MODEL))
        if database == "PostgreSQL":
            postgres = stack.enter_context(Postgres(tmp_path / "postgres"))
            args += ["--state-database", postgres.url("jobs")]
        if store == "bucket":
            bucket = stack.enter_context(Bucket("moto", tmp_path))
            args += ["--dataset-store", "s3://sets"]
            env |= stored_in(bucket)["env"]
        server = manage(*args, env=env | {"HF_ENDPOINT": hub.url})
        play, api = Replay(server, tmp_path), server.api
        models = play("models/", schemas.MODELS)
        assert {model["model_id"] for model in models} == {
            "weirgate-demo",
            "model_id1",
            "acme/embedder",
            "NousResearch/Llama-2-7b-chat-hf",
        }
        download = play(r"models/add/\?model_id=mymodel_id", schemas.JOB, "POST")
        assert download["name"] == "DOWNLOAD_mymodel_id"
        assert download["status"] in ("RUNNING", "FINISHED")
        play.ids[FINISHED] = download["id"]
        api.until(download, "FINISHED")
        assert play(f"jobs/{FINISHED}/status/", schemas.JOB)["status"] == "FINISHED"
        assert "mymodel_id" in {model["model_id"] for model in play("models/", schemas.MODELS)}

        dataset = play(r"datasets/upload/\?description=My%20Description", schemas.DATASET, "POST")
        assert (dataset["name"], dataset["description"]) == ("train.jsonl", "My Description")
        play.ids[DATASET] = dataset["id"]
        assert play("datasets/", schemas.list_of(schemas.DATASET)) == [dataset]
        assert play(f"datasets/{DATASET}/", None) == (LINE * 3).encode()
        if store == "bucket":
            assert dataset["s3_path"] in bucket.keys()

        trainable = play("finetune/models/", schemas.MODELS)
        assert not any(model["adapter"] for model in trainable)
        assert "acme/embedder" not in {model["model_id"] for model in trainable}
        for adapter in ("adapter_id1", "adapter_id2"):
            api.until(api.train(adapter, dataset["id"], model="model_id1"), "FINISHED")
        training = play("finetune/", schemas.JOB, "POST")
        assert training["name"] == f"FT_NousResearch/Llama-2-7b-chat-hf_{dataset['id']}"
        assert training["status"] == "CREATED"
        state = play("finetune/status/", schemas.FINETUNE_STATUS)
        assert (state["name"], state["job"]["id"]) == ("My Adapter Training", training["id"])
        assert play("finetune/interrupt/", schemas.JOB, "POST")["id"] == training["id"]
        api.until(training, "KILLED")

        deployment = play("deploy/", schemas.JOB, "POST")
        assert deployment["name"] == "DEPLOY_model_id1_adapters_adapter_id1_adapter_id2"
        assert deployment["status"] == "CREATED"
        play.ids[DEPLOYED] = deployment["id"]
        api.until(deployment, "RUNNING")
        wait_for(lambda: progress(api, deployment) == {"deployed": True}, 20, "deployed")
        expected = {"model_id": "model_id1", "adapter_ids": ["adapter_id1", "adapter_id2"]}
        assert play("deploy/", schemas.DEPLOYED) == expected
        status = play("deploy/status/", schemas.DEPLOY_STATUS)
        assert {key: status[key] for key in expected} == expected
        assert (status["job"]["id"], status["job"]["status"]) == (deployment["id"], "RUNNING")

        completion = play("completions", schemas.COMPLETION, "POST")
        assert completion["usage"]["completion_tokens"] <= 128
        play("chat/completions", schemas.CHAT, "POST")
        embedding = play("embeddings", schemas.EMBEDDING, "POST")
        assert len(embedding["data"]) == 1 and embedding["model"] == "Compressa-Embedding"

        jobs = play("jobs/", schemas.list_of(schemas.JOB))
        assert [jobs[0]["id"], jobs[-1]["id"]] == [download["id"], deployment["id"]]
        assert play(f"jobs/{DEPLOYED}/interrupt/", schemas.JOB, "POST")["status"] == "KILLED"
        again = api.ok("POST", "deploy/", {"model_id": "model_id1", "adapter_ids": []})
        api.until(again, "RUNNING")
        interrupted = play("deploy/interrupt/", schemas.JOB, "POST")
        assert (interrupted["id"], interrupted["status"]) == (again["id"], "RUNNING")
        api.until(again, "KILLED")
        assert set(play.played) == set(COMMANDS), "not every command was played"
        server.stop()


def test_a_decoder_that_makes_vectors_is_an_embedder(manage, tmp_path):
    for name in ("acme/plain", "acme/decoder"):
        in_hub_cache(tmp_path / "hf", name)
    add_pooling(tmp_path / "hf/hub/models--acme--decoder/snapshots" / fake_hub.COMMIT, "lasttoken")
    encoders.write_sentence_model("bert", tmp_path / "hf/hub/models--acme--encoder/snapshots" / fake_hub.COMMIT)
    api = manage().api
    assert {model["model_id"] for model in api.ok("GET", "models/")} >= {"acme/plain", "acme/decoder", "acme/encoder"}
    assert {model["model_id"] for model in api.ok("GET", "finetune/models/")} == {"weirgate-demo", "acme/plain"}

    def width() -> int:
        answer = api.ok("POST", "embeddings/", {"model": "Compressa-Embedding", "input": ["Hi"]})
        return len(answer["data"][0]["embedding"])

    # The deployed one goes before all others, whatever it is made of.
    widths = {"acme/decoder": 256, "acme/encoder": 36}
    for model in (*widths, *reversed(widths)):
        wait_deployed(api, api.ok("POST", "deploy/", {"model_id": model, "adapter_ids": []}))
        assert width() == widths[model], model
    # Started with one, it is none to be trained for, as one of the store.
    decoder = add_pooling(copy_of_demo(tmp_path / "own"), "mean")
    api = manage("--model-id", str(decoder), name="other").api
    assert {model["model_id"] for model in api.ok("GET", "finetune/models/")} == {"acme/plain"}
    assert width() == 256


def wait_deployed(api, job):
    wait_for(lambda: api.ok("GET", f"jobs/{job['id']}/")["progress"] == {"deployed": True}, 20, "deployed")


def test_both_slash_forms_and_no_redirects(manage):
    api = manage().api
    for path in ("models", "jobs", "datasets", "deploy", "finetune/models"):
        for form in (path, path + "/"):
            assert api.request("GET", form).status == 200, form
    for path in ("deploy/interrupt", "finetune/interrupt"):
        for form in (path, path + "/"):
            response = api.request("POST", form, b"", {"Content-Type": "application/x-www-form-urlencoded"})
            assert response.status == 404, form
            schemas.check(response.json(), schemas.DETAIL)
    for form in ("models/add", "models/add/", "models/add/?model_id=../x"):
        response = api.request("POST", form, b"", {"Content-Type": "application/x-www-form-urlencoded"})
        assert response.status == 422, form
        schemas.check(response.json(), schemas.PROBLEMS)


def test_both_slash_forms_with_something_there(manage):
    server = manage()
    api = server.api
    head = b'--xx\r\nContent-Disposition: form-data; name="file"; filename="train.jsonl"\r\n\r\n'
    multipart = {"Content-Type": "multipart/form-data; boundary=xx"}
    for number, slash in enumerate(("", "/")):
        upload = api.request("POST", f"datasets/upload{slash}", head + LINE.encode() + b"\r\n--xx--\r\n", multipart)
        assert upload.status == 200, upload.text
        dataset = upload.json()
        schemas.check(dataset, schemas.DATASET)
        assert api.request("GET", f"datasets/{dataset['id']}{slash}").body == LINE.encode()

        body = {"name": f"adapter{number}", "model_id": "weirgate-demo", "dataset_id": dataset["id"]}
        training = api.ok("POST", f"finetune{slash}", body)
        schemas.check(training, schemas.JOB)
        status = api.ok("GET", f"finetune/status{slash}")
        schemas.check(status, schemas.FINETUNE_STATUS)
        assert (status["name"], status["job"]["id"]) == (body["name"], training["id"])
        api.until(training, "FINISHED")

        asked = {"model_id": "weirgate-demo", "adapter_ids": [body["name"]]}
        deployment = api.ok("POST", f"deploy{slash}", asked)
        schemas.check(deployment, schemas.JOB)
        wait_deployed(api, deployment)
        status = api.ok("GET", f"deploy/status{slash}")
        schemas.check(status, schemas.DEPLOY_STATUS)
        assert status["job"]["id"] == deployment["id"] and status["adapter_ids"] == asked["adapter_ids"]
        schemas.check(api.ok("GET", f"jobs/{deployment['id']}/status{slash}"), schemas.JOB)
        # As a form without anything in it, which some clients send.
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        interrupted = api.request("POST", f"deploy/interrupt{slash}", b"", form)
        assert (interrupted.status, interrupted.json()["id"]) == (200, deployment["id"])
        api.until(deployment, "KILLED")
        deleted = api.request("DELETE", f"models{slash}?model_id={body['name']}")
        assert deleted.status == 200, deleted.text
