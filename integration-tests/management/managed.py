"""A server with its state in a folder, beside a worker that stands in for the one that trains, or beside that one."""

import contextlib
import hashlib
import os
import shutil
import socket
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from harness import fake_hub
from harness.client import Client, Response
from harness.postgres import Postgres
from harness.server import BINARY, DEMO_MODEL, ROOT, Server, children_of, command_of, wait_for

HERE = Path(__file__).parent
LINE = '{"messages":[{"role":"user","content":"What is it?"},{"role":"bot","content":"It is this."}]}\n'


def program_folder(folder: Path) -> Path:
    """The binary beside a worker of the tests' own; the binary."""
    folder.mkdir(parents=True, exist_ok=True)
    binary = folder / "weirgate"
    try:
        os.link(BINARY, binary)
    except OSError:
        shutil.copy2(BINARY, binary)
    worker = folder / "weirgate-finetune"
    text = (HERE / "fake_worker.py").read_text()
    harness = str(ROOT / "integration-tests")
    worker.write_text(f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {harness!r})\n{text}")
    worker.chmod(worker.stat().st_mode | stat.S_IXUSR)
    return binary


def in_hub_cache(home: Path, name: str, files: Path = DEMO_MODEL):
    """What is in a folder, as a model of this name that was downloaded before."""
    repository = home / "hub" / f"models--{name.replace('/', '--')}"
    shutil.copytree(files, repository / "snapshots" / fake_hub.COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(fake_hub.COMMIT)


class Managed(Server):
    """`root` holds everything: state, hub cache, programs. `trains`: with the real worker. `postgres`: where its jobs are
    kept, in a database of the folder's own."""

    def __init__(
        self,
        root: Path,
        *args: str,
        env: dict[str, str] | None = None,
        name: str = "state",
        trains: bool = False,
        postgres: Postgres | None = None,
    ):
        hub = {"HF_HOME": str(root / "hf"), "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
        env = hub | (env or {})
        self.postgres = postgres
        self.database = "jobs_" + hashlib.sha256(str(root / name).encode()).hexdigest()[:16]
        if postgres is not None:
            args += ("--state-database", postgres.url(self.database))
        super().__init__(root / f"{name}.log", "--state-dir", str(root / name), *args, env=env)
        if not trains:
            binary = root / "bin/weirgate"
            self.args[0] = str(binary if binary.exists() else program_folder(root / "bin"))
        self.state = root / name

    @property
    def api(self) -> "Api":
        return Api(self.port)

    def sql(self, text: str) -> list[str]:
        """Does what a statement says in its database; the first value of each row."""
        if self.postgres is not None:
            return [row.partition("|")[0] for row in self.postgres.run(self.database, text)]
        with contextlib.closing(sqlite3.connect(self.state / "jobs.sqlite", timeout=10)) as database, database:
            return [str(row[0]) for row in database.execute(text)]

    def workers(self) -> list[int]:
        """Process ids of those that train; the router has other children, too."""
        return [child for child in children_of(self.router_pid()) if b"--job" in command_of(child)]

    def crash(self):
        """The server dies at once: the launcher, which would start another router, and the router; no worker."""
        router = self.router_pid()
        self.process.kill()
        os.kill(router, 9)
        self.process.wait()
        wait_for(lambda: router not in self.survivors(), 5, "the router is gone")
        # Its threads may still hold what it had open.
        wait_for(self.port_is_free, 5, "its port is free")

    def port_is_free(self) -> bool:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", self.port))
            probe.listen()
            return True
        return False


class Api(Client):
    """The management API."""

    def request(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Response:
        return super().request(method, f"/api/v1/{path}", body, headers)

    def ok(self, method: str, path: str, body: Any = None) -> Any:
        response = self.request(method, path, body)
        assert response.status == 200, f"{method} {path}: {response.status} {response.text}"
        return response.json()

    def upload(self, content: bytes, name: str = "train.jsonl", query: str = "") -> Response:
        head = f'--xx\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
        headers = {"Content-Type": "multipart/form-data; boundary=xx"}
        return self.request("POST", f"datasets/upload/{query}", head + content + b"\r\n--xx--\r\n", headers)

    def add_dataset(self, content: str = LINE) -> str:
        response = self.upload(content.encode())
        assert response.status == 200, response.text
        return response.json()["id"]

    def train(self, name: str, dataset: str, model: str = "weirgate-demo", **hyperparameters) -> dict:
        body = {"name": name, "model_id": model, "dataset_id": dataset, "hyperparameters": hyperparameters}
        return self.ok("POST", "finetune/", body)

    def status(self, job: dict) -> str:
        return self.ok("GET", f"jobs/{job['id']}/status/")["status"]

    def until(self, job: dict, status: str, seconds: float = 30) -> dict:
        try:
            wait_for(lambda: self.status(job) == status, seconds, f"{job['name']} is {status}")
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.ok('GET', f'jobs/' + job['id'] + '/')}") from None
        return self.ok("GET", f"jobs/{job['id']}/")

    def chat(self, model: str, text: str = "Which port do you listen on?") -> str:
        body = {"model": model, "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 12}
        return self.ok("POST", "chat/completions", body)["choices"][0]["message"]["content"]


def progress(api: Api, job: dict) -> dict:
    """What a job told last."""
    return api.ok("GET", f"jobs/{job['id']}/")["progress"] or {}


def deployed(api: Api, adapters: list[str], model: str = "weirgate-demo") -> dict:
    """Deploys, and waits until it answers; the job."""
    job = api.ok("POST", "deploy/", {"model_id": model, "adapter_ids": adapters})
    wait_for(lambda: progress(api, job) == {"deployed": True}, 20, "deployed")
    return job


def curl(text: str, folder: Path) -> tuple[int, str, bytes]:
    """Runs a command line of curl's; status, content type and body."""
    done = subprocess.run(
        ["bash", "-c", f"{text} -sS -o body -w '%{{http_code}} %{{content_type}}'"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}"
    status, _, kind = done.stdout.strip().partition(" ")
    return int(status), kind, (folder / "body").read_bytes()


def seconds_of(work) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun
