"""AWS: whether the account's quotas allow the machines of the cluster file that started this cluster."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

BOOTSTRAP_FILE = Path("~/ray_bootstrap_config.yaml")
"""Where `ray up` puts the cluster file on the head node."""
CODES = {
    ("p", False): "L-417A185B",
    ("p", True): "L-7212CCBC",
    ("p5", True): "L-C4BD4855",
    ("g", False): "L-DB2E81BA",
    ("g", True): "L-3819A6DF",
    ("standard", False): "L-1216C47A",
    ("standard", True): "L-34B43A08",
}
"""Family, and whether it is spot -> code of the quota in vCPUs (Service Quotas, service ec2)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Quota:
    """A quota, and what the cluster file's types take of it. Numbers of vCPUs."""

    node_type: str
    market: str
    of_one: int
    of_all: int
    limit: float


def aws_quotas(file: Path = BOOTSTRAP_FILE) -> list[Quota] | str | None:
    """The quotas of each type of worker; why they cannot be asked; None if AWS did not start this cluster."""
    try:
        content: dict[str, Any] = yaml.safe_load(file.expanduser().read_text())
        provider = content["provider"]
        if provider["type"] != "aws":
            return None
        types = {name: one for name, one in content["available_node_types"].items() if one.get("max_workers", 0)}
    except FileNotFoundError:
        return None
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        return f"{file} cannot be read ({error})"
    try:
        import boto3

        options = dict(provider.get("aws_credentials", {}), region_name=provider["region"])
        quotas, machines = boto3.client("service-quotas", **options), boto3.client("ec2", **options)
        return [_quota(name, one, quotas, machines) for name, one in sorted(types.items())]
    except Exception as error:  # of boto3, of the network, of missing rights: the night does not depend on it
        return f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"


def family_of(instance_type: str) -> str:
    """The family that a quota is for: `p` of p4d.24xlarge."""
    found = re.match(r"([a-z]+)(\d*)", instance_type)
    letters, generation = found.groups() if found else ("", "")
    if letters == "p":
        return "p5" if generation >= "5" else "p"
    return "g" if letters in ("g", "gr", "vt") else "standard"


def _quota(name: str, node_type: dict[str, Any], quotas: Any, machines: Any) -> Quota:
    config = node_type["node_config"]
    is_spot = config.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
    family = family_of(config["InstanceType"])
    code = CODES.get((family, is_spot)) or CODES["p" if family == "p5" else family, is_spot]
    described = machines.describe_instance_types(InstanceTypes=[config["InstanceType"]])["InstanceTypes"][0]
    of_one = described["VCpuInfo"]["DefaultVCpus"]
    return Quota(
        node_type=name,
        market="spot" if is_spot else "on demand",
        of_one=of_one,
        of_all=of_one * node_type["max_workers"],
        limit=quotas.get_service_quota(ServiceCode="ec2", QuotaCode=code)["Quota"]["Value"],
    )
