"""The checkout as one zip: code and configs only.

What is not listed here does not travel, so neither data nor a forgotten `.env` or key file can. Ray could
pack the folder itself, but by exclusion; and it would leave out a config that .gitignore names.
"""

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

from cluster.errors import ClusterError

SUFFIXES = frozenset({".py", ".yaml", ".yml", ".toml", ".json", ".html", ".css", ".js", ".md", ".txt", ".sh"})
"""Endings of the files that travel."""

SKIPPED_FOLDERS = frozenset({"runs", "corpora", "shared", "build", "dist", "venv", "node_modules", "__pycache__"})
"""Folders left out at any depth, beside all whose names start with a dot or end in .egg-info."""

MAX_PACKAGE_BYTES = 50 * 2**20
"""Code and configs take about one megabyte; what is fifty times that is data under a listed ending."""

ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)
"""One time for all files: the same code is the same zip, which Ray then uploads only once."""


def package(working_dir: Path, config: Path, target: Path) -> Path:
    """Write the code and configs of `working_dir` to the zip `target`.

    Args:
        working_dir: the checkout.
        config: path of the run's config, relative to `working_dir`; packed wherever it lies.
        target: the zip to write; the ending must be .zip.
    Returns:
        `target`.
    Raises:
        ClusterError: the files are larger than MAX_PACKAGE_BYTES together.
    """
    files = sorted({*packed_files(working_dir), config})
    sizes = {file: (working_dir / file).stat().st_size for file in files}
    if sum(sizes.values()) > MAX_PACKAGE_BYTES:
        largest = max(files, key=sizes.__getitem__)
        raise ClusterError(
            f"{working_dir} holds {sum(sizes.values()) / 2**20:.0f} MiB of code and configs, the largest "
            f"{largest}; expected at most {MAX_PACKAGE_BYTES / 2**20:.0f}; move data to runs/ or out of it"
        )
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            entry = zipfile.ZipInfo(file.as_posix(), date_time=ZIP_EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, (working_dir / file).read_bytes())
    return target


def packed_files(working_dir: Path) -> Iterator[Path]:
    """Paths, relative to `working_dir`, of the files that travel; linked folders are not entered."""
    for folder, subfolders, names in os.walk(working_dir):
        subfolders[:] = [name for name in subfolders if not _is_skipped(name)]
        for name in names:
            file = Path(folder, name)
            if not name.startswith(".") and file.suffix in SUFFIXES and file.is_file():
                yield file.relative_to(working_dir)


def _is_skipped(folder: str) -> bool:
    return folder in SKIPPED_FOLDERS or folder.startswith(".") or folder.endswith(".egg-info")
