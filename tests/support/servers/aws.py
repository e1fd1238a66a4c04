"""AWS on this machine's loopback interface: moto's EC2, IAM and SSM, which can run out of capacity."""

from __future__ import annotations

import io
import json
import logging
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs

import boto3
import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

NO_CAPACITY = """<?xml version="1.0" encoding="UTF-8"?>
<Response><Errors><Error><Code>InsufficientInstanceCapacity</Code><Message>We currently do not have sufficient {type}
capacity in the Availability Zone you requested.</Message></Error></Errors><RequestID>1</RequestID></Response>"""
PUBLIC_IMAGE = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
"""AWS's own parameter, which moto does not have and does not let anyone write."""


class AwsServer:
    """An account in us-west-2 with a default VPC. It keeps the launches that were asked for, as AWS would see them."""

    def __init__(self) -> None:
        self.launches: list[dict[str, str]] = []
        """Parameters of each RunInstances: `InstanceType`, `InstanceMarketOptions.MarketType`, ..."""
        self.without_capacity: set[tuple[str, str]] = set()
        """Pairs of type and market (`spot`, `on-demand`) that the account asks for in vain."""
        self.public_image = "ami-0123456789abcdef0"
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/moto-api/reset", method="POST"))

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        asked = {key: values[0] for key, values in parse_qs(body.decode(errors="replace")).items()}
        if asked.get("Action") == "RunInstances":
            self.launches.append(asked)
            market = asked.get("InstanceMarketOptions.MarketType", "on-demand")
            if (asked["InstanceType"], market) in self.without_capacity:
                start_response("500 Internal Server Error", [("Content-Type", "text/xml")])
                return [NO_CAPACITY.format(type=asked["InstanceType"]).encode()]
        if environ.get("HTTP_X_AMZ_TARGET", "").endswith(".GetParameter") and PUBLIC_IMAGE.encode() in body:
            start_response("200 OK", [("Content-Type", "application/x-amz-json-1.1")])
            return [json.dumps({"Parameter": {"Name": PUBLIC_IMAGE, "Value": self.public_image}}).encode()]
        return self._moto(environ, start_response)

    def client(self, service: str) -> Any:
        """A boto3 client of the account."""
        return boto3.client(service, region_name="us-west-2", **self.credentials)

    @property
    def credentials(self) -> dict[str, str]:
        """For `provider.aws_credentials` of a cluster file."""
        return {"endpoint_url": self.url, "aws_access_key_id": "key", "aws_secret_access_key": "hidden"}

    def asked_for(self) -> list[tuple[str, str]]:
        """Type and market of each launch, in the order of asking."""
        return [
            (one["InstanceType"], one.get("InstanceMarketOptions.MarketType", "on-demand")) for one in self.launches
        ]

    def instances(self) -> list[dict[str, Any]]:
        """Machines that cost money."""
        found = self.client("ec2").describe_instances(
            Filters=[{"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]}]
        )
        return [instance for reservation in found["Reservations"] for instance in reservation["Instances"]]

    def stop(self) -> None:
        self._server.shutdown()


@contextmanager
def aws_server() -> Iterator[AwsServer]:
    """A running server, in this process."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOTO_IAM_LOAD_MANAGED_POLICIES", "true")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        server = AwsServer()
        yield server
        server.stop()
