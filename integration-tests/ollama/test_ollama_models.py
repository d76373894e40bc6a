"""Several models on one server, out of a folder that Ollama itself could have made."""

import concurrent.futures
import json
import re
import shutil
import time

import anthropic
import ollama as library
import openai
import pytest
from harness.checkpoints import random_llama
from harness.client import Client
from harness.gguf_files import quantize
from harness.ollama_api import PROMPT, conforms
from harness.ollama_store import install
from harness.server import DEMO_MODEL, resident_bytes, run_to_exit, wait_for

GREEDY = {"temperature": 0, "num_predict": 16}
#: No penalty, as OpenAI's routes have none.
PLAIN = {"temperature": 0, "repeat_penalty": 1.0}
SYSTEM = "You are a lighthouse."
EMPTY_GGUF = b"GGUF\x03\0\0\0" + bytes(16)


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


def test_what_a_model_takes_is_measured(start_server, tmp_path):
    """The server's own figure, against the files and against what the system says of the process."""
    # Whose KV cache would be far larger than its weights, if it were there from the start.
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 4, "num_attention_heads": 4}
    folder = random_llama(tmp_path / "folder/large", 1, **sizes)
    size = (folder / "model.safetensors").stat().st_size
    assert size > 100_000_000, "large beside all else that moves"
    server = start_server("--model-folder", str(folder.parent))
    client = Client(server.port)
    generate(client, "weirgate-demo")
    before = resident_bytes(server.router_pid(), "RssAnon")
    # Loaded, and asked nothing.
    assert generate(client, "large", prompt="")["done_reason"] == "load"
    grown = resident_bytes(server.router_pid(), "RssAnon") - before
    (line,) = [line for line in server.output().splitlines() if "loaded" in line and "bytes=" in line]
    measured = int(re.search(r"bytes=(\d+)", re.sub(r"\x1b\[[0-9;]*m", "", line))[1])
    assert 0.5 * size < measured < 2 * size, line
    # Whole pages, and not what the files say, which stands there where nothing could be measured.
    assert measured % 4096 == 0 and measured != size
    assert abs(grown - measured) < 0.25 * size, (measured, grown)


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


def test_the_other_apis_find_models_by_name(start_server, folder, encoder):
    server = start_server("--model-folder", str(encoder.folder), env={"OLLAMA_MODELS": str(folder)})
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    listed = [model.id for model in client.models.list()]
    assert listed[0] == "weirgate-demo" and {"alpha:latest", "beta:latest", encoder.name} <= set(listed)
    messages = [{"role": "user", "content": "Which port do you listen on?"}]
    answer = client.chat.completions.create(model="alpha", messages=messages, temperature=0, max_tokens=8)
    assert answer.choices[0].message.content and answer.model == "alpha"
    said = answer.choices[0].message.content
    response = client.responses.create(model="alpha", input=messages, temperature=0, max_output_tokens=8)
    assert (response.output_text, response.model) == (said, "alpha")
    claude = anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0)
    asked = {"model": "alpha", "max_tokens": 8, "messages": messages, "extra_body": {"temperature": 0}}
    message = claude.messages.create(**asked)
    assert (message.content[0].text, message.model) == (said, "alpha")
    own = generate(Client(server.port), "alpha", raw=True, options=PLAIN | {"num_predict": 8})["response"]
    for name in ("alpha", "Alpha:latest"):
        asked = {"model": name, "prompt": PROMPT, "temperature": 0, "max_tokens": 8}
        completion = client.completions.create(**asked)
        assert (completion.choices[0].text, completion.usage.completion_tokens) == (own, 8)
        assert completion.model == name and completion.choices[0].finish_reason == "length"
        parts = client.completions.create(**asked, stream=True)
        assert "".join(part.choices[0].text for part in parts if part.choices) == own
    for name in ("alpha:latest", "alpha"):
        model = client.models.retrieve(name)
        assert (model.object, model.id.removesuffix(":latest")) == ("model", "alpha"), name
    vectors = client.embeddings.create(model=encoder.name, input=["a question", "x"], encoding_format="float").data
    assert [entry.index for entry in vectors] == [0, 1]
    for entry, text in zip(vectors, ("a question", "x")):
        assert entry.embedding == pytest.approx(encoder.vector(text), abs=1e-5)
    for call in (
        lambda: client.chat.completions.create(model="no-such-model", messages=messages),
        lambda: client.completions.create(model="no-such-model", prompt=PROMPT),
        lambda: client.models.retrieve("alpha:other"),
        lambda: client.embeddings.create(model="no-such-model", input="x"),
        lambda: client.responses.create(model="no-such-model", input="x"),
    ):
        with pytest.raises(openai.NotFoundError) as error:
            call()
        assert error.value.code == "model_not_found"


def test_a_store_of_two_thousand_models(start_server, tmp_path):
    """The figures of docs/ollama.md, which are a machine's that does nothing else; `pytest -s` shows this one's."""
    count, seconds = 2000, {}
    for number in range(count):
        install(tmp_path / "models", f"m{number}", EMPTY_GGUF, system=f"You are number {number}.".encode())
    client = Client(start_server(env={"OLLAMA_MODELS": str(tmp_path / "models")}).port)
    for name, ask in {
        "list": lambda: client.get("/api/tags").json()["models"],
        "show": lambda: client.post_ok("/api/show", {"model": "m1999"}),
    }.items():
        begun = time.monotonic()
        answer = ask()
        seconds[name] = time.monotonic() - begun
        if name == "list":
            assert {model["name"] for model in answer} == {f"m{n}:latest" for n in range(count)} | {"weirgate-demo:latest"}
        else:
            assert answer["system"] == "You are number 1999."
    print(f"\n{count} models: listed in {seconds['list']:.2f} s, one shown in {seconds['show'] * 1000:.0f} ms")
    assert seconds["list"] < 8 and seconds["show"] < 1, seconds


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
