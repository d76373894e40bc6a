"""`--api-key`: which routes ask for it, and what counts as the key."""

import pytest
from harness.client import Client
from harness.server import Server

KEY = "Secret-Key-1"
GUARDED = ["/", "/generate", "/generate_stream", "/tokenize", "/v1/chat/completions", "/v1/completions"]
OPEN = ["/", "/health", "/info", "/metrics", "/v1/models"]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("auth") / "log", env={"API_KEY": KEY})
    try:
        server.start()
        yield Client(server.port)
        server.stop()
        assert KEY not in server.output(), "the key is in the log"
    finally:
        server.kill()


@pytest.mark.parametrize("path", GUARDED)
@pytest.mark.parametrize(
    "value",
    [
        None,
        "Bearer wrong",
        f"Bearer {KEY.lower()}",
        f"Bearer {KEY}x",
        f"Bearer {KEY[:-1]}",
        KEY,
        f"Basic {KEY}",
        "Bearer ",
    ],
)
def test_without_the_key(guarded, path, value):
    headers = {"Authorization": value} if value is not None else {}
    # The body would be refused too, but nobody without the key learns that.
    response = guarded.post(path, {"nonsense": True}, headers)
    assert response.status == 401
    if path.startswith("/v1/"):
        assert response.json()["error"]["code"] == "invalid_api_key"
    else:
        assert response.body == b""


def test_the_key_in_the_query_does_not_count(guarded):
    assert guarded.post(f"/generate?api_key={KEY}", {"inputs": "Once"}).status == 401


def test_refused_before_the_method_is_looked_at(guarded):
    assert guarded.get("/generate").status == 401


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_with_the_key(guarded, scheme):
    body = {"inputs": "Once", "parameters": {"max_new_tokens": 2}}
    assert guarded.post("/generate", body, {"Authorization": f"{scheme} {KEY}"}).status == 200


@pytest.mark.parametrize("path", OPEN)
def test_open_routes(guarded, path):
    assert guarded.get(path).status == 200
