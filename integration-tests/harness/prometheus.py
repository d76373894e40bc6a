"""Debian's Prometheus and promtool, unpacked by tools/setup. Standard library only."""

import contextlib
import http.client
import json
import subprocess
import time
import urllib.parse
from pathlib import Path
from typing import Any

from harness.server import ROOT, free_port, wait_for

BIN = ROOT / ".venv/debian/usr/bin"


def promtool(*args: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess:
    assert (BIN / "promtool").exists(), "promtool is missing; `make setup` fetches it"
    command = [str(BIN / "promtool"), *map(str, args)]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=30)


class Prometheus:
    """A Prometheus of the test's own that scrapes one target every second."""

    def __init__(self, folder: Path, config: str):
        self.port = free_port()
        self.folder = folder
        (folder / "prometheus.yml").write_text(config)
        self.process: subprocess.Popen | None = None

    def start(self) -> "Prometheus":
        self.process = subprocess.Popen(
            [
                str(BIN / "prometheus"),
                f"--config.file={self.folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={self.folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=open(self.folder / "prometheus.log", "wb"),
            stderr=subprocess.STDOUT,
            # Debian's path of the web pages is not there, and none are wanted.
            cwd=self.folder,
        )
        wait_for(self._ready, 20, "Prometheus ready", interval=0.1)
        return self

    def _ready(self) -> bool:
        assert self.process.poll() is None, (self.folder / "prometheus.log").read_text()
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self._get("/-/ready")[0] == 200
        return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that an instant query answers with; fails if the query does."""
        status, body = self._get("/api/v1/query?" + urllib.parse.urlencode({"query": expression, "time": time.time()}))
        answer = json.loads(body)
        assert status == 200 and answer["status"] == "success", f"{expression}: {answer}"
        result = answer["data"]["result"]
        return [{"metric": {}, "value": result}] if answer["data"]["resultType"] == "scalar" else result

    def _get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def stop(self):
        if self.process is not None:
            self.process.terminate()
            self.process.wait(20)
