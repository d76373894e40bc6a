"""Variables of Ollama's that the server reads, each by what it changes for a client."""

import concurrent.futures
import datetime
import time

import pytest
from harness.client import Client
from harness.gguf_files import quantize
from harness.ollama_api import PROMPT
from harness.ollama_store import install
from harness.server import free_port, wait_for

#: A form that does not let the model end.
ENDLESS = {"type": "array", "items": {"type": "string"}, "minItems": 100_000}
BUSY = "server busy, please try again.  maximum pending requests exceeded"


def test_origins(start_server):
    def answers(value: str | None):
        port = free_port()
        env = {"OLLAMA_HOST": f"127.0.0.1:{port}"} | ({"OLLAMA_ORIGINS": value} if value else {})
        start_server(env=env)
        return lambda **headers: Client(port).request("GET", "/api/tags", None, headers)

    named = answers("https://app.example,https://*.weir.example,http://models.example")
    for origin in ("https://app.example", "https://a.weir.example", "http://localhost:8000"):
        answer = named(Origin=origin)
        assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (200, origin), origin
    for origin in ("https://evil.example", "http://app.example", "https://weir.example", "https://app.example.org"):
        assert named(Origin=origin).status == 403, origin
    assert named(Host="models.example").status == 200 and named(Host="evil.example").status == 403
    unnamed = answers(None)
    assert unnamed(Origin="https://app.example").status == 403 and unnamed(Host="models.example").status == 403
    assert unnamed(Origin="http://localhost:8000").status == 200


def test_version(start_server):
    for typed, told in ((None, "0.14.0"), ("0.12.11", "0.12.11")):
        server = start_server(env={"OLLAMA_VERSION": typed} if typed else {})
        version = Client(server.port).get("/api/version").json()["version"]
        assert version.split("+weirgate.")[0] == told, version


def test_context_length(start_server):
    client = Client(start_server(env={"OLLAMA_CONTEXT_LENGTH": "64"}).port)
    body = {"model": "weirgate-demo", "stream": False}

    def generate(prompt: str, **options):
        return client.post_ok("/api/generate", body | {"prompt": prompt, "options": {"temperature": 0} | options})

    long = "word " * 300
    assert generate(long, num_predict=1)["prompt_eval_count"] <= 64
    assert 64 < generate(long, num_predict=1, num_ctx=128)["prompt_eval_count"] <= 128, "the request's goes over it"
    refused = client.post("/api/generate", body | {"prompt": long, "truncate": False})
    assert refused.status == 400 and "context" in refused.json()["error"]
    # -2: until the context is full.
    full = {"prompt": PROMPT, "format": ENDLESS, "options": {"num_predict": -2}}
    filled = client.post_ok("/api/generate", body | full)
    assert filled["prompt_eval_count"] + filled["eval_count"] == 64 and filled["done_reason"] == "length"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    quantize(root / "demo.gguf", "Q8_0")
    for name in ("alpha", "beta", "gamma"):
        install(root, name, (root / "demo.gguf").read_bytes())
    return root


def test_keep_alive(start_server, folder):
    """How long a model stays that no request said anything of, beside the one the server was started for."""

    def after_a_request(value: str):
        client = Client(start_server(env={"OLLAMA_MODELS": str(folder), "OLLAMA_KEEP_ALIVE": value}).port)
        body = {"model": "alpha", "prompt": PROMPT, "stream": False, "options": {"num_predict": 2}}
        asked = time.monotonic()
        client.post_ok("/api/generate", body)

        def expiry() -> datetime.datetime | None:
            times = {model["name"]: model["expires_at"] for model in client.get("/api/ps").json()["models"]}
            # Python reads six digits of a second's fraction; the others are in no hurry.
            return datetime.datetime.fromisoformat(times["alpha:latest"][:19]) if "alpha:latest" in times else None

        return expiry, asked

    expiry, _ = after_a_request("-1")
    assert expiry().year > 2200, "for ever"
    expiry, _ = after_a_request("2h")
    left = expiry() - datetime.datetime.now()
    assert datetime.timedelta(minutes=118) < left <= datetime.timedelta(hours=2), left
    expiry, asked = after_a_request("300ms")
    wait_for(lambda: expiry() is None, 5, "it has left")
    assert time.monotonic() - asked > 0.3
    expiry, _ = after_a_request("0")
    wait_for(lambda: expiry() is None, 5, "it has left with its answer")


def test_max_queue(start_server, folder):
    def client(most: str) -> Client:
        return Client(start_server(env={"OLLAMA_MODELS": str(folder), "OLLAMA_MAX_QUEUE": most}).port)

    def ask(client: Client, model: str):
        options = {"temperature": 0, "num_predict": 2}
        return client.post("/api/generate", {"model": model, "prompt": PROMPT, "stream": False, "options": options})

    none = client("0")
    refused = ask(none, "alpha")
    assert (refused.status, refused.json()) == (503, {"error": BUSY}) and refused.headers["Retry-After"]
    assert ask(none, "weirgate-demo").status == 200, "what is loaded waits for nothing"
    one = client("1")
    with concurrent.futures.ThreadPoolExecutor(9) as pool:
        answers = list(pool.map(lambda number: ask(one, ("alpha", "beta", "gamma")[number % 3]), range(9)))
    busy = [answer.json() for answer in answers if answer.status != 200]
    assert 0 < len(busy) < 9 and busy == [{"error": BUSY}] * len(busy)
    # Nobody waits any more.
    assert [ask(one, model).status for model in ("alpha", "beta", "gamma")] == [200] * 3
