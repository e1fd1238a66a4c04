"""Preflight before a job: nothing red is submitted."""

from __future__ import annotations

import json
from pathlib import Path

from cluster.card.run_card import CARD_FILE
from cluster.jobs.client import resolve_address
from cluster.jobs.request import SubmitRequest
from cluster.preflight.command import VERBS, Job, check_there
from datasets.runtime.errors import UserError


def check_cluster(request: SubmitRequest, archive: Path, file: Path) -> None:
    """Run `wm preflight` for a job; what it finds is printed as it comes. Verbs without a preflight pass.

    Args:
        archive: the job's files with its card, which the checks use as the job will.
        file: where the checks are written, as JSON.
    Raises:
        UserError: a check is red, or the checks could not be run.
        KeyboardInterrupt: Ctrl-C.
    """
    (verb,) = request.command
    if verb not in VERBS:
        return
    config = request.config
    named = () if config is None else (config.stem if request.is_shipped else str(config),)
    job = Job(verb=verb, named=named, arguments=request.overrides)
    url, options = resolve_address(request.address), ("--card", CARD_FILE)
    if code := check_there(job, url, str(file), options=options, working_dir=request.working_dir, archive=archive):
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        red = [one for one in _checks(file) if one["state"] == "red"]
        found = "; ".join(f"{one['name']}: {one['found']}" for one in red[:2]) or "it ended before its checks did"
        raise UserError(
            f"preflight refuses the job ({found}); expected no red check; do what the table above says, or submit with "
            "--no-preflight"
        )


INTERRUPTED = 130
"""Exit code after Ctrl-C."""


def _checks(file: Path) -> list[dict]:
    return json.loads(file.read_text())["checks"] if file.is_file() else []
