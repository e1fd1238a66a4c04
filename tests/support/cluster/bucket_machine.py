"""A machine of the tests that serves a bucket with the S3 protocol."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from forwarding import Forward
from machines import VENV_BIN, Network

PORT = 9000
BUCKET = "bucket"
KEY = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "hidden", "AWS_EC2_METADATA_DISABLED": "true"}
START_TIMEOUT_S = 60


class BucketMachine:
    """An S3 server in a network, with one empty bucket.

    Attributes:
        client: of boto3, through a forwarded port.
        environment: variables with which machines of the network use it.
        outside: variables with which this machine uses it.
    """

    def __init__(self, network: Network) -> None:
        self.machine = network.add("bucket")
        command = [VENV_BIN / "moto_server", "-H", "0.0.0.0", "-p", str(PORT)]
        self._server = self.machine.start(command, subprocess.DEVNULL)
        self._forward = Forward(self.machine, PORT)
        self.environment = KEY | {"AWS_ENDPOINT_URL": f"http://{self.machine.address}:{PORT}"}
        self.outside = KEY | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._forward.port}"}
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=self.outside["AWS_ENDPOINT_URL"],
            region_name="us-east-1",
            aws_access_key_id=KEY["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEY["AWS_SECRET_ACCESS_KEY"],
            config=Config(retries={"max_attempts": 1}),
        )
        self._create_bucket()

    def _create_bucket(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self.client.create_bucket(Bucket=BUCKET)
                return
            except (BotoCoreError, ClientError):
                if self._server.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def upload(self, folder: Path, below: str) -> None:
        """Copy the files of a folder into the bucket."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.client.upload_file(str(path), BUCKET, f"{below}/{path.relative_to(folder).as_posix()}")

    def keys(self, below: str = "") -> list[str]:
        """Keys of all objects below a prefix."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=below)
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def read(self, key: str) -> bytes | None:
        """Content of an object; None if there is none."""
        try:
            return self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        except self.client.exceptions.NoSuchKey:
            return None

    @contextlib.contextmanager
    def outage(self, seconds: float) -> Iterator[None]:
        """The server does not answer for so long; connections to it hang."""
        stopped = self.machine.kill("moto_server", signal.SIGSTOP)
        assert stopped
        try:
            time.sleep(seconds)
            yield
        finally:
            self.machine.kill("moto_server", signal.SIGCONT)
            self._server.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Stop forwarding. The server ends with its machine."""
        self._forward.close()
