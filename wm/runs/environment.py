"""The environment of a run: code, versions, machine. Names of user, host and home folder are left out."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from datasets.runtime.hardware import num_cores, total_memory_bytes
from datasets.runtime.version import tool_version

ROOT = Path(__file__).resolve().parent.parent
CODE_PATHS = ("datasets", "wm", "tune", "cluster", "pyproject.toml", "constraints.txt")
"""Files that affect a run; uncommitted changes elsewhere do not make a checkout dirty."""
PACKAGES = ("torch", "ray", "numpy", "pyarrow", "mamba-ssm", "triton")
GIT_TIMEOUT_S = 10
CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
"""Key and secret in a URI."""


def environment() -> dict[str, Any]:
    """Code, versions and machine of this process, as JSON data. Querying GPUs takes some of their memory."""
    return {"code": code_version(ROOT), "software": software(), "machine": machine()}


def code_version(root: Path) -> dict[str, Any]:
    """Git revision of a checkout and whether it has uncommitted changes; otherwise the package's version."""
    if (root / ".git").exists():
        revision = _git(root, "rev-parse", "HEAD")
        changes = _git(root, "status", "--porcelain", "--", *CODE_PATHS)
        if revision is not None and changes is not None:
            return {"git_revision": revision, "dirty": bool(changes)}
    return {"version": tool_version()}


def software() -> dict[str, str | None]:
    """Versions by package; None for a package that is not installed."""
    versions: dict[str, str | None] = {"python": platform.python_version(), "system": platform.platform()}
    versions |= {name: _version(name) for name in PACKAGES}
    driver = _first_match(Path("/proc/driver/nvidia/version"), r"Kernel Module.*?\s(\d+(?:\.\d+)+)")
    return versions | {"cuda": torch.version.cuda, "nvidia_driver": driver}


def machine() -> dict[str, Any]:
    """Processor, memory and GPUs."""
    devices = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return {
        "cpu": processor_name(),
        "cores": num_cores(),
        "memory_bytes": total_memory_bytes(),
        "gpus": [{"name": device.name, "memory_bytes": device.total_memory} for device in devices],
    }


def processor_name() -> str:
    """The model of this machine's processor."""
    return _first_match(Path("/proc/cpuinfo"), r"^model name\s*:\s*(.+)$") or platform.machine()


def command_line(argv: Sequence[str]) -> str:
    """A command as a user would type it: the program by its name, without home folder and credentials.

    Args:
        argv: as `sys.argv`.
    """
    program = Path(argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    home = str(Path.home())
    shown = [re.sub(rf"(?<![^=]){re.escape(home)}(?=/|$)", "~", word) if home != "/" else word for word in argv[1:]]
    return shlex.join([name, *(CREDENTIALS.sub("", word) for word in shown)])


def _git(root: Path, *arguments: str) -> str | None:
    """Output of git; None if it is missing or fails. Takes no lock, so that other git commands are not disturbed."""
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(root), *arguments],
            capture_output=True, text=True, timeout=GIT_TIMEOUT_S, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _first_match(path: Path, pattern: str) -> str | None:
    """The first group of a pattern in a file; None if there is no match or no file."""
    try:
        found = re.search(pattern, path.read_text(), re.MULTILINE)
    except OSError:
        return None
    return found[1].strip() if found else None
