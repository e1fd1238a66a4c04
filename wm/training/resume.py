"""Where a run goes on: rank 0 decides which checkpoint, and every rank takes that one.

Each rank looking for itself could find another one: a checkpoint may be damaged, or vanish, between two looks.
"""

from __future__ import annotations

from datasets.runtime.errors import UserError
from wm.checkpoints.reader import Checkpoint, newest_sound, open_checkpoint
from wm.checkpoints.stores import below
from wm.training import distributed

LOOKS = 3


def agreed_checkpoint(place: str) -> tuple[Checkpoint | None, list[str]]:
    """The newest sound checkpoint of a place, the same on every rank; every rank must call.

    Args:
        place: folder or URI of checkpoints.
    Returns:
        The checkpoint, opened on this rank's machine, None if there is none; and what is wrong with newer ones.
    Raises:
        UserError: on every rank: the place cannot be reached, or a rank cannot read what another one can.
    """
    problem = ""
    for _ in range(LOOKS):
        found, damaged, error = _look(place) if distributed.rank() == 0 else (None, [], None)
        name = None if found is None else found.location.rpartition("/")[2]
        name, damaged, error = distributed.from_all_ranks((name, damaged, error))[0]
        if error is not None:
            raise UserError(error)
        if name is None:
            return None, damaged
        if distributed.rank() != 0:
            found, error = _open(str(below(place, name)))
        errors = [one for one in distributed.from_all_ranks(error) if one is not None]
        if not errors:
            return found, damaged
        problem = errors[0]
    raise UserError(f"not every worker can read the run's newest checkpoint: {problem}")


def _look(place: str) -> tuple[Checkpoint | None, list[str], str | None]:
    try:
        found, damaged = newest_sound(place)
    except UserError as error:
        return None, [], str(error)
    return found, damaged, None


def _open(location: str) -> tuple[Checkpoint | None, str | None]:
    try:
        return open_checkpoint(location), None
    except UserError as error:
        return None, str(error)
