"""A blocking HTTP client that hides nothing: status, headers and body as sent. Standard library only."""

import http.client
import json
from dataclasses import dataclass
from typing import Any, Iterator

DONE = "[DONE]"


@dataclass
class Response:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


class Client:
    def __init__(self, port: int, timeout: float = 30):
        self.port, self.timeout = port, timeout

    def request(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Response:
        """`body`: bytes are sent as they are, anything else as JSON."""
        connection, response = self._open(method, path, body, headers)
        try:
            return Response(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path: str) -> Response:
        return self.request("GET", path)

    def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> Response:
        return self.request("POST", path, body, headers)

    def post_ok(self, path: str, body: Any) -> Any:
        """The JSON of a request that must succeed."""
        response = self.post(path, body)
        assert response.status == 200, f"{path}: {response.status} {response.text}"
        return response.json()

    def stream(self, path: str, body: Any) -> tuple[http.client.HTTPMessage, list[Any]]:
        """Headers and events of a server-sent-events answer; `[DONE]` is the constant `DONE`."""
        connection, response = self._open("POST", path, body, None)
        try:
            if response.status != 200:
                raise AssertionError(f"{path}: {response.status} {response.read().decode()}")
            return response.headers, list(events(iter(response.readline, b"")))
        finally:
            connection.close()

    def _open(self, method, path, body, headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.timeout)
        headers = dict(headers or {})
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
        connection.request(method, path, body, headers)
        return connection, connection.getresponse()


def events(lines: Iterator[bytes]) -> Iterator[Any]:
    """Parses server-sent events as TGI frames them: `data: {json}`, an empty line, and `:` as keep-alive."""
    data = None
    for line in lines:
        line = line.rstrip(b"\r\n")
        if not line:
            if data is not None:
                yield data
            data = None
            continue
        if line.startswith(b":"):
            continue
        assert line.startswith(b"data: "), f"not an event line: {line!r}"
        assert data is None, f"two data lines in one event: {line!r}"
        payload = line[len(b"data: ") :].decode()
        data = DONE if payload == DONE else json.loads(payload)
    assert data is None, f"the stream ended inside an event: {data!r}"
