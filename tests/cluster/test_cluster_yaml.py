"""`cluster.yaml` against Ray's own schema check, offline, and against what that check does not see."""

import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster.nodes.watchdog import parse

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config():
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def test_ray_accepts_the_cluster_file(config):
    prepared = prepare_config(config)
    validate_config(prepared)
    assert prepared["available_node_types"].keys() == config["available_node_types"].keys()


def test_rays_check_refuses_a_broken_cluster_file(config):
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        validate_config(prepare_config(config | {"max_worker": 3}))
    config["head_node_type"] = "no such type"
    with pytest.raises(ValueError, match="head_node_type"):
        validate_config(prepare_config(config))


def test_workers_come_on_demand_and_the_head_node_takes_no_work(config):
    types = config["available_node_types"]
    head = types[config["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    workers = [one for name, one in types.items() if name != config["head_node_type"]]
    assert all(one["min_workers"] == 0 and one["max_workers"] <= config["max_workers"] for one in workers)
    machines = {one["node_config"]["InstanceType"].split(".")[0] for one in workers}
    assert machines == {"p4d", "p4de", "m7i"}, "encode must not rent GPUs"


def test_each_gpu_machine_is_there_as_spot_and_on_demand_under_names_that_put_spot_first(config):
    markets = {
        name: one["node_config"].get("InstanceMarketOptions", {}).get("MarketType", "on demand")
        for name, one in config["available_node_types"].items()
        if one["node_config"]["InstanceType"].startswith("p4")
    }
    assert markets == {"p4d-spot": "spot", "p4d": "on demand", "p4de-spot": "spot", "p4de": "on demand"}
    assert sorted(markets, reverse=True)[-2:] == ["p4d-spot", "p4d"], "of equal types Ray takes the last one"


def test_machines_have_roles_and_no_keys_encrypted_disks_and_workers_end_when_they_shut_down(config):
    for name, one in config["available_node_types"].items():
        node = one["node_config"]
        assert node["IamInstanceProfile"]["Name"].startswith("melee-world-model-")
        assert all(disk["Ebs"]["Encrypted"] for disk in node["BlockDeviceMappings"])
        if name != config["head_node_type"]:
            assert node["InstanceInitiatedShutdownBehavior"] == "terminate"
            assert "shutdown -h" in node["UserData"]
    assert "AWS_SECRET" not in yaml.safe_dump(config)


def test_every_ray_starts_with_the_token_and_the_dashboard_stays_on_loopback(config):
    starts = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    starts = [command for command in starts if "ray start" in command]
    assert len(starts) == 2
    assert all(". ~/.wm_environment &&" in start and "ulimit -Sn" in start for start in starts)
    assert "RAY_AUTH_MODE=token" in (ROOT / "cluster" / "setup" / "machine.sh").read_text()
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


def test_the_head_node_takes_up_jobs_that_an_earlier_one_left(config):
    commands = config["head_start_ray_commands"]
    assert "ray start --head" in commands[1]
    assert "wm jobs resume --every 60" in commands[2]
    assert ". ~/.wm_environment &&" in commands[2], "it needs WM_STORAGE and the token"


def test_a_set_up_that_hangs_is_ended(config):
    for key in ("head_setup_commands", "worker_setup_commands"):
        (set_up,) = (command for command in config[key] if "machine.sh" in command)
        assert "timeout 1800" in set_up


def test_the_watchdog_of_a_worker_starts_before_anything_that_may_fail(config):
    first = config["worker_setup_commands"][0]
    options = first.split("cluster.nodes.watchdog ")[1].split("&&")[0].replace("$RAY_HEAD_IP", "10.0.0.1").split()
    assert parse(options).head == "10.0.0.1:6379"
    assert parse(options).idle_minutes > config["idle_timeout_minutes"]


@pytest.mark.parametrize("file", ["cluster.yaml", "cluster/gcp.yaml"])
def test_a_head_node_that_its_owner_has_forgotten_ends_after_a_day(file):
    config = yaml.safe_load((ROOT / file).read_text())
    watchdog = parse(config["head_setup_commands"][0].split("cluster.nodes.watchdog ")[1].split())
    assert watchdog.on_head and watchdog.head == "127.0.0.1:6379" and watchdog.idle_minutes == 24 * 60
    if file == "cluster.yaml":
        node = config["available_node_types"][config["head_node_type"]]["node_config"]
        assert node["InstanceInitiatedShutdownBehavior"] == "terminate"


def test_every_command_for_the_nodes_is_well_formed_shell(config):
    commands = [command for key, listed in config.items() if key.endswith("_commands") for command in listed]
    assert len(commands) >= 5
    for command in commands:
        checked = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr


def test_what_the_nodes_install_from_is_mounted_and_its_make_targets_exist(config):
    mounts = {remote: local for remote, local in config["file_mounts"].items() if "auth_token" not in remote}
    missing = [local for local in mounts.values() if not (ROOT / local).exists()]
    assert not missing, f"cluster.yaml mounts {missing}, which the checkout does not have"
    mounted = set(mounts.values())
    assert {"pyproject.toml", "constraints.txt", "Makefile", "README.md"} <= mounted
    assert {"datasets", "wm", "tune", "cluster"} <= mounted
    assert "\ngpu:" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("file", ["cluster.yaml", "cluster/gcp.yaml"])
def test_the_labels_of_a_node_name_the_machine_that_is_rented(file):
    types = yaml.safe_load((ROOT / file).read_text())["available_node_types"]
    for node_type in types.values():
        node = node_type["node_config"]
        assert node_type["labels"]["instance-type"] == node.get("InstanceType", node.get("machineType"))
        is_spot = "InstanceMarketOptions" in node
        assert node_type["labels"].get("market-type", "on-demand") == ("spot" if is_spot else "on-demand")
