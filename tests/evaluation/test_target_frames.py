"""The frames of an evaluation: what the corpus holds, read once, in groups of whole games, divided among the ranks."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from waiting import close_during_a_read

import datasets.loading.frames
from datasets.loading.frames import GameIndex
from datasets.loading.targets import COUNTDOWN_FRAMES, Targets, evaluation_targets
from datasets.runtime.errors import UserError
from wm.evaluation import target_frames
from wm.evaluation.target_frames import EvaluationFrames, read_targets

CPU = torch.device("cpu")


@pytest.fixture
def reads(monkeypatch) -> list[tuple[str, int]]:
    """The row groups that are read."""
    found: list[tuple[str, int]] = []
    read = datasets.loading.frames._read_row_group

    def read_and_count(corpus, shard, row_group):
        found.append((shard, row_group))
        return read(corpus, shard, row_group)

    monkeypatch.setattr(datasets.loading.frames, "_read_row_group", read_and_count)
    return found


def opened(index: GameIndex, num_targets: int = 300, context: int = 30, **options) -> EvaluationFrames:
    return EvaluationFrames(index, num_targets, context, CPU, num_threads=2, **options)


def names(targets: list[Targets]) -> list[tuple[int, int]]:
    return [pair for part in targets for pair in zip(part.games.tolist(), part.frames.tolist(), strict=True)]


@pytest.mark.parametrize("context", [1, 10, COUNTDOWN_FRAMES])
def test_a_window_is_the_frames_of_its_game_that_end_at_its_target(index, whole_games, context):
    targets = evaluation_targets(index, 300)
    frames = read_targets(index, targets, COUNTDOWN_FRAMES, num_threads=3)
    at = 0
    for games, windows in frames.windows(context, 7, CPU):
        for row, game in enumerate(games):
            whole, last = whole_games[game], int(targets.frames[at])
            assert game == targets.games[at]
            assert np.array_equal(windows.floats[row].numpy(), whole.floats[last - context : last + 1])
            assert np.array_equal(windows.codes[row].numpy(), whole.codes[last - context : last + 1])
            assert np.array_equal(windows.game[row].numpy(), index.facts[game])
            at += 1
    assert at == len(targets)


def test_a_frame_that_several_targets_need_is_kept_once(index):
    targets = Targets(games=np.array([2, 2, 2, 3]), frames=np.array([200, 205, 400, 200]))
    assert len(read_targets(index, targets, 10).floats) == 16 + 11 + 11
    assert len(read_targets(index, targets, "stream").floats) == 401 + 201


def test_the_frames_of_a_validation_are_read_once_for_all_of_them(index, reads):
    frames = opened(index)
    try:
        for _ in range(3):
            (kept,) = frames
            assert names([kept.targets]) == names([evaluation_targets(index, 300)])
    finally:
        frames.close()
    games = np.unique(evaluation_targets(index, 300).games)
    assert sorted(reads) == sorted({(str(index.shards[game]), int(index.row_groups[game])) for game in games})


def test_more_frames_come_in_groups_of_whole_games(index, reads, monkeypatch):
    monkeypatch.setattr(target_frames, "KEPT_FRAMES", 1_000)
    monkeypatch.setattr(target_frames, "GROUP_FRAMES", 2_000)
    frames = opened(index)
    try:
        for _ in range(2):
            groups = [group.targets for group in frames]
            assert len(groups) > 2
            assert names(groups) == names([evaluation_targets(index, 300)])
            together = [set(group.games.tolist()) for group in groups]
            assert sum(map(len, together)) == len(set.union(*together))
    finally:
        frames.close()


@pytest.mark.parametrize("world_size", [1, 2, 3, 200])
def test_every_game_belongs_to_one_rank_and_every_target_comes_once(index, world_size):
    index_games, parts = [], []
    for rank in range(world_size):
        frames = opened(index, 40, rank=rank, world_size=world_size)
        try:
            groups = [group.targets for group in frames]
            assert names(groups) == names([frames.local_targets])
            assert names([frames.targets]) == names([evaluation_targets(index, 40)])
        finally:
            frames.close()
        parts += groups
        index_games.append({game for group in groups for game in group.games.tolist()})
    assert names(parts) == names([evaluation_targets(index, 40)])
    assert sum(map(len, index_games)) == len(set.union(*index_games))
    if world_size <= 3:
        sizes = [len(games) for games in index_games]
        assert min(sizes) > 0


def test_a_shard_that_is_gone_is_a_user_error_when_the_frames_are_needed(index, monkeypatch):
    def fail(corpus, shard, row_group):
        raise UserError(f"cannot read shard {shard}")

    monkeypatch.setattr(datasets.loading.frames, "_read_row_group", fail)
    frames = opened(index)
    with pytest.raises(UserError, match="cannot read shard"):
        list(frames)
    frames.close()


def test_frames_that_are_closed_end_their_threads_at_once(index, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()
    read = datasets.loading.frames._read_row_group
    num_read = []

    def read_slowly(corpus, shard, row_group):
        num_read.append(row_group)
        begun.set()
        assert go_on.wait(60)
        return read(corpus, shard, row_group)

    monkeypatch.setattr(datasets.loading.frames, "_read_row_group", read_slowly)
    frames = opened(index, 2_000)
    assert begun.wait(60)
    close_during_a_read(frames.close, frames._reader.stop, go_on)
    assert len(num_read) <= 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("evaluation-", "row-groups"))]
