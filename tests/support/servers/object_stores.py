"""Servers on this machine with the protocols of S3 and of Google Cloud Storage."""

from __future__ import annotations

import logging
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer
from ports import free_ports
from waiting import wait_until


class S3Server:
    """A server with the S3 protocol and one bucket. It can be stopped and started again, and keeps what it stores."""

    def __init__(self) -> None:
        (self.port,) = free_ports(1)
        self.start()
        # What servers store belongs to the process: forget that of an earlier one.
        urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{self.port}/moto-api/reset", method="POST"))
        self.client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{self.port}", region_name="us-east-1")
        self.client.create_bucket(Bucket="bucket")

    def start(self) -> None:
        self.server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self.server.start()

    def stop(self) -> None:
        self.server.stop()

    def uri(self, path: str) -> str:
        """URI of a path in the bucket, with credentials that no message may show."""
        return f"s3://key:hidden@bucket/{path}?endpoint_override=127.0.0.1:{self.port}&scheme=http"

    def keys(self, below: str) -> list[str]:
        """Keys of the objects that hold something."""
        found = self.client.list_objects_v2(Bucket="bucket", Prefix=below).get("Contents", [])
        return [item["Key"] for item in found if item["Size"]]

    def read(self, key: str) -> bytes:
        """Content of an object."""
        return self.client.get_object(Bucket="bucket", Key=key)["Body"].read()

    def write(self, key: str, content: bytes) -> None:
        """Create or replace an object."""
        self.client.put_object(Bucket="bucket", Key=key, Body=content)


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """A running server, and its keys in the environment."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        server = S3Server()
        yield server
        server.stop()


@contextmanager
def google_server() -> Iterator[str]:
    """Address of a server with Google's protocol and one bucket: in a process of its own, as it blocks ours."""
    (port,) = free_ports(1)
    command = [sys.executable, str(Path(__file__).with_name("google_emulator.py")), str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def answers() -> bool:
        assert process.poll() is None, f"the server has ended with exit code {process.returncode}"
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/storage/v1/b", timeout=10)
        except OSError:
            return False
        return True

    try:
        wait_until(answers, "the server")
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
