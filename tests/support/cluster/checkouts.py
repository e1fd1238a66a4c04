"""Git checkouts, from which jobs are submitted."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def track(checkout: Path, *names: str) -> None:
    """Make a folder a git checkout that tracks the given files, or all."""
    subprocess.run(["git", "init", "-q", str(checkout)], check=True)
    subprocess.run(["git", "-C", str(checkout), "add", *(names or ["."])], check=True)


def copy_of_the_code(folder: Path) -> Path:
    """What a user submits from: a checkout with the code of this one."""
    checkout = folder / "checkout"
    for name in ("datasets", "wm", "tune", "cluster"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    track(checkout)
    return checkout
