"""Data sets: streamed, checked, kept whole or not at all, on this machine and in S3 buckets."""

import contextlib
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPException
from pathlib import Path

import pytest
import schemas
from buckets import S3S_FS, Bucket, stored_in
from harness.postgres import Postgres
from harness.server import wait_for
from harness.slow_line import SlowLine
from large import Peak, download, upload
from managed import LINE

# Of an upload that does not go on.
BEGINNING = (
    "POST /api/v1/datasets/upload/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n"
    "Content-Type: multipart/form-data; boundary=xx\r\n\r\n"
    '--xx\r\nContent-Disposition: form-data; name="file"; filename="t.jsonl"\r\n\r\n'
)


def kept(server) -> set[str]:
    """Files in the folders of data sets and of uploads, any of which may go meanwhile."""
    walks = [os.walk(server.state / folder) for folder in ("datasets", "incoming")]
    found = [Path(folder, file) for walk in walks for folder, _, files in walk for file in files]
    return {str(path.relative_to(server.state)) for path in found}


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
    with Peak(server.router_pid()) as peak:
        dataset, content = upload(server, 200_000_000)
    assert peak.grown < 60_000_000, f"grew by {peak.grown} bytes"
    with Peak(server.router_pid()) as peak:
        assert download(server, dataset) == content
    assert peak.grown < 60_000_000, f"grew by {peak.grown} bytes"


@pytest.fixture(params=["moto", "s3s-fs"])
def bucket(request, tmp_path):
    if request.param == "s3s-fs" and not S3S_FS.exists():
        pytest.skip("`make prove-jobs` installs s3s-fs")
    with Bucket(request.param, tmp_path) as bucket:
        yield bucket


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


@pytest.mark.parametrize("at", ["a part", "the data", "the metadata"])
def test_an_upload_that_a_kill_cut_off_leaves_nothing_in_the_bucket(manage, bucket, at):
    with closing(SlowLine(int(bucket.endpoint.rpartition(":")[2]))) as line, ThreadPoolExecutor(1) as uploads:
        bucket.client.put_object(Bucket="sets", Key="others/data.jsonl", Body=b"others'")
        slow = stored_in(bucket, AWS_ENDPOINT_URL=f"http://{line.host}")
        server = manage("--dataset-store", "s3://sets/mine", **slow)
        listed = server.api.add_dataset()
        before = bucket.keys()
        assert len(before) == 3
        # The bucket takes what it is sent, and the server waits for its answers: for the first, or seconds for each.
        line.bytes_per_second = 0 if at == "the data" else 200
        size = 60_000_000 if at == "a part" else 1000
        uploading = uploads.submit(server.api.upload, (LINE * (size // len(LINE))).encode())
        more = {"a part": 0, "the data": 1, "the metadata": 2}[at]

        def is_there():
            heard = any(path.endswith("unfinished") for path in kept(server))
            return len(bucket.keys() - before) == more and heard == bool(bucket.unfinished()) == (at == "a part")

        wait_for(is_there, 20, at)
        server.crash()
        with pytest.raises((OSError, HTTPException)):
            uploading.result()
        assert is_there()
        line.bytes_per_second = None
        server.start()
        wait_for(lambda: bucket.keys() == before and bucket.unfinished() == [], 20, "nothing of it is left")
        wait_for(lambda: kept(server) == set(), 5, "nor on this machine")
        assert [dataset["id"] for dataset in server.api.ok("GET", "datasets/")] == [listed]
        assert server.api.request("GET", f"datasets/{listed}/").body == LINE.encode()
        server.stop()


def refuses(server):
    begun = time.monotonic()
    response = server.api.upload((LINE * (9_000_000 // len(LINE))).encode())
    assert response.status == 502, response.text
    assert time.monotonic() - begun < 30
    schemas.check(response.json(), schemas.DETAIL)
    assert server.api.ok("GET", "datasets/") == [] and kept(server) == set()
    assert server.api.chat("Compressa-LLM")


def test_a_bucket_that_is_not_there_fails_the_upload_alone(manage, bucket):
    if bucket.kind == "s3s-fs":
        pytest.skip("s3s-fs makes a bucket that is not there")
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
