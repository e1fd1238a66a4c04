"""Checkpoints: a folder that is whole or not there. Weights open with safetensors alone.

model.safetensors   weights
config.json         the run's config
resume.pt           optimiser and each worker's place in its stream
meta.json           encoding version, targets seen, metrics; written last: without it there is no checkpoint
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from datasets.errors import UserError
from wm.config import RunConfig, from_plain, to_plain
from wm.encoding import ENCODING_VERSION
from wm.model import WorldModel, build_model

CHECKPOINT_VERSION = 1
META_FILE = "meta.json"
RESUME_FILE = "resume.pt"


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """An opened checkpoint."""

    path: Path
    config: RunConfig
    meta: dict[str, Any]


def save_checkpoint(
    folder: Path,
    *,
    model: WorldModel,
    config: RunConfig,
    meta: dict[str, Any],
    resume: dict[str, Any],
    keep: int,
) -> Path:
    """Write a checkpoint aside and rename it, then drop the oldest.

    Returns:
        Its folder, named by the targets seen.
    """
    path = folder / f"targets-{meta['targets_seen']:012d}"
    aside = folder / f".{path.name}.{os.getpid()}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    save_file({n: t.detach().cpu().contiguous() for n, t in model.state_dict().items()}, aside / "model.safetensors")
    (aside / "config.json").write_text(json.dumps(to_plain(config), indent=1))
    torch.save(resume, aside / RESUME_FILE)
    meta = {"checkpoint_version": CHECKPOINT_VERSION, "encoding_version": ENCODING_VERSION} | meta
    (aside / META_FILE).write_text(json.dumps(meta, indent=1))
    shutil.rmtree(path, ignore_errors=True)
    aside.rename(path)
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints below a folder, oldest first."""
    return sorted(path for path in folder.glob("targets-*") if (path / META_FILE).exists())


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint, if there is one."""
    found = list_checkpoints(folder)
    return found[-1] if found else None


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a checkpoint, or the newest one of a run.

    Raises:
        UserError: none is there, or it is of another version or encoding.
    """
    if not (path / META_FILE).exists():
        newest = latest_checkpoint(path / "checkpoints") or latest_checkpoint(path)
        if newest is None:
            raise UserError(
                f"{path} is no checkpoint ({META_FILE} is missing); name a run's folder or a checkpoint in it"
            )
        path = newest
    try:
        meta = json.loads((path / META_FILE).read_text())
        versions = (meta["checkpoint_version"], meta["encoding_version"])
        plain = json.loads((path / "config.json").read_text())
    except (OSError, json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise UserError(f"checkpoint {path} is damaged ({type(error).__name__}); use another one") from error
    if versions != (CHECKPOINT_VERSION, ENCODING_VERSION):
        raise UserError(
            f"checkpoint {path} has version {versions[0]} and encoding {versions[1]}, this version reads "
            f"{CHECKPOINT_VERSION} and {ENCODING_VERSION}; train again, or use the version that made it"
        )
    return Checkpoint(path=path, config=from_plain(plain, RunConfig, f"{path}/config.json"), meta=meta)


def load_model(checkpoint: Checkpoint) -> WorldModel:
    """The network with its weights, on the CPU.

    Raises:
        UserError: the weights are damaged or do not fit the config.
    """
    model = build_model(checkpoint.config.model, checkpoint.config.objective.context_frames)
    load_weights(model, checkpoint.path)
    return model


def load_weights(model: WorldModel, path: Path) -> None:
    """Load a checkpoint's weights into a network of the same shape."""
    try:
        model.load_state_dict(load_file(path / "model.safetensors"))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:150]
        raise UserError(f"checkpoint {path} does not hold this model's weights ({reason})") from error


def load_resume(path: Path) -> dict[str, Any]:
    """Optimiser and cursors of a checkpoint.

    Raises:
        UserError: they are missing or damaged.
    """
    try:
        return torch.load(path / RESUME_FILE, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise UserError(
            f"checkpoint {path} cannot be resumed ({RESUME_FILE}: {type(error).__name__}); "
            "delete it to go on from the one before"
        ) from error
