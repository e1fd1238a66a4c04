"""`cluster.yaml` against Ray's own schema check, offline, and against what that check does not see."""

import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
A100_MACHINES = ("p4d.", "p4de.")


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


def test_a100_workers_come_on_demand_and_the_head_node_takes_no_work(config):
    types = config["available_node_types"]
    head = types[config["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert not head["node_config"]["InstanceType"].startswith("p")
    workers = [one for name, one in types.items() if name != config["head_node_type"]]
    assert all(one["min_workers"] == 0 and one["max_workers"] <= config["max_workers"] for one in workers)
    machines = [one["node_config"]["InstanceType"] for one in workers]
    assert any(machine.startswith(A100_MACHINES) for machine in machines)
    assert any(not machine.startswith(("p", "g")) for machine in machines), "encode must not rent GPUs"


def test_every_ray_starts_with_the_token_and_the_dashboard_stays_on_loopback(config):
    starts = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    starts = [command for command in starts if "ray start" in command]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in start and "ulimit -n" in start for start in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "security_group" not in config["provider"], "Ray's own group opens SSH only"


def test_every_command_for_the_nodes_is_well_formed_shell(config):
    commands = [command for key, listed in config.items() if key.endswith("_commands") for command in listed]
    assert len(commands) >= 8
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
    makefile = (ROOT / "Makefile").read_text()
    assert "\ngpu:" in makefile
    assert "/.core:" in makefile
