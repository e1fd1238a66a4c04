"""The cluster's storage, where jobs, runs and profiles are kept: the place that WM_STORAGE names."""

from __future__ import annotations

import os
from pathlib import Path

from datasets.runtime.errors import UserError
from datasets.runtime.uris import is_remote, mistake_in

STORAGE_VARIABLE = "WM_STORAGE"
"""s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or an absolute folder that every node sees."""
JOBS, RUNS, PROFILES = "jobs", "runs", "profiles"
"""Folders in the storage."""


def storage_location() -> str | None:
    """WM_STORAGE, or None if it is unset.

    Raises:
        UserError: it is neither an absolute path nor a URI of object storage.
    """
    location = os.environ.get(STORAGE_VARIABLE, "").strip()
    if not location:
        return None
    mistake = mistake_in(location)
    if mistake is None and not is_remote(location) and not Path(location).is_absolute():
        mistake = f"found {location}; expected s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or an absolute path"
    if mistake:
        raise UserError(f"{STORAGE_VARIABLE}: {mistake}")
    return location
