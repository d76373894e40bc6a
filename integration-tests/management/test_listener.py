"""A listener of the management API's own, where its routes are at `/v1`, too: `--management-host`."""

from harness.client import Client
from harness.server import free_port, wait_for
from managed import LINE, Managed

#: More than other requests may have.
LARGE = LINE * (5_000_000 // len(LINE))


class AtItsRoot(Client):
    """What is managed, at `/v1`."""

    def __init__(self, port: int, key: str | None = None):
        super().__init__(port)
        self.key = {"Authorization": f"Bearer {key}"} if key else {}

    def ok(self, method: str, path: str, body=None):
        answer = self.request(method, f"/v1/{path}", body, self.key)
        assert answer.status == 200, f"{method} {path}: {answer.status} {answer.text}"
        return answer.json()

    def upload(self, path: str, content: str):
        head = '--xx\r\nContent-Disposition: form-data; name="file"; filename="train.jsonl"\r\n\r\n'
        headers = {"Content-Type": "multipart/form-data; boundary=xx"} | self.key
        return self.request("POST", path, f"{head}{content}\r\n--xx--\r\n".encode(), headers)


def listening(manage, *args: str) -> tuple[Managed, int]:
    port = free_port()
    return manage("--management-host", f"127.0.0.1:{port}", *args), port


def test_all_of_it_is_at_v1_there(manage):
    server, port = listening(manage)
    own = AtItsRoot(port)
    demo = {"model_id": "weirgate-demo", "adapter": False, "base_model_id": None}
    for form in ("models", "models/", "finetune/models", "finetune/models/"):
        assert own.ok("GET", form) == [demo]
    # Its other address has OpenAI's list there, and both have all of it at `/api/v1`.
    assert Client(server.port).get("/v1/models").json()["object"] == "list"
    assert own.get("/api/v1/models/").json() == server.api.ok("GET", "models/") == [demo]
    assert own.get("/health").status == 200 and own.get("/api/docs/").status == 200
    assert own.get("/v1/nothing").status == 404

    # By both forms of the path, with a query, and beyond what other bodies may have.
    known = []
    for path, content in (
        ("/v1/datasets/upload/?description=My%20%D0%A2%D1%8B", LINE * 3),
        ("/v1/datasets/upload?description=a", LINE),
        ("/api/v1/datasets/upload/", LINE * 2),
        ("/v1/datasets/upload/", LARGE),
    ):
        answer = own.upload(path, content)
        assert answer.status == 200, f"{path}: {answer.status} {answer.text[:500]}"
        known.append(answer.json())
        assert own.get(f"/v1/datasets/{known[-1]['id']}/").body == content.encode(), path
    assert [dataset["description"] for dataset in known] == ["My Ты", "a", None, None]
    assert own.ok("GET", "datasets/") == known == server.api.ok("GET", "datasets/")
    refused = own.upload("/v1/datasets/upload/", "no\n")
    assert refused.status == 422 and refused.json()["detail"][0]["loc"] == ["body", "file", 1]

    training = {"name": "own", "model_id": "weirgate-demo", "dataset_id": known[0]["id"]}
    job = own.ok("POST", "finetune/", training | {"hyperparameters": {"max_steps": 2}})
    wait_for(lambda: own.ok("GET", f"jobs/{job['id']}/status/")["status"] == "FINISHED", 20, "trained")
    assert own.get(f"/v1/finetune/{job['id']}/curve/").body.startswith(b"<svg")
    deployment = own.ok("POST", "deploy", {"model_id": "weirgate-demo", "adapter_ids": ["own"]})
    wait_for(lambda: own.ok("GET", f"jobs/{deployment['id']}/")["progress"] == {"deployed": True}, 20, "deployed")
    assert own.ok("GET", "deploy/") == {"model_id": "weirgate-demo", "adapter_ids": ["own"]}
    chat = {"model": "own", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    for path in ("chat/completions", "chat/completions/"):
        answer = own.ok("POST", path, chat)
        assert answer["id"].startswith("cmpl-") and answer["choices"][0]["stop_reason"] is None
    assert [one["id"] for one in own.ok("GET", "jobs/?limit=1&order=desc")] == [deployment["id"]]
    assert own.ok("POST", "deploy/interrupt/")["id"] == deployment["id"]
    wait_for(lambda: own.ok("GET", "deploy/")["model_id"] is None, 1, "undeployed")


def test_keys_are_asked_for_there(manage):
    _, port = listening(manage, "--api-key", "user", "--admin-api-key", "admin")
    anybody, user, admin = (AtItsRoot(port, key) for key in (None, "user", "admin"))
    for form in ("/v1/datasets/upload/", "/v1/datasets/upload", "/v1//datasets/upload/", "/api/v1/datasets/upload/"):
        for client in (anybody, user):
            assert client.upload(form, LINE).status in (401, 403, 404), form
    for method, path, body in (
        ("POST", "/v1/models/add/?model_id=acme/demo", None),
        ("POST", "/v1/deploy/", {"model_id": "weirgate-demo", "adapter_ids": []}),
        ("POST", "/v1/deploy/interrupt/", None),
        ("GET", "/v1/datasets/", None),
    ):
        assert anybody.request(method, path, body).status == 401, path
        assert user.request(method, path, body, user.key).status == 403, path
    assert user.ok("GET", "jobs/") == [], "nothing was begun"
    assert admin.upload("/v1/datasets/upload/", LINE).status == 200
    assert len(admin.ok("GET", "datasets/")) == 1
