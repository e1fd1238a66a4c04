"""Notices of a preemption: polls the cloud's metadata service, and has Ray drain the node in time.

    python3 -m cluster.nodes.spot_notices --cloud aws --python ~/melee-world-model/.venv/bin/python

A drained node takes no new work; a run of `wm train` that has workers there saves and goes on elsewhere.
AWS gives two minutes (instance metadata `spot/instance-action`), Google Cloud 30 seconds (`instance/preempted`).
A rebalance recommendation of AWS says that a notice is likely, without a time: it is logged, and drains the node only
with --drain-on-rebalance.
"""

from __future__ import annotations

import argparse
import calendar
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from cluster.nodes.background import Log, add_background_options, begin
from cluster.nodes.raylet import find_raylet

TIMEOUT_S = 2.0
TOKEN_TTL_S = 21_600
"""AWS: the longest that a token of IMDSv2 may live. A new one is fetched when it is refused."""
GOOGLE_NOTICE_S = 30
"""Google Cloud: a preempted machine is stopped this long after the notice."""
REBALANCE_S = 600
"""AWS: deadline of a drain after a rebalance recommendation, which names none."""
DRAIN_TIMEOUT_S = 60.0
BASE_URLS = {"aws": "http://169.254.169.254", "gcp": "http://metadata.google.internal"}


@dataclass(frozen=True)
class Notice:
    """The machine will be taken away."""

    kind: str
    deadline: float
    """Unix time."""
    is_certain: bool = True
    """False: a recommendation."""


class AwsMetadata:
    """The instance metadata service of EC2, version 2 (each request needs a token)."""

    def __init__(self, base_url: str) -> None:
        self._base_url, self._token = base_url, ""

    def notice(self) -> Notice | None:
        """The notice that stands now, if any.

        Raises:
            OSError: the service does not answer.
            ValueError: it answers something else.
        """
        action = self._read("spot/instance-action")
        if action is not None:
            row = json.loads(action)
            return Notice(f"spot {row['action']}", _unix_time(row["time"]))
        rebalance = self._read("events/recommendations/rebalance")
        if rebalance is not None:
            began = _unix_time(json.loads(rebalance)["noticeTime"])
            return Notice("rebalance recommendation", began + REBALANCE_S, is_certain=False)
        return None

    def _read(self, path: str) -> str | None:
        for _ in range(2):
            if not self._token:
                ttl = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_TTL_S)}
                self._token = _request(f"{self._base_url}/latest/api/token", ttl, "PUT") or ""
            try:
                token = {"X-aws-ec2-metadata-token": self._token}
                return _request(f"{self._base_url}/latest/meta-data/{path}", token)
            except urllib.error.HTTPError as error:
                if error.code != HTTPStatus.UNAUTHORIZED:
                    raise
                self._token = ""
        raise OSError("the metadata service refuses its own token")


class GoogleMetadata:
    """The metadata server of Compute Engine."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url

    def notice(self) -> Notice | None:
        """As of `AwsMetadata`."""
        url = f"{self._base_url}/computeMetadata/v1/instance/preempted"
        answer = _request(url, {"Metadata-Flavor": "Google"})
        return Notice("preempted", time.time() + GOOGLE_NOTICE_S) if (answer or "").strip() == "TRUE" else None


CLOUDS: dict[str, Callable[[str], AwsMetadata | GoogleMetadata]] = {"aws": AwsMetadata, "gcp": GoogleMetadata}


def _request(url: str, headers: dict[str, str], method: str = "GET") -> str | None:
    """The body of the answer; None for "not found"."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a proxy
    try:
        with opener.open(urllib.request.Request(url, headers=headers, method=method), timeout=TIMEOUT_S) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        if error.code == HTTPStatus.NOT_FOUND:
            return None
        raise


def _unix_time(text: str) -> float:
    """Seconds, from ISO 8601 in UTC such as 2026-11-28T21:00:00Z."""
    return calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ"))


def drain(notice: Notice, options: argparse.Namespace, log: Log) -> bool:
    """Have Ray drain this node; whether it was accepted."""
    raylet = find_raylet(options.head, options.node_ip)
    if raylet is None:
        log.write(f"{notice}: no raylet runs here")
        return False
    ray = "ray" if options.python is None else str(Path(options.python).with_name("ray"))
    command = [
        ray, "drain-node", "--address", raylet.gcs_address, "--node-id", raylet.node_id,
        "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", notice.kind,
        "--deadline-remaining-seconds", str(max(0, int(notice.deadline - time.time()))),
    ]  # fmt: skip
    log.write(f"{notice}: {' '.join(command)}")
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=DRAIN_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        log.write(f"failed: {error}")
        return False
    log.write(f"exit code {done.returncode} {done.stdout.decode(errors='replace').strip()[-500:]}")
    return done.returncode == 0


def poll(options: argparse.Namespace, log: Log) -> None:
    """Ask the metadata service, for ever; drain the node once for each notice."""
    metadata = CLOUDS[options.cloud](options.base_url or BASE_URLS[options.cloud])
    handled: list[str] = []
    last_problem = None
    log.write(f"polling: {vars(options)}")
    while True:
        notice, problem = None, None
        try:
            notice = metadata.notice()
        except (OSError, ValueError, KeyError) as error:
            problem = f"{type(error).__name__}: {error}"
        if problem != last_problem:
            log.write(problem or "the metadata service answers again")
            last_problem = problem
        if notice is not None and notice.kind not in handled:
            if not notice.is_certain and not options.drain_on_rebalance:
                log.write(f"{notice}: not drained")
                handled.append(notice.kind)
            elif drain(notice, options, log):
                handled.append(notice.kind)
        time.sleep(options.every_s)


def parse(args: Sequence[str]) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(prog="python3 -m cluster.nodes.spot_notices", description=__doc__)
    parser.add_argument("--cloud", choices=sorted(CLOUDS), default="aws")
    parser.add_argument("--base-url", help="of the metadata service (default: the cloud's)")
    parser.add_argument("--head", help="HOST:PORT of the head's GCS, where several Rays run on one machine")
    parser.add_argument("--node-ip", help="address of this node, where several run on one machine")
    parser.add_argument("--python", help="Python of an environment with `ray` beside it (default: `ray` of the PATH)")
    parser.add_argument("--drain-on-rebalance", action="store_true", help="drain at a recommendation too")
    parser.add_argument("--every-s", type=float, default=5.0, help="seconds between two polls")
    add_background_options(parser)
    return parser.parse_args(args)


def main(args: list[str]) -> None:
    """Poll for notices on this machine."""
    options = parse(args)
    log, _instance = begin("spot_notices", options)  # holds the lock
    poll(options, log)


if __name__ == "__main__":
    main(sys.argv[1:])
