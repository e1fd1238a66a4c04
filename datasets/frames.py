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

from datasets.corpus import Corpus
from datasets.errors import UserError
from datasets.schema import NUM_PLAYERS, OPTIONAL_FIELDS, VELOCITY_COLUMNS
from datasets.splits import Split, SplitConfig, in_split

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


def read_games(index: GameIndex, games: Sequence[int] | np.ndarray) -> FrameArrays:
    """Read some games of an index, in the order given.

    Row groups are read once each, so games of one row group should stand together.
    """
    games = np.asarray(games)
    total = int(index.num_frames[games].sum())
    floats = np.zeros((total, NUM_PLAYERS, len(FLOAT_COLUMNS)), dtype=np.float32)
    codes = np.zeros((total, NUM_PLAYERS, len(CODE_COLUMNS)), dtype=np.int16)
    ends = np.cumsum(index.num_frames[games])
    places = {int(game): slice(int(e - index.num_frames[game]), int(e)) for game, e in zip(games, ends, strict=True)}
    for shard, row_group in dict.fromkeys((str(index.shards[g]), int(index.row_groups[g])) for g in games):
        table = _read_row_group(index.corpus.shard_path(shard), row_group)
        for game in games[(index.shards[games] == shard) & (index.row_groups[games] == row_group)]:
            rows = table.slice(int(index.first_rows[game]), int(index.num_frames[game]))
            _unpack(rows, floats[places[int(game)]], codes[places[int(game)]])
    return FrameArrays(floats=floats, codes=codes)


def _read_row_group(path: Path, row_group: int) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:
            return file.read_row_group(row_group, columns=_READ_COLUMNS, use_threads=False)
    except (OSError, pa.ArrowInvalid) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"shard {path} cannot be read ({reason}); encode the replays again") from error


def _first_rows_in_group(games: pa.Table) -> np.ndarray:
    """First row of each game within its row group: int64 (games,). A group begins with its first game."""
    shards = games["shard"].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    groups = shards << 32 | games["row_group"].to_numpy()
    _, group_of_game = np.unique(groups, return_inverse=True)
    first_rows = games["first_row"].to_numpy()
    starts = np.full(group_of_game.max(initial=-1) + 1, np.iinfo(np.int64).max)
    np.minimum.at(starts, group_of_game, first_rows)
    return first_rows - starts[group_of_game]


def _unpack(rows: pa.Table, floats: np.ndarray, codes: np.ndarray) -> None:
    """Copy one game's columns into its place; nulls stay 0."""
    for target, names in ((floats, FLOAT_COLUMNS), (codes, CODE_COLUMNS)):
        for player in range(NUM_PLAYERS):
            for column, name in enumerate(names):
                values = rows[f"p{player}_{name}"]
                if values.null_count == 0:
                    target[:, player, column] = values.to_numpy()
