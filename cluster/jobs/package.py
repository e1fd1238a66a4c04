"""The upload of a job: exactly the files that git tracks, with their present contents, and the config, as one zip.

Ray can upload a folder itself, but it excludes instead of includes: what .gitignore does not name, such as `.env`, goes
to the cluster.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.jobs.secret_files import refuse_secrets
from datasets.runtime.errors import UserError, one_line

MAX_PACKAGE_BYTES = 50 * 2**20
"""Code and configs have a few megabytes; a package many times as large contains data."""

ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)
"""Timestamp of every file: the same code gives the same bytes, which Ray uploads only once."""
GIT_TIMEOUT_S = 60.0
CODE_SUFFIXES = frozenset({".py", ".yaml", ".yml"})
"""Untracked files of these kinds are named, because a job may lack them."""
NUM_NAMED = 3


@dataclass(frozen=True, slots=True)
class Upload:
    """What is uploaded."""

    files: dict[str, Path]
    """Paths in the zip, with slashes -> files here."""
    left_out: tuple[str, ...] = ()
    """What may be missed there: each a line for the user."""


def tracked_upload(checkout: Path) -> Upload:
    """The files of a folder that git tracks, also in its submodules.

    A link to a tracked file or folder counts as a copy of it; other links are left out.

    Raises:
        UserError: the folder is not in a git checkout, or git is missing or fails.
    """
    root = checkout.resolve()
    names = dict.fromkeys(_git_files(root, "--cached", "--recurse-submodules"))
    regular = {name: root / name for name in names if (root / name).is_file() and not (root / name).is_symlink()}
    files, left_out = dict(regular), []
    for name in names:
        path = root / name
        if path.is_symlink():
            copies = dict(_copies(root, name, regular))
            files |= copies
            if not copies:
                left_out.append(f"{name} is a link to what git does not track, and is not uploaded")
        elif path.is_dir():
            left_out.append(f"the submodule {name} is not checked out here, and not uploaded")
    untracked = [name for name in _git_files(root, "--others", "--exclude-standard") if _is_code(name)]
    if untracked:
        more = "" if len(untracked) <= NUM_NAMED else f" and {len(untracked) - NUM_NAMED} more"
        left_out.append(f"git does not track {', '.join(untracked[:NUM_NAMED])}{more}: not uploaded")
    return Upload(dict(sorted(files.items())), tuple(left_out))


def package(
    upload: Upload, target: Path, more: Mapping[str, bytes] | None = None, anyway: Collection[str] = ()
) -> Path:
    """Write an upload to the zip `target`, after a look for secrets.

    Args:
        target: the zip to write; its suffix must be .zip.
        more: paths and contents of further files.
        anyway: paths that are uploaded though they look like secrets.
    Returns:
        `target`.
    Raises:
        UserError: a file looks like a secret, the files exceed MAX_PACKAGE_BYTES, or the name of one is not UTF-8.
    """
    if undecodable := [name for name in upload.files if not _is_utf8(name)]:
        raise UserError(
            f"the file name {undecodable[0]!r} is not valid UTF-8; expected UTF-8, which a zip needs; rename the file"
        )
    sizes = {name: file.stat().st_size for name, file in upload.files.items()}
    if sum(sizes.values()) > MAX_PACKAGE_BYTES:
        raise UserError(
            f"the files to upload have {sum(sizes.values()) / 2**20:.0f} MiB, the largest file is "
            f"{max(sizes, key=sizes.__getitem__)}; expected at most {MAX_PACKAGE_BYTES / 2**20:.0f} MiB of code and "
            "configs; take data out of git"
        )
    refuse_secrets(upload.files, anyway)
    _refuse_doubled(upload.files, more or {})
    return _write_zip({**upload.files, **(more or {})}, target)


def with_files(archive: Path, target: Path, more: Mapping[str, bytes]) -> Path:
    """Write a zip with the files of another one, whatever has become of them here meanwhile, and some more.

    Raises:
        UserError: the other one has a file of the same name.
    """
    with zipfile.ZipFile(archive) as packed:
        _refuse_doubled(packed.namelist(), more)
        shutil.copyfile(archive, target)
    with zipfile.ZipFile(target, "a", zipfile.ZIP_DEFLATED) as extended:
        for name, content in sorted(more.items()):
            _add(extended, name, content)
    return target


def zip_folder(folder: Path, target: Path) -> Path:
    """Write all files of a folder, except compiled Python, to the zip `target`, and return it."""
    paths = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return _write_zip({path.relative_to(folder).as_posix(): path for path in paths}, target)


def _write_zip(files: Mapping[str, Path | bytes], target: Path) -> Path:
    """Write files, by their paths in the zip; the same files give the same bytes."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, file in sorted(files.items()):
            _add(archive, name, file)
    return target


def _add(archive: zipfile.ZipFile, name: str, file: Path | bytes) -> None:
    entry = zipfile.ZipInfo(name, date_time=ZIP_EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    is_program = isinstance(file, Path) and os.access(file, os.X_OK)
    entry.external_attr = (0o755 if is_program else 0o644) << 16
    archive.writestr(entry, file.read_bytes() if isinstance(file, Path) else file)


def _refuse_doubled(files: Iterable[str], more: Mapping[str, bytes]) -> None:
    if doubled := sorted(set(files) & more.keys()):
        raise UserError(f"the checkout has a file {doubled[0]}, a name that a job needs for itself; rename the file")


def _git_files(root: Path, *options: str) -> list[str]:
    """Paths below a folder that `git ls-files` lists."""
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(root), "ls-files", "-z", *options],
            capture_output=True, timeout=GIT_TIMEOUT_S, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        reason = "git is not installed"
    except subprocess.TimeoutExpired:
        reason = f"git did not answer within {GIT_TIMEOUT_S:.0f} s"
    else:
        if done.returncode == 0:
            return [os.fsdecode(name) for name in done.stdout.split(b"\0") if name]
        reason = one_line(done.stderr.decode(errors="replace"))[:200]
    raise UserError(
        f"working dir {root}: its files cannot be listed ({reason}); expected a git checkout, because exactly the "
        "tracked files are uploaded; `git init && git add .` there (a .gitignore names secrets and data)"
    )


def _copies(root: Path, link: str, regular: Mapping[str, Path]) -> Iterator[tuple[str, Path]]:
    """The tracked files that a link stands for, by their paths below the link."""
    target = (root / link).resolve()
    if not target.is_relative_to(root):
        return
    inside = target.relative_to(root).as_posix()
    for name, file in regular.items():
        if name == inside:
            yield link, file
        elif name.startswith(f"{inside}/"):
            yield f"{link}{name[len(inside) :]}", file


def _is_code(name: str) -> bool:
    return Path(name).suffix in CODE_SUFFIXES


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
