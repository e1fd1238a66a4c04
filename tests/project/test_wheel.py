"""The built wheel holds everything that `wm` needs and works without the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("datasets", "wm", "tune", "cluster")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this checkout, built from a copy so that no earlier build gets into it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip("wheel", "--no-build-isolation", "--wheel-dir", out, source)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder that the wheel is installed into."""
    folder = tmp_path_factory.mktemp("installed")
    pip("install", "--target", folder, wheel)
    return folder


def pip(command: str, *arguments: str | Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", command, "--quiet", "--no-index", "--no-deps", *arguments],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3_000:]


def python(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python in an empty folder, with the installed packages before all others."""
    return subprocess.run(
        [sys.executable, "-P", *arguments],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(installed)}, capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel):
    files = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    in_checkout = {
        path.relative_to(ROOT).as_posix()
        for name in PACKAGES
        for path in (ROOT / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files == in_checkout


def test_the_wheel_names_its_licence_and_carries_the_text(wheel):
    archive = zipfile.ZipFile(wheel)
    metadata = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    assert "License-Expression: MIT\n" in archive.read(metadata).decode()
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in archive.namelist())


def test_the_installed_command_finds_a_shipped_config_by_name_in_an_empty_folder(installed, tmp_path):
    where = python(installed, tmp_path, "-c", "import wm.cli; print(wm.cli.__file__)")
    assert Path(where.stdout.strip()).is_relative_to(installed), where.stderr
    assert "wm train" in python(installed, tmp_path, "-m", "wm.cli", "--help").stdout
    trained = python(installed, tmp_path, "-m", "wm.cli", "train", "demo", "--train-corpus", "no-such-corpus")
    assert trained.returncode == 2
    assert "no-such-corpus" in trained.stderr and len(trained.stderr.splitlines()) == 1
