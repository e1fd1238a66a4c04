"""Who may use the cluster: nobody without its token, and nobody from another machine through the dashboard."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from machines import ROOT, Machine
from ray_machines import DASHBOARD_PORT, GCS_PORT, RayCluster

AGENT_PORT = 52365
"""Ray's default port of the agent that starts jobs on a node."""
REQUEST = """
import json, sys, urllib.error, urllib.request
url, token = sys.argv[1], sys.argv[2]
headers = {"Content-Type": "application/json"} | ({"Authorization": "Bearer " + token} if token else {})
job = json.dumps({"entrypoint": "touch /tmp/intruder"}).encode()
try:
    print(urllib.request.urlopen(urllib.request.Request(url, job, headers), timeout=10).status)
except urllib.error.HTTPError as error:
    print(error.code)
except OSError as error:
    print(error.reason)
"""
CONNECT = "import ray, sys; ray.init(sys.argv[1], log_to_driver=False); print(ray.cluster_resources())"
pytestmark = [pytest.mark.xdist_group("cluster"), pytest.mark.slow]


@pytest.fixture(scope="module", params=[None, "wr0ng"], ids=["no token", "a wrong token"])
def stranger(request, started_cluster: RayCluster) -> Iterator[Machine]:
    """Another machine on the cluster's network, which does not have the cluster's token."""
    machine = started_cluster.network.add("stranger")
    machine.environment["RAY_AUTH_MODE"] = "disabled"
    if request.param:
        machine.environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": request.param}
    yield machine
    machine.remove()


def post(machine: Machine, url: str) -> str:
    """Status of a request to start a job, or why there was no answer."""
    token = machine.environment.get("RAY_AUTH_TOKEN", "")
    return machine.run(sys.executable, "-c", REQUEST, url, token).strip()


def test_another_machine_does_not_reach_the_jobs_api(cluster, stranger):
    answer = post(stranger, f"http://{cluster.head.address}:{DASHBOARD_PORT}/api/jobs/")
    assert "Connection refused" in answer


def test_on_the_head_itself_a_job_needs_the_token(cluster, stranger):
    url = f"http://127.0.0.1:{DASHBOARD_PORT}/api/jobs/"
    token = stranger.environment.get("RAY_AUTH_TOKEN", "")
    answer = cluster.head.run(sys.executable, "-c", REQUEST, url, token).strip()
    assert answer in ("401", "403")


def test_the_agents_of_the_nodes_start_no_job_without_the_token(cluster, stranger):
    for node in (cluster.head, *cluster.workers):
        if node is not stranger:
            answer = post(stranger, f"http://{node.address}:{AGENT_PORT}/api/job_agent/jobs/")
            assert answer in ("401", "403") or "refused" in answer
            assert not node.path("/tmp/intruder").exists()


def test_a_machine_without_the_token_cannot_join_or_use_the_cluster(cluster, stranger):
    address = f"{cluster.head.address}:{GCS_PORT}"
    with pytest.raises(subprocess.CalledProcessError):
        stranger.run("ray", "start", f"--address={address}", f"--node-ip-address={stranger.address}", "--num-cpus=1")
    with pytest.raises(subprocess.CalledProcessError) as refused:
        stranger.run(sys.executable, "-c", CONNECT, address)
    assert "CPU" not in refused.value.output


def test_wm_submit_from_another_machine_is_one_line(cluster, stranger):
    url = f"http://{cluster.head.address}:{DASHBOARD_PORT}"
    command = [sys.executable, "-m", "wm.cli", "submit", "demo", "--working-dir", ROOT, "--address", url]
    with pytest.raises(subprocess.CalledProcessError) as refused:
        stranger.run(*command, "--", "--train-corpus", "/corpus", "--out", "/run")
    assert refused.value.returncode == 2
    line = refused.value.output.strip().splitlines()[-1]  # after what is not uploaded
    assert "expected" in line and "wr0ng" not in line
