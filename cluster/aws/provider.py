"""Ray's node provider for AWS, with what a night without supervision needs: see BoundedAWSNodeProvider."""

import threading
import time
from collections.abc import Callable
from typing import Any

import click
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.tags import (
    NODE_KIND_WORKER,
    STATUS_UP_TO_DATE,
    STATUS_UPDATE_FAILED,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_STATUS,
)

from cluster.aws.account import image_of, security_group_of
from datasets.runtime.errors import UserError

MAX_SETUP_FAILURES = 3
PAUSE_S = 3600.0


class SetupFailures:
    """Counts set-ups of workers that failed one after the other. Threads may share it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._in_a_row = 0
        self._last_s = 0.0

    def note(self, status: str | None) -> None:
        """Count a worker's new status, as in Ray's tag `ray-node-status`."""
        with self._lock:
            if status == STATUS_UPDATE_FAILED:
                self._in_a_row += 1
                self._last_s = self._clock()
            elif status == STATUS_UP_TO_DATE:
                self._in_a_row = 0

    def reason_to_wait(self) -> str | None:
        """Why no worker may be launched now; None if one may."""
        with self._lock:
            left_s = self._last_s + PAUSE_S - self._clock()
            if self._in_a_row < MAX_SETUP_FAILURES or left_s <= 0:
                return None
            return (
                f"the set-up of {self._in_a_row} workers in a row failed: see /tmp/ray/session_latest/logs/monitor.out "
                f"on the head node. The next try is in {left_s / 60:.0f} minutes, or after `ray up`"
            )


class BoundedAWSNodeProvider(AWSNodeProvider):
    """Ray's AWS provider with two differences.

    - **Failing set-ups end.** Ray ends a worker whose set-up failed and launches the next one, all night. Here, after
      MAX_SETUP_FAILURES in a row, launches are refused for an hour at a time, with the reason in `ray status`.
    - **The network and the image are the account's own.** Ray would create a security group that lets the whole
      internet reach port 22, and take an image of 2023. Here the group must exist (`wm cluster prepare` makes it, for
      the owner's address), and `ImageId: resolve:ssm:NAME` is the id that the account stores under NAME.
    """

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        self._setup_failures = SetupFailures()

    def set_node_tags(self, node_id: str, tags: dict[str, str]) -> None:
        """Ray's, which also reports how set-ups end in this way."""
        super().set_node_tags(node_id, tags)
        if self.node_tags(node_id).get(TAG_RAY_NODE_KIND) == NODE_KIND_WORKER:
            self._setup_failures.note(tags.get(TAG_RAY_NODE_STATUS))

    def create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> dict[str, Any]:
        """Launch `count` machines.

        Raises:
            NodeLaunchException: AWS refused, or too many set-ups failed.
        """
        reason = self._setup_failures.reason_to_wait()
        if reason and tags.get(TAG_RAY_NODE_KIND) == NODE_KIND_WORKER:
            raise NodeLaunchException("SetupFailed", reason, None)
        return super().create_node(node_config, tags, count)

    @staticmethod
    def bootstrap_config(cluster_config: dict[str, Any]) -> dict[str, Any]:
        """Fill in what AWS knows; runs where `ray up` runs.

        Raises:
            ClickException: the security group or the image is missing; `wm cluster prepare` makes them.
        """
        try:
            group = security_group_of(cluster_config)
            for node_type in cluster_config["available_node_types"].values():
                node_config = node_type["node_config"]
                node_config.setdefault("SecurityGroupIds", [group])
                node_config["ImageId"] = image_of(cluster_config, node_config["ImageId"])
        except UserError as error:
            raise click.ClickException(str(error)) from error  # one line and no traceback in Ray's commands
        return bootstrap_aws(cluster_config)
