"""What each driver of a run does, whether `wm train` or a trial of a sweep: claim, check, lock, describe, and train."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from wm.data.training_data import check_same_games, open_data
from wm.runs.run import Run


def drive(
    run: Run, command: Sequence[str], fit: Callable[[Run], None], lock_timeout_s: float = 0.0,
    lock_owner: str | None = None,
) -> dict | None:  # fmt: skip
    """Bring a run to its end with `fit`, unless it is complete.

    Args:
        run: of a config with absolute paths.
        command: as `sys.argv`, to be stored with the run.
        fit: trains the run, whose lock is held, from its newest intact checkpoint.
        lock_timeout_s: how long an earlier driver, which may be ending, is awaited.
        lock_owner: see `Run.lock`.
    Returns:
        meta.json of the run's newest checkpoint; None if there is none.
    Raises:
        UserError: the run cannot start as configured; and whatever `fit` raises.
    """
    data = open_data(run.config)
    run.claim()
    found, _ = run.checkpoints.newest_intact()
    if found is not None:
        check_same_games(found.meta, data)
        if run.is_complete(found.meta):
            print(f"{run.location} is complete at {found.meta['targets_seen']:,} targets", flush=True)
            return found.meta
    with run.lock(lock_timeout_s, lock_owner):
        run.describe(data, command)
        fit(run)
    newest: dict[str, Any] | None = run.checkpoints.newest_meta()
    return newest
