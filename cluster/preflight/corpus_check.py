"""A corpus before a run: whether the config's games can be opened, and whether some of its files are sound."""

from __future__ import annotations

import random
from dataclasses import dataclass

from cluster.files.checks import Check
from datasets.corpus.maintenance.file_checks import check_some_files
from datasets.corpus.reader import Corpus, open_corpus
from datasets.corpus.state import FRAMES, FileRecord
from datasets.runtime.errors import UserError
from datasets.runtime.uris import without_credentials
from wm.config.run_config import RunConfig
from wm.data.training_data import open_data

SAMPLE_BYTES = 200_000_000
SAMPLE_FILES = 24
GB = 1e9


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusFacts:
    """Sizes of a corpus, bytes."""

    frames_bytes: int
    largest_file: int
    a_file: str
    """Path of its largest file of frames."""


def check_corpus(location: str) -> tuple[Check, CorpusFacts | None]:
    """Read some files of a corpus, chosen anew each time, and compare them with their checksums and columns."""
    shown = without_credentials(location)
    try:
        corpus = open_corpus(location)
        sample = _sample(corpus)
        found = check_some_files(corpus.folder, sample)
    except (UserError, OSError) as error:
        return _red(shown, str(error), "correct train_corpus or eval_corpus, or finish `wm encode`"), None
    shards = {path: record for path, record in corpus.state.paths().items() if path.startswith(f"{FRAMES}/")}
    largest = max(shards, key=lambda path: shards[path].num_bytes, default="")
    facts = CorpusFacts(
        frames_bytes=sum(record.num_bytes for record in shards.values()),
        largest_file=shards[largest].num_bytes if largest else 0,
        a_file=largest,
    )
    if found.problems:
        first = found.problems[0]
        text = f"{len(found.problems)} of {len(sample)} files damaged: {first.path}: {first.message}"
        return _red(shown, text, f"`wm corpus verify {shown}`, then `wm corpus repair {shown}`"), facts
    text = (
        f"{corpus.state.num_games:,} games, {corpus.state.num_frames:,} frames; {len(sample)} of "
        f"{len(corpus.state.paths())} files read, {found.num_bytes / GB:.2f} GB, all sound"
    )
    return Check(name="corpus", node=shown, state="green", found=text, expected="sound files"), facts


def check_games(config: RunConfig) -> Check:
    """Whether the games are those that the config asks for: version, splits, lengths, frames to evaluate on."""
    try:
        data = open_data(config)
    except (UserError, OSError) as error:
        return Check(
            name="games", node="job", state="red", found=str(error), expected="games for training and evaluation",
            advice="correct the config, or encode again with this version",
        )  # fmt: skip
    return Check(
        name="games",
        node="job",
        state="green",
        found=f"{len(data.train):,} for training, {len(data.evaluation):,} for evaluation",
        expected="games for training and evaluation",
    )


def _sample(corpus: Corpus) -> dict[str, FileRecord]:
    paths = list(corpus.state.paths().items())
    random.shuffle(paths)
    sample: dict[str, FileRecord] = {}
    num_bytes = 0
    for path, record in paths:
        if len(sample) < SAMPLE_FILES and (not sample or num_bytes + record.num_bytes <= SAMPLE_BYTES):
            sample[path], num_bytes = record, num_bytes + record.num_bytes
    return sample


def _red(location: str, found: str, advice: str) -> Check:
    return Check(name="corpus", node=location, state="red", found=found, expected="sound files", advice=advice)
