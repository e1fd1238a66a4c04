"""Opening checkpoints: their stores, their weights and their training state. The weights need safetensors alone."""

from __future__ import annotations

import io
import pickle
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from datasets.runtime.errors import UserError
from datasets.runtime.uris import child_location, is_remote, without_credentials
from wm.checkpoints.best import best_checkpoint, split_best
from wm.checkpoints.files import (
    META_FILE,
    MODEL_FILE,
    RESUME_FILE,
    CheckpointName,
    DamagedCheckpointError,
    check_content,
    read_meta,
)
from wm.checkpoints.local_store import LocalStore
from wm.checkpoints.remote_store import RemoteStore
from wm.checkpoints.store import RUN_SUBFOLDER, Checkpoint, CheckpointStore, reason_of
from wm.model.world_model import WorldModel, build_model


def open_store(location: str | Path, retry_s: float = 0.0) -> CheckpointStore:
    """The store at a path or URI.

    Args:
        retry_s: how long a request to a server that cannot be reached is tried again.
    Raises:
        UserError: the URI's scheme is unknown, or its server cannot be reached.
    """
    if not is_remote(str(location)):
        return LocalStore(Path(location))
    try:
        return RemoteStore(str(location), retry_s)
    except OSError as error:
        raise UserError(f"{without_credentials(str(location))} cannot be reached ({reason_of(error)})") from error


def open_checkpoint(location: str | Path) -> Checkpoint:
    """Open a checkpoint, or the newest one of a run, or the best one (`RUN/best`).

    Args:
        location: folder or URI of a checkpoint, of a run, or of a run's checkpoints.
    Raises:
        UserError: there is no checkpoint, or it is damaged, or it has another version or encoding.
    """
    run, wants_best = split_best(str(location))
    _, store, names = open_run(run)
    name = None
    if names:
        name = best_checkpoint(store, names) if wants_best else names[-1]
    try:
        return store.open(name)
    except DamagedCheckpointError as error:
        raise UserError(f"checkpoint {store.location_of(name)} is damaged ({error}); use another one") from error


def open_run(location: str | Path) -> tuple[str, CheckpointStore, list[CheckpointName]]:
    """The checkpoints at a location.

    Args:
        location: folder or URI of a run, of a run's checkpoints, or of one checkpoint.
    Returns:
        Location of the checkpoints, their store, and their names, oldest first; no names for a single checkpoint.
    Raises:
        UserError: there is none.
    """
    store = open_store(location)
    if _is_checkpoint(store):
        return str(location), store, []
    below = child_location(location, RUN_SUBFOLDER)
    with store.reading():
        for place, candidate in ((below, open_store(below)), (str(location), store)):
            if names := candidate.names():
                return place, candidate, names
    raise UserError(
        f"{store.location} is not a checkpoint ({META_FILE} is missing); name a run's folder or a checkpoint"
    )


def load_model(checkpoint: Checkpoint) -> WorldModel:
    """The network with its weights, on the CPU. Its scan runs in plain torch, wherever it was trained.

    Raises:
        UserError: the weights are damaged or do not fit the config.
    """
    config = checkpoint.config
    model = build_model(replace(config.model, scan_backend="torch"), config.objective.context_frames)
    load_weights(model, checkpoint.path)
    return model


def load_weights(model: WorldModel, path: Path) -> None:
    """Load a checkpoint's weights into a network of the same shape.

    Raises:
        UserError: the weights are missing, damaged, or of another shape.
    """
    try:
        model.load_state_dict(safetensors.torch.load(_verified_content(path, MODEL_FILE)))
    except (OSError, DamagedCheckpointError, SafetensorError, RuntimeError) as error:
        raise UserError(f"checkpoint {path} does not hold this model's weights ({reason_of(error)})") from error


def load_resume(path: Path) -> dict[str, Any]:
    """The training state apart from the weights: the optimizer's.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        return torch.load(io.BytesIO(_verified_content(path, RESUME_FILE)), map_location="cpu", weights_only=True)
    except (OSError, EOFError, DamagedCheckpointError, RuntimeError, pickle.UnpicklingError) as error:
        raise UserError(
            f"checkpoint {path} cannot be resumed ({reason_of(error)}); delete it to resume from the one before"
        ) from error


def _is_checkpoint(store: CheckpointStore) -> bool:
    with store.reading(), suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return bool(store.read(META_FILE))
    return False


def _verified_content(path: Path, name: str) -> bytes:
    """A file of a checkpoint on this machine.

    Raises:
        DamagedCheckpointError: the content differs from what was written.
        OSError: the file cannot be read.
    """
    content = (path / name).read_bytes()
    check_content(name, content, read_meta((path / META_FILE).read_bytes(), str(path)))
    return content
