"""What a submitted command would do on the cluster: mistakes are found here, before anything is uploaded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.card.run_card import Verb
from cluster.storage import RUNS, STORAGE_VARIABLE, storage_location
from datasets.cli import check_submitted_encode
from datasets.runtime.errors import UserError
from datasets.runtime.uris import child_location, is_remote, mistake_in
from wm.config.run_config import RunConfig
from wm.config.run_paths import local_paths
from wm.config.typed_yaml import load_yaml

KEY_IN_URI = re.compile(r"([a-z][a-z0-9+.-]*)://[^/?\s@:]+:[^/?\s@]+@")
DISK_CACHE = "data.disk_cache"


@dataclass(frozen=True, slots=True)
class Command:
    """What is known of a command from its arguments."""

    out: str | None
    """Where its result goes: absolute path or URI."""
    corpora: dict[str, str] = field(default_factory=dict)
    """Locations of corpora that it reads, by their role."""
    run: RunConfig | None = None
    """What it trains: the config of `train`, the base of a `sweep`."""


def check_command(verb: Verb, config: Path | None, arguments: Sequence[str]) -> Command:
    """Check a command as the verb itself would, and that its paths mean something on every node.

    Args:
        config: file of the config, for train and sweep.
        arguments: after the config.
    Raises:
        UserError: the verb would refuse them, a path is relative, or a key and secret stand in a URI.
    """
    _refuse_keys(arguments, config)
    if verb == "encode":
        return Command(check_submitted_encode(arguments))
    if verb == "eval":
        return _checked_eval(arguments)
    assert config is not None
    name = config.stem
    if verb == "train":
        run = load_yaml(config, RunConfig, arguments)
        _refuse_relative({str(at): str(path) for at, path in local_paths(run).items()}, name)
        return Command(str(run.out), _corpora(run), run)
    from tune.cli import without_retry
    from tune.config import SweepConfig
    from tune.search.trials import trials_of

    sweep = load_yaml(config, SweepConfig, without_retry(arguments))
    trials_of(sweep)
    places = {f"base.{at}": str(path) for at, path in local_paths(sweep.base).items() if at != "out"}
    _refuse_relative({"out": str(sweep.out)} | places, name)
    return Command(str(sweep.out), _corpora(sweep.base), sweep.base)


def suggested_out(name: str) -> str:
    """A place for a result, for messages."""
    storage = storage_location()
    return (
        f"{STORAGE_VARIABLE}/{RUNS}/{name}" if storage is None else child_location(child_location(storage, RUNS), name)
    )


def _checked_eval(arguments: Sequence[str]) -> Command:
    from wm.launch.eval_command import parse_eval

    found: list[Command] = []

    def check(checkpoint: str, corpus: str, *_: Any, out: Path | None, **__: Any) -> None:
        for what, place in [("checkpoint", checkpoint), ("corpus", corpus)]:
            if mistake := mistake_in(place):
                raise UserError(f"{what}: {mistake}")
        _refuse_relative({"checkpoint": checkpoint, "corpus": corpus}, "eval")
        if out is None and is_remote(checkpoint):
            raise UserError(
                "no --out given; expected an absolute path that every node sees, because the JSON of a checkpoint in "
                "object storage would be lost with the job's working directory"
            )
        _refuse_relative({} if out is None else {"out": str(out)}, "eval.json")
        found.append(Command(None if out is None else str(out), {"eval": corpus}))

    parse_eval(arguments, check)
    return found[0]


def _refuse_relative(places: dict[str, str], name: str) -> None:
    """Refuse relative paths: on a cluster they lie in the job's unpacked upload, on the disk of one node."""
    for option, place in places.items():
        if is_remote(place) or Path(place).is_absolute():
            continue
        if option == DISK_CACHE or option.endswith(f".{DISK_CACHE}"):
            remedy = "an absolute path on each node's own disk"
        elif option == "out":
            remedy = f"an absolute path that every node sees, or a URI, such as --out {suggested_out(name)}"
        else:
            remedy = "an absolute path that every node sees, or an s3:// or gs:// URI"
        raise UserError(f"{option} {place} is a path on this machine; expected {remedy}")


def _corpora(run: RunConfig) -> dict[str, str]:
    found = {"train": str(run.train_corpus)}
    return found if run.eval_corpus is None else found | {"judged": str(run.eval_corpus)}


def _refuse_keys(arguments: Sequence[str], config: Path | None) -> None:
    """A card is stored and shown, as is a job's command in Ray's dashboard."""
    texts = {"the command": " ".join(arguments)} | ({} if config is None else {str(config): config.read_text()})
    for where, text in texts.items():
        if match := KEY_IN_URI.search(text):
            raise UserError(
                f"{where} has a key and secret in a URI ({match[1]}://...@...); expected a URI without them, because a "
                "job's command is stored and shown; give them to every node: its role, or variables in the environment"
            )
