"""A server with the S3 protocol on this machine, which can be stopped and started again."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import boto3
import pytest
from moto.server import ThreadedMotoServer


class S3Server:
    """The server, with one bucket. What is stored outlives a stop."""

    def __init__(self) -> None:
        self.port = 0
        self.start()
        self.client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{self.port}", region_name="us-east-1")
        self.client.create_bucket(Bucket="bucket")

    def start(self) -> None:
        self.server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self.server.start()
        self.port = self.server.get_host_and_port()[1]

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
