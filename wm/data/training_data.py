"""The training games and the evaluation games of a run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from datasets.corpus.reader import open_corpus
from datasets.loading.frames import GameIndex, index_games
from datasets.loading.targets import COUNTDOWN_FRAMES
from datasets.runtime.errors import UserError
from datasets.runtime.storage.file_cache import FileCache
from wm.config.run_config import RunConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingData:
    """Games to train on and games to evaluate on."""

    train: GameIndex
    evaluation: GameIndex


def open_data(config: RunConfig) -> TrainingData:
    """Open a run's corpora and check that they fit the config.

    Raises:
        UserError: a corpus is missing, incomplete or of another version, or a split that is needed is empty.
    """
    size = config.data.disk_cache_size
    separate = config.eval_corpus is not None
    cache = FileCache(config.data.disk_cache, None if size == "auto" else size)
    train = open_train_games(config, cache)
    corpus = train.corpus
    eval_corpus = open_corpus(config.eval_corpus, cache) if config.eval_corpus is not None else corpus
    eval_split = config.eval.split or ("all" if separate else "validation")
    evaluation = index_games(eval_corpus, eval_split, config.split, for_evaluation=True)
    longest = int(train.num_frames.max())
    if longest < config.objective.example_frames:
        raise UserError(
            f"the longest of {len(train)} games in {corpus.location} has {longest} frames, an example needs "
            f"{config.objective.example_frames}; use a smaller context_frames or sequence_frames"
        )
    eval_frames = int(np.maximum(0, evaluation.num_frames - COUNTDOWN_FRAMES).sum())
    if min(eval_frames, config.eval.num_targets, config.eval.validation_targets) < config.max_workers:
        raise UserError(
            f"found {eval_frames} evaluation frames, eval.num_targets={config.eval.num_targets} and "
            f"eval.validation_targets={config.eval.validation_targets}; expected at least one for each of "
            f"num_workers={config.max_workers}"
        )
    return TrainingData(train=train, evaluation=evaluation)


def open_train_games(config: RunConfig, cache: FileCache | None) -> GameIndex:
    """The games that a run trains on.

    Raises:
        UserError: the corpus is missing, incomplete or of another version, or the split is empty.
    """
    split = config.train_split or ("train" if config.eval_corpus is None else "all")
    return index_games(open_corpus(config.train_corpus, cache), split, config.split, suspect=config.data.suspect)


def games_digest(data: TrainingData) -> str:
    """Identifies the games of a run, on which the order of batches and the evaluation frames depend."""
    digest = hashlib.blake2b(digest_size=8)
    for index in (data.train, data.evaluation):
        digest.update("\n".join([*index.game_ids, ""]).encode())
    return digest.hexdigest()


def check_same_games(meta: dict[str, Any], data: TrainingData) -> None:
    """Refuse to resume on other games.

    Args:
        meta: of the checkpoint.
    Raises:
        UserError: the corpora have changed since the checkpoint.
    """
    if meta["games"] != games_digest(data):
        raise UserError(
            "the games of the run's corpora are not those of its last checkpoint; resume with the same games, wherever "
            "they are, or train on these in another --out, with --init-from this run to begin with its weights"
        )
