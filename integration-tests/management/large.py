"""Data sets that would not fit in a server's memory, and what memory it takes to move them."""

import hashlib
import http.client
import json
import threading
from dataclasses import dataclass

from harness.server import resident_bytes
from managed import LINE, Managed

PIECE = (LINE * 10_000).encode()
HEAD = b'--xx\r\nContent-Disposition: form-data; name="file"; filename="big.jsonl"\r\n\r\n'
TAIL = b"\r\n--xx--\r\n"


@dataclass(frozen=True)
class Content:
    size: int
    sha256: str


class Peak:
    """How far a process's resident memory grew at most."""

    def __init__(self, pid: int):
        self.pid, self.grown, self.over = pid, 0, threading.Event()
        self.before = resident_bytes(pid)
        self.thread = threading.Thread(target=self._watch)

    def _watch(self):
        while not self.over.wait(0.02):
            self.grown = max(self.grown, resident_bytes(self.pid) - self.before)

    def __enter__(self) -> "Peak":
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


def upload(server: Managed, size: int) -> tuple[str, Content]:
    """A data set of about so many bytes; its id and what was sent."""
    rounds = size // len(PIECE)
    digest = hashlib.sha256()

    def body():
        yield HEAD
        for _ in range(rounds):
            digest.update(PIECE)
            yield PIECE
        yield TAIL

    length = len(HEAD) + rounds * len(PIECE) + len(TAIL)
    headers = {"Content-Type": "multipart/form-data; boundary=xx", "Content-Length": str(length)}
    line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
    line.request("POST", "/api/v1/datasets/upload/", body(), headers)
    answer = line.getresponse()
    text = answer.read()
    line.close()
    assert answer.status == 200, text[:500]
    return json.loads(text)["id"], Content(rounds * len(PIECE), digest.hexdigest())


def download(server: Managed, dataset: str) -> Content:
    line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
    line.request("GET", f"/api/v1/datasets/{dataset}/")
    answer = line.getresponse()
    assert answer.status == 200
    size, digest = 0, hashlib.sha256()
    while piece := answer.read(1 << 20):
        size += len(piece)
        digest.update(piece)
    line.close()
    return Content(size, digest.hexdigest())
