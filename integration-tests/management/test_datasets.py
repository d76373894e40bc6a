"""Data sets: streamed, checked, kept whole or not at all, on this machine and in S3 buckets."""

import contextlib
import socket
import subprocess
import sys
import time

import boto3
import pytest
import schemas
from botocore.config import Config
from harness.server import free_port, resident_bytes, wait_for
from managed import LINE

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


def test_an_upload_that_breaks_off_leaves_nothing(manage):
    server = manage()
    head = (
        "POST /api/v1/datasets/upload/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n"
        "Content-Type: multipart/form-data; boundary=xx\r\n\r\n"
        '--xx\r\nContent-Disposition: form-data; name="file"; filename="t.jsonl"\r\n\r\n'
    )
    with socket.create_connection(("127.0.0.1", server.port)) as line:
        line.sendall((head + LINE * 100).encode())
        wait_for(lambda: kept(server), 5, "the upload has begun")
    wait_for(lambda: not kept(server), 5, "nothing is left")
    # Killed in the middle of one.
    with socket.create_connection(("127.0.0.1", server.port)) as line:
        line.sendall((head + LINE * 100).encode())
        wait_for(lambda: kept(server), 5, "the upload has begun")
        server.crash()
    server.start()
    assert kept(server) == set() and server.api.ok("GET", "datasets/") == []
    # A body that ends before its form does.
    cut = server.api.request(
        "POST",
        "datasets/upload/",
        (head.split("\r\n\r\n", 1)[1] + LINE).encode(),
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


@pytest.fixture
def bucket(tmp_path):
    """moto's server with a bucket."""
    port = free_port()
    program = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with open(tmp_path / "moto.log", "wb") as log:
        process = subprocess.Popen(program, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        config = Config(retries={"max_attempts": 1}, s3={"addressing_style": "path"})
        endpoint = f"http://127.0.0.1:{port}"
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id="key",
            aws_secret_access_key="secret",
            config=config,
        )

        def listens():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return True

        wait_for(listens, 30, "moto listens", interval=0.1)
        client.create_bucket(Bucket="sets")
        yield client, endpoint
    finally:
        process.kill()
        process.wait()


def keys(client) -> set[str]:
    return {entry["Key"] for entry in client.list_objects_v2(Bucket="sets").get("Contents", [])}


def test_data_sets_in_a_bucket(manage, bucket):
    client, endpoint = bucket
    server = manage("--dataset-store", "s3://sets/of/mine", env=KEYS | {"AWS_ENDPOINT_URL": endpoint})
    api = server.api
    small = api.add_dataset(LINE * 3)
    # Larger than one part.
    large = LINE * (20_000_000 // len(LINE))
    response = api.upload(large.encode())
    assert response.status == 200, response.text
    big = response.json()["id"]
    files = {f"of/mine/{id}/{file}" for id in (small, big) for file in ("data.jsonl", "metadata.json")}
    assert keys(client) == files
    assert client.get_object(Bucket="sets", Key=f"of/mine/{small}/data.jsonl")["Body"].read() == (LINE * 3).encode()
    metadata = client.get_object(Bucket="sets", Key=f"of/mine/{big}/metadata.json")["Body"].read()
    assert f'"bytes":{len(large)}'.encode() in metadata
    assert api.request("GET", f"datasets/{big}/").body == large.encode()
    assert [dataset["id"] for dataset in api.ok("GET", "datasets/")] == [small, big]
    assert kept(server) == set(), "nothing stays on this machine"
    assert api.upload(b"no").status == 422
    assert keys(client) == files
    job = api.train("from a bucket", small)
    api.until(job, "FINISHED")
    assert client.list_multipart_uploads(Bucket="sets").get("Uploads", []) == []


def test_a_bucket_that_does_not_answer_fails_the_upload_alone(manage, bucket):
    client, endpoint = bucket
    server = manage("--dataset-store", "s3://absent", env=KEYS | {"AWS_ENDPOINT_URL": endpoint})
    begun = time.monotonic()
    response = server.api.upload(LINE.encode())
    assert response.status == 502, response.text
    assert time.monotonic() - begun < 30
    schemas.check(response.json(), schemas.DETAIL)
    assert server.api.ok("GET", "datasets/") == [] and kept(server) == set()
    assert server.api.chat("Compressa-LLM")
