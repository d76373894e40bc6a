"""Jan's model API over the real binary: every reply against the contract, its folder of models put in order and in effect,
and OpenAI's and Ollama's clients on the same models."""

import concurrent.futures
import json
import shutil
import threading
import time
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jsonschema
import ollama
import openai
import pytest
from gguf import GGMLQuantizationType as Kind
from harness import checkpoints, metrics
from harness.client import Client
from harness.gguf_files import quantize, requantize
from harness.server import free_port, wait_for

CONTRACT = Path(__file__).resolve().parents[1] / "contracts/jan-models.json"
GREEDY = {"temperature": 0, "max_tokens": 8}
HI = [{"role": "user", "content": "Hi"}]
SETTINGS = {"ctx_len": "96", "ngl": "100", "n_parallel": "3", "embedding": "false", "cpu_threads": "1"}
PIECES = {"pre_prompt": "A chat.\n", "system_prompt": "S: ", "user_prompt": "\nQ: ", "ai_prompt": "\nA: "}


def add(folder: Path, weights: Path, name: str, **settings: str):
    """Another model, while the server runs."""
    (folder / name).mkdir()
    shutil.copy(weights, folder / name / "weights.gguf")
    (folder / name / "model.json").write_text(json.dumps({"source_url": "x", "settings": settings}))


@cache
def validator(name: str):
    document = json.loads(CONTRACT.read_text())
    assert name in document["components"]["schemas"], name
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    checker = jsonschema.FormatChecker()
    assert "uri" in checker.checkers, "rfc3986-validator is missing; `make setup` installs it"
    return jsonschema.Draft202012Validator(schema, format_checker=checker)


def conforms(name: str, value) -> dict:
    errors = [f"{error.json_path}: {error.message}" for error in validator(name).iter_errors(value)]
    assert not errors, f"not a {name}: {errors}\n{json.dumps(value)}"
    return value


class Files(ThreadingHTTPServer):
    """Serves one file, in pieces as slow as it is told."""

    daemon_threads = True

    def __init__(self, content: bytes):
        super().__init__(("127.0.0.1", 0), _File)
        self.content, self.pause = content, 0.0
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/files/later.gguf"


class _File(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        for at in range(0, len(self.server.content), 1 << 18):
            self.wfile.write(self.server.content[at : at + (1 << 18)])
            time.sleep(self.server.pause)


@pytest.fixture(scope="module")
def gguf(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "demo.gguf"
    quantize(path, "Q8_0")
    return path


@pytest.fixture
def files(gguf):
    server = Files(gguf.read_bytes())
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path, gguf, files) -> Path:
    """Models of every kind, as users have them."""
    root = tmp_path / "models"

    def model(name: str, document: dict | str | None, file: bool = True):
        (root / name).mkdir(parents=True)
        if file:
            shutil.copy(gguf, root / name / "weights.gguf")
        if document is not None:
            text = document if isinstance(document, str) else json.dumps(document)
            (root / name / "model.json").write_text(text)

    model("tiny", {"source_url": "https://example.org/tiny.gguf", "settings": SETTINGS, "description": "Small."})
    model(
        "pieces",
        {
            "source_url": "https://example.org/p.gguf",
            "version": 2,
            "owned_by": "me",
            "settings": PIECES,
            "parameters": {"temperature": "0", "token_limit": "5", "top_k": "1", "top_p": "0.5", "stream": "true"},
            "metadata": {"author": "Someone", "engine": "nitro"},
        },
    )
    model("bare", None)
    model("later", {"source_url": files.url, "metadata": {"author": "Someone"}}, file=False)
    sources = [{"filename": "../tiny/weights.gguf", "url": files.url}]
    model("astray", {"source_url": "x", "sources": sources}, file=False)
    model("broken", "{")
    shutil.copy(gguf, root / "dropped in.gguf")
    return root


@pytest.fixture
def jan(start_server, folder):
    """A server with Jan's listener, and a client of that."""
    port = free_port()
    environment = {"JAN_MODELS": str(folder), "JAN_HOST": f":{port}", "REGISTRY_PRIVATE_HOST": "127.0.0.1"}
    server = start_server(env=environment)
    server.jan = Client(port)
    server.jan_url = f"http://127.0.0.1:{port}/v1"
    return server


def listed(client: Client, **query) -> dict[str, dict]:
    query = "&".join(f"{key}={value}" for key, value in query.items())
    answer = conforms("ListModelsResponse", client.get(f"/v1/models?{query}").json())
    return {model["id"]: model for model in answer["data"]}


def one(client: Client, name: str) -> dict:
    return conforms("GetModelResponse", client.get(f"/v1/models/{name}").json())


def test_the_contract_is_checked_to_its_formats():
    model = {"source_url": "https://example.org/a b.gguf"}
    with pytest.raises(AssertionError, match="source_url"):
        conforms("Model", model)
    conforms("Model", {"source_url": "weirgate://models/a%20b.gguf"})


def test_lists_and_models_are_the_contracts(jan, folder):
    models = listed(jan.jan)
    assert set(models) == {"weirgate-demo", "tiny", "pieces", "bare", "later", "astray", "droppedin"}
    assert all(one(jan.jan, name)["id"] == name for name in models)
    # Each form is what the contract has, though it does not close it: no other keys in it.
    document = json.loads(CONTRACT.read_text())["components"]["schemas"]
    for model in models.values():
        for part in ("settings", "parameters"):
            assert set(model[part]) <= set(document["Model"]["properties"][part]["properties"])
            assert all(isinstance(value, str) for value in model[part].values())
        assert isinstance(model["version"], str) and model["object"] == "model" and model["owned_by"]
    # And each has all that a model is said to have, in OpenAI's words, vLLM's and Jan's.
    known = {*document["Model"]["properties"], "object", "max_model_len", "root"} - {"state"}
    for name, model in models.items():
        assert known <= set(model) and known <= set(one(jan.jan, name)), name
        assert model["root"] == name and "parent" not in model
    tiny, pieces = models["tiny"], models["pieces"]
    assert tiny["settings"] == {name: SETTINGS[name] for name in ("ctx_len", "ngl", "n_parallel", "embedding")}
    assert (tiny["type"], tiny["version"], tiny["owned_by"], tiny["format"]) == ("model", "1", "you", "ggufv3")
    assert (tiny["name"], tiny["description"], tiny["assets"]) == ("tiny", "Small.", ["."])
    assert (pieces["version"], pieces["owned_by"]) == ("2", "me")
    assert pieces["parameters"] == {
        "temperature": "0", "token_limit": "5", "top_k": "1", "top_p": "0.5", "stream": "true",
    }  # fmt: skip
    single = one(jan.jan, "tiny")
    assert single["engine_parameters"] == {
        "ctx_len": 128, "ngl": 100, "n_parallel": 3, "cpu_threads": 1, "embedding": False, "cont_batching": True,
    }, "in the contract's range"  # fmt: skip
    assert single["metadata"]["ctx_len"] == 96, "and as it is"
    assert single["settings"] == {"ctx_len": 128, "ngl": 100, "n_parallel": 3, "embedding": False}, "as numbers"
    for key in ("type", "version", "format", "assets", "root", "name", "created", "owned_by", "max_model_len"):
        assert single[key] == tiny[key], key
    assert single["metadata"]["quantization"] == "Q8_0" and single["metadata"]["size"]
    assert PIECES.items() <= one(jan.jan, "pieces")["engine_parameters"].items()
    assert one(jan.jan, "pieces")["parameters"] == {
        "temperature": 0, "token_limit": 5, "top_k": 1, "top_p": 0.5, "embedding": False,
    }  # fmt: skip
    # The folder is in order now.
    written = json.loads((folder / "droppedin/model.json").read_text())
    assert written["id"] == "droppedin" and (folder / "droppedin/dropped in.gguf").is_file()
    assert "prompt_template" not in written["settings"], "the file has a template of its own"
    assert (folder / "bare/model.json").is_file() and (folder / "broken/model.json").read_text() == "{"
    assert "left out of the models" in jan.output() and "broken" in jan.output()
    states = {name: (model.get("state"), one(jan.jan, name)["state"]) for name, model in models.items()}
    assert states["weirgate-demo"] == ("ready", "running")
    assert states["tiny"] == (None, "downloaded") and states["later"] == states["astray"] == (None, "not_downloaded")
    assert set(listed(jan.jan, filter="running")) == {"weirgate-demo"}
    assert "later" not in listed(jan.jan, filter="downloaded") and not listed(jan.jan, filter="downloading")
    # The other listener says the same, and Ollama's list has what can be used.
    assert set(listed(Client(jan.port))) == set(models)
    tags = {model.model for model in ollama.Client(jan.url).list().models}
    assert tags == {f"{name}:latest" for name in set(models) - {"later", "astray"}}


def test_models_are_started_and_stopped(jan):
    client, names = jan.jan, ollama.Client(jan.url)

    def running() -> set[str]:
        return {model.model for model in names.ps().models} - {"weirgate-demo:latest"}

    for method in ("PUT", "POST"):
        started = conforms("StartModelResponse", client.request(method, "/v1/models/tiny/start").json())
        assert started == {"id": "tiny", "object": "model", "state": "running"}
        assert listed(client)["tiny"]["state"] == "ready" and one(client, "tiny")["state"] == "running"
        assert running() == {"tiny:latest"}
        # Whoever started it did so for longer than a request lasts.
        names.generate("tiny", "", keep_alive=0)
        time.sleep(0.3)
        assert running() == {"tiny:latest"}
        expires = next(model.expires_at for model in names.ps().models if model.model == "tiny:latest")
        assert expires.year > 2200
        stopped = conforms("StopModelResponse", client.request(method, "/v1/models/tiny/stop").json())
        assert stopped == {"id": "tiny", "object": "model", "state": "stopped"}
        wait_for(lambda: not running(), 5, "unloaded")
        assert "state" not in listed(client)["tiny"] and one(client, "tiny")["state"] == "stopped"
    # One that was not started is stopped, too; a request brings it back.
    assert client.post_ok("/v1/chat/completions", {"model": "tiny", "messages": HI} | GREEDY)
    assert one(client, "tiny")["state"] == "running"
    client.request("PUT", "/v1/models/tiny/stop")
    wait_for(lambda: one(client, "tiny")["state"] == "stopped", 5, "stopped")
    # The body that early clients send is of no matter.
    body = {"id": "tiny", "model_parameters": {"ctx_len": 64}, "engine": "nitro"}
    assert client.request("PUT", "/v1/models/tiny/start", json.dumps(body).encode()).status == 200
    assert client.request("PUT", "/v1/models/weirgate-demo/start").json()["state"] == "running"
    stays = client.request("PUT", "/v1/models/weirgate-demo/stop")
    assert stays.status == 409 and "started for" in stays.json()["error"]["message"]
    not_here = client.request("PUT", "/v1/models/later/start")
    assert not_here.status == 503 and "downloaded" in not_here.json()["error"]["message"]


def test_settings_take_effect(jan, folder):
    client = jan.jan
    chat = {"model": "tiny", "messages": HI} | GREEDY
    assert client.post_ok("/v1/chat/completions", chat)
    long = client.post("/v1/completions", {"model": "tiny", "prompt": "word " * 200, "max_tokens": 1})
    assert long.status == 400 and long.json()["error"]["code"] == "context_length_exceeded"
    # How many sequences a batch holds is what the metrics call the most adapters in one.
    metrics = client.get("/metrics").text.splitlines()
    info = next(line for line in metrics if line.startswith("weirgate_lora_requests_info") and 'model="tiny"' in line)
    assert 'max_lora="3"' in info
    running = next(model for model in client.get("/api/ps").json()["models"] if model["name"] == "tiny:latest")
    assert running["context_length"] == 96
    # Changed while the server runs.
    document = json.loads((folder / "tiny/model.json").read_text())
    document["settings"]["ctx_len"] = 640
    (folder / "tiny/model.json").write_text(json.dumps(document))
    assert client.post_ok("/v1/completions", {"model": "tiny", "prompt": "word " * 200, "max_tokens": 1})
    assert one(client, "tiny")["metadata"]["ctx_len"] == 640
    wait_for(lambda: len(client.get("/api/ps").json()["models"]) == 2, 5, "the former one has left")


def kernel_threads(server) -> int:
    """Threads that compute, beside the engines' own."""
    names = [path.read_text() for path in Path(f"/proc/{server.router_pid()}/task").glob("*/comm")]
    return sum(name.startswith("kernel-") for name in names)


def at_once(client: Client, name: str, streams: int = 3) -> tuple[set[float], set[float]]:
    """How many sequences of as many streams were seen running side by side, and how many waiting."""
    assert client.post_ok("/v1/chat/completions", {"model": name, "messages": HI} | GREEDY)
    body = {"model": name, "prompt": "Once", "max_tokens": 800, "ignore_eos": True, "stream": True}
    running, waiting = set(), set()
    with concurrent.futures.ThreadPoolExecutor(streams) as pool:
        answers = [pool.submit(client.stream, "/v1/completions", body | {"seed": seed}) for seed in range(streams)]
        while not all(answer.done() for answer in answers):
            samples = metrics.parse(client.get("/metrics").text)
            running.add(samples[f'weirgate_sequences_running{{model="{name}"}}'])
            waiting.add(samples[f'weirgate_sequences_waiting{{model="{name}"}}'])
    for answer in answers:
        _, events = answer.result()
        assert [event["choices"][0]["finish_reason"] for event in events[:-1]][-1] == "length"
    return running, waiting


def test_threads_and_places_are_the_models_own(jan, folder, gguf):
    add(folder, gguf, "alone", cont_batching="false", cpu_threads="1", ngl="0")
    add(folder, gguf, "few", cont_batching="false", n_parallel="2", cpu_threads="1")
    add(folder, gguf, "plain")
    before = kernel_threads(jan)
    for name, places in (("alone", 1), ("few", 2)):
        running, waiting = at_once(jan.jan, name)
        assert max(running) == places and max(waiting) >= 3 - places, (name, running, waiting)
    assert kernel_threads(jan) == before, "one thread is the engine's own"
    running, _ = at_once(jan.jan, "plain")
    assert max(running) == 3, running
    assert kernel_threads(jan) == 2 * before, "as many as the server's own model"


def test_what_goes_on_from_texts_makes_vectors_too(jan, folder, start_server, tmp_path):
    client, names = jan.jan, ollama.Client(jan.url)
    texts = ["The quick brown fox jumps.", "Hi", "Ünïcode: 你好"]

    def vectors(client: Client, **more) -> list[list[float]]:
        return [entry["embedding"] for entry in client.post_ok("/v1/embeddings", {"input": texts} | more)["data"]]

    def far(ours, theirs) -> float:
        assert len(ours) == len(theirs) == len(texts)
        return max(abs(a - b) for own, other in zip(ours, theirs) for a, b in zip(own, other, strict=True))

    def oracle(pooling: str) -> list[list[float]]:
        checkpoint = checkpoints.add_pooling(checkpoints.copy_of_demo(tmp_path / pooling), pooling)
        return vectors(Client(start_server("--model-id", str(checkpoint)).port))

    last, mean = oracle("lasttoken"), oracle("mean")
    assert far(last, mean) > 0.01
    quantize(tmp_path / "whole.gguf", "BF16")
    requantize(tmp_path / "whole.gguf", tmp_path / "pooled.gguf", Kind.BF16, pooling_type=1)
    add(folder, tmp_path / "whole.gguf", "both", embedding="true", ctx_len="96")
    add(folder, tmp_path / "pooled.gguf", "pooled", ctx_len="96")
    chat = {"model": "both", "messages": HI} | GREEDY
    said = client.post_ok("/v1/chat/completions", chat)["choices"][0]["message"]["content"]
    assert far(vectors(client, model="both"), last) < 1e-4
    assert far(names.embed(model="both", input=texts).embeddings, last) < 1e-4
    assert client.post_ok("/v1/chat/completions", chat)["choices"][0]["message"]["content"] == said
    assert {"completion", "embedding"} <= set(names.show("both").capabilities)
    # The file's own pooling goes before; such a model does nothing else.
    assert far(vectors(client, model="pooled"), mean) < 1e-4
    assert names.show("pooled").capabilities == ["embedding"]
    refused = client.post("/v1/chat/completions", chat | {"model": "pooled"})
    assert refused.status == 400 and "does not support" in refused.text
    for model in ("both", "pooled"):
        long = client.post("/v1/embeddings", {"model": model, "input": "word " * 200})
        assert long.status == 400 and "the limit is 96" in long.text
    # Without the setting, texts are all there is.
    refused = client.post("/v1/embeddings", {"model": "tiny", "input": "Hi"})
    assert refused.status == 400 and "does not support" in refused.text
    # Loaded anew with its vectors.
    client.request("PUT", "/v1/models/both/stop")
    wait_for(lambda: one(client, "both")["state"] == "stopped", 5, "stopped")
    assert far(vectors(client, model="both"), last) < 1e-4


def test_prompts_are_put_together_of_their_pieces(jan):
    client = jan.jan
    messages = [{"role": "system", "content": "Be kind."}, *HI]
    asked = {"model": "pieces", "messages": messages, "stream": False, "_debug_render_only": True}
    rendered = client.post_ok("/api/chat", asked)["_debug_info"]["rendered_template"]
    assert rendered == "A chat.\nS: Be kind.\nQ: Hi\nA: "
    # OpenAI's route asks the same; the model's parameters are in effect where the request has none.
    chat = {"model": "pieces", "messages": messages}
    first, second = (client.post_ok("/v1/chat/completions", chat) for _ in range(2))
    text = first["choices"][0]["message"]["content"]
    assert text == second["choices"][0]["message"]["content"], "temperature 0"
    plain = {"model": "pieces", "prompt": rendered, "temperature": 0, "max_tokens": 5, "stop": ["Q:"]}
    assert client.post_ok("/v1/completions", plain)["choices"][0]["text"] == text
    assert first["usage"]["completion_tokens"] <= 5
    assert client.post_ok("/v1/chat/completions", chat | {"max_tokens": 2})["usage"]["completion_tokens"] <= 2


def test_models_are_fetched_from_where_they_come(jan, files, folder):
    client = jan.jan
    files.pause = 0.2
    answer = conforms("DownloadModelResponse", client.get("/v1/models/download/later").json())
    assert answer == {"message": "Starting download later"}
    assert listed(client)["later"]["state"] == "downloading" and one(client, "later")["state"] == "not_downloaded"
    assert set(listed(client, filter="downloading")) == {"later"}
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        again = list(pool.map(lambda _: client.request("POST", "/v1/models/download/later").json(), range(3)))
    assert again == [answer] * 3
    files.pause = 0.0
    wait_for(lambda: one(client, "later")["state"] == "downloaded", 20, "downloaded")
    assert (folder / "later/later.gguf").read_bytes() == files.content
    assert client.get("/v1/models/download/later").json() == {"message": "later is here already"}
    assert client.post_ok("/v1/chat/completions", {"model": "later", "messages": HI} | GREEDY)
    # Deleted, it can be fetched again: its description is not the user's.
    deleted = conforms("DeleteModelResponse", client.request("DELETE", "/v1/models/later").json())
    assert deleted == {"id": "later", "object": "model", "deleted": True}
    assert one(client, "later")["state"] == "not_downloaded" and (folder / "later/model.json").is_file()
    refused = client.get("/v1/models/download/astray")
    assert refused.status == 400 and "does not say" in refused.json()["error"]["message"]


def test_what_is_dropped_in_or_deleted_is_noticed(jan, folder, gguf):
    client = openai.OpenAI(base_url=jan.jan_url, api_key="none", max_retries=0)
    shutil.copy(gguf, folder / "new one.gguf")
    assert client.models.retrieve("newone").owned_by == "you"
    assert client.chat.completions.create(model="newone", messages=HI, **GREEDY).choices[0].message.content
    assert client.models.delete("newone").deleted is True
    assert not (folder / "newone").exists()
    assert "newone" not in {model.id for model in client.models.list()}
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="newone", messages=HI, **GREEDY)
    shutil.rmtree(folder / "tiny")
    assert "tiny" not in listed(jan.jan)
    assert (folder / "pieces/weights.gguf").is_file(), "nothing else is touched"


def test_weights_that_are_broken_are_named_and_left(jan, folder, gguf):
    before = set(listed(jan.jan))
    cut = folder / "cut off.gguf"
    cut.write_bytes(gguf.read_bytes()[: gguf.stat().st_size // 2])
    (folder / "hollow").mkdir()
    (folder / "hollow/weights.gguf").write_bytes(gguf.read_bytes()[:100])
    for _ in range(2):
        assert set(listed(jan.jan)) == before
    left = [line for line in jan.output().splitlines() if "left where it is" in line]
    for name in ("cut off.gguf", "hollow/weights.gguf"):
        (line,) = [line for line in left if name in line]
        assert "WARN" in line and line.partition("left where it is: ")[2], line
    assert cut.is_file() and not (folder / "cutoff").exists() and not (folder / "hollow/model.json").exists()
    for name in ("cutoff", "hollow"):
        answer = jan.jan.post("/v1/chat/completions", {"model": name, "messages": HI} | GREEDY)
        assert answer.status == 404, answer.text
    # Whole by now, as when a copy has come to its end.
    shutil.copy(gguf, cut)
    assert set(listed(jan.jan)) == before | {"cutoff"}
    assert jan.jan.post_ok("/v1/chat/completions", {"model": "cutoff", "messages": HI} | GREEDY)


def test_what_one_dialect_made_another_one_deletes(start_server, folder, gguf, tmp_path):
    server = start_server("--model-store", str(tmp_path / "store"), env={"JAN_MODELS": str(folder)})
    client, names = Client(server.port), ollama.Client(server.url)

    def known() -> tuple[set[str], set[str]]:
        return set(listed(client)), {model.model.removesuffix(":latest") for model in names.list().models}

    # Jan's, by Ollama's client.
    assert "bare" in known()[0] and "bare" in known()[1] and (folder / "bare").is_dir()
    assert client.post_ok("/v1/chat/completions", {"model": "bare", "messages": HI} | GREEDY)
    assert names.delete("bare").status == "success"
    assert not (folder / "bare").exists()
    assert client.get("/v1/models/bare").status == 404
    assert "bare" not in known()[0] and "bare" not in known()[1]
    with pytest.raises(ollama.ResponseError, match="not found"):
        names.delete("bare")
    # Ollama's, by Jan's and OpenAI's.
    blob = names.create_blob(gguf)
    assert names.create("made", files={"demo.gguf": blob}, system="Be brief.").status == "success"
    assert "made" in known()[1] and one(client, "made")["state"] == "downloaded"
    assert client.post_ok("/v1/chat/completions", {"model": "made", "messages": HI} | GREEDY)
    deleted = conforms("DeleteModelResponse", client.request("DELETE", "/v1/models/made").json())
    assert deleted == {"id": "made", "object": "model", "deleted": True}
    assert "made" not in known()[0] and "made" not in known()[1]
    with pytest.raises(ollama.ResponseError, match="not found"):
        names.show("made")
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file() and path.stat().st_size > 1_000_000]
    assert client.request("DELETE", "/v1/models/made").status == 404
    assert (folder / "pieces/weights.gguf").is_file(), "nothing else is touched"


def test_what_is_not_there_is_not_found(jan):
    client = jan.jan
    for method, path in (
        ("GET", "/v1/models/nobody"),
        ("DELETE", "/v1/models/nobody"),
        ("PUT", "/v1/models/nobody/start"),
        ("PUT", "/v1/models/nobody/stop"),
        ("POST", "/v1/models/nobody/start"),
        ("GET", "/v1/models/download/..%2F..%2Fetc"),
        ("DELETE", "/v1/models/..%2F..%2Fetc"),
        ("DELETE", "/v1/models/broken"),
        ("PUT", "/v1/models/tiny"),
    ):
        answer = client.request(method, path)
        assert answer.status == 404, f"{method} {path}: {answer.text}"
        assert answer.json()["error"]["code"] == "model_not_found"
    # A browser asks for a picture without saying whose page it is on, but not without a hint.
    embedded = client.request("GET", "/v1/models/download/later", None, {"Sec-Fetch-Site": "cross-site"})
    assert embedded.status == 403 and one(client, "later")["state"] == "not_downloaded"
    conflict = client.request("DELETE", "/v1/models/weirgate-demo")
    assert conflict.status == 409


def test_only_administrators_change_models(start_server, folder):
    keys = {"API_KEY": "user", "ADMIN_API_KEY": "admin", "JAN_MODELS": str(folder)}
    client = Client(start_server(env=keys).port)
    for method, path in (
        ("DELETE", "/v1/models/tiny"),
        ("PUT", "/v1/models/tiny/start"),
        ("POST", "/v1/models/tiny/stop"),
        ("GET", "/v1/models/download/later"),
        ("POST", "/v1/models/download/later"),
    ):
        for key, status in (("", 401), ("Bearer user", 403)):
            assert client.request(method, path, None, {"Authorization": key}).status == status, (method, path, key)
    assert client.request("PUT", "/v1/models/tiny/start", None, {"Authorization": "Bearer admin"}).status == 200
    assert (folder / "tiny/weights.gguf").is_file()
