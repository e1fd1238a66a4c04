"""The files of a checkpoint and their checksums.

model.safetensors   weights
config.json         the run's config
resume.pt           optimizer state; tensors and plain values only, so loading it runs no pickled code
meta.json           versions, targets seen, metrics, position in the data, size and checksum of every other file and of
                    itself; written last: a folder without it is not a checkpoint

Versions of the format: 1 had no checksums. 2 has them, and one position in the data for the whole run instead of one
per worker.
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
from wm.config.model_config import ENCODINGS
from wm.config.run_config import RunConfig
from wm.config.run_identity import to_stored

CHECKPOINT_VERSION = 2
MODEL_FILE, CONFIG_FILE, RESUME_FILE, META_FILE = "model.safetensors", "config.json", "resume.pt", "meta.json"
CHECKSUMMED_FILES = (MODEL_FILE, CONFIG_FILE, RESUME_FILE)
"""Files whose size and checksum are in meta.json."""
CHECKSUM = "blake2b"
NAME = re.compile(r"targets-(\d{12,})(?:-(\d+))?")


class DamagedCheckpointError(Exception):
    """A checkpoint's content differs from what was written; the message is the reason."""


class CheckpointName(NamedTuple):
    """Name of a checkpoint; names sort by age."""

    targets_seen: int
    revision: int = 0
    """Counts checkpoints at the same number of targets. No name is written twice, so that no kill can damage one."""

    def __str__(self) -> str:
        return f"targets-{self.targets_seen:012d}" + (f"-{self.revision}" if self.revision else "")

    @classmethod
    def parse(cls, text: str) -> CheckpointName | None:
        """The name in a folder's name; None if the folder is not a checkpoint's."""
        match = NAME.fullmatch(text)
        return cls(int(match[1]), int(match[2] or 0)) if match else None


def serialize(
    model_state: dict[str, Tensor], config: RunConfig, meta: dict[str, Any], resume: dict[str, Any]
) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file, in the order in which they must be written.

    Each file is complete in memory (the largest takes 8 bytes a parameter), because torch.save may abort the process
    when the file that it writes to fails.
    """
    facts: dict[str, dict[str, Any]] = {}
    for name in CHECKSUMMED_FILES:
        if name == MODEL_FILE:
            content = safetensors.torch.save(model_state)
        elif name == CONFIG_FILE:
            content = json.dumps(to_stored(config), indent=1).encode()
        else:
            buffer = io.BytesIO()
            torch.save(resume, buffer)
            content = buffer.getvalue()
        facts[name] = {"bytes": len(content), CHECKSUM: _checksum(content)}
        yield name, content
    versions = {"checkpoint_version": CHECKPOINT_VERSION, "encoding_version": config.model.encoding}
    meta = versions | meta | {"files": facts}
    yield META_FILE, json.dumps(meta | {CHECKSUM: _checksum_of_meta(meta)}, indent=1).encode()


def read_meta(content: bytes, location: str) -> dict[str, Any]:
    """Parse meta.json.

    Args:
        location: names the checkpoint in messages.
    Raises:
        DamagedCheckpointError: the content differs from what was written.
        UserError: the checkpoint has another version or encoding.
    """
    try:
        meta = json.loads(content)
        versions = (meta["checkpoint_version"], meta["encoding_version"])
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpointError(f"{META_FILE}: {type(error).__name__}") from error
    checksum = meta.pop(CHECKSUM, None)
    is_intact = checksum == _checksum_of_meta(meta)
    # A flipped bit in a version number must count as damage. Version 1 had no checksum.
    is_readable = versions[0] == CHECKPOINT_VERSION and versions[1] in ENCODINGS
    if not is_readable and (is_intact or checksum is None):
        raise UserError(
            f"checkpoint {location} has version {versions[0]} and encoding {versions[1]}, this version reads "
            f"{CHECKPOINT_VERSION} and {' or '.join(map(str, ENCODINGS))}; train again, or use the version that "
            "wrote it"
        )
    if not is_intact:
        raise DamagedCheckpointError(f"{META_FILE}: checksum mismatch")
    return meta


def check_content(name: str, content: bytes, meta: dict[str, Any]) -> None:
    """Compare a file with its size and checksum in meta.json.

    Raises:
        DamagedCheckpointError: the content differs from what was written.
    """
    facts = meta["files"][name]
    if len(content) != facts["bytes"]:
        raise DamagedCheckpointError(f"{name}: {len(content):,} bytes, expected {facts['bytes']:,}")
    if _checksum(content) != facts[CHECKSUM]:
        raise DamagedCheckpointError(f"{name}: checksum mismatch")


def _checksum(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _checksum_of_meta(meta: dict[str, Any]) -> str:
    return _checksum(json.dumps(meta, sort_keys=True).encode())
