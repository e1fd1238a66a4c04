"""Where training starts: at the beginning, with the weights of another run, or at a checkpoint of its own run.

Rank 0 chooses the checkpoint, and every rank takes that one. If each rank chose by itself, two ranks could take
different checkpoints: one may be damaged or deleted in between.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from datasets.runtime.errors import UserError
from wm.checkpoints.files import CheckpointName, DamagedCheckpointError
from wm.checkpoints.initial import load_initial_weights
from wm.checkpoints.reader import load_resume, load_weights, open_checkpoint
from wm.checkpoints.store import CheckpointStore, NewestIntact
from wm.config.run_identity import changed_options
from wm.data.training_data import TrainingData, check_same_games
from wm.model.world_model import WorldModel
from wm.runs.run import Run
from wm.training import distributed
from wm.training.optimizer import Optimizer

MAX_ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class StartingPoint:
    """What is known of a run before its next update."""

    meta: dict[str, Any] = field(default_factory=dict)
    """meta.json of the checkpoint; empty at the beginning."""
    initial_weights: dict[str, Any] | None
    """Where the run's first weights came from, if it began with another run's."""
    changed: str = ""
    """Options that changed since the checkpoint, for the log."""
    rollout: dict[str, Any] = field(default_factory=dict)
    """State of `wm.objective.rollout_inputs.RolloutInputs`."""


def restore(checkpoint: Path, run: Run, data: TrainingData, model: WorldModel, optimizer: Optimizer) -> StartingPoint:
    """Load weights and optimizer state of a checkpoint of this run.

    Raises:
        UserError: the checkpoint is from other games.
    """
    load_weights(model, checkpoint)
    state = load_resume(checkpoint)
    optimizer.load_state_dict(state.get("optimizer") or state["optimiser"])  # version 0.1: optimiser
    saved = open_checkpoint(checkpoint)
    check_same_games(saved.meta, data)
    return StartingPoint(
        meta=saved.meta,
        initial_weights=saved.meta.get("initial_weights"),
        changed=changed_options(saved.config, run.config),
        rollout=state.get("rollout", {}),
    )


def begin(run: Run, model: WorldModel) -> StartingPoint:
    """Load the weights that `init_from` names, if any; only rank 0 does, the other ranks learn which.

    Raises:
        UserError: on every rank: there is no such checkpoint, or it is of another network.
    """
    initial_weights, error = None, None
    if distributed.rank() == 0:
        try:
            initial = run.initial_weights()
            if initial is not None:
                initial_weights = asdict(initial)
                load_initial_weights(model, initial, run.config)
        except UserError as problem:
            error = str(problem)
    initial_weights, error = distributed.broadcast_object((initial_weights, error))
    if error is not None:
        raise UserError(error)
    return StartingPoint(initial_weights=initial_weights)


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
