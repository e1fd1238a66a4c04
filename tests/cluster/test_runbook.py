"""docs/RUNBOOK.md, command by command, from a laptop, on boxes with SSH servers and a bucket."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from bucket_machine import BucketMachine
from machines import HOME, ROOT, Machine, network
from ray_machines import finish, wait_until
from ssh_machines import make_key, prepare_box, reason_for_no_ssh, serve_ssh

RUNBOOK = ROOT / "docs/RUNBOOK.md"
BLOCK = re.compile(r"^ *```(?P<kind>\w*)\n(?P<commands>.*?)^ *```$", re.MULTILINE | re.DOTALL)
SETTING = re.compile(r"export (\w+)=")
IN_SECOND_TERMINAL = "ray dashboard"
RAY = "raylet/raylet|gcs_server"
ANSWERS = "import socket; socket.create_connection(('127.0.0.1', 8265), 1)"
pytestmark = [pytest.mark.xdist_group("cluster"), pytest.mark.slow]


@dataclass(frozen=True)
class Boxes:
    """A laptop, machines that it reaches over SSH, and a bucket."""

    laptop: Machine
    head: Machine
    workers: tuple[Machine, ...]
    bucket: BucketMachine


@pytest.fixture
def boxes(machines: None) -> Iterator[Boxes]:
    """All of them on one network."""
    if reason := reason_for_no_ssh():
        pytest.skip(reason)
    with network() as opened:
        bucket = BucketMachine(opened)
        laptop, head, *workers = (opened.add(name) for name in ("laptop", "head", "one", "two"))
        laptop.environment |= bucket.environment
        laptop.path(f"{HOME}/.ssh").mkdir(mode=0o700)
        key = make_key(laptop.path(f"{HOME}/.ssh/id_ed25519"))
        for box in (head, *workers):
            box.environment |= bucket.environment
            prepare_box(box)
            serve_ssh(box, key)
        yield Boxes(laptop, head, tuple(workers), bucket)
        bucket.close()


def commands(kind: str = "") -> list[str]:
    """The runbook's commands, in order."""
    blocks = [match["commands"] for match in BLOCK.finditer(RUNBOOK.read_text()) if match["kind"] == kind]
    return [line.strip() for block in blocks for line in block.splitlines()]


def test_an_evening_by_the_runbook(boxes, synthetic_replays):
    boxes.bucket.upload(synthetic_replays, "replays")
    cluster_file = f"{HOME}/cluster.yaml"
    boxes.laptop.path(cluster_file).write_text(local_cluster_file(boxes))
    settings = {
        "CLUSTER": cluster_file, "WM_STORAGE": "s3://bucket", "REPLAYS": "s3://bucket/replays", "CONFIG": "demo",
        "WORKERS": "2", "MACHINES": "local",
    }  # fmt: skip
    assert set(settings) == {SETTING.match(line)[1] for line in commands("settings")}
    printed = {}
    for command in commands():
        process = boxes.laptop.start(["bash", "-c", f"cd {ROOT} && {command}"], subprocess.PIPE, **settings)
        if command.startswith(IN_SECOND_TERMINAL):
            wait_until(lambda: forwards(boxes.laptop), "the forwarded port")
        else:
            printed[command] = finish(process)
    assert any(command.startswith("wm submit encode") for command in printed)
    (plan,) = (text for command, text in printed.items() if command.startswith("wm plan"))
    assert "s3://bucket/runs/short/profile.json" in plan and "Moderate" in plan
    assert boxes.bucket.keys("runs/night/checkpoints/")
    assert '"hours"' in (boxes.bucket.read("runs/night/card.json") or b"").decode(), "the night's card has an estimate"
    # `ray down` ends Ray on the head node; without it the raylets of own boxes end themselves.
    wait_until(lambda: not any(box.processes(RAY) for box in (boxes.head, *boxes.workers)), "the end of Ray")


def forwards(laptop: Machine) -> bool:
    """Whether something listens on the laptop's port of the Jobs API."""
    try:
        laptop.run("python", "-c", ANSWERS)
    except subprocess.CalledProcessError:
        return False
    return True


def local_cluster_file(boxes: Boxes) -> str:
    """cluster/local.yaml with the fields changed that its comments say."""
    text = Path(ROOT, "cluster/local.yaml").read_text().replace("WM_STORAGE=CHANGE_ME", "WM_STORAGE=s3://bucket")
    content = yaml.safe_load(text)
    content["provider"] |= {"head_ip": boxes.head.address, "worker_ips": [box.address for box in boxes.workers]}
    content["auth"] = {"ssh_user": "root", "ssh_private_key": "~/.ssh/id_ed25519"}
    return yaml.safe_dump(content)
