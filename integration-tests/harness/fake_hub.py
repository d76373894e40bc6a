"""A local HTTP server with the model hub's layout: one folder as a repository, of one name or of several. It records what
was asked for."""

import hashlib
import json
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Iterator
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, repository: str, folder: Path, token: str | None = None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories, self.token = [repository], token
        self.files = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
        self.requests: list[str] = []
        # How many bytes of a file's first answer to send before hanging up: what an unstable line does.
        self.cut_after: dict[str, int] = {}
        # Files that were asked for, with the byte that each answer began with.
        self.sent: list[tuple[str, int]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeHub

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def _answer(self):
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        if self.server.token and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            return self._send(401, b'{"error":"Repository not found"}', {"X-Error-Code": "RepoNotFound"})
        # Those that came last are asked for next.
        for repository in reversed(self.server.repositories):
            if self._of(repository, path):
                return
        self._send(404, b'{"error":"Entry not found"}', {"X-Error-Code": "EntryNotFound"})

    def _of(self, repository: str, path: str) -> bool:
        """Answers what is asked of this repository; whether it was."""
        if path in (f"/api/models/{repository}", *(f"/api/models/{repository}/revision/{r}" for r in ("main", COMMIT))):
            siblings = [{"rfilename": name, "size": len(data)} for name, data in self.server.files.items()]
            info = {"id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings, "private": False}
            self._send(200, json.dumps(info).encode(), {"Content-Type": "application/json"})
            return True
        for revision in ("main", COMMIT):
            prefix = f"/api/models/{repository}/tree/{revision}"
            if path == prefix:
                tree = [
                    {"type": "file", "path": n, "size": len(d), "oid": _git_id(d)} for n, d in self.server.files.items()
                ]
                self._send(200, json.dumps(tree).encode(), {"Content-Type": "application/json"})
                return True
            name = path.removeprefix(f"/{repository}/resolve/{revision}/")
            if name in self.server.files:
                self._file(repository, name)
                return True
        return False

    def _file(self, repository: str, name: str):
        data = self.server.files[name]
        headers = {"X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        # Large files live in LFS, and there the tag is the SHA-256; small ones have git's own id.
        if name.endswith(".safetensors"):
            digest = hashlib.sha256(data).hexdigest()
            headers |= {"ETag": f'"{digest}"', "X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data))}
        else:
            headers |= {"ETag": f'"{_git_id(data)}"'}
        requested = self.headers.get("Range", "")
        if self.command == "GET":
            begin = requested.removeprefix("bytes=").partition("-")[0]
            self.server.sent.append((f"{repository}/{name}", int(begin or 0)))
        if not requested.startswith("bytes="):
            return self._send(
                200, data, headers, self.server.cut_after.pop(name, None) if self.command == "GET" else None
            )
        first, _, last = requested.removeprefix("bytes=").partition("-")
        begin, end = int(first), min(int(last) if last else len(data) - 1, len(data) - 1)
        if begin > end:
            return self._send(416, b"", headers | {"Content-Range": f"bytes */{len(data)}"})
        headers |= {"Content-Range": f"bytes {begin}-{end}/{len(data)}"}
        self._send(206, data[begin : end + 1], headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str], cut: int | None = None):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        # Whoever asked may have been killed.
        with suppress(ConnectionError):
            self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.close_connection = True


def _git_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def serving(repository: str, folder: Path, token: str | None = None) -> Iterator[FakeHub]:
    hub = FakeHub(repository, folder, token)
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()
