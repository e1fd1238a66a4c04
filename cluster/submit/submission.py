"""`wm submit`: a command becomes a job with a run card.

The command is checked, its files are packed, its card is written; then the Jobs API gets the zip and starts
the job. `wm submit --dry-run` stops before, and prints the same as a `ray job submit` line.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cluster.card.job_folder import WORKING_DIR_FILE, JobFolder, JobState, all_job_folders, job_folder
from cluster.card.limits import Limits
from cluster.card.run_card import CARD_FILE, RunCard, Verb
from cluster.jobs.client import connect, has_token, resolve_address
from cluster.jobs.follow import follow, log_and_stop_commands
from cluster.jobs.package import Upload, package, with_files
from cluster.jobs.request import SubmitRequest, checkout_of, config_there, job_name, upload_of
from cluster.jobs.submit import JOB_METADATA, OUT_METADATA, Start, list_jobs, next_job_id, start_job
from cluster.storage import STORAGE_VARIABLE, storage_location
from cluster.submit.card_facts import corpus_facts, git_state
from cluster.submit.cluster_check import check_cluster
from cluster.submit.command_checks import Command, check_command
from datasets.runtime.errors import UserError
from datasets.runtime.uris import without_key

STOP_WAIT_S = 900
"""How long Ray waits after `ray job stop` before it kills the job: a large model's checkpoint, written to a bucket."""
STOP_WAIT_VARIABLE = "RAY_JOB_STOP_WAIT_TIME_S"


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """A command, and how it is to run."""

    request: SubmitRequest
    """`command` is one verb."""
    limits: Limits
    why: str | None = None
    dry_run: bool = False
    preflight: bool = True
    """Check the cluster first; a job that would fail is not submitted."""
    profiles: tuple[str, ...] = ()
    """Throughput profiles for the card's estimate; empty: those that are known."""

    @property
    def verb(self) -> Verb:
        """The verb."""
        (verb,) = self.request.command
        return verb  # pyrefly: ignore


def submit_job(submission: Submission) -> int:
    """Submit a job with its card, and follow it if the request says so; or print what would be submitted.

    Returns:
        0 if the job succeeded, is not followed or was not submitted; 1 if it failed or was stopped; 130 after Ctrl-C.
    Raises:
        UserError: a mistake in command, config, address or token; the same run has a job that has not ended; the files
            hold secrets; preflight finds a reason why the job would fail.
    """
    request = submission.request
    command = check_command(submission.verb, request.config, request.overrides)
    upload, name = upload_of(request), job_name(request)
    for line in upload.left_out:
        print(line, flush=True)
    if submission.dry_run:
        return _print_line(submission, command, upload, name)
    url = resolve_address(request.address)
    with tempfile.TemporaryDirectory(prefix="wm-submit-") as folder:
        # Packed once, so that what is checked is what is sent; before connecting, so that mistakes need no cluster.
        code = package(upload, Path(folder) / "code.zip", anyway=request.upload_anyway)
        client = connect(request.address)
        folders = known_jobs()
        job = _job_id(name, command, list_jobs(client, url), url, folders or [])
        card = make_card(submission, command, job)
        archive = with_files(code, Path(folder) / WORKING_DIR_FILE, {CARD_FILE: card.to_json()})
        print(describe(card), flush=True)
        if submission.preflight:
            check_cluster(request, archive, Path(folder) / "preflight.json")
        stored = None if folders is None else _store(card, archive)
        try:
            start_job(client, start_of(card, archive), url)
        except BaseException as error:
            if stored is not None:  # a new head must not take up what never started
                stored.write_state(JobState(status="failed", reason=f"not submitted: {error}"))
            raise
    print(f"submitted {job}; {log_and_stop_commands(job, url)}", flush=True)
    return follow(job, request.address) if request.follow else 0


def make_card(submission: Submission, command: Command, job: str) -> RunCard:
    """The card of a job that is submitted now."""
    from cluster.plan.card_estimate import estimate_for_card  # imports torch

    request = submission.request
    estimate = estimate_for_card(
        submission.verb,
        request.config,
        request.overrides,
        profiles=submission.profiles or None,
        budget_usd=submission.limits.budget_usd,
    )
    return RunCard(
        job=job,
        verb=submission.verb,
        config=config_there(request),
        arguments=request.overrides,
        out=command.out,
        why=submission.why,
        created=datetime.now().astimezone(),
        git=git_state(checkout_of(request)),
        data=corpus_facts(command.corpora),
        estimate=estimate.content,
        no_estimate=None if estimate.content is not None else estimate.line,
        limits=submission.limits,
    )


def start_of(card: RunCard, archive: Path, submission_id: str | None = None) -> Start:
    """What the Jobs API is given for a card.

    Args:
        archive: zip with the job's files.
        submission_id: for Ray, if it is not the job's id.
    """
    env_vars = {STOP_WAIT_VARIABLE: str(STOP_WAIT_S)}
    storage = storage_location()
    if storage is not None and without_key(storage) == storage:  # a job's environment is shown in Ray's dashboard
        env_vars[STORAGE_VARIABLE] = storage
    metadata = {JOB_METADATA: card.job, "wm_command": card.verb, "wm_config": card.config or ""}
    metadata |= {} if card.out is None else {OUT_METADATA: without_key(card.out)}
    metadata |= {} if card.why is None else {"wm_why": card.why}
    return Start(
        submission_id=submission_id or card.job,
        entrypoint=entrypoint(),
        working_dir=archive,
        metadata=metadata,
        env_vars=env_vars,
    )


def entrypoint() -> str:
    """The job's shell command: the watch, which runs the card's command as its child."""
    return f"wm watch {CARD_FILE}"


def describe(card: RunCard) -> str:
    """What is submitted, in one line."""
    git = card.git
    code = "no checkout" if git is None else f"{git.revision[:12]}{'' if git.clean else ' with changes'}"
    plan = card.no_estimate if card.estimate is None else card.estimate["line"]
    return f"{card.command_line()} (code {code}; {plan})"


def ray_line(start: Start, url: str) -> str:
    """The `ray job submit` line that does the same."""
    words = ["ray", "job", "submit", "--address", url, "--submission-id", start.submission_id]
    words += ["--metadata-json", json.dumps(start.metadata)]
    words += ["--runtime-env-json", json.dumps({"env_vars": start.env_vars})]
    words += ["--working-dir", str(start.working_dir), "--", *shlex.split(start.entrypoint)]
    return ("RAY_AUTH_MODE=token " if has_token() else "") + shlex.join(words)


def _print_line(submission: Submission, command: Command, upload: Upload, name: str) -> int:
    request = submission.request
    url = resolve_address(request.address)
    jobs: Sequence[Any] = ()
    try:
        jobs = list_jobs(connect(request.address), url)
    except UserError as error:
        print(f"not asked for earlier jobs: {error}", flush=True)
    job = _job_id(name, command, jobs, url, known_jobs() or [])
    card = make_card(submission, command, job)
    folder = Path(tempfile.gettempdir()) / f"wm-submit-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    archive = package(upload, folder / f"{job}.zip", {CARD_FILE: card.to_json()}, request.upload_anyway)
    print(f"{describe(card)}\nnot submitted; {len(upload.files) + 1} files are in {archive}; this line submits them:")
    print(ray_line(start_of(card, archive), url))
    return 0


def known_jobs() -> list[JobFolder] | None:
    """The jobs in the cluster's storage; None if it is not known here, or cannot be reached from here."""
    if storage_location() is None:
        return None
    try:
        return list(all_job_folders())
    except (OSError, UserError) as error:
        print(f"{STORAGE_VARIABLE} is not used, since it cannot be reached from here: {error}", file=sys.stderr)
        return None


def _store(card: RunCard, archive: Path) -> JobFolder:
    """Put card and code into the cluster's storage.

    Raises:
        UserError: a job of this name is watched.
    """
    folder = job_folder(card.job)
    folder.create(card, archive)
    folder.write_state(JobState(status="submitted", ray_job=card.job, submitted=card.created))
    return folder


def _job_id(name: str, command: Command, jobs: Sequence[Any], url: str, folders: Sequence[JobFolder]) -> str:
    """The next unused id.

    Args:
        jobs: Ray's JobDetails.
        folders: of the jobs in the cluster's storage.
    Raises:
        UserError: the same run has a job that has not ended, or another one writes to the same place.
    """
    out = _shown(command.out)
    job = next_job_id(name, jobs, url, [folder.job for folder in folders], out)
    for folder in folders:
        state = folder.read_state()
        if out is None or state is None or state.is_final or _shown(folder.read_card().out) != out:
            continue
        if folder.is_held():
            raise UserError(
                f"{folder.job} is {state.status} and writes to {out}; expected a place of its own for each job; name "
                "another --out, or stop that one"
            )
    return job


def _shown(out: str | None) -> str | None:
    return None if out is None else without_key(out)
