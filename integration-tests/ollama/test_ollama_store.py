"""Ollama's clients make, copy, delete, push and pull models, over Debian's docker-registry."""

import concurrent.futures
import contextlib
import hashlib
import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import ollama as library
import pytest
from harness.client import Client
from harness.gguf_files import quantize
from harness.ollama_api import CLIENTS, PROMPT, Ollama, conforms
from harness.registry import Registry
from harness.server import DEMO_MODEL, Server, resident_bytes, wait_for
from harness.slow_line import SlowLine

GREEDY = {"temperature": 0, "num_predict": 8}
PRIVATE = {"REGISTRY_PRIVATE_HOST": "127.0.0.1"}
# Of a manifest.
WEIGHTS = {"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:" + "1" * 64, "size": 3}
CONFIG = {"mediaType": "application/vnd.docker.container.image.v1+json", "digest": "sha256:" + "0" * 64, "size": 2}


@pytest.fixture(scope="module")
def gguf(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "demo.gguf"
    quantize(path, "F16")
    return path


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    registry = Registry(tmp_path_factory.mktemp("registry"))
    try:
        yield registry.start()
    finally:
        registry.kill()


@pytest.fixture
def stored(start_server, tmp_path):
    """A server with a store of its own."""
    return start_server("--model-store", str(tmp_path / "models"), env=PRIVATE)


def digest(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def names(client: library.Client) -> set[str]:
    return {model.model for model in client.list().models} - {"weirgate-demo:latest"}


def empty_fields(server: Server, model: str) -> set[str]:
    """What `/api/show` has nothing to say of."""
    shown = Client(server.port).post_ok("/api/show", {"model": model})
    conforms("ShowResponse", shown)
    assert shown.keys() >= {"modelfile", "template", "details", "model_info", "capabilities", "modified_at"}
    fields = shown | shown["details"]
    assert fields.keys() >= {"format", "family", "families", "parameter_size", "quantization_level"}
    return {name for name, value in fields.items() if not value}


@pytest.mark.parametrize("kind", CLIENTS)
def test_every_call_of_the_clients_for_python(stored, gguf, registry, kind):
    client = CLIENTS[kind](stored.url)
    blob = client.create_blob(gguf)
    assert blob == digest(gguf) == client.create_blob(gguf), "once more is no mistake"
    parts = list(client.create("base", files={"demo.gguf": blob}, stream=True))
    assert parts[0].status == "parsing GGUF" and parts[-1].status == "success"
    assert empty_fields(stored, "base") == {"license", "messages", "parameters", "system", "parent_model"}, "weights alone"
    parts = client.create(
        "made",
        from_="base",
        system="You are a lighthouse.",
        template="{{ .System }} {{ .Prompt }}",
        parameters={"temperature": 0, "num_predict": 5, "stop": ["###"]},
        messages=[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ahoy"}],
        license=["free", "as in beer"],
        stream=True,
    )
    assert [part.status for part in parts][-1] == "success"
    assert client.create("again", from_="base", system="Short.").status == "success"
    client.delete("again")
    assert empty_fields(stored, "made") == set()
    shown = client.show("made")
    assert (shown.details.parent_model, shown.details.families) == ("base:latest", ["llama"])
    assert shown.template == "{{ .System }} {{ .Prompt }}" and shown.license == "free\nas in beer"
    assert shown.details.family == "llama" and shown.details.quantization_level == "F16"
    assert shown.modelinfo["general.architecture"] == "llama" and shown.modelinfo["llama.context_length"] > 0
    assert "completion" in shown.capabilities and shown.modified_at
    assert "You are a lighthouse." in shown.modelfile and "FROM made:latest" in shown.modelfile
    assert "num_predict" in shown.parameters and '"###"' in shown.parameters
    answer = client.generate("made", PROMPT)
    assert 0 < answer.eval_count <= 5
    assert client.create("small", from_="base", quantize="q4_K_M").status == "success"
    assert client.show("small").details.quantization_level == "Q4_K_M"
    assert client.generate("small", PROMPT, options=GREEDY).response

    assert client.copy("made", "ns/twin:v1").status == "success"
    assert names(client) == {"base:latest", "made:latest", "small:latest", "ns/twin:v1"}
    assert client.generate("ns/twin:v1", PROMPT).response == answer.response
    assert client.delete("ns/twin:v1").status == "success"
    for call in (
        lambda: client.delete("ns/twin:v1"),
        lambda: client.copy("ns/twin:v1", "x"),
        lambda: client.generate("ns/twin:v1", PROMPT),
        lambda: client.pull(f"{registry.host}/none/such", insecure=True),
    ):
        with pytest.raises(library.ResponseError) as error:
            call()
        assert error.value.status_code == 404, error.value

    name = f"{registry.host}/{kind}/made:v1"
    client.copy("made", name)
    pushed = list(client.push(name, insecure=True, stream=True))
    assert pushed[0].status == "retrieving manifest" and pushed[-1].status == "success"
    assert any(part.digest == blob and part.completed == part.total == gguf.stat().st_size for part in pushed)
    assert client.push(name, insecure=True).status == "success"
    manifest = {model.model: model.digest for model in client.list().models}[name]
    client.delete(name)
    pulled = list(client.pull(name, insecure=True, stream=True))
    assert pulled[0].status == "pulling manifest" and pulled[-1].status == "success"
    assert {model.model: model.digest for model in client.list().models}[name] == manifest
    assert client.pull(name, insecure=True).status == "success"
    assert client.generate(name, PROMPT).response == answer.response
    with pytest.raises(library.ResponseError, match="insecure protocol http"):
        client.pull(f"http://{name}")


def test_a_safetensors_folder_becomes_a_model(stored):
    client = library.Client(stored.url)
    files = {path.name: client.create_blob(path) for path in DEMO_MODEL.iterdir() if path.is_file()}
    parts = list(client.create("folder", files=files, quantize="Q8_0", stream=True))
    statuses = [part.status for part in parts]
    assert "converting model" in statuses and any(status.startswith("quantizing") for status in statuses)
    assert client.show("folder").details.quantization_level == "Q8_0"
    assert client.create("whole", files=files).status == "success"
    asked = {"prompt": PROMPT, "options": {"temperature": 0, "num_predict": 32}, "raw": True}
    expected = client.generate("weirgate-demo", **asked).response
    assert client.generate("whole", **asked).response == expected != ""
    # Rounding to eight bits changes words, but later ones.
    assert client.generate("folder", **asked).response[:30] == expected[:30]


def test_progress_lines_are_the_contracts(stored, gguf, registry):
    client = Client(stored.port)
    body = gguf.read_bytes()
    assert client.request("HEAD", f"/api/blobs/{digest(gguf)}").status == 404
    assert client.request("POST", f"/api/blobs/{digest(gguf)}", body).status == 201
    assert client.request("HEAD", f"/api/blobs/{digest(gguf)}").status == 200
    name = f"{registry.host}/library/lines"
    api = Ollama(stored, name)
    for path, asked in (
        ("/api/create", {"model": name, "modelfile": f"FROM @{digest(gguf)}\nSYSTEM short", "quantize": "q8_0"}),
        ("/api/push", {"name": name, "insecure": True}),
        ("/api/pull", {"name": name, "insecure": True}),
    ):
        assert api.lines(path, asked)[-1] == api.whole(path, asked) == {"status": "success"}


def test_the_name_is_new_at_once_and_answers_go_on(stored, gguf):
    """A model is replaced, then deleted, while it answers."""
    client = library.Client(stored.url)
    blob = client.create_blob(gguf)
    client.create("m", files={"a.gguf": blob}, system="one")
    long = {"temperature": 0, "num_predict": 300}
    expected = client.generate("m", PROMPT, options=long, raw=True).response

    def started():
        stream = client.generate("m", PROMPT, options=long, raw=True, stream=True)
        return next(stream).response, stream

    first, stream = started()
    client.create("m", from_="m", system="two")
    assert Client(stored.port).post_ok("/api/show", {"model": "m"})["system"] == "two"
    assert client.generate("m", PROMPT, options=GREEDY | {"num_predict": 1}).eval_count == 1
    assert first + "".join(part.response for part in stream) == expected
    first, stream = started()
    client.delete("m")
    with pytest.raises(library.ResponseError) as error:
        client.generate("m", PROMPT)
    assert error.value.status_code == 404 and names(client) == set()
    assert first + "".join(part.response for part in stream) == expected
    wait_for(lambda: len(client.ps().models) == 1, 5, "it has left")


def test_pulls_share_a_download_that_ends_with_the_last_of_them(stored, gguf, registry, tmp_path):
    client = library.Client(stored.url)
    name = f"{registry.host}/library/shared"
    client.create(name, files={"a.gguf": client.create_blob(gguf)})
    client.push(name, insecure=True)
    client.delete(name)
    line = SlowLine(registry.port)
    line.bytes_per_second = 500_000
    slow = f"{line.host}/library/shared"
    blobs = tmp_path / "models/blobs"
    try:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            pulls = [pool.submit(lambda: list(client.pull(slow, insecure=True, stream=True))) for _ in range(3)]
            # One that leaves does not end it for the others.
            leaver = http.client.HTTPConnection("127.0.0.1", stored.port)
            leaver.request("POST", "/api/pull", json.dumps({"model": slow, "insecure": True}))
            leaver.getresponse().readline()
            leaver.close()
            time.sleep(1.5)
            line.bytes_per_second = None
            assert all(list(pull.result())[-1].status == "success" for pull in pulls)
        assert line.passed < 1.5 * gguf.stat().st_size, "downloaded once"
        client.delete(slow)
        # Where the last one leaves, it ends; who asks again goes on from there.
        line.passed, line.bytes_per_second = 0, 200_000
        connection = socket.create_connection(("127.0.0.1", stored.port))
        body = json.dumps({"model": slow, "insecure": True}).encode()
        head = f"POST /api/pull HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        wait_for(lambda: line.passed > 100_000, 10, "it has begun")
        connection.close()
        time.sleep(2.5)
        line.bytes_per_second = None
        time.sleep(0.5)
        before = line.passed
        time.sleep(1)
        assert line.passed == before, "nobody watches, nothing comes"
        assert list(blobs.glob("*-partial")), "what came is kept"
        assert list(client.pull(slow, insecure=True, stream=True))[-1].status == "success"
    finally:
        line.close()


def test_an_upload_is_bounded_in_memory_and_leaves_nothing(stored, tmp_path):
    """Chunks without end: they go to disk as they come, and are gone with the connection."""
    blobs = tmp_path / "models/blobs"
    before = resident_bytes(stored.router_pid())
    with socket.create_connection(("127.0.0.1", stored.port)) as connection:
        path = "/api/blobs/sha256:" + "0" * 64
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        chunk = b"100000\r\n" + b"a" * 0x100000 + b"\r\n"
        for _ in range(128):
            connection.sendall(chunk)
        wait_for(lambda: any(path.stat().st_size > 64 << 20 for path in blobs.iterdir()), 10, "it is written")
        assert resident_bytes(stored.router_pid()) - before < 32 << 20
    wait_for(lambda: not list(blobs.iterdir()), 10, "nothing is kept")


def test_a_disk_that_fills_is_said(stored):
    """The manifest of a model that is larger than any disk."""
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": CONFIG,
        "layers": [WEIGHTS | {"size": 1 << 39}],
    }
    with served({"/v2/n/m/manifests/latest": json.dumps(manifest).encode()}) as port:
        body = {"model": f"127.0.0.1:{port}/n/m", "insecure": True, "stream": False}
        answer = Client(stored.port).post("/api/pull", body)
    assert answer.status == 507 and "disk is full" in answer.json()["error"]


# reference/reliability.md §2.3 and dialects.md §1.18: registries that mean harm.
HOSTILE = {
    "a digest that is a path": {"digest": "sha256:../../../../x"},
    "a digest of another length": {"digest": "sha256:" + "0" * 63},
    "a size below zero": {"size": -1},
    "a size beyond all": {"size": 1 << 63},
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_manifests_that_mean_harm(stored, change, tmp_path):
    for layers, image in (([WEIGHTS | change], CONFIG), ([WEIGHTS], CONFIG | change)):
        manifest = {"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json"}
        manifest |= {"config": image, "layers": layers}
        with served({"/v2/n/m/manifests/latest": json.dumps(manifest).encode()}) as port:
            body = {"model": f"127.0.0.1:{port}/n/m", "insecure": True, "stream": False}
            answer = Client(stored.port).post("/api/pull", body)
        assert answer.status in (413, 502, 507), answer.text
        assert "/" not in answer.json()["error"].replace(f"http://127.0.0.1:{port}/v2/n/m", "").replace("n/m", "")
    assert not list((tmp_path / "models/blobs").iterdir()) and not (tmp_path / "x").exists()


def test_a_token_is_asked_for_nowhere_else(stored):
    """CVE-2025-51471: a registry that names another host's token service."""
    with socket.create_server(("127.0.0.2", 0)) as foreign:
        realm = f"http://127.0.0.2:{foreign.getsockname()[1]}/token"
        challenge = {"WWW-Authenticate": f'Bearer realm="{realm}",service="x",scope="y"'}
        with served({}, status=401, headers=challenge) as port:
            body = {"model": f"127.0.0.1:{port}/n/m", "insecure": True, "stream": False}
            answer = Client(stored.port).post("/api/pull", body)
        assert answer.status == 502 and "realm host" in answer.json()["error"]
        foreign.settimeout(0.2)
        with pytest.raises(TimeoutError):
            foreign.accept()


def test_a_manifest_that_inflates_or_never_ends(stored):
    """CVE-2024-12886: a few bytes of gzip that are gigabytes; and a body without end."""
    import gzip

    before = resident_bytes(stored.router_pid())
    bomb = gzip.compress(b"0" * (256 << 20), 9)
    path = "/v2/n/m/manifests/latest"
    for content, headers in ((bomb, {"Content-Encoding": "gzip"}), (b"[" * (64 << 20), {})):
        with served({path: content}, headers=headers) as port:
            body = {"model": f"127.0.0.1:{port}/n/m", "insecure": True, "stream": False}
            answer = Client(stored.port).post("/api/pull", body)
        assert answer.status == 502, answer.text
    assert resident_bytes(stored.router_pid()) - before < 32 << 20


def test_errors_tell_no_paths(stored, tmp_path):
    """CVE-2024-39719 and 39722: whether a file exists is nobody's business."""
    client = Client(stored.port)
    texts = []
    paths = ["/etc/passwd", "/etc/none", "../../etc/passwd", "./x", "~/x", "C:\\x", "/proc/self/environ", "/dev/random"]
    for name in paths:
        answers = [
            client.post("/api/create", {"model": "m", "modelfile": f"FROM {name}", "stream": False}),
            client.post("/api/create", {"model": "m", "modelfile": f"FROM x\nADAPTER {name}", "stream": False}),
            client.post("/api/create", {"model": "m", "path": name, "stream": False}),
            client.post("/api/create", {"model": "m", "files": {name: "sha256:" + "0" * 64}, "stream": False}),
            client.post("/api/show", {"model": name}),
            client.post("/api/push", {"model": name, "stream": False}),
        ]
        assert all(400 <= answer.status < 500 for answer in answers), [answer.text for answer in answers]
        texts += [answer.text.replace(name, "").replace(json.dumps(name)[1:-1], "") for answer in answers]
    joined = "\n".join(texts)
    for private in (str(tmp_path), "/home", "/root", "/tmp", "No such file", "os error", ".rs:"):
        assert private not in joined, private


@contextlib.contextmanager
def served(contents: dict[str, bytes], status: int = 404, headers: dict[str, str] | None = None):
    """A registry of these answers; anything else gets `status`."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            content = contents.get(self.path)
            self.send_response(status if content is None else 200)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(content or b"")

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def test_every_call_of_the_client_for_node(stored, gguf, registry):
    node, script = Path(sys.executable).with_name("node"), Path(__file__).with_name("node") / "store.mjs"
    client = library.Client(stored.url)
    client.create("base", files={"a.gguf": client.create_blob(gguf)})
    line = SlowLine(registry.port)
    try:
        remote = f"{registry.host}/library/node:v1"
        # Weights that are not here yet, on a line that does not move.
        other = f"{registry.host}/library/other:v1"
        client.create(other, from_="base", quantize="q8_0")
        client.push(other, insecure=True)
        client.delete(other)
        line.bytes_per_second = 50_000
        command = [node, script, stored.url, "base", remote, f"{line.host}/library/other:v1"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=50)
        assert done.returncode == 0, done.stderr
        results = json.loads(done.stdout)
        for name in ("create", "copy", "push", "delete", "pull"):
            assert results[name]["status"] == "success", name
        for name in ("createStream", "pushStream", "pullStream"):
            assert results[name][-1]["status"] == "success" and len(results[name]) > 2, name
        assert results["show"]["system"] == "Be."
        assert remote in results["before"] and remote not in results["after"]
        assert results["generate"]["eval_count"] == 2
        assert results["notFound"]["status"] == results["noSuchPull"]["status"] == 404
        assert results["aborted"]["name"] == "AbortError"
        time.sleep(2.5)
        line.bytes_per_second = None
        time.sleep(0.5)
        before = line.passed
        time.sleep(1)
        assert line.passed == before, "the abort ended the pull"
    finally:
        line.close()
