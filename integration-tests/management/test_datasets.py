"""Data sets: streamed, checked, kept whole or not at all, on this machine and in S3 buckets."""

import contextlib
import socket
import subprocess
import sys
import time
from pathlib import Path

import boto3
import pytest
import schemas
from botocore.config import Config
from harness.postgres import Postgres
from harness.server import ROOT, free_port, resident_bytes, wait_for
from managed import LINE

S3S_FS = ROOT / "out/s3s-fs/bin/s3s-fs"
# Of an upload that does not go on.
BEGINNING = (
    "POST /api/v1/datasets/upload/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n"
    "Content-Type: multipart/form-data; boundary=xx\r\n\r\n"
    '--xx\r\nContent-Disposition: form-data; name="file"; filename="t.jsonl"\r\n\r\n'
)
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}


def kept(server) -> set[str]:
    """Names in the folders of data sets and of uploads."""
    return {path.name for folder in ("datasets", "incoming") for path in (server.state / folder).glob("*")}


def test_broken_lines_are_told_by_their_numbers(manage):
    server = manage()
    lines = [LINE.strip()] * 50
    wrong = {3: "{", 7: '{"messages": []}', 50: '{"messages": [{"role": "robot", "content": "x"}]}'}
    for number, text in wrong.items():
        lines[number - 1] = text
    response = server.api.upload("\n".join(lines).encode())
    assert response.status == 422
    reply = response.json()
    schemas.check(reply, schemas.PROBLEMS)
    assert [problem["loc"] for problem in reply["detail"]] == [["body", "file", number] for number in wrong]
    response = server.api.upload(b"no\n" * 1000)
    assert [problem["loc"][2] for problem in response.json()["detail"]] == list(range(1, 21))
    assert kept(server) == set() and server.api.ok("GET", "datasets/") == []


@pytest.mark.parametrize("database", ["SQLite", "PostgreSQL"])
def test_texts_that_no_database_keeps_are_refused_by_name(manage, tmp_path, database):
    with contextlib.ExitStack() as stack:
        args = ()
        if database == "PostgreSQL":
            postgres = stack.enter_context(Postgres(tmp_path / "postgres"))
            args = ("--state-database", postgres.url("jobs"))
        server = manage(*args)
        for query in ("?description=%00", "?description=a%00b", "?description=a&description=b"):
            response = server.api.upload(LINE.encode(), query=query)
            assert response.status == 422, f"{query}: {response.text}"
            schemas.check(response.json(), schemas.PROBLEMS)
            assert response.json()["detail"][0]["loc"] == ["query", "description"]
        assert kept(server) == set() and server.api.ok("GET", "datasets/") == []
        named = server.api.upload(LINE.encode(), query="?description=%C2%A0%01")
        assert named.json()["description"] == "\xa0\x01"
        # Wherever else a text may come from.
        dataset = named.json()["id"]
        training = {"name": "a", "model_id": "weirgate-demo", "dataset_id": dataset}
        for body in (training | {"name": "a\0"}, training | {"model_id": "a\0"}, training | {"dataset_id": "a\0"}):
            assert server.api.request("POST", "finetune/", body).status in (404, 422), body
        deployment = {"model_id": "weirgate-demo", "adapter_ids": ["a\0"]}
        assert server.api.request("POST", "deploy/", deployment).status == 404
        assert server.api.request("POST", "deploy/", deployment | {"model_id": "a\0"}).status == 404
        for path in ("models/add/?model_id=a%00", "jobs/%00/interrupt/"):
            assert server.api.request("POST", path).status in (404, 422), path
        for path in ("jobs/?after=%00", "jobs/?status=%00", "jobs/%00/status/", "datasets/%00/", "finetune/%00/curve/"):
            assert server.api.request("GET", path).status in (404, 422), path
        odd = server.api.ok("POST", "finetune/", training | {"hyperparameters": {"a\0": "\0", "max_steps": 1}})
        server.api.until(odd, "FINISHED")
        server.stop()


def test_an_upload_that_breaks_off_leaves_nothing(manage):
    server = manage()
    with socket.create_connection(("127.0.0.1", server.port)) as line:
        line.sendall((BEGINNING + LINE * 100).encode())
        wait_for(lambda: kept(server), 5, "the upload has begun")
    wait_for(lambda: not kept(server), 5, "nothing is left")
    # Killed in the middle of one.
    with socket.create_connection(("127.0.0.1", server.port)) as line:
        line.sendall((BEGINNING + LINE * 100).encode())
        wait_for(lambda: kept(server), 5, "the upload has begun")
        server.crash()
    server.start()
    assert kept(server) == set() and server.api.ok("GET", "datasets/") == []
    # A body that ends before its form does.
    cut = server.api.request(
        "POST",
        "datasets/upload/",
        (BEGINNING.split("\r\n\r\n", 1)[1] + LINE).encode(),
        {"Content-Type": "multipart/form-data; boundary=xx"},
    )
    assert cut.status in (400, 422) and kept(server) == set()


def test_a_large_file_takes_no_memory(manage):
    server = manage()
    server.api.add_dataset()
    before = resident_bytes(server.router_pid())
    content = (LINE * 10_000).encode()
    rounds = 200_000_000 // len(content)
    head = b'--xx\r\nContent-Disposition: form-data; name="file"; filename="big.jsonl"\r\n\r\n'
    tail = b"\r\n--xx--\r\n"
    size = len(head) + rounds * len(content) + len(tail)
    most = before
    with socket.create_connection(("127.0.0.1", server.port)) as line:
        line.sendall(
            f"POST /api/v1/datasets/upload/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n"
            "Content-Type: multipart/form-data; boundary=xx\r\nConnection: close\r\n\r\n".encode() + head
        )
        for _ in range(rounds):
            line.sendall(content)
            most = max(most, resident_bytes(server.router_pid()))
        line.sendall(tail)
        answer = b"".join(iter(lambda: line.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200"), answer[:500]
    assert most - before < 60_000_000, f"grew by {most - before} bytes"


class Bucket:
    """The bucket `sets` of an S3 server of the test's own."""

    def __init__(self, kind: str, folder: Path):
        self.kind, self.root, self.log = kind, folder / "s3", folder / "s3.log"
        port = free_port()
        self.endpoint = f"http://127.0.0.1:{port}"
        self.root.mkdir()
        own = ["--host", "127.0.0.1", "--port", str(port), "--access-key", "key", "--secret-key", "secret"]
        program = {
            "moto": [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            "s3s-fs": [str(S3S_FS), *own, str(self.root)],
        }[kind]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(program, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self.client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id="key",
            aws_secret_access_key="secret",
            config=Config(retries={"max_attempts": 1}, s3={"addressing_style": "path"}),
        )

        def listens():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return True

        wait_for(listens, 30, f"{kind} listens", interval=0.1)
        self.client.create_bucket(Bucket="sets")

    def keys(self) -> set[str]:
        return {entry["Key"] for entry in self.client.list_objects_v2(Bucket="sets").get("Contents", [])}

    def read(self, key: str, **more) -> bytes:
        return self.client.get_object(Bucket="sets", Key=key, **more)["Body"].read()

    def unfinished(self) -> list:
        """Uploads in parts that neither ended nor were given up."""
        if self.kind == "s3s-fs":
            return list(self.root.glob(".upload*"))
        return self.client.list_multipart_uploads(Bucket="sets").get("Uploads", [])


@pytest.fixture(params=["moto", "s3s-fs"])
def bucket(request, tmp_path):
    if request.param == "s3s-fs" and not S3S_FS.exists():
        pytest.skip("`make prove-jobs` installs s3s-fs")
    bucket = Bucket(request.param, tmp_path)
    yield bucket
    bucket.process.kill()
    bucket.process.wait()


def stored_in(bucket: Bucket, **keys: str) -> dict:
    return {"env": KEYS | {"AWS_ENDPOINT_URL": bucket.endpoint} | keys}


def test_data_sets_in_a_bucket(manage, bucket):
    server = manage("--dataset-store", "s3://sets/of/mine", **stored_in(bucket))
    api = server.api
    small = api.add_dataset(LINE * 3)
    # Larger than one part.
    large = (LINE * (20_000_000 // len(LINE))).encode()
    response = api.upload(large)
    assert response.status == 200, response.text
    big = response.json()["id"]
    files = {f"of/mine/{id}/{file}" for id in (small, big) for file in ("data.jsonl", "metadata.json")}
    assert bucket.keys() == files
    assert bucket.read(f"of/mine/{small}/data.jsonl") == (LINE * 3).encode()
    # Across the border of two parts.
    assert bucket.read(f"of/mine/{big}/data.jsonl", Range="bytes=8388600-8388700") == large[8388600:8388701]
    assert f'"bytes":{len(large)}'.encode() in bucket.read(f"of/mine/{big}/metadata.json")
    assert api.request("GET", f"datasets/{big}/").body == large
    assert [dataset["id"] for dataset in api.ok("GET", "datasets/")] == [small, big]
    assert kept(server) == set(), "nothing stays on this machine"
    job = api.train("from a bucket", small)
    api.until(job, "FINISHED")
    # What is not taken in leaves nothing there, either.
    assert api.upload(b"no").status == 422
    with socket.create_connection(("127.0.0.1", server.port)) as line:
        line.sendall((BEGINNING + LINE * 100).encode())
        wait_for(lambda: kept(server), 5, "the upload has begun")
    wait_for(lambda: not kept(server), 5, "nothing is left")
    assert bucket.keys() == files and bucket.unfinished() == []


def refuses(server):
    begun = time.monotonic()
    response = server.api.upload((LINE * (9_000_000 // len(LINE))).encode())
    assert response.status == 502, response.text
    assert time.monotonic() - begun < 30
    schemas.check(response.json(), schemas.DETAIL)
    assert server.api.ok("GET", "datasets/") == [] and kept(server) == set()
    assert server.api.chat("Compressa-LLM")


def test_a_bucket_that_is_not_there_fails_the_upload_alone(manage, bucket):
    refuses(manage("--dataset-store", "s3://absent", **stored_in(bucket)))


def test_a_bucket_that_does_not_take_the_key_fails_the_upload_alone(manage, bucket):
    if bucket.kind == "moto":
        pytest.skip("moto takes any key")
    for wrong in ({"AWS_SECRET_ACCESS_KEY": "wrong"}, {"AWS_ACCESS_KEY_ID": "nobody"}):
        server = manage("--dataset-store", "s3://sets", **stored_in(bucket, **wrong))
        refuses(server)
        assert "the bucket of data sets" in server.output()
        server.stop()
    assert bucket.keys() == set() and bucket.unfinished() == []


def test_a_bucket_that_goes_away_fails_the_upload_alone(manage, bucket):
    server = manage("--dataset-store", "s3://sets", **stored_in(bucket))
    bucket.process.kill()
    refuses(server)
