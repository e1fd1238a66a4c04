"""`wm encode`: sources -> corpus, chunk by chunk, committed in order, resumable at any moment.

A feed walks the sources in order and cuts them into chunks. A chunk is encoded by a plain function, wherever
that runs, into the staging folder; the driver takes the results in order, drops games that the corpus has
already, and commits. So the corpus is the same whatever the number of processes, and however often it was
interrupted.
"""

from __future__ import annotations

import os
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from datasets.checks.filters import check_game
from datasets.corpus.chunk import ChunkResult, EncodeOptions
from datasets.corpus.commit import Committer
from datasets.corpus.commit_files import durable_file_record
from datasets.corpus.shard import ShardWriter, followers_table, frames_table, game_row
from datasets.legacy.parsed_game import parse_parsed_game
from datasets.replays.game import Game
from datasets.replays.slp_reader import game_id_of, parse_replay
from datasets.runtime.errors import ReplayError, UserError
from datasets.schema.columns import FOLLOWERS_SCHEMA, GAMES_SCHEMA
from datasets.sources.inputs import ReplayInput, SkipStats
from datasets.sources.reading import UNREACHABLE, read_ahead
from datasets.sources.scan import Inputs, survey
from datasets.sources.storage import is_remote, local_path

MAX_CONTENT_BYTES = 32 * 2**20
"""Bytes that a chunk carries itself, of archives that can only be read from their start: bounds the object store."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """A unit of work: some inputs that become one shard."""

    inputs: tuple[ReplayInput, ...]
    skipped: SkipStats
    """What the walk passed over on its way to the last of the inputs."""
    staging: str
    """Folder for unfinished files."""
    options: EncodeOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class Feed:
    """The chunks of one run, in order. Plain data: the walk over the sources may happen in another process."""

    sources: tuple[str, ...]
    done: np.ndarray
    """uint64, sorted: first eight bytes of the keys that the corpus has."""
    chunk_inputs: int
    staging: str
    options: EncodeOptions

    def chunks(self) -> Iterator[Chunk]:
        """Walk the sources; nothing of a source is read before it is that source's turn. The last may be empty."""
        inputs = Inputs(self.sources, self._is_done)
        held: list[ReplayInput] = []
        content_bytes = 0
        for replay in inputs:
            held.append(replay)
            content_bytes += len(replay.content or b"")
            if len(held) == self.chunk_inputs or content_bytes >= MAX_CONTENT_BYTES:
                yield self._chunk(held, inputs.drain_skipped())
                held, content_bytes = [], 0
        yield self._chunk(held, inputs.drain_skipped())

    def _chunk(self, held: list[ReplayInput], passed: SkipStats) -> Chunk:
        return Chunk(inputs=tuple(held), skipped=passed, staging=self.staging, options=self.options)

    def _is_done(self, key: str) -> bool:
        value = np.uint64(int(key[:16], 16))
        index = np.searchsorted(self.done, value)
        return bool(index < len(self.done) and self.done[index] == value)


@dataclass(kw_only=True)
class EncodeSummary:
    """What one run of `wm encode` did, so far."""

    num_inputs: int = 0
    num_already_done: int = 0
    num_games: int = 0
    num_frames: int = 0
    num_replaced: int = 0
    """Games that had come from an older pipeline and now come from their .slp."""
    num_ignored_files: int = 0
    num_unreachable: int = 0
    """Inputs that could not be read for now."""
    num_bytes: int = 0
    """Of the sources, passed so far."""
    num_bytes_done: int = 0
    """Of those, what an earlier run had done."""
    rejects: Counter = field(default_factory=Counter)
    seconds: float = 0.0


def _absolute(source: str) -> str:
    """The same source for a process that runs in another folder."""
    path = local_path(source)
    return path if is_remote(path) else os.path.abspath(path)


RunChunks = Callable[[Feed], Iterable[ChunkResult]]
"""Runs `encode_chunk` over a feed's chunks, anywhere, and yields the results in order."""


def games_per_chunk(num_inputs: int) -> int:
    """Games in a shard: enough shards to keep many cores busy, few enough for an object store."""
    return min(64, max(4, num_inputs // 16))


def encode_chunk(
    chunk: Chunk, begin: Callable[[int | None], tuple[str, str] | None] = lambda index: None
) -> ChunkResult:
    """Encode one chunk's inputs into staged files. A plain function: needs no Ray and shares no state.

    Args:
        begin: called before an input is read, with its index, and with None after the last; may refuse the input
            with a reason code and a message.
    """
    name = uuid.uuid4().hex
    frames = ShardWriter(Path(chunk.staging) / f"{name}.frames.parquet")
    followers: ShardWriter | None = None
    games: list[dict[str, Any]] = []
    rejects: list[dict[str, Any]] = []
    unreached: set[str] = set()
    for index, (replay, read) in enumerate(read_ahead(chunk.inputs)):
        place: dict[str, Any] = {"source": replay.source, "member": replay.member}
        place["path"] = replay.name if chunk.options.keep_paths else None
        content = b""
        refusal = replay.rejection or begin(index)
        try:
            if refusal is not None:
                raise ReplayError(*refusal)
            content = read()
            game, row, table = _stored_form(replay, content, chunk.options)
        except ReplayError as error:
            if error.code == UNREACHABLE:
                unreached.add(replay.key)
                continue
            game_id = game_id_of(content) if content and replay.kind == "slp" else None
            rejects.append(place | {"game_id": game_id, "code": error.code, "message": error.message})
            continue
        games.append(place | row | frames.add(table))
        for follower in game.followers:
            if followers is None:
                followers = ShardWriter(Path(chunk.staging) / f"{name}.followers.parquet", FOLLOWERS_SCHEMA)
            followers.add(followers_table(game, follower))
    begin(None)
    writers = [writer for writer in (frames, followers) if writer is not None]
    facts = {writer.path.name: durable_file_record(writer.path, writer.close()) for writer in writers}
    return ChunkResult(
        keys=tuple(replay.key for replay in chunk.inputs if replay.key not in unreached),
        num_unreachable=len(unreached),
        num_bytes=sum(replay.num_bytes for replay in chunk.inputs),
        skipped=chunk.skipped,
        games=games,
        rejects=rejects,
        frames_file=frames.path.name if games else None,
        followers_file=None if followers is None else followers.path.name,
        staged_files=facts,
    )


def _stored_form(replay: ReplayInput, content: bytes, options: EncodeOptions) -> tuple[Game, dict[str, Any], pa.Table]:
    """The game of one input, its row of the games table, and its frames.

    An error of our own costs that input, not the night; its place is named.
    """
    try:
        if replay.kind == "parsed":
            game = parse_parsed_game(content, replay.name, replay.meta)
        else:
            game = parse_replay(content, repair_old=options.repair_old)
        check_game(game, options.filters)
        row = game_row(game)
        for name, value in row.items():  # what the driver could not write must not reach it
            pa.array([value], GAMES_SCHEMA.field(name).type)
        return game, row, frames_table(game)
    except (ReplayError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # a full disk, or no more files: not this input's
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}:{last.lineno}"
        raise ReplayError("internal_error", f"{type(error).__name__} at {place}; please report it") from error


def encode_in_process(feed: Feed) -> Iterator[ChunkResult]:
    """The plain twin of `datasets.pipeline.ray_encode.encode_on_ray`."""
    return map(encode_chunk, feed.chunks())


def encode(
    sources: Sequence[str | Path],
    out: Path,
    options: EncodeOptions,
    run_chunks: RunChunks,
    on_commit: Callable[[EncodeSummary, int], None] = lambda summary, bytes_left: None,
) -> EncodeSummary:
    """Encode what the corpus does not have yet.

    Args:
        sources: paths or URIs of folders, replays and archives (`datasets.sources`).
        on_commit: called after each commit with the summary so far and the bytes of the sources still left.
    Raises:
        UserError: the sources hold nothing, or `out` is not ours or was made with other options.
    """
    started = time.monotonic()
    places = tuple(_absolute(str(source)) for source in sources)
    found = survey(places)
    committer = Committer(out, options)
    feed = Feed(
        sources=places,
        done=committer.done_keys(),
        chunk_inputs=games_per_chunk(found.num_inputs),
        staging=str(committer.staging),
        options=options,
    )
    summary = EncodeSummary()
    for result in run_chunks(feed):
        summary.num_ignored_files += result.skipped.num_ignored
        summary.num_already_done += result.skipped.num_done
        summary.num_inputs += result.skipped.num_done + len(result.keys)
        summary.num_bytes += result.skipped.num_bytes + result.num_bytes
        summary.num_bytes_done += result.skipped.num_bytes
        summary.num_unreachable += result.num_unreachable
        if result.keys:
            commit = committer.commit(result)
            summary.num_games += len(commit["games"])
            summary.num_frames += sum(num_frames for *_, num_frames in commit["games"])
            summary.num_replaced += len(commit["replaced"])
            summary.rejects.update(commit["rejects"])
        summary.seconds = time.monotonic() - started
        on_commit(summary, max(0, found.num_bytes - summary.num_bytes))
    committer.finish()
    summary.seconds = time.monotonic() - started
    if not committer.num_games:
        reasons = ", ".join(f"{count} {code}" for code, count in committer.reject_counts.most_common())
        raise UserError(
            f"none of {summary.num_inputs} inputs is a training game ({reasons}); `wm corpus info {out}` names each"
        )
    return summary
