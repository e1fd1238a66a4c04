"""Encoding one chunk: inputs -> staged Parquet files, rows of games and rows of rejects. Runs in any process."""

from __future__ import annotations

import traceback
import uuid
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from datasets.checks.filters import check_game
from datasets.corpus.chunk import ChunkResult, EncodeOptions
from datasets.corpus.commit_files import durable_file_record
from datasets.corpus.shard import ShardWriter, followers_table, frames_table, game_row
from datasets.legacy.parsed_game import parse_parsed_game
from datasets.pipeline.feed import Chunk
from datasets.replays.game import Game
from datasets.replays.slp_reader import game_id_of, parse_replay
from datasets.runtime.errors import ReplayError
from datasets.runtime.version import tool_version
from datasets.schema.columns import FOLLOWERS_SCHEMA, GAMES_SCHEMA
from datasets.sources.inputs import ReplayInput
from datasets.sources.read_errors import is_transient
from datasets.sources.reading import read_ahead


class Begin(Protocol):
    """Called with an input's index before it is read and before it is parsed, and with None after the last input.

    May reject the input by returning a reason code and a message.
    """

    def __call__(self, index: int | None, is_read: bool = False) -> tuple[str, str] | None:
        """Args:
        is_read: whether the input has been read and is parsed next.
        """


def _begin_nothing(index: int | None, is_read: bool = False) -> None:
    pass


def encode_chunk(chunk: Chunk, begin: Begin = _begin_nothing) -> ChunkResult:
    """Encode one chunk's inputs into staged files. A plain function: needs no Ray and shares no state."""
    name = uuid.uuid4().hex
    frames = ShardWriter(Path(chunk.staging) / f"{name}.frames.parquet")
    followers: ShardWriter | None = None
    games: list[dict[str, Any]] = []
    rejects: list[dict[str, Any]] = []
    keys: list[str] = []
    locations = set(chunk.skipped.listed)
    unread: list[tuple[str, str]] = []
    for index, (replay, read) in enumerate(read_ahead(chunk.inputs)):
        origin: dict[str, Any] = {"source": replay.source, "member": replay.member}
        origin |= {"key": replay.key, "location_key": replay.location_key, "tool_version": tool_version()}
        origin["path"] = replay.name if chunk.options.keep_paths else None
        content, key = b"", replay.key
        rejection = replay.rejection or begin(index)
        try:
            if rejection is not None:
                raise ReplayError(*rejection)
            key = replay.key_if_damaged or key
            content = read()
            key = replay.key
            if (rejection := begin(index, is_read=True)) is not None:
                raise ReplayError(*rejection)
            game, row, table = _parse(replay, content, chunk.options)
        except ReplayError as error:
            if is_transient(error):
                unread.append((replay.label, error.message))
                continue
            keys.append(key)
            locations.add(replay.location_key)
            game_id = game_id_of(content) if content and replay.kind == "slp" else None
            origin["key"] = key
            rejects.append(origin | {"game_id": game_id, "code": error.code, "message": error.message})
            continue
        keys.append(key)
        locations.add(replay.location_key)
        games.append(origin | row | frames.add(table))
        for follower in game.followers:
            if followers is None:
                followers = ShardWriter(Path(chunk.staging) / f"{name}.followers.parquet", FOLLOWERS_SCHEMA)
            followers.add(followers_table(game, follower))
    begin(None)
    writers = [writer for writer in (frames, followers) if writer is not None]
    return ChunkResult(
        keys=tuple(keys),
        locations=frozenset(locations),
        unread=tuple(unread),
        num_bytes=sum(replay.num_bytes for replay in chunk.inputs),
        skipped=chunk.skipped,
        games=games,
        rejects=rejects,
        frames_file=frames.path.name if games else None,
        followers_file=None if followers is None else followers.path.name,
        staged_files={writer.path.name: durable_file_record(writer.path, writer.close()) for writer in writers},
    )


def _parse(replay: ReplayInput, content: bytes, options: EncodeOptions) -> tuple[Game, dict[str, Any], pa.Table]:
    """The game of one input, its row of the games table, and its frames.

    An unexpected exception rejects this input as `internal_error` and names the line, so that the run goes on.
    """
    try:
        if replay.kind == "parsed":
            game = parse_parsed_game(content, replay.name, replay.meta)
        else:
            game = parse_replay(content, repair_old=options.repair_old)
        row = game_row(game, check_game(game, options.filters))
        for name, value in row.items():  # a value that does not fit the schema must fail here, not in the driver
            pa.array([value], GAMES_SCHEMA.field(name).type)
        return game, row, frames_table(game)
    except (ReplayError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # such as a full disk or too many open files: not caused by this input
        last = traceback.extract_tb(error.__traceback__)[-1]
        line = f"{Path(last.filename).name}:{last.lineno}"
        raise ReplayError("internal_error", f"{type(error).__name__} at {line}; please report it") from error
