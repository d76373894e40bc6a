"""TGI's routes, one by one, and which of them ask for the key."""

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness.client import Client
from harness.contracts import conforms
from harness.server import Server, wait_for
from launch import serving

PROMPT = "Once upon a time"
GREEDY = {"max_new_tokens": 8, "do_sample": False}
CHAT = {"messages": [{"role": "user", "content": "Hello there"}]}


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=pytest.mark.row(f"route.{row}"))
        for path, row in [("/health", "/health"), ("/ping", "/ping"), ("/readyz", "/readyz"), ("/livez", "/livez")]
    ],
)
def test_health_is_an_empty_200(client, path):
    response = client.get(path)
    assert (response.status, response.body) == (200, b"")


@pytest.mark.row("route.GET /")
def test_the_root_is_health_under_tgis_profile(client, start_server):
    """Elsewhere it has a text as well, by which tools know what serves Ollama's clients; the status is the same."""
    server = start_server("--profile", "tgi")
    response = Client(server.port).get("/")
    assert (response.status, response.body) == (200, b"")
    assert client.get("/").status == 200


@pytest.mark.row("route.POST /")
@pytest.mark.row("route./generate")
@pytest.mark.row("route./generate_stream")
def test_generate_and_its_stream_say_the_same(client):
    body = {"inputs": PROMPT, "parameters": GREEDY}
    text = client.post_ok("/generate", body)["generated_text"]
    assert client.stream("/generate_stream", body)[1][-1]["generated_text"] == text
    assert client.post_ok("/", body)[0]["generated_text"] == PROMPT + text
    # `stream` is the root's alone.
    assert client.post_ok("/generate", body | {"stream": True})["generated_text"] == text


@pytest.mark.row("route./invocations")
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "path, body",
    [
        ("/", {"inputs": PROMPT, "parameters": GREEDY}),
        ("/v1/chat/completions", CHAT | {"max_tokens": 8, "temperature": 0.0}),
        ("/v1/completions", {"prompt": PROMPT, "max_tokens": 8, "temperature": 0.0}),
        ("/v1/completions", {"inputs": 3, "prompt": PROMPT, "max_tokens": 8, "temperature": 0.0}),
        ("/v1/chat/completions", CHAT | {"prompt": PROMPT, "max_tokens": 8, "temperature": 0.0}),
    ],
    ids=["generate", "chat", "completions", "almost-generate", "chat-first"],
)
def test_invocations_answers_as_the_requests_own_route(client, path, body, streaming):
    body = body | {"stream": streaming}

    def answer(path):
        if not streaming:
            return [timeless(client.post_ok(path, body))]
        return [timeless(event) for event in client.stream(path, body)[1]]

    assert answer("/invocations") == answer(path)


def timeless(answer):
    """What two equal requests have in common."""
    return {**answer, "id": None, "created": None} if isinstance(answer, dict) else answer


@pytest.mark.row("route./invocations")
def test_invocations_refuses_what_is_none_of_the_three(client):
    response = client.post("/invocations", {"input": PROMPT})
    assert (response.status, response.headers["content-type"]) == (422, "text/plain; charset=utf-8")


@pytest.mark.row("route./vertex")
def test_vertex(client):
    plain = client.post_ok("/generate", {"inputs": PROMPT, "parameters": GREEDY})["generated_text"]
    chat = CHAT | {"max_tokens": 8, "temperature": 0.0}
    answer = client.post_ok("/vertex", {"instances": [{"inputs": PROMPT, "parameters": GREEDY}, chat]})
    spoken = client.post_ok("/v1/chat/completions", chat)["choices"][0]["message"]["content"]
    assert answer == {"predictions": [plain, spoken]}
    # As in TGI an instance samples: with a seed reproducibly, and as /generate does.
    sampled = {"inputs": PROMPT, "parameters": {"max_new_tokens": 8, "seed": 5}}
    body = {"inputs": PROMPT, "parameters": {"max_new_tokens": 8, "seed": 5, "do_sample": True}}
    assert client.post_ok("/vertex", {"instances": [sampled]})["predictions"] == [
        client.post_ok("/generate", body)["generated_text"]
    ]


@pytest.mark.row("route.AIP")
def test_vertex_ai_names_port_and_paths(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("vertex") / "log")
    env = {"AIP_HTTP_PORT": str(server.port), "AIP_PREDICT_ROUTE": "/v1/x:predict", "AIP_HEALTH_ROUTE": "/generate"}
    server.args[server.args.index("--port") + 1] = "1"
    server.env |= env
    try:
        client = Client(server.start().port)
        body = {"instances": [{"inputs": PROMPT, "parameters": GREEDY}]}
        assert client.post_ok("/v1/x:predict", body) == client.post_ok("/vertex", body)
        # A path that is another route's keeps its other methods.
        assert client.get("/generate").status == 200
        assert client.post_ok("/generate", {"inputs": PROMPT, "parameters": GREEDY})["generated_text"]
        server.stop()
    finally:
        server.kill()


@pytest.mark.row("route./tokenize")
@pytest.mark.parametrize("text", ["Once upon a time", "wörld — 你好 🦊", "", "a\u0000b", "<|endoftext|>"])
def test_tokenize_places_tokens_in_bytes(client, reference, text):
    tokens = client.post_ok("/tokenize", {"inputs": text})
    conforms("TokenizeResponse", tokens)
    assert [token["id"] for token in tokens] == reference.ids(text)
    data = text.encode()
    for token in tokens:
        assert token["text"] == data[token["start"] : token["stop"]].decode(errors="replace")


@pytest.mark.row("route./chat_tokenize")
def test_chat_tokenize(client, reference):
    answer = client.post_ok("/chat_tokenize", CHAT)
    assert set(answer) == {"tokenize_response", "templated_text"}
    conforms("TokenizeResponse", answer["tokenize_response"])
    text = reference.chat_prompt(CHAT["messages"])
    assert answer["templated_text"] == text
    assert [token["id"] for token in answer["tokenize_response"]] == reference.ids(text, special=False)
    data = text.encode()
    assert all(
        token["text"].encode() in data[token["start"] : token["stop"]] for token in answer["tokenize_response"]
    )


@pytest.mark.row("route./info")
def test_info(small):
    info = small.get("/info").json()
    conforms("Info", info)
    assert (info["max_input_tokens"], info["max_total_tokens"]) == (48, 64)
    assert (info["max_concurrent_requests"], info["max_best_of"], info["max_stop_sequences"]) == (128, 2, 4)
    assert (info["router"], info["validation_workers"]) == ("text-generation-router", 2)
    assert info["max_client_batch_size"] == 4


@pytest.mark.row("route./metrics")
def test_metrics_are_prometheus_text(client):
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    assert "\ntgi_request_count " in response.text


@pytest.mark.row("route./v1/models")
def test_models(client):
    answer = client.get("/v1/models").json()
    (model,) = answer["data"]
    conforms("ModelInfo", model)
    assert (answer["object"], model["object"], model["created"]) == ("list", "model", 0)
    assert model["owned_by"] == model["id"] == client.get("/info").json()["model_id"]


@pytest.mark.row("route.kserve")
def test_kserve(client):
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"live": True}
    server = client.get("/v2").json()
    assert server == {
        "name": "text-generation-inference",
        "version": client.get("/info").json()["version"],
        "extensions": ["health", "models", "metrics"],
    }
    model = {"name": "any", "version": "3", "extensions": ["infer", "ready"]}
    assert client.get("/v2/models/any/versions/3").json() == model
    assert client.get("/v2/models/any/versions/3/ready").json() == {"live": True}


@pytest.mark.row("route.kserve")
def test_kserve_infers(client):
    texts = [PROMPT, "The fox — wörld"]
    body = {
        "id": "42",
        "parameters": GREEDY,
        "inputs": [input_of(text) for text in texts],
        "outputs": [{"name": "first"}, {"name": "second"}],
    }
    answer = client.post_ok("/v2/models/any/versions/3/infer", body)
    assert answer["id"] == "42"
    for text, name, output in zip(texts, ("first", "second"), answer["outputs"]):
        alone = client.post_ok("/generate", {"inputs": text, "parameters": GREEDY})["generated_text"].encode()
        assert output == {"name": name, "shape": [1, len(alone)], "datatype": "BYTES", "data": list(alone)}

    def refused(**fields):
        response = client.post("/v2/models/any/versions/3/infer", body | fields)
        conforms("ErrorResponse", response.json())
        return response.status, response.json()["error_type"]

    assert refused(outputs=[]) == (422, "length mismatch")
    assert refused(inputs=[input_of(PROMPT) | {"data": [0xFF]}], outputs=[{"name": "a"}]) == (422, "utf8")


def input_of(text: str) -> dict:
    data = list(text.encode())
    return {"name": "in", "shape": [1, len(data)], "datatype": "BYTES", "data": data}


@pytest.mark.row("route.404")
@pytest.mark.parametrize("path", ["/nowhere", "/generate/", "/v2/models", "/v3"])
def test_unknown_path(client, path):
    response = client.get(path)
    assert (response.status, response.body) == (404, b"")


@pytest.mark.row("route.405")
@pytest.mark.parametrize("path", ["/generate", "/invocations", "/vertex", "/tokenize", "/chat_tokenize"])
def test_wrong_method(client, path):
    response = client.get(path)
    assert (response.status, response.headers["allow"]) == (405, "POST")


# --- The key.

OPEN = ["/", "/health", "/ping", "/livez", "/readyz", "/v2/health/live", "/v2/health/ready"]
OPEN += ["/docs", "/api-doc/openapi.json"]
INFORMATION = ["/metrics", "/info", "/v1/models"]
KEYS = ["Secret-Key-1", "another", "from-file"]


@pytest.fixture(scope="module", params=[False, True], ids=["open", "guarded"])
def guarded(request, tmp_path_factory):
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"# for the other team\n{KEYS[2]}\n")
    args = ["--api-key", KEYS[0], "--api-key", KEYS[1], "--api-key-file", keys]
    with serving(tmp_path_factory, *args, *["--guard-info"] * request.param) as server:
        client = Client(server.port)
        client.open = OPEN if request.param else OPEN + INFORMATION
        yield client
        assert not [key for key in KEYS if key in server.output()], "a key is in the log"


def routes(client: Client):
    """Every route of the served document, and those that it leaves out."""
    document = json.loads(client.get("/api-doc/openapi.json").text)
    listed = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    known = {("POST", path) for path in ("/", "/generate", "/generate_stream", "/invocations", "/vertex", "/tokenize")}
    known |= {("POST", "/chat_tokenize"), ("POST", "/v2/models/m/versions/1/infer"), ("GET", "/v2")}
    known |= {("GET", "/v2/models/m/versions/1"), ("GET", "/v2/models/m/versions/1/ready")}
    known |= {("POST", "/v1/chat/completions"), ("POST", "/v1/completions"), ("GET", "/nowhere"), ("POST", "/health")}
    known |= {("GET", path) for path in OPEN + INFORMATION}
    return sorted(listed | known)


@pytest.mark.row("route.key")
def test_every_route_but_the_open_ones_asks_for_the_key(guarded):
    wrong = [None, "Bearer wrong", f"Bearer {KEYS[0].lower()}", f"Bearer {KEYS[0]}x", f"Bearer {KEYS[0][:-1]}"]
    wrong += [KEYS[0], f"Basic {KEYS[0]}", "Bearer ", f"Bearer {KEYS[0]}, Bearer {KEYS[0]}"]
    for method, path in routes(guarded):
        path = path.replace("{", "").replace("}", "")
        for value in wrong:
            headers = {"Authorization": value} if value else {}
            response = guarded.request(method, f"{path}?api_key={KEYS[0]}", headers=headers)
            if method == "GET" and path in guarded.open:
                assert response.status == 200, path
            else:
                assert response.status == 401, (method, path, value)


@pytest.mark.row("route.key")
@pytest.mark.parametrize("key", KEYS)
def test_every_key_opens(guarded, key):
    body = {"inputs": PROMPT, "parameters": GREEDY}
    assert guarded.post("/generate", body, {"Authorization": f"Bearer {key}"}).status == 200
    assert guarded.request("GET", "/metrics", headers={"Authorization": f"bearer {key}"}).status == 200


@pytest.mark.row("route.cors")
def test_cors(client, tmp_path_factory):
    ask = {
        "Origin": "http://page.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    preflight = client.request("OPTIONS", "/generate", headers=ask)
    assert preflight.status == 200
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert set(preflight.headers["access-control-allow-methods"].split(",")) == {"GET", "POST"}
    allowed = preflight.headers["access-control-allow-headers"].replace(" ", "").split(",")
    assert set(allowed) == {"content-type", "authorization"}
    with serving(tmp_path_factory, "--cors-allow-origin", "http://page.example", "--api-key", "k") as server:
        client = Client(server.port)
        assert client.request("OPTIONS", "/generate", headers=ask).headers["access-control-allow-origin"]
        other = client.request("OPTIONS", "/generate", headers=ask | {"Origin": "http://evil.example"})
        assert "access-control-allow-origin" not in other.headers


# --- SageMaker's container contract: port 8080, /ping within 2 seconds, /invocations, an end within 30 seconds.


def test_sagemaker_serves_and_stops_in_time(tmp_path_factory):
    env = {"SM_NUM_GPUS": "0", "HF_MODEL_TRUST_REMOTE_CODE": "true"}
    with serving(tmp_path_factory, env=env, command=["serve"]) as server:
        client = Client(server.port)
        assert "Flags without effect: --trust-remote-code" in server.output()
        started = time.monotonic()
        assert client.get("/ping").status == 200
        assert time.monotonic() - started < 2
        body = {"inputs": PROMPT, "parameters": {"max_new_tokens": 1500, "ignore_eos": True}}
        with ThreadPoolExecutor(1) as pool:
            under_way = pool.submit(client.post, "/invocations", body)
            wait_for(lambda: b"tgi_batch_current_size 1" in client.get("/metrics").body, 5, "the request runs")
            os.kill(server.process.pid, signal.SIGTERM)
            assert under_way.result().status == 200, "what is under way is finished"
        assert server.wait_exit(30) == 0
