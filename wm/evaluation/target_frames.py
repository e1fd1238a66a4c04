"""The frames that an evaluation needs, read from the corpus once: every target with the frames before it.

Guarded by `benchmarks/measures/validation.py`.
Shape legend: M = targets, N = frames in memory, B = batch, T = frames of a window, P = players (2), C = columns.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from datasets.loading.frames import (
    BYTES_PER_FRAME,
    FrameArrays,
    GameIndex,
    allocate_frames,
    read_ranges,
    row_group_numbers,
)
from datasets.loading.targets import Targets, evaluation_targets
from wm.data.batches import gather_sequences
from wm.evaluation.metrics import Context
from wm.model.encoding import Frames

KEPT_FRAMES = 500_000
"""Most frames that are kept between evaluations: 94 MB, 4,000 targets of as many games at K = 120."""
GROUP_FRAMES = 1_000_000
"""Frames of a group that is not kept, approximately: 188 MB. While one is evaluated, the next is read."""
MAX_DEVICE_FRACTION = 0.01
"""Of a GPU's memory: more frames stay in host memory, and each batch is copied. 2,000 targets at K = 120 take 45 MB,
and so lie on every GPU of 4 GB or more."""


class ReadingStoppedError(RuntimeError):
    """The frames are not needed any more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetFrames:
    """Some targets and the frames before them. A frame that several targets need is kept once."""

    targets: Targets
    rows: np.ndarray
    """int64 (M,), row of each target."""
    floats: Tensor
    """float32 (N, P, C), columns as in `datasets.loading.frames`."""
    codes: Tensor
    """int16 (N, P, C)."""
    facts: Tensor
    """int16 (M, C), GAME_COLUMNS of each target's game."""

    def __len__(self) -> int:
        return len(self.targets)

    def windows(self, context: int, batch_size: int, device: torch.device) -> Iterator[tuple[np.ndarray, Frames]]:
        """Batches of windows of `context` + 1 frames that end at the targets: int64 (B,) games, and Frames."""
        first_rows = torch.from_numpy(self.rows - context).to(self.floats.device)
        for start in range(0, len(self), batch_size):
            part = slice(start, start + batch_size)
            floats, codes = (
                gather_sequences(kept, first_rows[part], context + 1) for kept in (self.floats, self.codes)
            )
            frames = Frames(floats=floats, codes=codes, game=self.facts[part])
            yield self.targets.games[part], _move(frames, device)

    def take(self, rows_BT: np.ndarray, targets: np.ndarray, device: torch.device) -> Frames:
        """The frames of any rows.

        Args:
            rows_BT: int64 (B, T).
            targets: int64 (B,), position of a target of each sequence's game.
        """
        if self.floats.device.type == "cpu":  # in one thread, see `gather_sequences`
            floats, codes = (torch.from_numpy(kept.numpy()[rows_BT]) for kept in (self.floats, self.codes))
        else:
            rows = torch.from_numpy(rows_BT).to(self.floats.device)
            floats, codes = self.floats[rows], self.codes[rows]
        return _move(Frames(floats=floats, codes=codes, game=self.facts[torch.from_numpy(targets)]), device)

    def on_device(self, device: torch.device) -> TargetFrames:
        """These frames on a GPU if they take at most MAX_DEVICE_FRACTION of its memory; otherwise in host memory."""
        if len(self.floats) * BYTES_PER_FRAME > max_device_bytes(device):
            return self
        return replace(self, floats=self.floats.to(device), codes=self.codes.to(device), facts=self.facts.to(device))


class EvaluationFrames:
    """The frames of an evaluation at several contexts: iterate over them in groups of whole games, in their order.

    At most KEPT_FRAMES are read once, by a thread that starts in the constructor, and kept. More are read in every
    iteration, a group ahead. `close` ends the thread.
    """

    def __init__(
        self,
        index: GameIndex,
        num_targets: int | None,
        context: Context,
        device: torch.device,
        *,
        num_threads: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """
        Args:
            num_targets: over all ranks, chosen by hash; None: all.
            context: the longest, in frames; `stream`: all frames of a game before its last target.
            num_threads: that read row groups.
        """
        self._reader = _Reader(index, context, num_threads)
        self._device = device
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="evaluation-frames")
        self._close = weakref.finalize(self, _stop_thread, self._reader, self._thread)
        self._plan = self._thread.submit(self._reader.plan, num_targets, rank, world_size)
        self._kept: Future[TargetFrames | None] = self._thread.submit(self._reader.read_if_few, self._plan)
        self._kept_on_device: TargetFrames | None = None

    @property
    def targets(self) -> Targets:
        """The targets of all ranks."""
        return self._plan.result().targets

    @property
    def local_targets(self) -> Targets:
        """The targets of this rank, in the order in which they come."""
        return self._plan.result().local_targets

    def __iter__(self) -> Iterator[TargetFrames]:
        """This rank's targets, some games at a time.

        Raises:
            UserError: a shard cannot be read.
        """
        kept = self._kept.result()
        if kept is not None:
            if self._kept_on_device is None:
                # Not by the reading thread: a CUDA graph that is being captured allows no other thread's copies.
                self._kept_on_device = kept.on_device(self._device)
            yield self._kept_on_device
            return
        following: Future[TargetFrames] | None = None
        for group in self._plan.result().groups:
            current, following = following, self._thread.submit(self._reader.read, group)
            if current is not None:
                yield current.result().on_device(self._device)
        if following is not None:
            yield following.result().on_device(self._device)

    def close(self) -> None:
        """End the thread and free the frames."""
        self._close()
        self._thread.shutdown(wait=True)
        self._kept, self._kept_on_device = Future(), None


def read_targets(index: GameIndex, targets: Targets, context: Context, *, num_threads: int = 1) -> TargetFrames:
    """Read targets and the frames before them into host memory.

    Args:
        targets: sorted by game and frame.
        context: frames before each; `stream`: all frames of the game.
    Raises:
        UserError: a shard cannot be read.
    """
    return _Reader(index, context, num_threads).read(targets)


def max_device_bytes(device: torch.device) -> int:
    """Most bytes of evaluation frames on a device; 0 on the CPU, whose memory is the host's."""
    if device.type != "cuda":
        return 0
    return int(MAX_DEVICE_FRACTION * torch.cuda.get_device_properties(device).total_memory)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """The targets of all ranks, and those of this one in groups."""

    targets: Targets
    local_targets: Targets
    groups: list[Targets]


class _Reader:
    """Reads targets for one rank; any thread may call."""

    def __init__(self, index: GameIndex, context: Context, num_threads: int) -> None:
        self._index, self._context, self._num_threads = index, context, num_threads
        self.stop = threading.Event()

    def plan(self, num_targets: int | None, rank: int, world_size: int) -> _Plan:
        """Choose the targets. A game's targets belong to one rank and one group, so sums over a game are the same with
        any number of ranks."""
        targets = evaluation_targets(self._index, num_targets)
        starts = np.flatnonzero(np.diff(targets.games, prepend=-1))
        ideal = np.arange(world_size + 1) * len(targets) // world_size
        bounds = np.append(starts, len(targets))[np.searchsorted(starts, ideal)]
        mine = _part(targets, int(bounds[rank]), int(bounds[rank + 1]))
        if not len(mine):
            return _Plan(targets=targets, local_targets=mine, groups=[])
        ranges = _ranges(mine, self._context)
        group_of_target = (np.cumsum(ranges.lengths) - 1)[ranges.of_target] // GROUP_FRAMES
        first_of_game = np.searchsorted(mine.games, mine.games)
        edges = np.flatnonzero(np.diff(group_of_target[first_of_game], prepend=-1, append=-1))
        groups = [_part(mine, int(start), int(end)) for start, end in itertools.pairwise(edges)]
        return _Plan(targets=targets, local_targets=mine, groups=groups)

    def read_if_few(self, plan: Future[_Plan]) -> TargetFrames | None:
        """The targets of a plan, if they take at most KEPT_FRAMES."""
        groups = plan.result().groups
        few = len(groups) == 1 and _ranges(groups[0], self._context).lengths.sum() <= KEPT_FRAMES
        return self.read(groups[0]) if few else None

    def read(self, targets: Targets) -> TargetFrames:
        """Read targets and the frames before them.

        Raises:
            ReadingStoppedError: `stop` is set.
        """
        ranges = _ranges(targets, self._context)
        offsets = np.cumsum(ranges.lengths) - ranges.lengths
        frames = allocate_frames(int(ranges.lengths.sum()))
        row_groups = row_group_numbers(self._index)[ranges.games]
        edges = np.flatnonzero(np.diff(row_groups, prepend=-1, append=-1))

        def read_row_group(first: int, last: int) -> None:
            if self.stop.is_set():
                raise ReadingStoppedError
            rows = slice(int(offsets[first]), int(offsets[last - 1] + ranges.lengths[last - 1]))
            out = FrameArrays(floats=frames.floats[rows], codes=frames.codes[rows])
            part = slice(first, last)
            read_ranges(self._index, ranges.games[part], ranges.starts[part], ranges.ends[part], out=out)

        self._index.corpus.read_ahead(dict.fromkeys(self._index.shards[ranges.games].tolist()))
        with ThreadPoolExecutor(self._num_threads, thread_name_prefix="row-groups") as readers:
            list(readers.map(read_row_group, edges[:-1].tolist(), edges[1:].tolist()))
        return TargetFrames(
            targets=targets,
            rows=(offsets - ranges.starts)[ranges.of_target] + targets.frames,
            floats=torch.from_numpy(frames.floats),
            codes=torch.from_numpy(frames.codes),
            facts=torch.from_numpy(self._index.facts[targets.games]),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ranges:
    """The frames that targets need, as ranges without overlap: all int64 (ranges,), but `of_target`."""

    games: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    of_target: np.ndarray
    """int64 (M,), range of each target."""

    @property
    def lengths(self) -> np.ndarray:
        return self.ends - self.starts


def _ranges(targets: Targets, context: Context) -> _Ranges:
    """The union of the windows that end at the targets."""
    starts = np.zeros_like(targets.frames) if context == "stream" else targets.frames - context
    ends = targets.frames + 1
    is_first = np.ones(len(targets), dtype=bool)
    is_first[1:] = (np.diff(targets.games) != 0) | (starts[1:] > ends[:-1])
    first = np.flatnonzero(is_first)
    return _Ranges(
        games=targets.games[first],
        starts=starts[first],
        ends=ends[np.append(first[1:], len(targets)) - 1],
        of_target=np.cumsum(is_first) - 1,
    )


def _part(targets: Targets, start: int, end: int) -> Targets:
    return Targets(games=targets.games[start:end], frames=targets.frames[start:end])


def _move(frames: Frames, device: torch.device) -> Frames:
    def move(tensor: Tensor) -> Tensor:
        if device.type == "cuda" and tensor.device.type == "cpu":
            tensor = tensor.pin_memory()
        return tensor.to(device, non_blocking=True)

    return Frames(floats=move(frames.floats), codes=move(frames.codes), game=move(frames.game))


def _stop_thread(reader: _Reader, thread: ThreadPoolExecutor) -> None:
    reader.stop.set()
    thread.shutdown(wait=False, cancel_futures=True)
