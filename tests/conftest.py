"""Fixtures that tests share: real replays where available, synthetic ones everywhere, one Ray per process.

`make test` runs the tests in several processes. A file is the unit of work, except where a test has an `xdist_group`
of its own; all tests that use `ray_session` are one group, so that one process starts Ray for them.
"""

from __future__ import annotations

import atexit
import csv
import fcntl
import gzip
import os
import random
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from datasets.corpus.reader import open_corpus
from datasets.loading.frames import FrameArrays, GameIndex, index_games, read_games
from datasets.replays.game import Game
from datasets.runtime.process.termination import raise_on_sigterm
from datasets.schema.splits import SplitConfig

# Shorter Ray polling intervals; must be set before ray is imported.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")

# `ray` and `wm`, also where no environment is activated.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

# Commands that tests start share the cores with other tests: a thread that waits must not spin.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A shell starts its background jobs with SIGINT ignored, which the commands of the tests would inherit.
if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

torch.set_num_threads(1)  # tensors in tests are too small for a second thread

# Properties are tried on the same examples in each run, however busy the machine is.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

ROOT = Path(__file__).resolve().parent.parent
RAY_CPUS = 8
"""Logical CPUs of `ray_session`: Ray Train hangs silently if its workers leave no CPU for data tasks."""
NUM_SYNTHETIC_GAMES = 12
LONGEST_FIRST = (
    "training/test_train_kills.py",
    "pipeline/test_encode_kills.py",
    "cluster",
    "gpu-script",
    "ray",
    "jobs/test_submit.py",
    "sweeps/test_choose_k.py",
    "training/test_distributed.py",
    "training/test_trainer.py",
    "pipeline/test_encode.py",
    "pipeline/test_parser_process.py",
    "pipeline/test_encode_cluster.py",
    "pipeline/test_encode_termination.py",
    "input-benchmark",
)
"""Groups that take longer than a process' fair part of what is left; they start first."""


def own_ray_folder() -> Path:
    """A folder for the Ray sessions of this process and its commands, with a token of its own.

    Without it, the processes of a parallel run would find each other's clusters in Ray's default folder and overwrite
    each other's token in the home folder. The path is short because Ray puts sockets below it.
    """
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    token = folder / "auth_token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    return folder


RAY_FOLDER = own_ray_folder()
os.environ["RAY_TMPDIR"] = str(RAY_FOLDER)
os.environ["RAY_AUTH_TOKEN_PATH"] = str(RAY_FOLDER / "auth_token")


def group_of(item: pytest.Item) -> str:
    """Name of the group of tests that run in one process, in order."""
    marked = item.get_closest_marker("xdist_group")
    if marked is not None:
        return marked.args[0]
    if "ray_session" in getattr(item, "fixturenames", ()):
        return "ray"
    return item.path.relative_to(ROOT / "tests").as_posix()


@pytest.hookimpl(tryfirst=True)  # before xdist, which reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group the tests, the longest groups first."""
    groups = {item: group_of(item) for item in items}
    for item, group in groups.items():
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(group))
    names = [*LONGEST_FIRST, *dict.fromkeys(group for group in groups.values() if group not in LONGEST_FIRST)]
    items.sort(key=lambda item: names.index(groups[item]))


def replays_folder() -> Path | None:
    """Folder of the real replays, or None."""
    folder = Path(os.environ.get("WM_REPLAYS", ROOT.parent / "shared" / "replays"))
    return folder if (folder / "inventory.csv").exists() else None


@pytest.fixture(scope="session")
def have_real_replays() -> bool:
    """Whether real replays are available, for tests that can use synthetic ones instead."""
    return replays_folder() is not None


@pytest.fixture(scope="session")
def real_replays() -> Path:
    """Folder of dev.zip, edge.zip and inventory.csv: WM_REPLAYS, or shared/replays beside the repository."""
    folder = replays_folder()
    if folder is None:
        pytest.skip("needs real replays; set WM_REPLAYS to their folder")
    return folder


@pytest.fixture(scope="session")
def inventory(real_replays: Path) -> list[dict[str, str]]:
    """One row per real file: its content and its outcome with the default options."""
    with (real_replays / "inventory.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="session")
def read_real(real_replays: Path) -> Callable[[str], bytes]:
    """Uncompressed bytes of a file of dev.zip or edge.zip, by its name in the inventory."""
    members = {}
    for archive in ("dev.zip", "edge.zip"):
        for name in zipfile.ZipFile(real_replays / archive).namelist():
            members[Path(name).name.removesuffix(".gz")] = (archive, name)

    def read(file: str) -> bytes:
        archive, name = members[file]
        content = zipfile.ZipFile(real_replays / archive).read(name)
        return gzip.decompress(content) if name.endswith(".gz") else content

    return read


def build_once(tmp_path_factory: pytest.TempPathFactory, name: str, build: Callable[[Path], object]) -> Path:
    """A folder that the processes of a parallel run share, to be read only: one builds it, the others wait for it.

    Args:
        build: fills an empty folder.
    """
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    built = shared / name
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not built.exists():
            half_built = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=shared))
            build(half_built)
            half_built.rename(built)
    return built


def encode_once(tmp_path_factory: pytest.TempPathFactory, name: str, source: Path) -> Path:
    """The corpus of a source, encoded once with the default options, for all processes."""
    from datasets.corpus.chunk import EncodeOptions
    from datasets.pipeline.encode import encode, encode_in_process

    return build_once(tmp_path_factory, name, lambda out: encode([source], out, EncodeOptions(), encode_in_process))


@pytest.fixture(scope="session")
def dev_corpus(real_replays: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus of dev.zip."""
    return encode_once(tmp_path_factory, "dev-corpus", real_replays / "dev.zip")


@pytest.fixture(scope="session")
def synthetic_replays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of synthetic replays."""
    from datasets.synth import SynthOptions, synthesize

    options = SynthOptions(num_games=NUM_SYNTHETIC_GAMES, seed=7, max_frames=3_000, rollbacks=True)
    return build_once(tmp_path_factory, "replays", lambda out: synthesize(out, options))


@pytest.fixture(scope="session")
def games(synthetic_replays: Path) -> dict[str, Game]:
    """Short games by letter, for the plans of `chunks`."""
    from chunks import short_games

    return short_games(synthetic_replays)


@pytest.fixture(scope="session")
def tiny_corpus(synthetic_replays: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus of the synthetic replays."""
    return encode_once(tmp_path_factory, "tiny-corpus", synthetic_replays)


@pytest.fixture(scope="session")
def index(request: pytest.FixtureRequest) -> GameIndex:
    """All games of dev.zip, or the synthetic ones if there are no real replays."""
    root = request.getfixturevalue("tiny_corpus" if replays_folder() is None else "dev_corpus")
    return index_games(open_corpus(root), "all", SplitConfig())


@pytest.fixture(scope="session")
def whole_games(index: GameIndex) -> list[FrameArrays]:
    """The frames of each game of `index`, read once: a game alone takes the whole row group that it lies in."""
    arrays = read_games(index, range(len(index)))
    ends = np.cumsum(index.num_frames)
    return [
        FrameArrays(floats=arrays.floats[end - length : end], codes=arrays.codes[end - length : end])
        for end, length in zip(ends, index.num_frames, strict=True)
    ]


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A local Ray, shared by the tests of the group `ray`."""
    import ray

    from datasets.runtime.ray_cluster import start_or_retry

    def start() -> None:
        ray.init(address="local", num_cpus=RAY_CPUS, include_dashboard=False, log_to_driver=False)

    start_or_retry(start, RAY_FOLDER / "session_latest")
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Each test draws the same random numbers, whichever tests ran before it in the process."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def sigterm_raises() -> Iterator[None]:
    """SIGTERM raises TerminatedError during the test, as it does in a command."""
    previous, hook = signal.getsignal(signal.SIGTERM), sys.unraisablehook
    raise_on_sigterm()
    yield
    signal.signal(signal.SIGTERM, previous)
    sys.unraisablehook = hook
