"""Several models on one server, out of a folder that Ollama itself could have made."""

import concurrent.futures
import json
import shutil

import ollama as library
import openai
import pytest
from harness.client import Client
from harness.gguf_files import quantize
from harness.ollama_api import PROMPT, conforms
from harness.ollama_store import install
from harness.server import DEMO_MODEL, run_to_exit, wait_for

GREEDY = {"temperature": 0, "num_predict": 16}
SYSTEM = "You are a lighthouse."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    weights = root / "demo.gguf"
    quantize(weights, "Q8_0")
    for name, made_of in (("alpha", ""), ("beta", "alpha:latest"), ("gamma", "/root/.ollama/models/blobs/sha256-0")):
        install(root, name, weights.read_bytes(), made_of)
    params = json.dumps({"num_predict": 5, "temperature": 0}).encode()
    template = b"{{ .System }} {{ .Prompt }}"
    install(root, "keeper", weights.read_bytes(), system=SYSTEM.encode(), params=params, template=template)
    weights.unlink()
    return root


def names(client: Client, path: str = "/api/ps") -> set[str]:
    return {model["name"].removesuffix(":latest") for model in client.get(path).json()["models"]} - {"weirgate-demo"}


def generate(client: Client, model: str, **more):
    options = {"options": GREEDY} | more
    answer = client.post_ok("/api/generate", {"model": model, "prompt": PROMPT, "stream": False} | options)
    conforms("GenerateResponse", answer)
    return answer


def test_models_are_loaded_listed_and_unloaded(start_server, folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    server = start_server(env={"OLLAMA_MODELS": str(folder), "OLLAMA_KEEP_ALIVE": "1h"})
    client = Client(server.port)
    assert names(client, "/api/tags") == {"alpha", "beta", "gamma", "keeper"} and names(client) == set()
    tags = client.get("/api/tags").json()
    conforms("ListResponse", tags)
    parents = {model["name"]: model["details"]["parent_model"] for model in tags["models"]}
    # Paths of the machine that a model was made on are not told.
    assert (parents["alpha:latest"], parents["beta:latest"], parents["gamma:latest"]) == ("", "alpha:latest", "")
    assert client.post_ok("/api/show", {"model": "beta"})["details"]["families"] == ["llama", "clip"]
    for model in ("alpha", "beta"):
        answer = generate(client, model)
        assert answer["response"] and answer["load_duration"] > 1_000_000, "a load takes its time"
    assert generate(client, "alpha")["load_duration"] < answer["total_duration"]
    assert names(client) == {"alpha", "beta"}
    conforms("ProcessResponse", client.get("/api/ps").json())
    shown = client.post_ok("/api/show", {"model": "keeper"})
    conforms("ShowResponse", shown)
    assert shown["system"] == SYSTEM and "num_predict" in shown["parameters"] and shown["template"]
    assert generate(client, "beta", prompt="", keep_alive=0)["done_reason"] == "unload"
    assert names(client) == {"alpha"}
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before, "read in place"


def test_clients_load_and_unload(start_server, folder):
    client = library.Client(start_server(env={"OLLAMA_MODELS": str(folder), "OLLAMA_KEEP_ALIVE": "1h"}).url)

    def resident() -> list[str]:
        return [model.model for model in client.ps().models if model.model != "weirgate-demo:latest"]

    for load in (lambda **more: client.generate("alpha", "", **more), lambda **more: client.chat("alpha", [], **more)):
        assert load().done_reason == "load" and resident() == ["alpha:latest"]
        assert load(keep_alive=0).done_reason == "unload"
        wait_for(lambda: not resident(), 5, "it has left")
    for answer in (
        lambda: client.generate("alpha", PROMPT, options=GREEDY, keep_alive=0),
        lambda: list(client.generate("alpha", PROMPT, options=GREEDY, keep_alive=0, stream=True))[-1],
        lambda: client.chat("alpha", [{"role": "user", "content": PROMPT}], options=GREEDY, keep_alive="0s"),
    ):
        assert answer().done_reason in ("stop", "length")
        wait_for(lambda: not resident(), 5, "it has left after its answer")
    client.generate("alpha", PROMPT, options=GREEDY, keep_alive=-1)
    (kept,) = [model for model in client.ps().models if model.model == "alpha:latest"]
    assert kept.expires_at.year > 2200, "for ever"


def test_a_model_brings_its_own_words(start_server, folder):
    client = Client(start_server(env={"OLLAMA_MODELS": str(folder)}).port)
    answer = client.post_ok("/api/generate", {"model": "keeper", "prompt": PROMPT, "stream": False})
    assert answer["eval_count"] <= 5
    rendered = client.post_ok("/api/generate", {"model": "keeper", "prompt": "Who?", "_debug_render_only": True})
    assert rendered["_debug_info"]["rendered_template"] == f"{SYSTEM} Who?"


def test_models_expire_and_make_room(start_server, folder):
    server = start_server(env={"OLLAMA_MODELS": str(folder), "OLLAMA_MAX_LOADED_MODELS": "2"})
    client = Client(server.port)
    for model in ("alpha", "beta", "alpha", "gamma"):
        generate(client, model)
    assert names(client) == {"alpha", "gamma"}, "the one used longest ago made room"
    generate(client, "alpha", keep_alive="100ms")
    wait_for(lambda: names(client) == {"gamma"}, 5, "expiry")
    generate(client, "gamma", keep_alive=0)
    wait_for(lambda: names(client) == set(), 5, "unloaded after the request")


def test_the_hubs_cache_plain_folders_and_loose_files_are_served(start_server, tmp_path):
    repository = tmp_path / "hf/hub/models--org--cached"
    commit = "0123456789abcdef" * 2 + "01234567"
    for folder in ("blobs", "refs", f"snapshots/{commit}"):
        (repository / folder).mkdir(parents=True)
    (repository / "refs/main").write_text(commit)
    for path in DEMO_MODEL.iterdir():
        shutil.copy(path, repository / "blobs" / path.name)
        (repository / "snapshots" / commit / path.name).symlink_to(f"../../blobs/{path.name}")
    shutil.copytree(DEMO_MODEL, tmp_path / "folder/team/plain")
    quantize(tmp_path / "loose.gguf", "Q8_0")
    given = ["--model-folder", str(tmp_path / "folder"), "--model-folder", str(tmp_path / "loose.gguf")]
    client = Client(start_server(*given, env={"HF_HOME": str(tmp_path / "hf")}).port)
    assert names(client, "/api/tags") == {"org/cached", "team/plain", "loose"}
    own = generate(client, "weirgate-demo")["response"]
    for model in ("org/cached", "team/plain"):
        assert generate(client, model)["response"] == own != ""
    assert generate(client, "loose")["eval_count"] > 0
    assert names(client) == {"org/cached", "team/plain", "loose"}
    code, output, _ = run_to_exit(["--model-folder", str(tmp_path / "nowhere")])
    assert code == 1 and "--model-folder" in output and "nowhere" in output


def test_the_other_apis_find_models_by_name(start_server, folder):
    server = start_server(env={"OLLAMA_MODELS": str(folder)})
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    listed = [model.id for model in client.models.list()]
    assert listed[0] == "weirgate-demo" and {"alpha:latest", "beta:latest"} <= set(listed)
    messages = [{"role": "user", "content": "Which port do you listen on?"}]
    answer = client.chat.completions.create(model="alpha", messages=messages, temperature=0, max_tokens=8)
    assert answer.choices[0].message.content and answer.model == "alpha"
    with pytest.raises(openai.NotFoundError) as error:
        client.chat.completions.create(model="no-such-model", messages=messages)
    assert error.value.code == "model_not_found"


def test_models_side_by_side_say_what_each_says_alone(start_server, folder):
    """Loads, evictions and requests at the same time: every answer is right, and nothing is left behind."""
    server = start_server(
        "--max-concurrent-requests", "64", env={"OLLAMA_MODELS": str(folder), "OLLAMA_MAX_LOADED_MODELS": "2"}
    )
    client = library.Client(host=server.url)
    prompts = [f"The number {number} is" for number in range(6)]
    expected = [client.generate("alpha", prompt, options=GREEDY).response for prompt in prompts]
    wrong = []

    def work(number: int):
        model = ("alpha", "beta", "gamma", "weirgate-demo")[number % 4]
        prompt = number % len(prompts)
        answer = client.generate(model, prompts[prompt], options=GREEDY, keep_alive="1s").response
        if model != "weirgate-demo" and answer != expected[prompt]:
            wrong.append((model, prompts[prompt], answer))

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        list(pool.map(work, range(96)))
    assert not wrong
    wait_for(lambda: names(Client(server.port)) == set(), 10, "all expired")
