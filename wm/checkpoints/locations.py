"""Locations of checkpoints: local paths and URIs."""

from __future__ import annotations

from pathlib import Path

from datasets.runtime.uris import URI, is_remote

RUN_SUBFOLDER = "checkpoints"
"""Checkpoints of a run, within the run's folder."""


def without_credentials(location: str | Path) -> str:
    """A location for messages: a URI without credentials and options."""
    match = URI.fullmatch(str(location))
    if match is None:
        return str(location)
    return f"{match['scheme']}://{match['authority'].rpartition('@')[2]}{match['path']}"


def joined(location: str | Path, name: str) -> str | Path:
    """The location of something within a folder."""
    if not is_remote(str(location)):
        return Path(location) / name
    path, mark, options = str(location).partition("?")
    return f"{path.rstrip('/')}/{name}{mark}{options}"
