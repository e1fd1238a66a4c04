"""The games that a run trains on and is judged on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from datasets.corpus.reader import open_corpus
from datasets.loading.frames import GameIndex, index_games
from datasets.loading.targets import COUNTDOWN_FRAMES
from datasets.runtime.errors import UserError
from wm.config.run_config import RunConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingData:
    """Games to train on and games to be judged on."""

    train: GameIndex
    judged: GameIndex


def open_data(config: RunConfig) -> TrainingData:
    """Open a run's corpora and check that they fit it.

    Raises:
        UserError: a corpus is missing, half-written, of another version, or has no game of the splits needed.
    """
    separate = config.eval_corpus is not None
    corpus = open_corpus(config.train_corpus)
    train = index_games(corpus, config.train_split or ("all" if separate else "train"), config.split)
    judged_corpus = open_corpus(config.eval_corpus) if config.eval_corpus is not None else corpus
    judged_split = config.eval.split or ("all" if separate else "validation")
    judged = index_games(judged_corpus, judged_split, config.split, for_evaluation=True)
    longest = int(train.num_frames.max())
    if longest < config.objective.example_frames:
        raise UserError(
            f"the longest of {len(train)} games in {config.train_corpus} has {longest} frames, an example needs "
            f"{config.objective.example_frames}; use a smaller context_frames or sequence_frames"
        )
    judged_frames = int(np.maximum(0, judged.num_frames - COUNTDOWN_FRAMES).sum())
    if min(judged_frames, config.eval.num_targets, config.eval.validation_targets) < config.num_workers:
        raise UserError(
            f"{judged_frames} frames can be judged, with num_targets={config.eval.num_targets} and validation_targets="
            f"{config.eval.validation_targets} under `eval`; each of {config.num_workers} workers needs one at least"
        )
    return TrainingData(train=train, judged=judged)


def digest_of_games(data: TrainingData) -> str:
    """Names the games of a run: with others, neither its order of batches nor its judged frames would be the same."""
    digest = hashlib.blake2b(digest_size=8)
    for index in (data.train, data.judged):
        digest.update("\n".join([*index.game_ids, ""]).encode())
    return digest.hexdigest()


def check_same_games(meta: dict[str, Any], data: TrainingData) -> None:
    """Refuse to resume on other games.

    Raises:
        UserError: the corpora have changed since the checkpoint.
    """
    if meta["games"] != digest_of_games(data):
        raise UserError(
            "the games of the run's corpora have changed since its last checkpoint; "
            "train on them in another --out, or bring the old corpora back to resume"
        )
