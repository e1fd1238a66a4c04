"""The command line of `wm submit`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import get_args

from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction

from cluster.card.limit_options import LimitOptions, limits_of
from cluster.card.run_card import Verb
from cluster.jobs.command_words import split_at_dashes, take_verb
from cluster.jobs.request import SubmitRequest
from cluster.submit.submission import Submission, submit_job
from datasets.runtime.errors import UserError
from datasets.runtime.process.command import parse_and_run
from wm.config.shipped import config_file
from wm.config.typed_yaml import checked

VERBS: tuple[Verb, ...] = get_args(Verb)
WITH_CONFIG = ("train", "sweep")
FLAGS = frozenset({"--dry-run", "--no-dry-run", "--follow", "--no-follow", "--preflight", "--no-preflight"})


def submit(args: Sequence[str]) -> int:
    """Submit a command; returns the exit code."""
    own_args, overrides = split_at_dashes(args)
    found_verb, own_args = take_verb(own_args, VERBS, FLAGS)
    verb: Verb = found_verb or "train"

    def command(
        what: Positional[tuple[str, ...]] = (),
        address: str | None = None,
        working_dir: Path | None = None,
        follow: bool = True,
        name: str | None = None,
        why: str | None = None,
        dry_run: bool = False,
        preflight: bool = True,
        profile: UseAppendAction[tuple[str, ...]] = (),
        upload_anyway: UseAppendAction[tuple[str, ...]] = (),
        limits: OmitArgPrefixes[LimitOptions] = LimitOptions(),  # noqa: B008
    ) -> int:
        """Submit a command to a Ray cluster: `wm submit CONFIG` trains, `wm submit sweep CONFIG` runs a sweep, `wm
        submit encode SOURCES -- --out OUT` encodes, `wm submit eval RUN CORPUS` evaluates. Arguments after `--` go to
        the command.

        Args:
            what: for train and sweep the YAML of the config, inside working_dir, or the name of a shipped config; for
                encode the sources; for eval run and corpus. Paths are those that every node sees, or URIs.
            address: URL of the cluster's Jobs API (default: RAY_ADDRESS, else http://127.0.0.1:8265).
            working_dir: the git checkout whose tracked files are uploaded (default: that of the current folder; without
                one only the config is uploaded).
            follow: print the job's log until it ends.
            name: readable part of the job's id (default: the config's file name).
            why: what the job is for; kept with it.
            dry_run: submit nothing, and print the `ray job submit` line that would.
            preflight: check the cluster before; a job is refused if a check is red.
            profile: a throughput profile for the card's estimate, as for `wm plan`; may be given several times.
            upload_anyway: a tracked file that is uploaded though it looks like a secret; may be given several times.
        """
        config, arguments, is_shipped = None, (*what, *overrides), False
        if verb in WITH_CONFIG:
            if len(what) != 1:
                raise UserError(f"found {len(what)} configs; expected one: wm submit {verb} CONFIG -- ARGUMENTS")
            config, arguments, is_shipped = config_file(what[0], verb), overrides, not Path(what[0]).is_file()
        request = SubmitRequest(
            command=(verb,),
            config=config,
            is_shipped=is_shipped,
            overrides=arguments,
            address=address,
            working_dir=working_dir,
            upload_anyway=upload_anyway,
            follow=follow,
            name=name,
        )
        found = limits_of(limits, datetime.now().astimezone())
        submission = Submission(
            request=request, limits=found, why=why, dry_run=dry_run, preflight=preflight, profiles=profile
        )
        return submit_job(submission)

    return parse_and_run(checked(command), f"submit {verb}", own_args)
