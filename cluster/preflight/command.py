"""The command line of `wm preflight`: here, as a job on a cluster, or of a cluster file."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import PositiveFloat

from cluster.files.checks import Check, worst
from cluster.jobs.client import connect, resolve_address
from cluster.jobs.command_words import take_verb
from cluster.preflight.table import as_plain, line_of, summary_of
from datasets.runtime.durable_files import write_result
from datasets.runtime.errors import UserError
from datasets.runtime.process.command import FAILED, parse_and_run
from wm.config.shipped import config_file
from wm.config.typed_yaml import checked, load_yaml

if TYPE_CHECKING:
    from cluster.preflight.needs import Needs

VERBS = ("train", "sweep", "encode")
STDOUT = "-"
"""As the file of --json: one line on standard output."""
JSON_LINE = '{"state": '


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """The job to be checked."""

    verb: str
    named: tuple[str, ...]
    """The config, or the sources of an encode."""
    arguments: tuple[str, ...]
    """Of the verb, after its config or sources."""

    def needs(self) -> "Needs":
        """What it needs of a cluster.

        Raises:
            UserError: the verb would refuse its config or arguments.
        """
        from cluster.preflight.needs import needs_of_encode, needs_of_run, needs_of_sweep
        from wm.config.run_config import RunConfig

        if self.verb == "encode":
            return needs_of_encode(*_encode_places([*self.named, *self.arguments]))
        if len(self.named) != 1:
            raise UserError(f"found {len(self.named)} configs; expected one: wm preflight CONFIG -- OVERRIDES")
        file = config_file(self.named[0], self.verb)
        if self.verb == "sweep":
            return needs_of_sweep(file, self.arguments)
        return needs_of_run(load_yaml(file, RunConfig, self.arguments))


def preflight(own_args: Sequence[str], arguments: Sequence[str]) -> int:
    """Run `wm preflight`.

    Args:
        own_args: before `--`.
        arguments: after `--`, of the verb.
    """
    from tyro.conf import Positional

    if "--local" in own_args:
        return _check_cluster_file([one for one in own_args if one != "--local"])
    found_verb, words = take_verb(own_args, VERBS, ("--here", "--no-here"))
    verb = found_verb or "train"

    def command(
        named: Positional[tuple[str, ...]],
        address: str | None = None,
        here: bool = False,
        working_dir: Path | None = None,
        json: str | None = None,
        machines_minutes: PositiveFloat = 15.0,
        gpu: str | None = None,
        card: Path | None = None,
    ) -> int:
        """Check a cluster before a job: `wm preflight CONFIG -- OVERRIDES`, `wm preflight sweep CONFIG`, or
        `wm preflight encode SOURCES -- --out OUT`. `wm preflight --local FILE` checks a cluster
        file on this machine. Exits with 0 if nothing is red, and with 1 otherwise.

        Args:
            named: the config, or the sources of an encode.
            address: URL of the cluster's Jobs API (default: RAY_ADDRESS, else http://127.0.0.1:8265). Where RAY_ADDRESS
                is that of Ray itself, as on a node, the checks run in this process.
            here: check this machine alone, with a Ray of its own, as `wm train` uses it without a cluster.
            working_dir: the git checkout to upload, with --address (default: that of the current folder).
            json: file for the checks; - prints them as the last line.
            machines_minutes: how long machines are waited for.
            gpu: kind of GPU that is demanded, such as A100.
            card: a run card, whose estimate is compared with its limits.
        """
        job = Job(verb=verb, named=named, arguments=tuple(arguments))
        of_ray = os.environ.get("RAY_ADDRESS")
        if here and (address or of_ray):
            raise UserError(f"found --here and the address {address or of_ray}; expected one; unset RAY_ADDRESS")
        if here or (of_ray and not address and not of_ray.startswith(("http://", "https://"))):
            return _check_here(job, json, machines_minutes, gpu, card)
        if not address and not of_ray:
            _refuse_without_cluster()
        options = ["--machines-minutes", str(machines_minutes), *(["--gpu", gpu] if gpu else [])]
        return check_there(job, resolve_address(address), json, options=options, working_dir=working_dir)

    return parse_and_run(checked(command), "preflight", words)


def _check_here(job: Job, json_file: str | None, minutes: float, gpu: str | None, card: Path | None) -> int:
    from cluster.card.run_card import read_card
    from cluster.preflight.preflight import Options, Preflight

    options = Options(machines_minutes=minutes, gpu=gpu, card=None if card is None else read_card(card))
    found = Preflight(job.needs(), options, lambda check: print(line_of(check), flush=True)).run()
    return _end(found, json_file)


def _check_cluster_file(arguments: Sequence[str]) -> int:
    from cluster.files.check_file import check_cluster_file
    from cluster.plan.machines import hourly_prices

    def command(file: Path = Path("cluster.yaml"), json: str | None = None) -> int:
        """Check a cluster file on this machine before `ray up`: nothing is rented, no cloud is asked.

        Args:
            file: the cluster file.
            json: file for the checks; - prints them as the last line.
        """
        found = check_cluster_file(file, hourly_prices())
        for check in found:
            print(line_of(check))
        return _end(found, json)

    names = list(arguments)
    if names and not names[0].startswith("-"):
        names.insert(0, "--file")
    return parse_and_run(command, "preflight --local", names)


def check_there(
    job: Job,
    url: str,
    json_file: str | None,
    *,
    options: Sequence[str] = (),
    working_dir: Path | None = None,
    archive: Path | None = None,
) -> int:
    """Run the same command as a job, follow it, and keep its JSON here.

    Args:
        url: of the Jobs API.
        json_file: for the checks.
        options: of `wm preflight` there.
        working_dir: see `SubmitRequest`.
        archive: see `SubmitRequest`.
    Returns:
        0 if nothing is red, 1 otherwise, 130 after Ctrl-C.
    Raises:
        UserError: a mistake in config, arguments, address or token.
    """
    from cluster.jobs.follow import follow
    from cluster.jobs.submit import SubmitRequest, submit

    job.needs()  # mistakes are reported here
    is_encode = job.verb == "encode"
    config = None if is_encode else config_file(job.named[0], job.verb)
    request = SubmitRequest(
        command=("preflight", job.verb),
        config=config,
        is_shipped=config is not None and not Path(job.named[0]).is_file(),
        overrides=(*(job.named if is_encode else ()), *options, "--json", STDOUT, "--", *job.arguments),
        address=url,
        working_dir=working_dir,
        archive=archive,
    )
    job_id = submit(request)
    print(f"submitted {job_id}", flush=True)
    lines = _Lines()
    code = follow(job_id, url, lines.write)
    lines.end()
    if json_file is not None and lines.json_line is not None:
        _write(json.loads(lines.json_line), json_file)
    return code


class _Lines:
    """Prints the lines of a log, and keeps the one with the JSON."""

    def __init__(self) -> None:
        self.json_line: str | None = None
        self._rest = ""

    def write(self, piece: str) -> None:
        """Take a piece of the log."""
        *lines, self._rest = (self._rest + piece).split("\n")
        for line in lines:
            if line.startswith(JSON_LINE):
                self.json_line = line
            else:
                print(line, flush=True)

    def end(self) -> None:
        """Take the last line too."""
        if self._rest:
            self.write("\n")


def _end(found: Sequence[Check], json_file: str | None) -> int:
    print(summary_of(found), flush=True)
    if json_file is not None:
        _write(as_plain(found), json_file)
    return FAILED if worst(found) == "red" else 0


def _write(checks: dict[str, Any], file: str) -> None:
    if file == STDOUT:
        print(json.dumps(checks), flush=True)
    else:
        write_result(Path(file), checks)


def _refuse_without_cluster() -> None:
    """Say what there is instead, where no address was given and no cluster is at the usual one."""
    try:
        connect(None)
    except UserError as error:
        raise UserError(f"{error}; or check this machine alone with --here, or a cluster file with --local") from error


def _encode_places(args: Sequence[str]) -> tuple[list[str], str]:
    """Sources and output of an encode's arguments."""
    from datasets.cli import parse_encode

    places: list[tuple[list[str], str]] = []
    call: Callable[..., int] = lambda sources, out, *_: places.append((sources, out)) or 0  # noqa: E731
    parse_encode(args, call)
    return places[0]
