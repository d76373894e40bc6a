"""A server that is killed while it writes models over HTTP. Prints Markdown; exits with 1 where something half-written
was ever visible.

    prove_kill.py [--kills 50] [--seed 0]

Clients create, copy, delete and pull without pause, each time weights that the store does not have, over a slow line; at a
random moment the whole server is killed (SIGKILL). Then every manifest must be whole and every blob what its name says; the
server must start again, list exactly the models that have manifests, answer with one of them, and leave no temporary file.
Kills that found nothing half-written under a temporary name would prove little: they are counted, and some must have.
"""

import argparse
import hashlib
import json
import random
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import httpx  # noqa: E402
import ollama as library  # noqa: E402
from harness.checkpoints import random_llama  # noqa: E402
from harness.client import Client  # noqa: E402
from harness.gguf_files import quantize  # noqa: E402
from harness.registry import Registry  # noqa: E402
from harness.server import Server  # noqa: E402
from harness.slow_line import SlowLine  # noqa: E402

GREEDY = {"temperature": 0, "num_predict": 4}
# A pull takes about a second.
LINE = 8_000_000
REMOTE = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 4}
PRIVATE = {"REGISTRY_PRIVATE_HOST": "127.0.0.1"}


class Writers:
    """Threads that write until the server is gone."""

    def __init__(self, url: str, gguf: Path, remote: str, number: int):
        self.client, self.remote, self.number = library.Client(url), remote, number
        self.weights, self.gguf = bytearray(gguf.read_bytes()), gguf.with_name("made.gguf")
        self.done: dict[str, int] = {}
        self.threads = [threading.Thread(target=self._until_gone, args=(work,)) for work in self._works()]
        for thread in self.threads:
            thread.start()

    def _works(self):
        return (self.create, self.copy, self.delete, self.pull)

    def _until_gone(self, work):
        for round in range(1_000_000):
            try:
                work(round)
                self.done[work.__name__] = self.done.get(work.__name__, 0) + 1
            except library.ResponseError as error:
                # What another thread has deleted.
                if error.status_code != 404:
                    return
            except (httpx.HTTPError, ConnectionError):
                return

    def create(self, round: int):
        # The last weights are others each time, and so is the blob.
        self.weights[-8:] = self.number.to_bytes(4) + round.to_bytes(4)
        self.gguf.write_bytes(self.weights)
        blob = self.client.create_blob(self.gguf)
        self.client.create(f"made{round % 3}", files={"a.gguf": blob}, system=f"{self.number} {round} " * 3000)
        self.client.create(f"small{round % 2}", from_="base", quantize="q8_0", system=f"{round}")

    def copy(self, round: int):
        self.client.copy(f"made{round % 3}", f"copies/copy:{round % 4}")

    def delete(self, round: int):
        time.sleep(0.02)
        self.client.delete(f"copies/copy:{round % 4}")
        self.client.delete(f"made{(round + 1) % 3}")

    def pull(self, _: int):
        self.client.pull(self.remote, insecure=True)
        self.client.delete(self.remote)

    def join(self):
        for thread in self.threads:
            thread.join(60)


def models(store: Path) -> set[str]:
    """Names by the manifests; fails where one of them, or a blob, is not whole."""
    names = set()
    for path in (store / "manifests").rglob("*"):
        if not path.is_file() or path.name.startswith("."):
            continue
        manifest = json.loads(path.read_text())
        for layer in [manifest["config"], *manifest["layers"]]:
            blob = store / "blobs" / layer["digest"].replace(":", "-")
            assert blob.stat().st_size == layer["size"], f"{path}: {blob.name}"
        host, space, model, tag = path.relative_to(store / "manifests").parts
        shown = "" if host == "registry.ollama.ai" else f"{host}/"
        shown += f"{space}/" if shown or space != "library" else ""
        names.add(f"{shown}{model}:{tag}")
    for blob in (store / "blobs").glob("sha256-" + "?" * 64):
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name.removeprefix("sha256-"), blob.name
    return names


def once(folder: Path, gguf: Path, remote: str, rng: random.Random, number: int) -> dict[str, int]:
    """What was done before the kill, and whether the kill found something half-written."""
    server = Server(folder / "log", "--model-store", str(folder / "models"), env=PRIVATE)
    try:
        server.start()
        client = library.Client(server.url)
        client.create("base", files={"a.gguf": client.create_blob(gguf)})
        writers = Writers(server.url, gguf, remote, number)
        time.sleep(rng.uniform(0.02, 1.5))
        server.kill()
        writers.join()
        expected = models(folder / "models")
        files = [path.name for path in (folder / "models").rglob("*") if path.is_file()]
        found = {
            "killed while a file had a temporary name": any(name.startswith(".") for name in files),
            "killed in the middle of a pull": any("-partial" in name for name in files),
        }
        server.start()
        listed = {model["name"] for model in Client(server.port).get("/api/tags").json()["models"]}
        assert listed - {"weirgate-demo:latest"} == expected, (listed, expected)
        assert library.Client(server.url).generate("base", "Once", options=GREEDY).response
        left = [path.name for path in (folder / "models/blobs").iterdir() if path.name.startswith(".")]
        assert not left, left
        server.stop()
        return {f"{what}s before them": count for what, count in writers.done.items()} | found
    finally:
        server.kill()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng, done, failures = random.Random(arguments.seed), {}, []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        gguf, registry = folder / "demo.gguf", Registry(folder)
        quantize(gguf, "F16")
        quantize(folder / "remote.gguf", "F16", random_llama(folder / "remote", 1, **REMOTE))
        try:
            registry.start()
            line = SlowLine(registry.port)
            remote = f"{line.host}/library/remote"
            server = Server(folder / "log", "--model-store", str(folder / "first"), env=PRIVATE)
            try:
                client = library.Client(server.start().url)
                client.create(remote, files={"a.gguf": client.create_blob(folder / "remote.gguf")})
                client.push(remote, insecure=True)
                server.stop()
            finally:
                server.kill()
            line.bytes_per_second = LINE
            for number in range(arguments.kills):
                try:
                    for what, count in once(folder, gguf, remote, rng, number).items():
                        done[what] = done.get(what, 0) + count
                except AssertionError as error:
                    failures.append(f"{number}: {error}")
        finally:
            registry.kill()
    print("| | |\n|---|---:|")
    for what, count in {"kills": arguments.kills, **done, "something half-written was visible": len(failures)}.items():
        print(f"| {what} | {count} |")
    for failure in failures[:5]:
        print(f"\n    {failure[:500]}")
    found = all(done.get(what) for what in done if what.startswith("killed")) and bool(done)
    return 0 if found and not failures else 1


if __name__ == "__main__":
    sys.exit(main())
