"""Debian's docker-registry, which `tools/setup` unpacks, on a free loopback port."""

import shutil
import socket
import subprocess
from pathlib import Path

from harness.server import ROOT, free_port, wait_for

UNPACKED = ROOT / ".venv/debian/usr/bin/docker-registry"


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Registry:
    def __init__(self, folder: Path):
        self.folder, self.port = folder, free_port()
        self.process: subprocess.Popen | None = None

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> "Registry":
        program = str(UNPACKED) if UNPACKED.exists() else shutil.which("docker-registry")
        assert program, "docker-registry is missing; `make setup` unpacks it"
        config = self.folder / "registry.yml"
        config.write_text(
            "version: 0.1\nlog: {level: error}\n"
            f"storage:\n  filesystem: {{rootdirectory: {self.folder / 'storage'}}}\n"
            f"http: {{addr: '{self.host}'}}\n"
        )
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen([program, "serve", str(config)], stdin=quiet, stdout=quiet, stderr=quiet)
        wait_for(lambda: listens(self.port), 20, "docker-registry listens")
        return self

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
