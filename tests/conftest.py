"""What tests share: real replays where they are, synthetic ones everywhere, and one Ray for the session."""

from __future__ import annotations

import csv
import gzip
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from datasets.corpus.reader import open_corpus
from datasets.loading.frames import GameIndex, index_games
from datasets.schema.splits import SplitConfig

# Ray's own waiting times, shortened: set before anything imports ray.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")

torch.set_num_threads(1)  # of tensors as small as the tests' a second thread only has to be waited for

ROOT = Path(__file__).resolve().parent.parent
RAY_CPUS = 8
"""Logical CPUs of the session's Ray: with as many as workers, jobs with data tasks hang without a word."""
NUM_SYNTHETIC_GAMES = 12


def replays_folder() -> Path | None:
    """Where the real replays are, if they are there."""
    folder = Path(os.environ.get("WM_REPLAYS", ROOT.parent / "shared" / "replays"))
    return folder if (folder / "inventory.csv").exists() else None


@pytest.fixture(scope="session")
def have_real_replays() -> bool:
    """Whether real replays are there: for tests that can do with synthetic ones."""
    return replays_folder() is not None


@pytest.fixture(scope="session")
def real_replays() -> Path:
    """Folder of dev.zip, edge.zip and inventory.csv: WM_REPLAYS, or shared/replays beside the repository."""
    folder = replays_folder()
    if folder is None:
        pytest.skip("needs real replays: name their folder in WM_REPLAYS")
    return folder


@pytest.fixture(scope="session")
def inventory(real_replays: Path) -> list[dict[str, str]]:
    """One row for each real file: what it is and what the default options make of it."""
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


@pytest.fixture(scope="session")
def dev_corpus(real_replays: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus of dev.zip, encoded once with the default options."""
    from datasets.corpus.chunk import EncodeOptions
    from datasets.pipeline.encode import encode, encode_in_process

    out = tmp_path_factory.mktemp("dev") / "corpus"
    encode([real_replays / "dev.zip"], out, EncodeOptions(), encode_in_process)
    return out


@pytest.fixture(scope="session")
def synthetic_replays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of synthetic replays: there on every machine."""
    from datasets.synth import SynthOptions, synthesise

    out = tmp_path_factory.mktemp("synthetic") / "replays"
    synthesise(out, SynthOptions(num_games=NUM_SYNTHETIC_GAMES, seed=7, max_frames=3_000, rollbacks=True))
    return out


@pytest.fixture(scope="session")
def tiny_corpus(synthetic_replays: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus of the synthetic replays."""
    from datasets.corpus.chunk import EncodeOptions
    from datasets.pipeline.encode import encode, encode_in_process

    out = tmp_path_factory.mktemp("tiny") / "corpus"
    encode([synthetic_replays], out, EncodeOptions(), encode_in_process)
    return out


@pytest.fixture(scope="session")
def index(request: pytest.FixtureRequest) -> GameIndex:
    """All real dev games, or the synthetic ones where there are no real replays."""
    root = request.getfixturevalue("tiny_corpus" if replays_folder() is None else "dev_corpus")
    return index_games(open_corpus(root), "all", SplitConfig())


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray for all tests that need one."""
    import ray

    ray.init(num_cpus=RAY_CPUS, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
