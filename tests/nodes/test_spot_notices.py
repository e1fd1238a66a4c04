"""Notices of the clouds' metadata services, read from a server that speaks them, and the drain on a real cluster."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from loopback_cluster import loopback_cluster
from metadata_server import MetadataServer, metadata_server

from cluster.nodes.spot_notices import AwsMetadata, GoogleMetadata

ROOT = Path(__file__).resolve().parents[2]
ACTION = "/latest/meta-data/spot/instance-action"
REBALANCE = "/latest/meta-data/events/recommendations/rebalance"
PREEMPTED = "/computeMetadata/v1/instance/preempted"
PATIENCE_S = 240.0

STATES = """
import sys
from ray._raylet import GcsClient
from ray.autoscaler.v2.sdk import get_cluster_resource_state
from ray.core.generated.autoscaler_pb2 import NodeStatus
for node in get_cluster_resource_state(GcsClient(address=sys.argv[1])).node_states:
    print(node.node_ip_address, NodeStatus.Name(node.status))
"""


@pytest.fixture
def server() -> Iterator[MetadataServer]:
    with metadata_server() as running:
        yield running


def test_aws_gives_a_notice_with_its_time_and_a_new_token_is_fetched_when_the_old_one_expires(server):
    metadata = AwsMetadata(server.url)
    assert metadata.notice() is None
    server.tokens.clear()
    server.documents[ACTION] = json.dumps({"action": "terminate", "time": "2026-11-28T21:02:00Z"})
    notice = metadata.notice()
    assert notice is not None and notice.is_certain and notice.kind == "spot terminate"
    assert time.gmtime(notice.deadline)[:5] == (2026, 11, 28, 21, 2)


def test_a_rebalance_recommendation_is_not_certain_and_a_notice_takes_precedence(server):
    metadata = AwsMetadata(server.url)
    server.documents[REBALANCE] = json.dumps({"noticeTime": "2026-11-28T21:00:00Z"})
    notice = metadata.notice()
    assert notice is not None and not notice.is_certain
    server.documents[ACTION] = json.dumps({"action": "stop", "time": "2026-11-28T21:02:00Z"})
    notice = metadata.notice()
    assert notice is not None and notice.is_certain


def test_google_cloud_says_preempted_thirty_seconds_before(server):
    metadata = GoogleMetadata(server.url)
    server.documents[PREEMPTED] = "FALSE"
    assert metadata.notice() is None
    server.documents[PREEMPTED] = "TRUE"
    notice = metadata.notice()
    assert notice is not None and 0 < notice.deadline - time.time() <= 30


@pytest.mark.slow
def test_a_notice_drains_the_node_on_a_real_cluster(server, tmp_path):
    """What a run does on a drained node is tested in tests/launch/test_elastic.py, with the same command of Ray."""
    log = tmp_path / "spot_notices.log"
    with loopback_cluster() as cluster:
        node, other = cluster.add_node(), cluster.add_node()
        command = [sys.executable, "-m", "cluster.nodes.spot_notices", "--foreground", "--base-url", server.url]
        command += ["--head", cluster.address, "--node-ip", node.address, "--python", sys.executable]
        command += ["--folder", str(tmp_path), "--every-s", "0.2"]
        poller = subprocess.Popen(command, cwd=ROOT, env=cluster.environment, stdout=subprocess.DEVNULL)
        try:
            server.documents[REBALANCE] = json.dumps({"noticeTime": "2026-11-28T21:00:00Z"})
            _wait(lambda: log.exists() and "not drained" in log.read_text(), log)
            in_ten_minutes = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 600))
            server.documents[ACTION] = json.dumps({"action": "terminate", "time": in_ten_minutes})
            _wait(lambda: "exit code 0" in log.read_text(), log)
        finally:
            poller.kill()
            poller.wait()
        lines = cluster.run(sys.executable, "-c", STATES, cluster.address).stdout.splitlines()
    states = dict(line.split() for line in lines)
    # Ray ends an idle node at once when it is drained, and one with work at the deadline.
    assert states[node.address] in ("DRAINING", "DEAD") and states[other.address] in ("RUNNING", "IDLE"), states
    assert "DRAIN_NODE_REASON_PREEMPTION" in log.read_text() and log.read_text().count("exit code") == 1


def _wait(is_so: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, log.read_text() if log.exists() else "no log"
        time.sleep(0.1)
