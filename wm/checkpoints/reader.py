"""Checkpoints: opened whole, or refused with a reason. Weights open with safetensors alone.

The files stand in `wm.checkpoints.files`, where they may lie in `wm.checkpoints.stores`.
"""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError

from datasets.runtime.errors import UserError
from wm.checkpoints.download import downloaded
from wm.checkpoints.files import (
    CHECKPOINT_VERSION,
    CONFIG_FILE,
    META_FILE,
    MODEL_FILE,
    RESUME_FILE,
    DamagedCheckpointError,
    Name,
    check_content,
    read_meta,
)
from wm.checkpoints.integrity import sound_meta
from wm.checkpoints.retention import Metric, best_of
from wm.checkpoints.stores import LocalPlace, Place, below, place_at, reason_of
from wm.checkpoints.writer import CheckpointWriter, Snapshot
from wm.config.run_config import RunConfig
from wm.config.typed_yaml import from_stored
from wm.model.world_model import WorldModel, build_model

__all__ = [
    "CHECKPOINT_VERSION",
    "META_FILE",
    "Checkpoint",
    "Found",
    "best_checkpoint",
    "latest_checkpoint",
    "list_checkpoints",
    "load_model",
    "load_resume",
    "load_weights",
    "newest_meta",
    "newest_sound",
    "open_checkpoint",
    "save_checkpoint",
]

IN_A_RUN = "checkpoints"
"""Where a run's folder has its checkpoints."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """An opened checkpoint."""

    path: Path
    """Its folder on this machine."""
    location: str
    """Where it was found: the same, or a URI without its credentials."""
    config: RunConfig
    meta: dict[str, Any]


class Found(NamedTuple):
    """What `newest_sound` finds."""

    checkpoint: Checkpoint | None
    damaged: list[str]
    """What is wrong with newer ones, a line for each."""


def newest_sound(place: str | Path, into: Path | None = None) -> Found:
    """The newest checkpoint of a place whose files are all what was written.

    Args:
        place: folder or URI of checkpoints.
        into: folder that takes what comes from a URI, of this process alone; by default one that goes with the process.
    Returns:
        The checkpoint, None if there is none; and newer ones that were passed over.
    Raises:
        UserError: the place cannot be reached, or the newest is of another version, encoding or kind of config.
    """
    there = place_at(place)
    damaged = []
    for name in reversed(_names(there)):
        try:
            return Found(_open(there, name, into, every_file=True), damaged)
        except DamagedCheckpointError as error:
            damaged.append(f"checkpoint {there.shown}/{name} is damaged ({error})")
    return Found(None, damaged)


def newest_meta(place: str | Path) -> dict[str, Any] | None:
    """What the newest checkpoint's meta.json says, without the other files; None if there is none that can be read.

    Raises:
        UserError: the place cannot be reached, or the newest is of another version or encoding.
    """
    there = place_at(place)
    return next((meta for _, meta in _metas(there, reversed(_names(there)))), None)


def best_checkpoint(place: str | Path, metric: Metric) -> str | Path | None:
    """The location of the best checkpoint by a metric of its own weights; None where none was judged.

    Raises:
        UserError: the place cannot be reached, or a checkpoint in it is of another version or encoding.
    """
    there = place_at(place)
    best = best_of(dict(_metas(there, _names(there))), metric)
    return None if best is None else below(place, str(best))


def list_checkpoints(folder: Path) -> list[Path]:
    """Committed checkpoints in a folder on this machine, oldest first; damaged ones are among them."""
    return [folder / str(name) for name in LocalPlace(folder).names()]


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest committed checkpoint in a folder on this machine, if there is one."""
    found = list_checkpoints(folder)
    return found[-1] if found else None


def open_checkpoint(location: str | Path, into: Path | None = None) -> Checkpoint:
    """Open a checkpoint, or the newest one of a run.

    Args:
        location: folder or URI of a checkpoint, of a run, or of a run's checkpoints.
        into: folder that takes what comes from a URI; by default one that goes with the process.
    Raises:
        UserError: none is there, it is damaged, or it is of another version or encoding.
    """
    there = place_at(location)
    name = None
    if not _has_meta(there):
        candidates = (place_at(below(location, IN_A_RUN)), there)
        found = next(((place, names) for place in candidates if (names := _names(place))), None)
        if found is None:
            raise UserError(
                f"{there.shown} is no checkpoint ({META_FILE} is missing); name a run's folder or a checkpoint in it"
            )
        there, name = found[0], found[1][-1]
    try:
        return _open(there, name, into, every_file=False)
    except DamagedCheckpointError as error:
        path = there.shown if name is None else f"{there.shown}/{name}"
        raise UserError(f"checkpoint {path} is damaged ({error}); use another one") from error


def load_model(checkpoint: Checkpoint) -> WorldModel:
    """The network with its weights, on the CPU.

    Raises:
        UserError: the weights are damaged or do not fit the config.
    """
    model = build_model(checkpoint.config.model, checkpoint.config.objective.context_frames)
    load_weights(model, checkpoint.path)
    return model


def load_weights(model: WorldModel, path: Path) -> None:
    """Load a checkpoint's weights into a network of the same shape.

    Raises:
        UserError: they are missing, damaged, or of another shape.
    """
    try:
        model.load_state_dict(safetensors.torch.load(_content(path, MODEL_FILE)))
    except (OSError, DamagedCheckpointError, SafetensorError, RuntimeError) as error:
        raise UserError(f"checkpoint {path} does not hold this model's weights ({reason_of(error)})") from error


def load_resume(path: Path) -> dict[str, Any]:
    """What a run goes on from: optimizer, place in the data.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        return torch.load(io.BytesIO(_content(path, RESUME_FILE)), map_location="cpu", weights_only=True)
    except (OSError, EOFError, DamagedCheckpointError, RuntimeError, pickle.UnpicklingError) as error:
        raise UserError(
            f"checkpoint {path} cannot be resumed ({reason_of(error)}); delete it to go on from the one before"
        ) from error


def save_checkpoint(
    folder: Path,
    *,
    model: WorldModel,
    config: RunConfig,
    meta: dict[str, Any],
    resume: dict[str, Any],
    keep: int,
) -> Path:
    """Write one checkpoint and wait for it; a run has a `CheckpointWriter`.

    Returns:
        Its folder, named by the targets seen.
    Raises:
        UserError: it could not be written.
    """
    snapshot = Snapshot(model_state=model.state_dict(), config=config, meta=meta, resume=resume)
    with CheckpointWriter(folder, keep, print) as writer:
        writer.save(snapshot, wait=True)
        assert writer.written is not None
        return folder / writer.written.name


def _open(there: Place, name: Name | None, into: Path | None, *, every_file: bool) -> Checkpoint:
    """Open a checkpoint; what is remote comes to this machine first, and is compared with its checksums on the way.

    Args:
        every_file: compare all files of a local one, too; else weights and resume.pt are compared when they are loaded.
    Raises:
        DamagedCheckpointError: a file is not what was written.
        UserError: it is of another version, encoding or kind of config, or cannot be reached.
    """
    location = there.shown if name is None else f"{there.shown}/{name}"
    try:
        if not isinstance(there, LocalPlace):
            path = downloaded(there, name, into)
        else:
            path = there.root if name is None else there.root / str(name)
            if every_file:
                sound_meta(there, name)
        meta = read_meta((path / META_FILE).read_bytes(), location)
        content = (path / CONFIG_FILE).read_bytes()
    except OSError as error:
        if isinstance(there, LocalPlace):
            raise DamagedCheckpointError(reason_of(error)) from error
        raise UserError(f"{location} cannot be read ({reason_of(error)}); see that it can be reached") from error
    check_content(CONFIG_FILE, content, meta)
    config = from_stored(json.loads(content), RunConfig, f"{location}/{CONFIG_FILE}")
    return Checkpoint(path=path, location=location, config=config, meta=meta)


def _names(there: Place) -> list[Name]:
    try:
        return there.names()
    except OSError as error:
        raise UserError(f"{there.shown} cannot be read ({reason_of(error)}); see that it can be reached") from error


def _has_meta(there: Place) -> bool:
    try:
        return bool(there.read(META_FILE))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return False
    except OSError as error:
        raise UserError(f"{there.shown} cannot be read ({reason_of(error)}); see that it can be reached") from error


def _metas(there: Place, names: Iterator[Name] | list[Name]) -> Iterator[tuple[Name, dict[str, Any]]]:
    """What can be read of some checkpoints' meta.json."""
    for name in names:
        try:
            yield name, read_meta(there.read(f"{name}/{META_FILE}"), f"{there.shown}/{name}")
        except (DamagedCheckpointError, FileNotFoundError):  # deleted by its run meanwhile, or `newest_sound` tells
            continue
        except OSError as error:
            raise UserError(f"{there.shown} cannot be read ({reason_of(error)}); see that it can be reached") from error


def _content(path: Path, name: str) -> bytes:
    """A file of a checkpoint on this machine, compared with its checksum.

    Raises:
        DamagedCheckpointError: it is not what was written.
        OSError: it cannot be read.
    """
    content = (path / name).read_bytes()
    check_content(name, content, read_meta((path / META_FILE).read_bytes(), str(path)))
    return content
