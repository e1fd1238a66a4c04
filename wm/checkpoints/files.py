"""The files of a checkpoint, and how a damaged one is told from a sound one.

model.safetensors   weights
config.json         the run's config
resume.pt           optimizer and the run's place in its data; tensors and plain values only, so no code is unpickled
meta.json           versions, targets seen, metrics, bytes and checksum of each other file and of itself; written last:
                    without it there is no checkpoint

Versions: 1 had no checksums. 2 has them, and one place in the data for the whole run instead of one for each worker.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from datasets.runtime.errors import UserError
from wm.config.run_config import RunConfig
from wm.config.typed_yaml import to_plain
from wm.model.encoding import ENCODING_VERSION

CHECKPOINT_VERSION = 2
MODEL_FILE, CONFIG_FILE, RESUME_FILE, META_FILE = "model.safetensors", "config.json", "resume.pt", "meta.json"
SEALED_FILES = (MODEL_FILE, CONFIG_FILE, RESUME_FILE)
"""Files whose bytes and checksum are in meta.json."""
SEAL = "blake2b"
NAME = re.compile(r"targets-(\d{12,})(?:-(\d+))?")


class DamagedCheckpointError(Exception):
    """A checkpoint is not what was written; the message is the reason."""


class Name(NamedTuple):
    """Name of a checkpoint; names sort by age."""

    targets_seen: int
    revision: int = 0
    """Counts checkpoints of the same number of targets: a name is never written twice, so none is ever in between."""

    def __str__(self) -> str:
        return f"targets-{self.targets_seen:012d}" + (f"-{self.revision}" if self.revision else "")


def parse_name(text: str) -> Name | None:
    """The name that a folder's name stands for, if it is a checkpoint's."""
    match = NAME.fullmatch(text)
    return Name(int(match[1]), int(match[2] or 0)) if match else None


def sealed_files(
    model_state: dict[str, Tensor], config: RunConfig, meta: dict[str, Any], resume: dict[str, Any]
) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file, in the order in which they are to be written.

    A file is in memory whole (the largest takes 8 bytes a parameter): torch.save may end the process when what it
    writes to fails under it.
    """
    facts: dict[str, dict[str, Any]] = {}
    for name in SEALED_FILES:
        if name == MODEL_FILE:
            content = safetensors.torch.save(model_state)
        elif name == CONFIG_FILE:
            content = json.dumps(to_plain(config), indent=1).encode()
        else:
            buffer = io.BytesIO()
            torch.save(resume, buffer)
            content = buffer.getvalue()
        facts[name] = {"bytes": len(content), SEAL: _digest(content)}
        yield name, content
    versions = {"checkpoint_version": CHECKPOINT_VERSION, "encoding_version": ENCODING_VERSION}
    sealed = versions | meta | {"files": facts}
    yield META_FILE, json.dumps(sealed | {SEAL: _digest_of_meta(sealed)}, indent=1).encode()


def read_meta(content: bytes, where: str) -> dict[str, Any]:
    """What meta.json says.

    Args:
        where: names the checkpoint in messages.
    Raises:
        DamagedCheckpointError: it is not what was written.
        UserError: it is of another version or encoding.
    """
    try:
        meta = json.loads(content)
        versions = (meta["checkpoint_version"], meta["encoding_version"])
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpointError(f"{META_FILE}: {type(error).__name__}") from error
    seal = meta.pop(SEAL, None)
    is_as_written = seal == _digest_of_meta(meta)
    # Version 1 had no seal; later ones keep it as it is here, so that no flipped bit passes for another version.
    if versions != (CHECKPOINT_VERSION, ENCODING_VERSION) and (is_as_written or seal is None):
        raise UserError(
            f"checkpoint {where} has version {versions[0]} and encoding {versions[1]}, this version reads "
            f"{CHECKPOINT_VERSION} and {ENCODING_VERSION}; train again, or use the version that made it"
        )
    if not is_as_written:
        raise DamagedCheckpointError(f"{META_FILE}: another checksum than when it was written")
    return meta


def check_content(name: str, content: bytes, meta: dict[str, Any]) -> None:
    """Compare a file with what meta.json says of it.

    Raises:
        DamagedCheckpointError: it is not what was written.
    """
    facts = meta["files"][name]
    if len(content) != facts["bytes"]:
        raise DamagedCheckpointError(f"{name}: {len(content):,} bytes, expected {facts['bytes']:,}")
    if _digest(content) != facts[SEAL]:
        raise DamagedCheckpointError(f"{name}: another checksum than when it was written")


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _digest_of_meta(meta: dict[str, Any]) -> str:
    return _digest(json.dumps(meta, sort_keys=True).encode())
