"""The upload of a job: code and configs of the checkout as one zip.

Only files with a listed suffix are uploaded, so that data and `.env` files stay here. Ray can upload the folder
itself, but it excludes instead of includes, and it skips a config that .gitignore names.
"""

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

from cluster.errors import ClusterError

SUFFIXES = frozenset({".py", ".yaml", ".yml", ".toml", ".json", ".html", ".css", ".js", ".md", ".txt", ".sh"})
"""Suffixes of the files that are uploaded."""

DATA_FOLDERS = frozenset({"runs", "corpora", "shared"})
"""Folders skipped at the top of the checkout; packages may have such a name too."""

SKIPPED_FOLDERS = frozenset({"build", "dist", "venv", "node_modules", "__pycache__"})
"""Folders skipped at any depth, as are those whose names start with a dot or end in .egg-info."""

MAX_PACKAGE_BYTES = 50 * 2**20
"""Code and configs have about one megabyte; a package fifty times as large contains data with a listed suffix."""

ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)
"""Timestamp of every file: the same code gives the same bytes, which Ray uploads only once."""


def package(working_dir: Path, config: Path | None, target: Path) -> Path:
    """Write the code and configs of `working_dir` to the zip `target`.

    Args:
        working_dir: the checkout.
        config: path of the run's config, relative to `working_dir`, which is always included; None for a shipped one,
            and for a verb without one.
        target: the zip to write; its suffix must be .zip.
    Returns:
        `target`.
    Raises:
        ClusterError: the files exceed MAX_PACKAGE_BYTES, or the name of one is not valid UTF-8.
    """
    files = sorted({*packed_files(working_dir), *([] if config is None else [config])})
    if undecodable := [str(file) for file in files if not _is_utf8(str(file))]:
        raise ClusterError(
            f"the file name {undecodable[0]!r} in {working_dir} is not valid UTF-8; expected UTF-8, which a zip needs; "
            "rename the file or move it out of the working dir"
        )
    sizes = {file: (working_dir / file).stat().st_size for file in files}
    if sum(sizes.values()) > MAX_PACKAGE_BYTES:
        largest = max(files, key=sizes.__getitem__)
        raise ClusterError(
            f"{working_dir} has {sum(sizes.values()) / 2**20:.0f} MiB of code and configs, the largest file is "
            f"{largest}; expected at most {MAX_PACKAGE_BYTES / 2**20:.0f} MiB; move data to runs/ or elsewhere"
        )
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            entry = zipfile.ZipInfo(file.as_posix(), date_time=ZIP_EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, (working_dir / file).read_bytes())
    return target


def packed_files(working_dir: Path) -> Iterator[Path]:
    """Paths, relative to `working_dir`, of the files to upload; symbolic links to folders are not followed."""
    for folder, subfolders, names in os.walk(working_dir):
        skipped = DATA_FOLDERS if Path(folder) == working_dir else frozenset()
        subfolders[:] = [name for name in subfolders if name not in skipped and not _is_skipped(name)]
        for name in names:
            file = Path(folder, name)
            if not name.startswith(".") and file.suffix in SUFFIXES and file.is_file():
                yield file.relative_to(working_dir)


def _is_skipped(folder: str) -> bool:
    return folder in SKIPPED_FOLDERS or folder.startswith(".") or folder.endswith(".egg-info")


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
