"""Encoding one chunk: inputs -> staged Parquet files, rows of games and rows of rejects. Runs in any process."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from datasets.checks.filters import check_game
from datasets.corpus.chunk import ChunkResult, EncodeOptions, staged_path
from datasets.corpus.data_files import file_record, new_name
from datasets.corpus.dedupe import SLP, duplicate_message, reject_row
from datasets.corpus.shard import ShardWriter, followers_table, frames_table, game_row, optional_table
from datasets.corpus.state import FOLLOWERS, FRAMES
from datasets.legacy.parsed_game import parse_parsed_game
from datasets.pipeline.feed import Chunk
from datasets.pipeline.known_ids import is_known
from datasets.replays.game import Game
from datasets.replays.slp_reader import game_id_of, parse_replay
from datasets.runtime.errors import ReplayError
from datasets.schema.columns import FOLLOWERS_SCHEMA, GAMES_SCHEMA
from datasets.schema.optional_tables import OPTIONAL_TABLES
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
    name = new_name()
    staging = Path(chunk.staging)
    writers = {FRAMES: ShardWriter(staged_path(staging, FRAMES, name))}
    games: list[dict[str, Any]] = []
    rejects: list[dict[str, Any]] = []
    keys: list[str] = []
    locations = set(chunk.skipped.listed)
    unread: list[tuple[str, str]] = []
    seen: set[str] = set()
    for index, (replay, read) in enumerate(read_ahead(chunk.inputs)):
        origin: dict[str, Any] = {"source": replay.source, "member": replay.member, "location_key": replay.location_key}
        origin["path"] = replay.name if chunk.options.keep_paths else None
        content, key, game_id = b"", replay.key, None
        rejection = replay.rejection or begin(index)
        try:
            if rejection is not None:
                raise ReplayError(*rejection)
            key = replay.key_if_damaged or key
            content = read()
            key = replay.key
            if (rejection := begin(index, is_read=True)) is not None:
                raise ReplayError(*rejection)
            game_id = game_id_of(content) if replay.kind == "slp" else None
            if game_id is not None and (game_id in seen or is_known(chunk.known_games, game_id)):
                raise ReplayError("duplicate", duplicate_message(game_id))
            game, row, table = _parse(replay, content, game_id, chunk.options)
        except ReplayError as error:
            if is_transient(error):
                unread.append((replay.label, error.message))
                continue
            keys.append(key)
            locations.add(replay.location_key)
            rejects.append(reject_row(origin | {"key": key}, game_id, error.code, error.message))
            continue
        keys.append(key)
        locations.add(replay.location_key)
        games.append(origin | row | writers[FRAMES].add(table) | {"shard": name, "key": key})
        if row["form"] == SLP:
            seen.add(game.game_id)
        for other, schema, more in _more_rows(game):
            if other not in writers:
                writers[other] = ShardWriter(staged_path(staging, other, name), schema)
            writers[other].add(more)
    begin(None)
    num_rows = {table: writer.close() for table, writer in writers.items()}
    if not games:
        writers.pop(FRAMES).path.unlink()
    return ChunkResult(
        keys=tuple(keys),
        locations=frozenset(locations),
        unread=tuple(unread),
        num_bytes=sum(replay.num_bytes for replay in chunk.inputs),
        skipped=chunk.skipped,
        games=games,
        rejects=rejects,
        files={
            table: file_record(writer.path, num_rows[table])._replace(name=name) for table, writer in writers.items()
        },
    )


def _more_rows(game: Game) -> Iterator[tuple[str, pa.Schema, pa.Table]]:
    """Table, schema and rows of a game beside its frames, where there are some."""
    for follower in game.followers:
        yield FOLLOWERS, FOLLOWERS_SCHEMA, followers_table(game, follower)
    for table, found in game.optional.items():
        if len(found.rows):
            yield table, OPTIONAL_TABLES[table], optional_table(game, table)


def _parse(
    replay: ReplayInput, content: bytes, game_id: str | None, options: EncodeOptions
) -> tuple[Game, dict[str, Any], pa.Table]:
    """The game of one input, its row of the games table, and its frames.

    An unexpected exception rejects this input as `internal_error` and names the line, so that the run goes on.
    """
    try:
        if replay.kind == "parsed":
            game = parse_parsed_game(content, replay.name, replay.meta)
        else:
            game = parse_replay(content, repair_old=options.repair_old, game_id=game_id, tables=options.tables)
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
