"""The checkpoint whose weights a new run begins with (`init_from`)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from datasets.runtime.errors import UserError, first_difference
from datasets.runtime.uris import KEY, child_location, without_key
from wm.checkpoints.best import best_checkpoint, split_best
from wm.checkpoints.files import CheckpointName, DamagedCheckpointError
from wm.checkpoints.reader import load_weights, open_run
from wm.checkpoints.store import Checkpoint, CheckpointStore
from wm.config.run_config import RunConfig
from wm.config.typed_yaml import to_plain
from wm.model.world_model import WorldModel, build_model


@dataclass(frozen=True, kw_only=True, slots=True)
class InitialWeights:
    """Where the weights of a new run come from: one checkpoint, also if the run that `init_from` names continues."""

    checkpoint: str
    """Folder or URI of the checkpoint, without the key and secret of `init_from`."""
    targets_seen: int
    """Of the checkpoint."""


def find_initial_weights(config: RunConfig) -> InitialWeights | None:
    """The checkpoint that `init_from` names: a run's newest intact one, the best one after `/best`, or itself.

    Raises:
        UserError: there is none, it is damaged, or its network has another shape than the config's.
    """
    if config.init_from is None:
        return None
    location, wants_best = split_best(config.init_from)
    at, store, names = open_run(location)
    if names:
        name = best_checkpoint(store, names) if wants_best else _newest_intact(store)
        at = child_location(at, str(name))
    checkpoint = open_checked(at)
    on_cpu = replace(config.model, scan_backend="torch")
    _load(build_model(on_cpu, config.objective.context_frames), checkpoint, config)
    return InitialWeights(checkpoint=without_key(at), targets_seen=checkpoint.meta["targets_seen"])


def load_initial_weights(model: WorldModel, initial: InitialWeights, config: RunConfig) -> None:
    """Load the weights that were found when the run was new.

    Raises:
        UserError: the checkpoint is missing or damaged.
    """
    location = initial.checkpoint
    if config.init_from is not None and (key := KEY.search(config.init_from)) is not None:
        location = location.replace("://", f"://{key[0]}", 1)
    _load(model, open_checked(location), config)


def open_checked(location: str) -> Checkpoint:
    """Open one checkpoint and compare all of its files with their checksums.

    Raises:
        UserError: it is missing or damaged.
    """
    _, store, _ = open_run(location)
    try:
        return store.open(None, verify=True)
    except DamagedCheckpointError as error:
        raise UserError(f"init_from: checkpoint {store.location} is damaged ({error}); name another one") from error


def _load(model: WorldModel, checkpoint: Checkpoint, config: RunConfig) -> None:
    """Load the weights of a checkpoint.

    Raises:
        UserError: that network has another shape than the config's.
    """
    try:
        load_weights(model, checkpoint.path)
    except UserError as error:
        there, here = (_shape(run) for run in (checkpoint.config, config))
        if there == here:
            raise
        raise UserError(
            f"init_from: the network of {checkpoint.location} has another shape ({first_difference(there, here)}); "
            "use those options, or another checkpoint"
        ) from error


def _shape(config: RunConfig) -> dict[str, Any]:
    model = to_plain(config.model)
    del model["scan_backend"]
    return {"model": model, "objective": {"context_frames": config.objective.context_frames}}


def _newest_intact(store: CheckpointStore) -> CheckpointName:
    found, damaged = store.newest_intact()
    if found is None:
        raise UserError(f"init_from: no checkpoint in {store.location} is intact ({damaged[0]}); name another run")
    name = CheckpointName.parse(found.location.rpartition("/")[2])
    assert name is not None
    return name
