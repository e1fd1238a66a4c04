"""The command lines of `wm jobs`, `wm logs` and `wm stop`."""

import json
from collections.abc import Sequence
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from cluster.submit.job_list import look_at_cluster, table
from cluster.submit.job_logs import show_log
from cluster.submit.job_stop import request_here, stop
from cluster.submit.resume import resume_jobs
from datasets.runtime.process.command import parse_and_run
from wm.config.run_config import PositiveFloat
from wm.config.typed_yaml import checked


def jobs(args: Sequence[str]) -> int:
    """List jobs, or take up those that were left; returns the exit code."""

    def command(
        action: Positional[Literal["list", "resume"]] = "list",
        address: str | None = None,
        as_json: Annotated[bool, arg(name="json")] = False,
        every: PositiveFloat | None = None,
    ) -> int:
        """List the jobs of a cluster: from its head node and, if WM_STORAGE names it, from its storage. `wm jobs
        resume` runs on a head node: it submits again the jobs that a lost head or a killed driver has left.

        Args:
            action: list or resume.
            address: URL of the cluster's Jobs API (default: RAY_ADDRESS, else http://127.0.0.1:8265).
            as_json: print JSON.
            every: with resume, look again every so many seconds, without end.
        """
        if action == "resume":
            return resume_jobs(address, every)
        found = look_at_cluster(address).jobs
        print(json.dumps([job.to_plain() for job in found], indent=1) if as_json else table(found))
        return 0

    return parse_and_run(checked(command), "jobs", args)


def logs(args: Sequence[str]) -> int:
    """Print a job's log; returns the exit code."""

    def command(job: Positional[str], address: str | None = None, follow: bool = False) -> int:
        """Print what a job has printed, also after its end.

        Args:
            job: its id, or how it begins.
            address: URL of the cluster's Jobs API (default: RAY_ADDRESS, else http://127.0.0.1:8265).
            follow: go on until the job ends.
        """
        return show_log(job, address, follows=follow)

    return parse_and_run(command, "logs", args)


def stop_job(args: Sequence[str]) -> int:
    """Stop a job; returns the exit code."""

    def command(job: Positional[str], address: str | None = None, now: bool = False, here: bool = False) -> int:
        """Ask a job to save and end, as `ray job stop` does, and wait for it.

        Args:
            job: its id, or how it begins.
            address: URL of the cluster's Jobs API (default: RAY_ADDRESS, else http://127.0.0.1:8265).
            now: kill it instead.
            here: only leave the request, in the job's folder as this machine knows it.
        """
        return request_here(job, now=now) if here else stop(job, address, now=now)

    return parse_and_run(command, "stop", args)
