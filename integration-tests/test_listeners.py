"""The ports that the server's processes listen on: those that were asked for, and no other."""

import contextlib
import os
from pathlib import Path

from harness.client import Client
from harness.server import free_port

LISTENS = "0A"


def listening(pids: list[int]) -> dict[int, str]:
    """Ports that the processes accept connections on, or take datagrams at, and the table each is in."""
    sockets = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                sockets.add(os.readlink(descriptor))
    found = {}
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if f"socket:[{inode}]" in sockets and (state == LISTENS or table.startswith("udp")):
                found[int(local.rpartition(":")[2], 16)] = table
    return found


def test_one_port_where_one_was_asked_for(start_server):
    server = start_server()
    assert listening(server.survivors()) == {server.port: "tcp"}


def test_one_for_each_dialect_that_has_its_own(start_server, tmp_path):
    ports = {name: free_port() for name in ("OLLAMA_HOST", "JAN_HOST", "MANAGEMENT_HOST")}
    hosts = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
    server = start_server("--state-dir", str(tmp_path / "state"), env=hosts | {"JAN_MODELS": str(tmp_path / "jan")})
    assert listening(server.survivors()) == dict.fromkeys([server.port, *ports.values()], "tcp")
    for port in ports.values():
        assert Client(port).get("/health").status == 200
