"""What the machines of a cluster may do in an AWS account: policies of IAM, as small as Ray lets them be."""

from typing import Any

EC2_MAY_ASSUME = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}
DESCRIBE = ["ec2:DescribeInstances", "ec2:DescribeInstanceTypes", "ec2:DescribeImages", "ec2:DescribeTags"]
LAUNCH_TARGETS = ["subnet", "security-group", "network-interface", "volume", "key-pair", "spot-instances-request"]
"""Kinds of resources that a launch refers to or makes, next to the instance."""


def storage_policy(bucket: str) -> dict[str, Any]:
    """Workers read, write and list one bucket."""
    return {"Version": "2012-10-17", "Statement": _storage(bucket)}


def head_policy(bucket: str, cluster_name: str, worker_roles: list[str]) -> dict[str, Any]:
    """The head node also launches machines that carry the cluster's tag, with the workers' roles (PassRole), ends those
    that carry it, and reads quotas for `wm preflight`."""
    requested = {"StringEquals": {"aws:RequestTag/ray-cluster-name": cluster_name}}
    tagged = {"StringEquals": {"ec2:ResourceTag/ray-cluster-name": cluster_name}}
    at_launch = {"StringEquals": {"ec2:CreateAction": "RunInstances"}}
    instances = "arn:aws:ec2:*:*:instance/*"
    return {
        "Version": "2012-10-17",
        "Statement": [
            *_storage(bucket),
            _allow(DESCRIBE, "*"),
            _allow("ec2:RunInstances", instances, requested),
            _allow("ec2:RunInstances", [f"arn:aws:ec2:*:*:{kind}/*" for kind in LAUNCH_TARGETS]),
            _allow("ec2:RunInstances", "arn:aws:ec2:*::image/*"),
            _allow("ec2:CreateTags", instances, at_launch),
            _allow(["ec2:CreateTags", "ec2:TerminateInstances"], instances, tagged),
            _allow("iam:PassRole", worker_roles, {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}}),
            _allow(["servicequotas:GetServiceQuota", "servicequotas:ListServiceQuotas"], "*"),
        ],
    }


def _storage(bucket: str) -> list[dict[str, Any]]:
    objects = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
    return [
        _allow(["s3:ListBucket", "s3:GetBucketLocation", "s3:ListBucketMultipartUploads"], f"arn:aws:s3:::{bucket}"),
        _allow(objects, f"arn:aws:s3:::{bucket}/*"),
    ]


def _allow(
    action: str | list[str], resource: str | list[str], condition: dict[str, Any] | None = None
) -> dict[str, Any]:
    statement = {"Effect": "Allow", "Action": action, "Resource": resource}
    return statement | ({"Condition": condition} if condition else {})
