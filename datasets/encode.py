"""`wm encode`: sources -> corpus, chunk by chunk, committed in order, resumable at any moment.

A chunk of inputs is encoded by a plain function, wherever that runs, into the staging folder; the driver
takes the results in order, drops games that the corpus has already, and commits. So the corpus is the same
whatever the number of processes, and however often it was interrupted.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from datasets.checks import FilterConfig, check_game
from datasets.commit import Committer
from datasets.errors import ReplayError, UserError
from datasets.replay import game_id_of, parse_replay
from datasets.schema import FOLLOWERS_SCHEMA
from datasets.shard import ShardWriter, followers_table, frames_table, game_row
from datasets.sources import ReplayInput, list_inputs, read_input


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodeOptions:
    """What decides the corpus' content; kept in it, and the same at every later run."""

    filters: FilterConfig = field(default_factory=FilterConfig)
    """Which games are taken."""
    keep_paths: bool = False
    """Store file paths, which may hold players' connect codes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """A unit of work: some inputs that become one shard."""

    inputs: tuple[ReplayInput, ...]
    staging: str
    """Folder for unfinished files."""
    options: EncodeOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkResult:
    """What a chunk became; its files lie in staging and belong to nobody until they are committed."""

    inputs: tuple[ReplayInput, ...]
    games: list[dict[str, Any]]
    rejects: list[dict[str, Any]]
    frames_file: str | None
    followers_file: str | None


@dataclass(kw_only=True)
class EncodeSummary:
    """What one run of `wm encode` did."""

    num_inputs: int = 0
    num_already_done: int = 0
    num_games: int = 0
    num_frames: int = 0
    num_ignored_files: int = 0
    rejects: Counter = field(default_factory=Counter)
    seconds: float = 0.0


RunChunks = Callable[[Sequence[Chunk]], Iterable[ChunkResult]]
"""Runs `encode_chunk` over chunks, anywhere, and yields the results in order."""


def games_per_chunk(num_inputs: int) -> int:
    """Games in a shard: enough shards to keep many cores busy, few enough for an object store."""
    return min(64, max(4, num_inputs // 16))


def encode_chunk(chunk: Chunk) -> ChunkResult:
    """Encode one chunk's inputs into staged files. A plain function: needs no Ray and shares no state."""
    name = uuid.uuid4().hex
    frames = ShardWriter(Path(chunk.staging) / f"{name}.frames.parquet")
    followers: ShardWriter | None = None
    games: list[dict[str, Any]] = []
    rejects: list[dict[str, Any]] = []
    for replay in chunk.inputs:
        place: dict[str, Any] = {"source": replay.source, "member": replay.member}
        place["path"] = replay.name if chunk.options.keep_paths else None
        content = b""
        try:
            content = read_input(replay)
            game = parse_replay(content)
            check_game(game, chunk.options.filters)
        except ReplayError as error:
            game_id = game_id_of(content) if content else None
            rejects.append(place | {"game_id": game_id, "code": error.code, "message": error.message})
            continue
        games.append(place | game_row(game) | frames.add(frames_table(game)))
        for follower in game.followers:
            if followers is None:
                followers = ShardWriter(Path(chunk.staging) / f"{name}.followers.parquet", FOLLOWERS_SCHEMA)
            followers.add(followers_table(game, follower))
    frames.close()
    if followers is not None:
        followers.close()
    return ChunkResult(
        inputs=chunk.inputs,
        games=games,
        rejects=rejects,
        frames_file=frames.path.name if games else None,
        followers_file=None if followers is None else followers.path.name,
    )


def encode_in_process(chunks: Sequence[Chunk]) -> Iterator[ChunkResult]:
    """The plain twin of `datasets.distribute.encode_on_ray`."""
    return map(encode_chunk, chunks)


def encode(
    sources: Sequence[Path],
    out: Path,
    options: EncodeOptions,
    run_chunks: RunChunks,
    on_commit: Callable[[EncodeSummary, int], None] = lambda summary, num_left: None,
) -> EncodeSummary:
    """Encode what the corpus does not have yet.

    Args:
        on_commit: called after each commit with the summary so far and the number of inputs left.
    Raises:
        UserError: the sources hold nothing, or `out` is not ours or was made with other options.
    """
    started = time.monotonic()
    listing = list_inputs(sources)
    committer = Committer(out, options)
    todo = [replay for replay in listing.inputs if replay.key not in committer.done_keys]
    summary = EncodeSummary(
        num_inputs=len(listing.inputs),
        num_already_done=len(listing.inputs) - len(todo),
        num_ignored_files=listing.num_ignored,
    )
    size = games_per_chunk(len(listing.inputs))
    chunks = [
        Chunk(inputs=tuple(todo[start : start + size]), staging=str(committer.staging), options=options)
        for start in range(0, len(todo), size)
    ]
    num_left = len(todo)
    broken = [_reject_archive(name, message) for name, message in listing.broken_archives]
    known = [result for result in broken if result.inputs[0].key not in committer.done_keys]
    for result in chain(known, run_chunks(chunks)):
        commit = committer.commit(result)
        summary.num_games += len(commit["games"])
        summary.num_frames += sum(num_frames for _, _, num_frames in commit["games"])
        summary.rejects.update(commit["rejects"])
        num_left -= sum(replay.member >= 0 for replay in result.inputs)
        summary.seconds = time.monotonic() - started
        on_commit(summary, num_left)
    committer.finish()
    summary.seconds = time.monotonic() - started
    if not committer.num_games:
        reasons = ", ".join(f"{count} {code}" for code, count in committer.reject_counts.most_common())
        raise UserError(
            f"none of {len(listing.inputs)} inputs is a training game ({reasons}); `wm corpus info {out}` names each"
        )
    return summary


def _reject_archive(name: str, message: str) -> ChunkResult:
    """An archive that could not be opened, as one input that is rejected."""
    archive = ReplayInput(
        key=f"archive {name}: {message}", source=name, member=-1, container="", name=name, in_zip=False
    )
    reject = {"source": name, "member": -1, "path": None, "code": "unopenable", "message": message}
    return ChunkResult(inputs=(archive,), games=[], rejects=[reject], frames_file=None, followers_file=None)
