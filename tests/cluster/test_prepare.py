"""`wm cluster prepare` in moto's AWS."""

import json
import stat
from pathlib import Path

import pytest
import yaml
from aws import AwsServer, aws_server

from cluster.aws.prepare import prepare
from cluster.aws.provider import MAX_SETUP_FAILURES, PAUSE_S, SetupFailures
from datasets.runtime.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def account():
    with aws_server() as server:
        yield server


@pytest.fixture
def file(account, tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text().replace("CHANGE_ME", "my-bucket"))
    config["provider"]["aws_credentials"] = account.credentials
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def sources_of_ssh(account: AwsServer) -> list[str]:
    (group,) = account.client("ec2").describe_security_groups(
        Filters=[{"Name": "group-name", "Values": ["melee-world-model"]}]
    )["SecurityGroups"]
    return [one["CidrIp"] for rule in group["IpPermissions"] for one in rule["IpRanges"]]


def policy(account: AwsServer, role: str) -> list[dict]:
    found = account.client("iam").get_role_policy(RoleName=role, PolicyName="cluster")["PolicyDocument"]
    return (json.loads(found) if isinstance(found, str) else found)["Statement"]


def test_it_may_be_repeated_and_lets_only_the_newest_address_in(file, account):
    prepare(file, "203.0.113.7")
    prepare(file, "198.51.100.0/24")
    assert sources_of_ssh(account) == ["198.51.100.0/24"]


def test_workers_reach_the_bucket_and_nothing_else(file, account):
    prepare(file, "203.0.113.7")
    statements = policy(account, "melee-world-model-worker")
    assert {statement["Resource"] for statement in statements} == {"arn:aws:s3:::my-bucket", "arn:aws:s3:::my-bucket/*"}
    profile = account.client("iam").get_instance_profile(InstanceProfileName="melee-world-model-worker")
    assert [role["RoleName"] for role in profile["InstanceProfile"]["Roles"]] == ["melee-world-model-worker"]


def test_the_head_node_may_pass_only_the_workers_role_and_end_only_its_own_machines(file, account):
    prepare(file, "203.0.113.7")
    statements = policy(account, "melee-world-model-head")
    (passing,) = (one for one in statements if one["Action"] == "iam:PassRole")
    assert [arn.rpartition("/")[2] for arn in passing["Resource"]] == ["melee-world-model-worker"]
    (ending,) = (one for one in statements if "ec2:TerminateInstances" in one["Action"])
    assert ending["Condition"] == {"StringEquals": {"ec2:ResourceTag/ray-cluster-name": "melee"}}


def test_the_image_stays_until_a_new_one_is_asked_for(file, account, capsys):
    prepare(file, "203.0.113.7")
    account.public_image = "ami-0fedcba9876543210"
    prepare(file, "203.0.113.7")
    assert "image ami-0123456789abcdef0" in capsys.readouterr().out
    prepare(file, "203.0.113.7", new_image=True)
    assert "image ami-0fedcba9876543210" in capsys.readouterr().out


def test_the_token_is_made_once_and_for_its_owner_only(file, tmp_path):
    prepare(file, "203.0.113.7")
    token = tmp_path / ".ray" / "auth_token"
    first = token.read_text()
    token.chmod(0o644)
    prepare(file, "203.0.113.7")
    assert len(first) == 64
    assert token.read_text() == first
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


@pytest.mark.parametrize("address", ["0.0.0.0/0", "10.0.0.0/8", "my-laptop", "203.0.113.7/33"])
def test_an_address_that_opens_ssh_to_many_or_is_none_is_refused(file, address):
    with pytest.raises(UserError, match=r"give (yours|one)"):
        prepare(file, address)


def test_a_file_with_its_bucket_left_open_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match="expected your bucket in place of CHANGE_ME"):
        prepare(ROOT / "cluster.yaml", "203.0.113.7")


def test_failed_set_ups_pause_launches_for_an_hour_and_one_that_succeeds_ends_the_count():
    now = 0.0
    failures = SetupFailures(lambda: now)
    for _ in range(MAX_SETUP_FAILURES - 1):
        failures.note("update-failed")
    failures.note("up-to-date")
    for _ in range(MAX_SETUP_FAILURES - 1):
        failures.note("update-failed")
    assert failures.reason_to_wait() is None
    failures.note("update-failed")
    assert "in 60 minutes" in (failures.reason_to_wait() or "")
    now = PAUSE_S
    assert failures.reason_to_wait() is None, "one more may be tried"
    failures.note("update-failed")
    assert failures.reason_to_wait()
