"""`ray up cluster.yaml` against moto's AWS: what is asked of AWS, and what Ray's autoscaler does on the head node.

Real: Ray's launcher, its autoscaler and our node provider, and each request to AWS. Not real: the machines behind SSH.
"""

import base64
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from aws import AwsServer, aws_server
from ports import answers, free_ports
from ray.autoscaler._private.autoscaler import StandardAutoscaler
from ray.autoscaler._private.load_metrics import LoadMetrics
from ray.autoscaler._private.providers import _clear_provider_cache
from ssh_to_folders import Machines

from cluster.aws.account import prepare_account
from cluster.aws.provider import MAX_SETUP_FAILURES, BoundedAWSNodeProvider

RAY = Path(sys.executable).with_name("ray")

ROOT = Path(__file__).parents[2]
OWNER = "203.0.113.7"
EIGHT_GPUS = {"GPU": 8.0, "CPU": 8.0}


class Cluster:
    """A cluster file with its account, its machines and the owner's laptop."""

    def __init__(self, folder: Path, account: AwsServer) -> None:
        self.account = account
        self.machines = Machines(folder / "machines")
        self.file = folder / "cluster.yaml"
        config = yaml.safe_load((ROOT / "cluster.yaml").read_text().replace("CHANGE_ME", "bucket"))
        config["provider"]["aws_credentials"] = account.credentials
        self.file.write_text(yaml.safe_dump(config))
        self.config = config
        self.home = folder / "laptop"
        (self.home / ".ray").mkdir(parents=True)
        (self.home / ".ray" / "auth_token").write_text("0" * 64)

    def ray(self, *arguments: str) -> str:
        """Run a `ray` command on the laptop."""
        own = {"HOME": str(self.home), "TMPDIR": str(self.home), "RAY_USAGE_STATS_ENABLED": "0"}
        done = subprocess.run(
            [RAY, *arguments], cwd=ROOT, env=os.environ | own | self.machines.environ, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    def head_home(self) -> Path:
        """The head node's home folder, as `ray up` left it."""
        head = next(one for one in self.account.instances() if one["InstanceType"].startswith("m7i.xlarge"))
        return self.machines.home(head["PublicIpAddress"])

    def autoscaler(self, monkeypatch: pytest.MonkeyPatch) -> StandardAutoscaler:
        """Ray's autoscaler as it runs on the head node: with its files and the environment of the start command."""
        home = self.head_home()
        start = next(command for command in self.config["head_start_ray_commands"] if "ray start" in command)
        for word in start.split():
            if word.startswith(("RAY_AUTOSCALER_", "AUTOSCALER_")):
                monkeypatch.setenv(*word.split("="))
        monkeypatch.setenv("HOME", str(home))
        for name, value in self.machines.environ.items():
            monkeypatch.setenv(name, value)
        _clear_provider_cache()  # each head node's process has its own provider
        metrics = LoadMetrics()
        return StandardAutoscaler(str(home / "ray_bootstrap_config.yaml"), metrics, None, update_interval_s=0)


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[Cluster]:
    """A cluster after `ray up`; after `ray down` nothing of it may be left."""
    with aws_server() as account:
        made = Cluster(tmp_path_factory.mktemp("up"), account)
        list(prepare_account(made.config, OWNER))
        made.ray("up", str(made.file), "--yes")
        yield made


@pytest.fixture
def started(running) -> Iterator[Cluster]:
    """The cluster without workers, and only the head node's launch on record."""
    yield running
    running.account.without_capacity.clear()
    running.machines.fail(None)
    workers = [one["InstanceId"] for one in running.account.instances() if one["InstanceType"] != "m7i.xlarge"]
    if workers:
        running.account.client("ec2").terminate_instances(InstanceIds=workers)
    del running.account.launches[1:]


def update_until(autoscaler: StandardAutoscaler, happened: Callable[[], bool]) -> None:
    """Run the autoscaler's loop until something happened."""
    deadline = time.monotonic() + 240
    while not happened():
        assert time.monotonic() < deadline, "the autoscaler did not do it within four minutes"
        autoscaler.update()
        time.sleep(0.1)


def test_ray_up_asks_for_one_small_head_node_with_all_its_protections(started):
    (asked,) = started.account.launches
    assert asked["InstanceType"] == "m7i.xlarge"
    assert "InstanceMarketOptions.MarketType" not in asked
    assert asked["IamInstanceProfile.Name"] == "melee-world-model-head"
    assert asked["BlockDeviceMapping.1.Ebs.Encrypted"] == "true"
    assert asked["MetadataOptions.HttpTokens"] == "required"
    assert asked["ImageId"] == started.account.public_image
    (head,) = started.account.instances()
    group = started.account.client("ec2").describe_security_groups(
        GroupIds=[one["GroupId"] for one in head["SecurityGroups"]]
    )["SecurityGroups"]
    open_to = [source["CidrIp"] for one in group for rule in one["IpPermissions"] for source in rule["IpRanges"]]
    assert open_to == [f"{OWNER}/32"]


def test_the_head_node_is_set_up_and_started_with_version_1_of_the_autoscaler_and_the_token(started):
    (head,) = started.account.instances()
    home = started.head_home()
    assert (home / ".ray" / "auth_token").read_text() == "0" * 64
    assert (home / "melee-world-model" / "cluster" / "setup" / "machine.sh").is_file()
    commands = started.machines.commands(head["PublicIpAddress"])
    assert any("WM_STORAGE=s3://bucket/melee timeout 1800 bash" in command for command in commands)
    (start,) = (command for command in commands if "ray start --head" in command)
    assert start.rindex("RAY_enable_autoscaler_v2=0") > start.find("RAY_enable_autoscaler_v2=1") > 0


def test_a_gpu_job_gets_spot_machines_that_end_when_they_shut_down(started, monkeypatch):
    autoscaler = started.autoscaler(monkeypatch)
    autoscaler.load_metrics.resource_requests = [EIGHT_GPUS]
    update_until(autoscaler, lambda: len(started.account.instances()) == 2)
    asked = started.account.launches[-1]
    assert started.account.asked_for()[1:] == [("p4d.24xlarge", "spot")]
    assert asked["IamInstanceProfile.Name"] == "melee-world-model-worker"
    assert asked["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert asked["BlockDeviceMapping.1.Ebs.Encrypted"] == "true"
    assert "shutdown -h +45" in base64.b64decode(asked["UserData"]).decode()


def test_a_type_without_capacity_is_asked_for_in_every_zone_and_then_left_for_the_next(started, monkeypatch):
    started.account.without_capacity = {("p4d.24xlarge", "spot"), ("p4d.24xlarge", "on-demand")}
    autoscaler = started.autoscaler(monkeypatch)
    autoscaler.load_metrics.resource_requests = [EIGHT_GPUS]
    update_until(autoscaler, lambda: len(started.account.instances()) == 2)
    asked = started.account.asked_for()[1:]
    assert list(dict.fromkeys(asked)) == [
        ("p4d.24xlarge", "spot"),
        ("p4d.24xlarge", "on-demand"),
        ("p4de.24xlarge", "spot"),
    ]
    zones = {one["SubnetId"] for one in started.account.launches[1:] if one["InstanceType"] == "p4d.24xlarge"}
    assert len(zones) == 4


def test_work_without_gpus_never_gets_a_gpu_machine(started, monkeypatch):
    started.account.without_capacity = {("m7i.8xlarge", "on-demand")}
    autoscaler = started.autoscaler(monkeypatch)
    autoscaler.load_metrics.resource_requests = [{"CPU": 8.0}]
    update_until(autoscaler, lambda: len(started.account.launches) > 6)
    assert set(started.account.asked_for()[1:]) == {("m7i.8xlarge", "on-demand")}


@pytest.mark.slow
def test_a_set_up_that_fails_is_not_repeated_all_night(started, monkeypatch):
    started.machines.fail("machine.sh")
    autoscaler = started.autoscaler(monkeypatch)
    autoscaler.load_metrics.resource_requests = [EIGHT_GPUS]

    def refused() -> bool:
        records = autoscaler.node_provider_availability_tracker.summary().node_availabilities.values()
        return any(
            one.unavailable_node_information and one.unavailable_node_information.category == "SetupFailed"
            for one in records
        )

    update_until(autoscaler, refused)
    for _ in range(20):
        autoscaler.update()
    assert len(started.account.launches) == 1 + MAX_SETUP_FAILURES
    assert [one["InstanceType"] for one in started.account.instances()] == ["m7i.xlarge"]
    assert isinstance(autoscaler.provider, BoundedAWSNodeProvider)


@pytest.mark.slow
def test_a_task_that_needs_gpus_makes_the_head_node_of_the_file_rent_a_spot_machine(started, tmp_path_factory):
    """The file's own start command, as `ray up` runs it, and a task: Ray's monitor must ask AWS for the machine."""
    home, folder, (gcs, objects) = started.head_home(), tmp_path_factory.mktemp("r"), free_ports(2)
    (home / ".wm_environment").write_text("export RAY_AUTH_MODE=token\n")
    start = next(command for command in started.config["head_start_ray_commands"] if "ray start" in command)
    start = start.replace("ray start", "exec ray start")  # SIGTERM must reach it
    start = re.sub(r"--(port|object-manager-port|dashboard)\S+ *", "", start)
    start += f" --port={gcs} --object-manager-port={objects} --include-dashboard=false --temp-dir={folder} --block"
    by_ray_up = "export RAY_enable_autoscaler_v2=1; export RAY_CLOUD_INSTANCE_ID=i-1; export RAY_NODE_TYPE_NAME=head; "
    task = "import ray, time; ray.init(); f = ray.remote(num_gpus=8)(lambda: 1).remote(); time.sleep(600)"
    own = {"HOME": str(home), "RAY_ADDRESS": f"127.0.0.1:{gcs}", "RAY_AUTH_MODE": "token"} | started.machines.environ
    log = folder / "log"

    def run(command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["bash", "-c", command],
            env=os.environ | own,
            start_new_session=True,
            stdout=log.open("a"),
            stderr=log.open("a"),
        )

    processes = [run(by_ray_up + start)]
    try:
        deadline = time.monotonic() + 300
        while not answers("127.0.0.1", gcs):
            assert processes[0].poll() is None, log.read_text()[-3000:]
            time.sleep(0.5)
        processes.append(run(f"exec {sys.executable} -c '{task}'"))
        while len(started.account.launches) == 1:
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            assert not [one for one in processes if one.poll() is not None], log.read_text()[-3000:]
            time.sleep(0.5)
        assert started.account.asked_for()[-1] == ("p4d.24xlarge", "spot")
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(60)


def test_ray_down_leaves_no_machine(started, monkeypatch):
    autoscaler = started.autoscaler(monkeypatch)
    autoscaler.load_metrics.resource_requests = [EIGHT_GPUS]
    update_until(autoscaler, lambda: len(started.account.instances()) == 2)
    started.ray("down", str(started.file), "--yes")
    assert not started.account.instances()


def test_without_its_security_group_nothing_is_launched(tmp_path):
    with aws_server() as account:
        made = Cluster(tmp_path, account)
        with pytest.raises(AssertionError, match=r"Error: the default VPC of us-west-2 has no .*wm cluster prepare"):
            made.ray("up", str(made.file), "--yes")
        assert not account.launches
