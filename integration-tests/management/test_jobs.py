"""Jobs over HTTP: downloads, trainings and deployments that are interrupted, and servers that are killed."""

import random
import time
from contextlib import ExitStack, closing, contextmanager

import pytest
from harness import adapters, fake_hub
from harness.client import Client
from harness.postgres import Postgres
from harness.server import DEMO_MODEL, wait_for
from harness.slow_line import SlowLine
from managed import Managed, in_hub_cache, progress
from restarts import play

# Ollama's penalty of repetition is 1.1 where nothing is said.
OLLAMA_OPTIONS = {"temperature": 0, "num_predict": 12, "repeat_penalty": 1.0}


def test_a_training_becomes_an_adapter_that_answers_without_a_restart(manage):
    server = manage()
    api = server.api
    base = api.chat("Compressa-LLM")
    job = api.train("My Adapter", api.add_dataset(), max_steps=3)
    details = api.until(job, "FINISHED")
    assert details["progress"]["step"] == 3 and details["progress"]["total_steps"] == 3
    assert details["kind"] == "train" and details["error"] is None and details["ended_at"] > details["started_at"]
    lines = [line["line"] for line in api.ok("GET", f"jobs/{job['id']}/logs/")]
    assert any('"started"' in line for line in lines) and any('"finished"' in line for line in lines)
    curve = api.request("GET", f"finetune/{job['id']}/curve/")
    assert curve.headers["content-type"] == "image/svg+xml" and curve.body.startswith(b"<svg")
    offered = {"model_id": "My Adapter", "adapter": True, "base_model_id": "weirgate-demo"}
    assert offered in api.ok("GET", "models/")
    deployment = api.ok("POST", "deploy/", {"model_id": "weirgate-demo", "adapter_ids": ["My Adapter"]})
    wait_for(lambda: api.ok("GET", f"jobs/{deployment['id']}/")["progress"] == {"deployed": True}, 20, "deployed")
    adapted = api.chat("My Adapter")
    assert adapted != base and api.chat("Compressa-LLM") == base
    # Through the other dialects, too.
    plain = Client(server.port)
    chat = {"messages": [{"role": "user", "content": "Which port do you listen on?"}], "stream": False}
    openai = chat | {"model": "My Adapter", "temperature": 0, "max_tokens": 12}
    assert plain.post_ok("/v1/chat/completions", openai)["choices"][0]["message"]["content"] == adapted
    ollama = chat | {"model": "My Adapter", "options": OLLAMA_OPTIONS}
    assert plain.post_ok("/api/chat", ollama)["message"]["content"] == adapted
    for adapter in (None, "My Adapter"):
        parameters = {"max_new_tokens": 12} | ({"adapter_id": adapter} if adapter else {})
        assert plain.post_ok("/generate", {"inputs": "Which port", "parameters": parameters})["generated_text"]
    api.ok("POST", "deploy/interrupt/")
    wait_for(lambda: api.request("POST", "chat/completions", openai).status == 404, 1, "undeployed")


@contextmanager
def outage(server: Managed):
    """The database fails as long as one of its tables is called otherwise."""
    server.sql("ALTER TABLE adapters RENAME TO away")
    try:
        yield
    finally:
        server.sql("ALTER TABLE away RENAME TO adapters")


@pytest.mark.parametrize("crash", [False, True], ids=["an outage", "an outage and a crash"])
def test_a_finished_training_outlasts(manage, crash):
    server = manage()
    job = server.api.train("lasting", server.api.add_dataset(), max_steps=20)
    runs = server.state / "trainings" / job["id"] / "runs.log"
    wait_for(lambda: runs.exists() and "begin" in runs.read_text(), 10, "the worker has begun")
    with outage(server):
        wait_for(lambda: "finished" in runs.read_text(), 10, "the worker has ended")
        time.sleep(0.5)
        assert server.api.status(job) == "RUNNING", server.api.ok("GET", f"jobs/{job['id']}/")
        if crash:
            server.crash()
    if crash:
        server.start()
    server.api.until(job, "FINISHED")
    offered = {"model_id": "lasting", "adapter": True, "base_model_id": "weirgate-demo"}
    assert offered in server.api.ok("GET", "models/")
    assert server.api.request("GET", f"finetune/{job['id']}/curve/").body.startswith(b"<svg")
    assert runs.read_text().count("begin") == 1, "nothing was trained twice"


def test_a_model_of_the_hub_is_deployed_and_its_adapter_answers_by_every_name(manage, tmp_path):
    # It says something else than the model that the server was started for.
    other = adapters.write_model(tmp_path / "other", adapters.random_adapter(seed=5, strength=0.3))
    in_hub_cache(tmp_path / "hf", "acme/other", other)
    server = manage()
    api = server.api
    started_for = api.chat("weirgate-demo")
    assert api.chat("Compressa-LLM") == started_for, "the alias without a deployment"
    api.until(api.train("sql", api.add_dataset(), model="acme/other"), "FINISHED")
    wrong = api.request("POST", "deploy/", {"model_id": "weirgate-demo", "adapter_ids": ["sql"]})
    assert wrong.status == 422 and "acme/other" in wrong.text
    absent = api.request("POST", "deploy/", {"model_id": "acme/other", "adapter_ids": ["no"]})
    assert absent.status == 404
    job = api.ok("POST", "deploy/", {"model_id": "acme/other", "adapter_ids": ["sql"]})
    wait_for(lambda: api.ok("GET", f"jobs/{job['id']}/")["progress"] == {"deployed": True}, 20, "deployed")
    base, adapted = api.chat("acme/other"), api.chat("sql")
    assert base == api.chat("Compressa-LLM") and len({base, adapted, started_for}) == 3
    plain = Client(server.port)
    # By its name and by the alias, on every API whose requests name a model.
    messages = [{"role": "user", "content": "Which port do you listen on?"}]
    said = {"sql": adapted, "Compressa-LLM": base, "acme/other": base, "weirgate-demo": started_for}
    for name, answer in said.items():
        asked = {"model": name, "messages": messages}
        ollama = asked | {"options": OLLAMA_OPTIONS, "stream": False}
        assert plain.post_ok("/api/chat", ollama)["message"]["content"] == answer, name
        openai = plain.post_ok("/v1/chat/completions", asked | {"temperature": 0, "max_tokens": 12})
        assert openai["choices"][0]["message"]["content"] == answer, name
    # TGI's requests name no model, and reach the one that the adapter belongs to.
    text = {"prompt": "Once upon a time", "max_tokens": 12, "temperature": 0}
    names = ("sql", "tgi", "weirgate-demo", "Compressa-LLM")
    answers = {name: plain.post_ok("/v1/completions", text | {"model": name}) for name in names}
    expected = {name: answer["choices"][0]["text"] for name, answer in answers.items()}
    assert expected["tgi"] == expected["weirgate-demo"]
    assert len(set(expected.values())) == 3, expected
    raw = {"inputs": "Once upon a time", "parameters": {"max_new_tokens": 12}}
    assert plain.post_ok("/generate", raw)["generated_text"] == expected["tgi"]
    refused = plain.post("/generate", {"inputs": "x", "parameters": {"adapter_id": "Compressa-LLM"}})
    assert refused.status == 422 and "is not loaded" in refused.text, "a model is no adapter"
    raw["parameters"]["adapter_id"] = "sql"
    assert plain.post_ok("/generate", raw)["generated_text"] == expected["sql"]
    # It is among the models that OpenAI's clients see, like those of the model that the server was started for.
    listed = {model["id"]: model for model in plain.get("/v1/models").json()["data"]}
    assert listed["sql"]["parent"] == "acme/other" and listed["sql"]["state"] == "ready"
    assert listed["sql"]["max_model_len"] == listed["acme/other"]["max_model_len"] > 0
    single = plain.get("/v1/models/sql").json()
    assert (single["parent"], single["created"]) == ("acme/other", listed["sql"]["created"])
    # What is deployed is not for others to stop or to delete.
    for method, path in (("PUT", "acme/other/stop"), ("DELETE", "acme/other")):
        refused = plain.request(method, f"/v1/models/{path}")
        assert refused.status == 409 and "deployed" in refused.json()["error"]["message"], refused.text
    refused = plain.request("DELETE", "/api/delete", {"model": "acme/other"})
    assert refused.status == 409 and "deployed" in refused.json()["error"], refused.text
    _, streamed = plain.stream("/generate_stream", raw)
    assert streamed[-1]["generated_text"] == expected["sql"]
    (whole,) = plain.post_ok("/", raw)
    assert whole["generated_text"] == raw["inputs"] + expected["sql"]
    api.ok("POST", "deploy/interrupt/")
    api.until(job, "KILLED")
    wait_for(lambda: plain.post("/generate", raw).status == 422, 1, "undeployed")
    assert plain.get("/v1/models/sql").status == 404
    assert "sql" not in {model["id"] for model in plain.get("/v1/models").json()["data"]}


def test_failures_say_why(manage):
    api = manage().api
    dataset = api.add_dataset()
    failed = api.until(api.train("fails", dataset, fail_at=2), "FAILED")
    assert failed["error"] == "the loss is no number"
    killed = api.until(api.train("no memory", dataset, exit_at=2), "FAILED")
    assert "was killed" in killed["error"] and "no memory left" in killed["error"]
    assert api.status(api.train("fails", dataset, max_steps=1)) in ("CREATED", "RUNNING"), "the name is free again"
    absent = api.until(api.ok("POST", "models/add/?model_id=acme/absent"), "FAILED", seconds=60)
    assert absent["error"]


def test_a_download_that_a_kill_cut_off_goes_on(manage, tmp_path):
    with fake_hub.serving("acme/demo", DEMO_MODEL) as hub, closing(SlowLine(hub.server_address[1])) as line:
        line.bytes_per_second = 400_000
        server = manage(env={"HF_ENDPOINT": f"http://{line.host}"})
        first = server.api.ok("POST", "models/add/?model_id=acme/demo")
        second = server.api.ok("POST", "models/add/?model_id=acme/demo")
        assert second["id"] == first["id"], "twice at the same time is once"
        wait_for(lambda: progress(server.api, first).get("completed", 0) > 500_000, 20, "some of it is here")
        assert server.api.status(first) == "RUNNING"
        server.crash()
        here = max(path.stat().st_size for path in (tmp_path / "hf").glob("**/*.incomplete"))
        assert 0 < here < len(hub.files["model.safetensors"])
        before = len(hub.sent)
        line.bytes_per_second = None
        server.start()
        server.api.until(first, "FINISHED")
        # What was here already is not asked for again.
        assert hub.sent[before:] == [("acme/demo/model.safetensors", here)]
        assert "acme/demo" in {model["model_id"] for model in server.api.ok("GET", "models/")}
        server.stop()


def test_a_deployment_outlives_its_server(manage):
    server = manage()
    api = server.api
    api.until(api.train("a", api.add_dataset()), "FINISHED")
    job = api.ok("POST", "deploy/", {"model_id": "weirgate-demo", "adapter_ids": ["a"]})
    wait_for(lambda: api.ok("GET", f"jobs/{job['id']}/")["progress"] == {"deployed": True}, 20, "deployed")
    before = api.chat("a")
    for end in (server.stop, server.crash):
        end()
        server.start()
        assert server.api.ok("GET", "deploy/status/")["job"]["id"] == job["id"]
        body = {"model": "a", "prompt": "x"}
        wait_for(lambda: server.api.request("POST", "completions", body).status == 200, 20, "a")
        assert server.api.chat("a") == before
        assert server.api.status(job) == "RUNNING"


def test_the_state_has_one_server_at_a_time(manage, tmp_path):
    manage()
    second = Managed(tmp_path)
    with pytest.raises(AssertionError, match="another server uses the folder"):
        second.start()
    second.kill()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("database", ["SQLite", "PostgreSQL"])
def test_nothing_is_lost_or_done_twice_over_kills_at_random_moments(tmp_path, database):
    with ExitStack() as stack:
        args = ()
        if database == "PostgreSQL":
            postgres = stack.enter_context(Postgres(tmp_path / "postgres"))
            args = ("--state-database", postgres.url("jobs"))
        (tmp_path / "root").mkdir()
        played = play(tmp_path / "root", random.Random(7), kills=5, args=args)
        assert played.kills == 5 and not played.lost and not played.twice, played
        assert all(played.known.values()) and all(played.resumed.values()), played
