"""What a cluster file names in an AWS account: looked up, and made by `prepare_account` where it is missing.

Everything is named by the cluster file: the security group in `provider.security_group.GroupName`, the instance
profiles in `IamInstanceProfile.Name`, the image in `ImageId: resolve:ssm:PARAMETER`, the bucket in WM_STORAGE.
"""

import ipaddress
import json
from collections.abc import Iterator
from typing import Any

import boto3
from botocore.exceptions import ClientError

from cluster.aws.policies import EC2_MAY_ASSUME, head_policy, storage_policy
from cluster.files.read import bucket_of, storage_of
from datasets.runtime.errors import UserError

PUBLIC_IMAGE = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
"""AWS's parameter for its newest image of Ubuntu 24.04 with an NVIDIA driver (Deep Learning Base OSS AMI)."""
IMAGE_PREFIX = "resolve:ssm:"
POLICY_NAME = "cluster"
PREPARE = "run `wm cluster prepare` with this file"

Config = dict[str, Any]


def client(config: Config, service: str) -> Any:
    """A boto3 client for the cluster's region, with the file's `aws_credentials` if it has any, as Ray makes them."""
    provider = config["provider"]
    make_client: Any = boto3.client  # its overloads want each service as a literal
    return make_client(service, region_name=provider["region"], **provider.get("aws_credentials", {}))


def security_group_of(config: Config) -> str:
    """Id of the cluster's security group in the default VPC.

    Raises:
        UserError: it does not exist.
    """
    name = config["provider"]["security_group"]["GroupName"]
    found = _security_groups(config, name)
    if not found:
        raise UserError(f"the default VPC of {config['provider']['region']} has no security group {name}: {PREPARE}")
    return found[0]["GroupId"]


def image_of(config: Config, image: str) -> str:
    """The image's id: `image` itself, or what the account stores under the parameter in `resolve:ssm:PARAMETER`.

    Raises:
        UserError: there is no such parameter.
    """
    if not image.startswith(IMAGE_PREFIX):
        return image
    name = image.removeprefix(IMAGE_PREFIX)
    value = _parameter(config, name)
    if value is None:
        raise UserError(f"the account has no parameter {name} in {config['provider']['region']}: {PREPARE}")
    return value


def prepare_account(config: Config, address: str, new_image: bool = False) -> Iterator[str]:
    """Make what the cluster file names and the account lacks, and let only `address` reach SSH. May be repeated.

    Args:
        config: the cluster file.
        address: the owner's network, such as `203.0.113.7` or `203.0.113.0/24`.
        new_image: take AWS's newest image although the account has one stored. `ray up` then replaces the head node.
    Yields:
        What was done, line by line.
    Raises:
        UserError: the address is none, or the file names no bucket.
    """
    owner = network(address)
    yield from _prepare_security_group(config, owner)
    yield from _prepare_profiles(config)
    yield from _prepare_spot(config)
    for image in sorted({each["node_config"]["ImageId"] for each in config["available_node_types"].values()}):
        if image.startswith(IMAGE_PREFIX):
            yield from _prepare_image(config, image.removeprefix(IMAGE_PREFIX), new_image)


def network(address: str) -> str:
    """The network of an address in AWS's notation: `203.0.113.7` is `203.0.113.7/32`.

    Raises:
        UserError: it is no IPv4 address, or a network of more than 65,536 addresses.
    """
    try:
        parsed = ipaddress.IPv4Network(address, strict=False)
    except ValueError as error:
        raise UserError(f"{address!r} is no IPv4 address: give yours, such as --address 203.0.113.7") from error
    if parsed.prefixlen < 16:
        raise UserError(
            f"{parsed} opens SSH to {parsed.num_addresses} addresses: give one, or a network of /16 or less"
        )
    return str(parsed)


def _prepare_security_group(config: Config, owner: str) -> Iterator[str]:
    """Nodes reach each other on all ports; the owner reaches port 22; nobody else reaches anything."""
    ec2, name = client(config, "ec2"), config["provider"]["security_group"]["GroupName"]
    found = _security_groups(config, name)
    if found:
        group = found[0]
    else:
        made = ec2.create_security_group(
            GroupName=name, Description="Ray cluster: SSH from its owner only", VpcId=_default_vpc(config)
        )
        group = {"GroupId": made["GroupId"], "IpPermissions": []}
    inside = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group["GroupId"]}]}
    ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": owner, "Description": "owner"}]}
    if group["IpPermissions"]:
        ec2.revoke_security_group_ingress(GroupId=group["GroupId"], IpPermissions=group["IpPermissions"])
    ec2.authorize_security_group_ingress(GroupId=group["GroupId"], IpPermissions=[inside, ssh])
    yield f"security group {name} ({group['GroupId']}): SSH from {owner} only"


def _prepare_profiles(config: Config) -> Iterator[str]:
    """All machines use the bucket. The head node also starts and ends workers, and may give them their profile."""
    iam, bucket = client(config, "iam"), bucket_of(storage_of(config))
    head_type = config["head_node_type"]
    types = config["available_node_types"]
    head = types[head_type]["node_config"]["IamInstanceProfile"]["Name"]
    workers = {each["node_config"]["IamInstanceProfile"]["Name"] for key, each in types.items() if key != head_type}
    roles = {}
    for name in sorted(workers):
        roles[name] = _prepare_role(iam, name, storage_policy(bucket))
        yield f"role and instance profile {name}: the bucket {bucket}"
    policy = head_policy(bucket, config["cluster_name"], sorted(roles.values()))
    _prepare_role(iam, head, policy)
    yield f"role and instance profile {head}: the bucket, and the machines of {config['cluster_name']}"


def _prepare_role(iam: Any, name: str, policy: dict[str, Any]) -> str:
    """Make the role and the instance profile `name` if missing, and set the role's policy. Returns the role's ARN."""
    try:
        role = iam.get_role(RoleName=name)["Role"]
    except iam.exceptions.NoSuchEntityException:
        role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(EC2_MAY_ASSUME))["Role"]
    iam.put_role_policy(RoleName=name, PolicyName=POLICY_NAME, PolicyDocument=json.dumps(policy))
    try:
        profile = iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]
    except iam.exceptions.NoSuchEntityException:
        profile = iam.create_instance_profile(InstanceProfileName=name)["InstanceProfile"]
    if not profile["Roles"]:
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    return role["Arn"]


def _prepare_spot(config: Config) -> Iterator[str]:
    """The role without which an account's first request for spot machines fails; the head node may not make it."""
    options = (each["node_config"].get("InstanceMarketOptions", {}) for each in config["available_node_types"].values())
    if all(option.get("MarketType") != "spot" for option in options):
        return
    iam = client(config, "iam")
    try:
        iam.create_service_linked_role(AWSServiceName="spot.amazonaws.com")
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("InvalidInput", "EntityAlreadyExists"):
            raise
    yield "service role for spot machines"


def _prepare_image(config: Config, name: str, new_image: bool) -> Iterator[str]:
    stored = None if new_image else _parameter(config, name)
    if stored is None:
        stored = _parameter(config, PUBLIC_IMAGE)
        if stored is None:
            raise UserError(f"AWS publishes no image as {PUBLIC_IMAGE} in {config['provider']['region']}")
        client(config, "ssm").put_parameter(Name=name, Value=stored, Type="String", Overwrite=True)
    yield f"image {stored}, stored as {name}"


def _parameter(config: Config, name: str) -> str | None:
    ssm = client(config, "ssm")
    try:
        return ssm.get_parameter(Name=name)["Parameter"]["Value"]
    except ssm.exceptions.ParameterNotFound:
        return None


def _default_vpc(config: Config) -> str:
    found = client(config, "ec2").describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    if not found:
        raise UserError(
            f"{config['provider']['region']} has no default VPC: make one with `aws ec2 create-default-vpc`"
        )
    return found[0]["VpcId"]


def _security_groups(config: Config, name: str) -> list[dict[str, Any]]:
    filters = [{"Name": "vpc-id", "Values": [_default_vpc(config)]}, {"Name": "group-name", "Values": [name]}]
    return client(config, "ec2").describe_security_groups(Filters=filters)["SecurityGroups"]
