"""The watchdog of a machine: ends it when its set-up fails, its head is gone, or nothing uses it.

    python3 -m cluster.nodes.watchdog --head $RAY_HEAD_IP:6379 --python ~/melee-world-model/.venv/bin/python

Started in the background at the beginning of the set-up of a node, before anything is installed, and not ended by the
raylet's death. The autoscaler ends idle machines while it works; this is for the night in which it does not. Ray 2.60's
raylets give up about a minute after their head died, and their machines stay and cost money.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.nodes.background import Instance, Log, add_background_options, begin
from cluster.nodes.raylet import find_raylet, work_of

ROOT = Path(__file__).resolve().parents[2]
CONNECT_TIMEOUT_S = 5.0
USAGE_TIMEOUT_S = 120.0
"""Of the program that asks the GCS, most of it for importing Ray on a busy machine."""
END_AGAIN_S = 60.0
"""The command that ends the machine is run again if the machine is still there."""


@dataclass(frozen=True)
class Limits:
    """Seconds after which a machine is ended."""

    setup_s: float
    """Since the watchdog began, without a raylet."""
    head_s: float
    """Since the head answered last."""
    idle_s: float
    """Since a task or an actor was seen last; a machine whose raylet died is idle."""


@dataclass(frozen=True)
class Sight:
    """What is seen of a machine at one moment."""

    head_answers: bool
    raylet_runs: bool
    is_used: bool


class Watch:
    """When to end a machine. Times are seconds of a monotonic clock."""

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self.has_started = False
        """Whether a raylet has been seen."""
        self._began = self._head_answered = self._used = now

    def see(self, now: float, sight: Sight) -> str | None:
        """Take in what is seen; the reason to end the machine, or None."""
        if sight.raylet_runs and not self.has_started:
            self.has_started = True
            self._head_answered = self._used = now
        if sight.head_answers:
            self._head_answered = now
        if sight.is_used:
            self._used = now
        if not self.has_started:
            return self._reason(now - self._began, self._limits.setup_s, "Ray has not started on this machine")
        return self._reason(
            now - self._head_answered, self._limits.head_s, "the head has not answered"
        ) or self._reason(now - self._used, self._limits.idle_s, "nothing has used this machine")

    def used_before(self, now: float, idle_s: float) -> None:
        """Take in what the GCS says: the machine was in use until `idle_s` seconds before now."""
        self._used = max(self._used, now - idle_s)

    @staticmethod
    def _reason(passed_s: float, limit_s: float, what: str) -> str | None:
        return f"{what} for {passed_s / 60:.1f} minutes (limit {limit_s / 60:g})" if passed_s >= limit_s else None


def head_answers(head: str) -> bool:
    """Whether something listens at the head's HOST:PORT."""
    host, _, port = head.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S):
            return True
    except OSError:
        return False


def seconds_idle(options: argparse.Namespace) -> float | None:
    """How long the GCS says that nothing uses this node (the head: any node); None if it cannot be asked."""
    raylet = find_raylet(options.head, options.node_ip)
    if options.python is None or raylet is None:
        return None
    command = [options.python, "-m", "cluster.nodes.node_usage", raylet.gcs_address]
    command += [] if options.on_head else [raylet.node_id]
    try:
        done = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=USAGE_TIMEOUT_S, check=False
        )
        return float(done.stdout.split()[-1]) if done.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError):
        return None


def look(options: argparse.Namespace) -> Sight:
    """What is seen of this machine now."""
    raylet = find_raylet(options.head, options.node_ip)
    return Sight(
        head_answers=head_answers(options.head),
        raylet_runs=raylet is not None,
        is_used=raylet is not None and bool(work_of(raylet)),
    )


def watch(options: argparse.Namespace, log: Log, instance: Instance) -> None:
    """Look every few seconds, for ever; end the machine when there is a reason."""
    limits = Limits(options.setup_minutes * 60, options.head_minutes * 60, options.idle_minutes * 60)
    began = instance.earlier_note or time.monotonic()  # a set-up that is tried again does not begin anew
    instance.note(began)
    state, last = Watch(limits, began), None
    log.write(f"watching: {vars(options)}")
    while True:
        sight, now = look(options), time.monotonic()
        if sight != last:
            log.write(f"{sight}")
            last = sight
        reason = state.see(now, sight)
        if state.has_started:
            instance.note(None)
        if reason is not None and state.has_started and sight.head_answers:
            idle_s = seconds_idle(options)
            if idle_s is None and options.on_head:  # drivers on the head are not its raylet's
                log.write("the GCS does not say whether the cluster is used; waiting")
                idle_s = 0.0
            if idle_s is not None:
                state.used_before(now, idle_s)
                reason = state.see(now, replace(sight, is_used=False))
        if reason is not None:
            end(options.end, reason, log)
        time.sleep(END_AGAIN_S if reason is not None else options.every_s)


def end(command: str, reason: str, log: Log) -> None:
    """Run the command that ends the machine."""
    log.write(f"ending this machine: {reason}: {command}")
    try:
        done = subprocess.run(
            command, shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=END_AGAIN_S, check=False
        )
        log.write(f"exit code {done.returncode} {done.stdout.decode(errors='replace').strip()}")
    except (OSError, subprocess.TimeoutExpired) as error:
        log.write(f"failed: {error}")


def parse(args: Sequence[str]) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(prog="python3 -m cluster.nodes.watchdog", description=__doc__)
    parser.add_argument("--head", required=True, help="HOST:PORT of the head's GCS; on the head 127.0.0.1:6379")
    parser.add_argument("--on-head", action="store_true", help="this is the head: idle is when no node is used")
    parser.add_argument("--setup-minutes", type=float, default=30.0, help="without a raylet since the start")
    parser.add_argument("--head-minutes", type=float, default=5.0, help="without an answer of the head")
    parser.add_argument("--idle-minutes", type=float, default=30.0, help="more than the cluster's idle_timeout_minutes")
    parser.add_argument("--python", help="Python with Ray, to ask the GCS before an idle machine is ended")
    parser.add_argument("--end", default="sudo shutdown -h now", help="shell command that ends the machine")
    parser.add_argument("--node-ip", help="address of this node, where several run on one machine")
    parser.add_argument("--every-s", type=float, default=10.0, help="seconds between two looks")
    add_background_options(parser)
    return parser.parse_args(args)


def main(args: list[str]) -> None:
    """Watch this machine."""
    options = parse(args)
    watch(options, *begin("watchdog", options))


if __name__ == "__main__":
    main(sys.argv[1:])
