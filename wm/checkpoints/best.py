"""The best checkpoint of a run, which `RUN/best` names: by the metric and context of its newest checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import PurePosixPath

from datasets.runtime.errors import UserError
from datasets.runtime.uris import is_remote
from wm.checkpoints.files import CheckpointName, DamagedCheckpointError
from wm.checkpoints.retention import best_of
from wm.checkpoints.store import CheckpointStore

BEST = "best"
"""After a run's location: its best checkpoint."""


def split_best(location: str) -> tuple[str, bool]:
    """The location of a run, and whether its best checkpoint is meant."""
    path, mark, query = location.partition("?") if is_remote(location) else (location, "", "")
    if PurePosixPath(path).name != BEST:
        return location, False
    return path.rstrip("/").removesuffix(BEST).rstrip("/") + mark + query, True


def best_checkpoint(store: CheckpointStore, names: Iterable[CheckpointName]) -> CheckpointName:
    """The best of some checkpoints; damaged ones, and those of other versions, do not count.

    Raises:
        UserError: none was evaluated, or the store cannot be reached.
    """
    metas = {}
    with store.reading():
        for name in names:
            with suppress(DamagedCheckpointError, FileNotFoundError, UserError):
                metas[name] = store.meta(name)
    best = best_of(metas)
    if best is None:
        raise UserError(f"no checkpoint in {store.location} was evaluated; name one of them")
    return best
