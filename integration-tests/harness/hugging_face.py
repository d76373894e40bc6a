"""What `hf.co` is to a client of registries, on this machine: https under its name, reached through a proxy, content by way
of a redirect to another host."""

import contextlib
import hashlib
import json
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import trustme

HOST, CONTENT_HOST = "hf.co", "cdn-lfs.hf.co"
MEDIA = "application/vnd.ollama.image."


class HuggingFace(ThreadingHTTPServer):
    """One repository; `quantizations` are its GGUF files by the tags that name them, the first being `latest`, too."""

    daemon_threads = True

    def __init__(self, repository: str, quantizations: dict[str, Path], folder: Path):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        for tag, path in quantizations.items():
            manifest = self._manifest(path.read_bytes(), tag)
            for name in [tag] if self.manifests else [tag, "latest"]:
                self.manifests[f"/v2/{repository}/manifests/{name}"] = manifest
        authority = trustme.CA()
        self.certificates = folder / "ca.pem"
        authority.cert_pem.write_to_path(str(self.certificates))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(HOST, CONTENT_HOST).configure_cert(context)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.proxy = _Proxy(self.server_address[1])
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """For a client that is to find it."""
        return {"HTTPS_PROXY": f"http://127.0.0.1:{self.proxy.port}", "REGISTRY_CA_FILE": str(self.certificates)}

    def _layer(self, kind: str, content: bytes) -> dict:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.blobs[digest] = content
        return {"mediaType": kind, "digest": digest, "size": len(content)}

    def _manifest(self, weights: bytes, quantization: str) -> bytes:
        config = {"model_format": "gguf", "model_family": "llama", "model_type": "5M", "file_type": quantization}
        return json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
                "config": self._layer("application/vnd.docker.container.image.v1+json", json.dumps(config).encode()),
                "layers": [
                    self._layer(MEDIA + "model", weights),
                    self._layer(MEDIA + "params", b'{"num_predict":5,"temperature":0}'),
                ],
            }
        ).encode()

    def close(self):
        self.proxy.close()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HuggingFace

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def _answer(self):
        host = self.headers["Host"]
        self.server.requests.append((host, f"{self.command} {self.path}", self.headers.get("Authorization")))
        digest = self.path.rpartition("/")[2]
        if host == HOST and self.path in self.server.manifests:
            return self._send(200, self.server.manifests[self.path])
        if host == HOST and digest in self.server.blobs:
            return self._send(307, b"", {"Location": f"https://{CONTENT_HOST}/repos/{digest}"})
        if host != CONTENT_HOST or digest not in self.server.blobs:
            return self._send(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')
        content = self.server.blobs[digest]
        wanted = self.headers.get("Range", "")
        if not wanted.startswith("bytes="):
            return self._send(200, content)
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        begin, end = int(first), min(int(last or len(content)), len(content) - 1)
        self._send(206, content[begin : end + 1], {"Content-Range": f"bytes {begin}-{end}/{len(content)}"})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _Proxy:
    """Whatever host is asked for, it is the one on this machine."""

    def __init__(self, target: int):
        self.target = target
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self._tunnel, args=(client,), daemon=True).start()

    def _tunnel(self, client: socket.socket):
        head = b""
        while b"\r\n\r\n" not in head:
            piece = client.recv(4096)
            if not piece:
                return
            head += piece
        assert head.startswith(b"CONNECT "), head
        server = socket.create_connection(("127.0.0.1", self.target))
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        for source, sink in ((client, server), (server, client)):
            threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
                end.close()

    def close(self):
        self.listener.close()
