"""Where a local Ray keeps its sockets and logs. Imports no Ray."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from datasets.runtime.errors import UserError

MAX_TEMP_DIR_CHARS = 107 - len("/session_2026-01-31_23-59-59_123456_1234567/sockets/plasma_store")
"""Linux allows 107 characters in the path of a Unix socket, and Ray's sockets lie in its session's folder."""

_session_logs: list[Path] = []


def ray_temp_dir() -> str | None:
    """Ray's folder for sockets and logs: None for Ray's default, or a short one where TMPDIR is too long for sockets.

    Raises:
        UserError: RAY_TMPDIR is too long, or no short folder can be made.
    """
    named = os.environ.get("RAY_TMPDIR")
    default = named or os.environ.get("TMPDIR") or "/tmp"
    if len(os.fsencode(os.path.join(default, "ray"))) <= MAX_TEMP_DIR_CHARS:
        return None
    if named:
        raise UserError(
            f"RAY_TMPDIR={named} has {len(os.fsencode(named))} characters; Ray's sockets need a path of at most "
            f"{MAX_TEMP_DIR_CHARS - len('/ray')}; set RAY_TMPDIR to a shorter one, or unset it"
        )
    return str(_private_folder() / "ray")  # a subfolder, because Ray makes its folder writable for everyone


def _private_folder() -> Path:
    """`/tmp/wm-UID`, which only this user can enter, or a new folder if that name is taken."""
    folder = Path(f"/tmp/wm-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        facts = folder.lstat()
        is_private = stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid() and not facts.st_mode & 0o077
        return folder if is_private else Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise UserError(
            f"TMPDIR={os.environ.get('TMPDIR')} is too long for Ray's sockets and {folder} cannot be made "
            f"({error.strerror}); set RAY_TMPDIR to a writable folder of at most {MAX_TEMP_DIR_CHARS - 4} characters"
        ) from error


def set_ray_logs(session: str | Path) -> None:
    """Remember the session folder of the Ray that this process started."""
    _session_logs[:] = [Path(session) / "logs"]


def ray_logs() -> Path | None:
    """Folder of the logs of the Ray that this process started, or None."""
    return _session_logs[0] if _session_logs else None
