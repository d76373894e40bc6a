"""The ports that the server's processes listen on: those that were asked for, and no other; and how each refuses."""

import contextlib
import os
from pathlib import Path

from harness.client import Client, Response
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


def with_all_listeners(start_server, tmp_path, *args: str):
    """A server, and the ports of its other listeners by the variables that ask for them."""
    ports = {name: free_port() for name in ("OLLAMA_HOST", "JAN_HOST", "MANAGEMENT_HOST")}
    env = {name: f"127.0.0.1:{port}" for name, port in ports.items()} | {"JAN_MODELS": str(tmp_path / "jan")}
    return start_server("--state-dir", str(tmp_path / "state"), *args, env=env), ports


def test_one_for_each_dialect_that_has_its_own(start_server, tmp_path):
    server, ports = with_all_listeners(start_server, tmp_path)
    assert listening(server.survivors()) == dict.fromkeys([server.port, *ports.values()], "tcp")
    for port in ports.values():
        assert Client(port).get("/health").status == 200


#: Under OpenAI's object: `param`, `code` and `error_type`.
REFUSALS = {
    "not JSON": (None, None, "validation"),
    "not a request": (None, None, "validation"),
    "out of range": ("temperature", None, "validation"),
    "no such model": ("model", "model_not_found", "model_not_found"),
}
MESSAGES = [{"role": "user", "content": "Hi"}]
REFUSED = {
    "not JSON": b"{",
    "not a request": {"messages": 1},
    "out of range": {"messages": MESSAGES, "temperature": -1},
    "no such model": {"model": "no-such-model", "messages": MESSAGES, "max_tokens": 1},
}


def check_object(what: str, answer: Response):
    """OpenAI's error object, under the profiles `ollama` and `jan`, too."""
    body = answer.json()
    assert set(body) == {"error", "error_type"} and set(body["error"]) == {"message", "type", "param", "code"}
    error = body["error"]
    assert error["message"] and error["type"] == "invalid_request_error"
    assert (error["param"], error["code"], body["error_type"]) == REFUSALS[what]


def check_detail(what: str, answer: Response):
    """FastAPI's: a list of what is wrong with the request, or a text."""
    detail = answer.json()["detail"]
    assert set(answer.json()) == {"detail"}
    if what == "no such model":
        assert "no-such-model" in detail
        return
    (problem,) = detail
    assert set(problem) == {"loc", "msg", "type"} and problem["msg"] and problem["type"] == "value_error"
    assert problem["loc"] == ["body", *filter(None, REFUSALS[what][:1])]


def check_text(what: str, answer: Response):
    """TGI's: a text and its kind; of what is no request at all, axum's text."""
    if answer.headers["content-type"].startswith("text/plain"):
        assert what in ("not JSON", "not a request") and answer.text.startswith("Failed to ")
        return
    assert set(answer.json()) == {"error", "error_type"} and isinstance(answer.json()["error"], str)
    assert answer.json()["error_type"] == REFUSALS[what][2]


def test_each_refuses_in_the_form_of_its_dialect(start_server, tmp_path):
    """One route on the four ports of one process (reference/dialects.md §5.2)."""
    server, ports = with_all_listeners(start_server, tmp_path, "--profile", "tgi")
    for port, statuses, check in (
        (server.port, [400, 422, 422, 404], check_text),
        (ports["OLLAMA_HOST"], [400, 400, 400, 404], check_object),
        (ports["JAN_HOST"], [400, 400, 400, 404], check_object),
        (ports["MANAGEMENT_HOST"], [422, 422, 422, 404], check_detail),
    ):
        for (what, body), status in zip(REFUSED.items(), statuses):
            answer = Client(port).post("/v1/chat/completions", body)
            assert answer.status == status, (what, answer.text)
            plain = check is check_text and what in ("not JSON", "not a request")
            assert answer.headers["content-type"].partition(";")[0] == ("text/plain" if plain else "application/json")
            check(what, answer)
        # Whatever the port: Ollama's own routes have their own form.
        own = Client(port).post("/api/generate", {"model": "no-such-model", "prompt": "Hi"})
        assert (own.status, own.json()) == (404, {"error": "model 'no-such-model' not found"}), port
