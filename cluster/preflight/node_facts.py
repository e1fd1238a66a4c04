"""What a node says of itself: versions, settings, disks, GPUs. Runs on each node; imports neither torch nor Ray."""

from __future__ import annotations

import hashlib
import os
import platform
import resource
import shutil
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from datasets.runtime.version import DISTRIBUTION

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("datasets", "wm", "tune", "cluster")
DISTRIBUTIONS = ("ray", "torch", "pyarrow", DISTRIBUTION)
SETTINGS = ("NCCL_", "TORCH_NCCL_", "GLOO_", "RAY_TRAIN_", "RAY_health_check_", "RAY_gcs_")
"""Beginnings of environment variables that change time-outs and collective operations."""
GPU_FIELDS = ("name", "memory.total", "memory.used", "ecc.errors.uncorrected.volatile.total", "driver_version")
SMI_TIMEOUT_S = 60.0
MIB = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """A GPU as `nvidia-smi` shows it."""

    name: str
    total_bytes: int
    used_bytes: int
    num_ecc_errors: int | None
    """Uncorrected since the driver was loaded; None: the GPU counts none."""
    driver: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Disk:
    """Free space of the disk that a folder is or will be on."""

    free_bytes: int
    total_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeFacts:
    """What a node says of itself."""

    host: str
    versions: dict[str, str]
    """python, distributions by name, and `code`: a digest of this project's files as this node imports them."""
    settings: dict[str, str]
    """Environment variables by name."""
    max_files: int
    """Files that a process may open."""
    disks: dict[str, Disk]
    """By the folder that was asked for."""
    gpus: tuple[Gpu, ...]
    gpu_problem: str | None
    """Why `nvidia-smi` told nothing."""


def node_facts(folders: Sequence[str], *, with_gpus: bool) -> NodeFacts:
    """Facts of the machine that this process runs on.

    Args:
        folders: whose disks are measured.
        with_gpus: ask `nvidia-smi`.
    """
    gpus, problem = read_gpus() if with_gpus else ((), None)
    return NodeFacts(
        host=socket.gethostname(),
        versions={
            "python": platform.python_version(),
            **{name: installed_version(name) for name in DISTRIBUTIONS},
            "code": code_digest(),
        },
        settings={name: value for name, value in sorted(os.environ.items()) if name.startswith(SETTINGS)},
        max_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        disks={folder: disk_of(Path(folder)) for folder in folders},
        gpus=gpus,
        gpu_problem=problem,
    )


def installed_version(name: str) -> str:
    """Version of a distribution, without the build that follows `+`: a head may have the torch for CPUs."""
    try:
        return metadata.version(name).partition("+")[0]
    except metadata.PackageNotFoundError:
        return "not installed"


def code_digest() -> str:
    """Digest of all Python files of this project, as they are imported here."""
    digest = hashlib.blake2b(digest_size=6)
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def disk_of(folder: Path) -> Disk:
    """The disk of a folder, which need not exist yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    usage = shutil.disk_usage(folder)
    return Disk(free_bytes=usage.free, total_bytes=usage.total)


def read_gpus() -> tuple[tuple[Gpu, ...], str | None]:
    """The machine's GPUs, or why they cannot be read."""
    command = ["nvidia-smi", f"--query-gpu={','.join(GPU_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SMI_TIMEOUT_S, check=True)
    except subprocess.CalledProcessError as error:
        return (), f"nvidia-smi: {(error.stdout or error.stderr).strip()[:200]}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return (), f"nvidia-smi: {error}"
    return parse_gpus(done.stdout), None


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """GPUs from the lines that `nvidia-smi` prints for GPU_FIELDS."""
    gpus = []
    for line in text.splitlines():
        name, total, used, errors, driver = (part.strip() for part in line.split(","))
        gpus.append(
            Gpu(
                name=name,
                total_bytes=int(total) * MIB,
                used_bytes=int(used) * MIB,
                num_ecc_errors=int(errors) if errors.isdigit() else None,
                driver=driver,
            )
        )
    return tuple(gpus)
