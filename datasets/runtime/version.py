"""The version of this tool, as stored in corpora and checkpoints."""

from __future__ import annotations

from functools import cache
from importlib import metadata

DISTRIBUTION = "melee-world-model"
UNKNOWN_VERSION = "unknown"
"""Version of a checkout that is not installed as a package."""


@cache
def tool_version() -> str:
    """Version of the installed package, or UNKNOWN_VERSION."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return UNKNOWN_VERSION
