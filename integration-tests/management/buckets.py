"""S3 servers of the tests' own."""

import contextlib
import socket
import subprocess
import sys
from pathlib import Path

import boto3
from botocore.config import Config
from harness.server import ROOT, free_port, wait_for

S3S_FS = ROOT / "out/s3s-fs/bin/s3s-fs"
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}


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

    def __enter__(self) -> "Bucket":
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def stored_in(bucket: Bucket, **keys: str) -> dict:
    return {"env": KEYS | {"AWS_ENDPOINT_URL": bucket.endpoint} | keys}
