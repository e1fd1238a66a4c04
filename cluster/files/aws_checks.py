"""What a cluster file for AWS should say, without asking AWS."""

import importlib.util
import re
from collections.abc import Iterator
from typing import Any

from cluster.files.checks import State
from cluster.files.read import storage_of

BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
PREPARE = "see cluster.yaml of the project; `wm cluster prepare` makes what is named there"

Config = dict[str, Any]
Row = tuple[str, State, str, str, str]


def is_aws(config: Config) -> bool:
    """Whether the machines are AWS's."""
    provider = config["provider"]
    return provider["type"] == "aws" or str(provider.get("module", "")).startswith("cluster.aws.")


def region(config: Config) -> Iterator[Row]:
    """AWS has the region."""
    found = str(config["provider"].get("region"))
    known: list[str] = []
    if importlib.util.find_spec("boto3"):
        import boto3

        known = boto3.session.Session().get_available_regions("ec2")
    if known and found not in known:
        yield "region", "red", found, "such as us-west-2", "correct provider.region"
    else:
        yield "region", "green", found, "", ""


def credentials(config: Config) -> Iterator[Row]:
    """`ray up` finds credentials on this machine, and the file holds none."""
    if not importlib.util.find_spec("boto3"):
        return
    import botocore.session

    session = botocore.session.get_session()
    resolver = session.get_component("credential_provider")
    resolver.remove("iam-role")  # asks the network, in vain on a laptop
    if "aws_credentials" in config["provider"]:
        advice = "remove provider.aws_credentials: they are copied to the head node"
        yield "credentials", "amber", "in the file", "in your profile", advice
    elif resolver.load_credentials() is None:
        yield "credentials", "amber", "none on this machine", "a profile or variables of AWS", "aws configure"
    else:
        yield "credentials", "green", "found on this machine", "", ""


def profiles(config: Config) -> Iterator[Row]:
    """Every machine has a role: Ray gives one to the head node only, so that workers could not reach the bucket."""
    missing = [
        name for name, one in config["available_node_types"].items() if not one["node_config"].get("IamInstanceProfile")
    ]
    if missing:
        yield "instance profiles", "red", f"none for {', '.join(missing)}", "IamInstanceProfile for each type", PREPARE
    else:
        yield "instance profiles", "green", "one for each type", "", ""


def disks(config: Config) -> Iterator[Row]:
    """Disks are encrypted."""
    plain = [
        name
        for name, one in config["available_node_types"].items()
        for disk in one["node_config"].get("BlockDeviceMappings", [{}])
        if not disk.get("Ebs", {}).get("Encrypted")
    ]
    if plain:
        yield "disks", "amber", f"not encrypted: {', '.join(plain)}", "Ebs: {Encrypted: true}", "add it"
    else:
        yield "disks", "green", "encrypted", "", ""


def shutdown(config: Config) -> Iterator[Row]:
    """A worker that shuts itself down costs nothing more."""
    stays = [
        name
        for name, one in config["available_node_types"].items()
        if name != config["head_node_type"]
        and one["node_config"].get("InstanceInitiatedShutdownBehavior") != "terminate"
    ]
    if stays:
        expected = "InstanceInitiatedShutdownBehavior: terminate"
        yield (
            "shutdown",
            "red",
            f"only stops: {', '.join(stays)}",
            expected,
            "add it: a stopped machine's disk is billed",
        )
    else:
        yield "shutdown", "green", "terminates workers", "", ""


def ssh(config: Config) -> Iterator[Row]:
    """Only the owner reaches port 22."""
    if str(config["provider"].get("module", "")).startswith("cluster.aws.") or all(
        one["node_config"].get("SecurityGroupIds") for one in config["available_node_types"].values()
    ):
        yield "SSH", "green", "the account's own security group", "", ""
    else:
        found = "Ray makes a security group that opens port 22 to the internet"
        yield "SSH", "red", found, "provider.module: cluster.aws.provider.BoundedAWSNodeProvider", PREPARE


def bucket(config: Config) -> Iterator[Row]:
    """The name of the bucket may be one."""
    match = re.match(r"s3://([^/?]+)", storage_of(config) or "")
    if match and "CHANGE_ME" not in match[1] and not BUCKET.fullmatch(match[1]):
        yield "bucket", "red", match[1], "3 to 63 of a-z, 0-9, - and .", "correct WM_STORAGE"


AWS_CHECKS = (region, credentials, profiles, disks, shutdown, ssh, bucket)
