"""Frames in memory: two plain arrays and a row of facts a game, raw units, ready for any encoding.

Shape legend: N = frames of many games, B = batch, T = frames of a sequence, P = players (2), C = columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datasets.corpus.reader import Corpus
from datasets.runtime.errors import UserError
from datasets.schema.columns import NUM_PLAYERS, OPTIONAL_FIELDS, VELOCITY_COLUMNS
from datasets.schema.splits import Split, SplitConfig, in_split

FLOAT_COLUMNS = ("x", "y", "percent", "shield", *VELOCITY_COLUMNS, "state_age", "hitlag")
"""Columns of `floats`, float32, raw units; 0 where the version has none."""
CODE_COLUMNS = (
    "action", "character", "stocks", "jumps", "l_cancel", "hurtbox", "ground", "last_attack", "combo",
    "facing", "airborne", "main_x", "main_y", "c_x", "c_y", "trigger", "buttons",
)  # fmt: skip
"""Columns of `codes`, int16; ground 65535 (none) is -1 there, and `buttons` keeps its bit pattern."""
GAME_COLUMNS = ("stage", *(f"has_{name}" for name in OPTIONAL_FIELDS))
"""Columns of `game`, int16."""

_READ_COLUMNS = [f"p{player}_{name}" for player in range(NUM_PLAYERS) for name in FLOAT_COLUMNS + CODE_COLUMNS]


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameArrays:
    """Some games' frames, one game after another.

    floats: float32 (N, P, len(FLOAT_COLUMNS)); codes: int16 (N, P, len(CODE_COLUMNS)).
    """

    floats: np.ndarray
    codes: np.ndarray

    def __len__(self) -> int:
        return len(self.floats)


@dataclass(frozen=True, kw_only=True, slots=True)
class GameIndex:
    """The games of a corpus that a run uses: where each lies, and its facts. All arrays are (games,)."""

    corpus: Corpus
    game_ids: np.ndarray
    num_frames: np.ndarray
    shards: np.ndarray
    row_groups: np.ndarray
    first_rows: np.ndarray
    """Of the game within its row group."""
    characters: np.ndarray
    """uint8 (games, P), external ids."""
    facts: np.ndarray
    """int16 (games, len(GAME_COLUMNS))."""

    def __len__(self) -> int:
        return len(self.game_ids)


INCOMPLETE_FORMS = ("slippi-db",)
"""Forms without percent, stocks and state age: stored, but no model sees them until their .slp arrives."""


def index_games(corpus: Corpus, split: Split, config: SplitConfig, *, to_judge: bool = False) -> GameIndex:
    """The games of one split, in corpus order, less those of a form that lacks what every encoding needs.

    Args:
        to_judge: leave out games that may hold rollbacks, in whatever split; validation and test never have them.
    Raises:
        UserError: the split holds no game.
    """
    games = corpus.games
    numbers = games["split_number"].to_numpy()
    may_hold_rollbacks = games["may_hold_rollbacks"].to_numpy()
    mine = in_split(numbers, split, config, may_hold_rollbacks)
    mine &= ~np.isin(games["form"].to_numpy(), INCOMPLETE_FORMS)
    if to_judge:
        mine &= ~may_hold_rollbacks
    chosen = games.filter(pa.array(mine))
    if not chosen.num_rows:
        raise UserError(
            f"the {split} split of {corpus.root} holds none of its {games.num_rows} games; "
            "use more games, other shares under `split`, or split=all"
        )
    return GameIndex(
        corpus=corpus,
        game_ids=chosen["game_id"].to_numpy(),
        num_frames=chosen["num_frames"].to_numpy(),
        shards=chosen["shard"].to_numpy(),
        row_groups=chosen["row_group"].to_numpy(),
        first_rows=_first_rows_in_group(games)[mine],
        characters=np.stack([chosen[f"p{p}_character"].to_numpy() for p in range(NUM_PLAYERS)], axis=1),
        facts=np.stack([chosen[name].to_numpy().astype(np.int16) for name in GAME_COLUMNS], axis=1),
    )


def row_group_numbers(index: GameIndex) -> np.ndarray:
    """A number for the row group of each game, in which games of one row group agree: int64 (games,)."""
    return _group_keys(pa.array(index.shards, pa.string()), index.row_groups)


def read_games(index: GameIndex, games: Sequence[int] | np.ndarray, *, out: FrameArrays | None = None) -> FrameArrays:
    """Read some games of an index, in the order given.

    Row groups are read once each, so games of one row group should stand together. Reading leaves Python's lock
    to others most of the time: threads that read different games run in parallel.

    Args:
        out: where the frames go, exactly as many as the games have; None makes new arrays.
    """
    games = np.asarray(games)
    ends = np.cumsum(index.num_frames[games])
    total = int(ends[-1])
    if out is None:
        out = FrameArrays(
            floats=np.empty((total, NUM_PLAYERS, len(FLOAT_COLUMNS)), dtype=np.float32),
            codes=np.empty((total, NUM_PLAYERS, len(CODE_COLUMNS)), dtype=np.int16),
        )
    assert len(out) == len(out.codes) == total
    places: dict[tuple[str, int], list[int]] = {}
    for place, game in enumerate(games):
        places.setdefault((str(index.shards[game]), int(index.row_groups[game])), []).append(place)
    for (shard, row_group), group in places.items():
        table = _read_row_group(index.corpus.shard_path(shard), row_group)
        for place in group:
            length, end = int(index.num_frames[games[place]]), int(ends[place])
            rows = table.slice(int(index.first_rows[games[place]]), length)
            _unpack(rows, out.floats[end - length : end], out.codes[end - length : end])
    return out


def _read_row_group(path: Path, row_group: int) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:
            return file.read_row_group(row_group, columns=_READ_COLUMNS, use_threads=False)
    except (OSError, pa.ArrowInvalid) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"shard {path} cannot be read ({reason}); encode the replays again") from error


def _first_rows_in_group(games: pa.Table) -> np.ndarray:
    """First row of each game within its row group: int64 (games,). A group begins with its first game."""
    groups = _group_keys(games["shard"].combine_chunks(), games["row_group"].to_numpy())
    _, group_of_game = np.unique(groups, return_inverse=True)
    first_rows = games["first_row"].to_numpy()
    starts = np.full(group_of_game.max(initial=-1) + 1, np.iinfo(np.int64).max)
    np.minimum.at(starts, group_of_game, first_rows)
    return first_rows - starts[group_of_game]


def _group_keys(shards: pa.StringArray, row_groups: np.ndarray) -> np.ndarray:
    """A number for each pair of shard and row group, int64, in the order in which shards come first."""
    return shards.dictionary_encode().indices.to_numpy().astype(np.int64) << 32 | row_groups.astype(np.int64)


def _unpack(rows: pa.Table, floats: np.ndarray, codes: np.ndarray) -> None:
    """Copy one game's columns into its place; a column with nulls is 0."""
    for target, names in ((floats, FLOAT_COLUMNS), (codes, CODE_COLUMNS)):
        for player in range(NUM_PLAYERS):
            for column, name in enumerate(names):
                values = rows[f"p{player}_{name}"]
                target[:, player, column] = values.to_numpy() if values.null_count == 0 else 0
