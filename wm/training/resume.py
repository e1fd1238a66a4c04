"""Agreement on the checkpoint to resume from: rank 0 chooses, and every rank takes that one.

If each rank chose by itself, two ranks could take different checkpoints: one may be damaged or deleted in between.
"""

from __future__ import annotations

from datasets.runtime.errors import UserError
from wm.checkpoints.files import CheckpointName, DamagedCheckpointError
from wm.checkpoints.store import CheckpointStore, NewestIntact
from wm.training import distributed

MAX_ATTEMPTS = 3


def agreed_checkpoint(store: CheckpointStore) -> NewestIntact:
    """The newest intact checkpoint of a run, the same on every rank; every rank must call.

    Raises:
        UserError: on every rank: the store cannot be reached, or a rank cannot read what another one can.
    """
    problem = ""
    for _ in range(MAX_ATTEMPTS):
        newest, error = NewestIntact(None, []), None
        if distributed.rank() == 0:
            try:
                newest = store.newest_intact()
            except UserError as refusal:
                error = str(refusal)
        found, damaged = newest
        name = None if found is None else CheckpointName.parse(found.location.rpartition("/")[2])
        name, damaged, error = distributed.broadcast_object((name, damaged, error))
        if error is not None:
            raise UserError(error)
        if name is None:
            return NewestIntact(None, damaged)
        if distributed.rank() != 0:
            try:
                found = store.open(name)
            except (UserError, DamagedCheckpointError) as refusal:
                error = f"{store.location_of(name)}: {refusal}"
        errors = [one for one in distributed.all_gather_object(error) if one is not None]
        if not errors:
            return NewestIntact(found, damaged)
        problem = errors[0]
    raise UserError(f"not every worker can read the run's newest checkpoint: {problem}")
