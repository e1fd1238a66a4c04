"""The verbs of the `wm` command line for a Ray cluster.

Each verb imports what it needs when it runs, so that `wm --help` is fast.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from datasets.runtime.errors import UserError
from datasets.runtime.process.command import parse_and_run


def submit(args: Sequence[str]) -> int:
    """run train, sweep, encode or eval as a job on a Ray cluster: `wm submit mamba2-medium`"""
    from cluster.submit.command_line import submit

    return submit(args)


def jobs(args: Sequence[str]) -> int:
    """the jobs of a cluster; `wm jobs resume` takes up those that a lost head node has left"""
    from cluster.submit.job_commands import jobs

    return jobs(args)


def logs(args: Sequence[str]) -> int:
    """what a job has printed: `wm logs JOB --follow`"""
    from cluster.submit.job_commands import logs

    return logs(args)


def stop(args: Sequence[str]) -> int:
    """ask a job to save and end: `wm stop JOB`"""
    from cluster.submit.job_commands import stop_job

    return stop_job(args)


def preflight(args: Sequence[str]) -> int:
    """check a cluster before a job: versions, GPUs, storage, corpus, a real update (`wm preflight CONFIG`)"""
    from cluster.jobs.command_words import split_at_dashes
    from cluster.preflight import command

    return command.preflight(*split_at_dashes(args))


def watch(args: Sequence[str]) -> int:
    """run a command within limits, restart it when it dies or stalls: `wm watch --deadline 07:00 -- train CONFIG`"""
    from datetime import datetime

    from tyro.conf import OmitArgPrefixes, Positional

    from cluster.card.job_folder import job_folder
    from cluster.card.limit_options import LimitOptions, limits_of
    from cluster.card.run_card import read_card
    from cluster.jobs.command_words import split_at_dashes
    from cluster.watch.by_hand import card_of, folder_of
    from cluster.watch.process import Pace, watch_job

    own_args, words = split_at_dashes(args)

    def command(
        card: Positional[Path | None] = None,
        limits: OmitArgPrefixes[LimitOptions] = LimitOptions(),  # noqa: B008
        name: str | None = None,
        why: str | None = None,
        every_s: float = 5.0,
        save_s: float = 120.0,
    ) -> int:
        """Run a job's command within the limits of its card, or a command after `--` within the limits given here.

        Args:
            card: a run card, which `wm submit` writes; its own limits count.
            name: of the job, without a card (default: made of what the command works on).
            why: a note for the card.
            every_s: seconds between two observations.
            save_s: seconds that a save may take; limits are acted on so long before.
        """
        if (card is None) == (not words):
            raise UserError("expected wm watch CARD, or wm watch [limits] -- VERB ...")
        if card is not None:
            job = read_card(card)
            folder = job_folder(job.job)
            folder.create(job, Path.cwd())
        else:
            job = card_of(words, limits_of(limits, datetime.now().astimezone()), name=name, why=why)
            folder = folder_of(job)
        return watch_job(job, folder, Pace(every_s=every_s, save_s=save_s))

    return parse_and_run(command, "watch", own_args)


def cluster(args: Sequence[str]) -> int:
    """make what a cluster file needs before `ray up`: `wm cluster prepare cluster.yaml`"""
    from tyro.conf import Positional

    from cluster.aws.prepare import prepare

    own_args = list(args)
    if not own_args or own_args.pop(0) not in ("prepare", "-h", "--help"):
        raise UserError("expected wm cluster prepare CLUSTER_FILE")

    def command(
        file: Positional[Path] = Path("cluster.yaml"), address: str | None = None, new_image: bool = False
    ) -> int:
        """Make the token, and in AWS: SSH from your address only, the machines' roles, the image. May be repeated.

        Args:
            file: the cluster file.
            address: who may reach SSH, such as 203.0.113.7 or 203.0.113.0/24 (default: this machine, as AWS sees it).
            new_image: take AWS's newest image although one is stored; `ray up` then replaces the head node.
        """
        prepare(file, address, new_image)
        return 0

    return parse_and_run(command, "cluster prepare", own_args if args[0] == "prepare" else ["--help"])


def report(args: Sequence[str]) -> int:
    """the page of the morning: what happened to a run, cost against plan, beside the run before: `wm report RUN`"""
    from tyro.conf import Positional

    from cluster.report.write import write_report

    def command(
        run: Positional[str], before: str | None = None, html: Path | None = None, json: Path | None = None
    ) -> None:
        """Write the report of a run, on a disk or in a bucket; of a sweep, the page of `wm choose-k`.

        Args:
            run: folder or URI of a run or a sweep.
            before: run to compare with (default: the newest finished one in the same folder).
            html: the page (default: report.html in the run's folder, or here for a URI).
            json: write the report as JSON.
        """
        write_report(run, before, html, json)

    return parse_and_run(command, "report", args)


def plan(args: Sequence[str]) -> int:
    """hours, dollars and memory of a run, a sweep or an encode, from a profile: `wm plan mamba2-medium`"""
    from cluster.plan.command.verbs import plan_command

    return plan_command(args)


def profile(args: Sequence[str]) -> int:
    """measure a config on this machine for `wm plan`, in about a minute: `wm profile mamba2-medium`"""
    from cluster.plan.command.verbs import profile_command

    return profile_command(args)


VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "profile": profile,
    "plan": plan,
    "preflight": preflight,
    "submit": submit,
    "jobs": jobs,
    "logs": logs,
    "stop": stop,
    "watch": watch,
    "report": report,
    "cluster": cluster,
}
