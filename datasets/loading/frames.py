"""Frames in memory: two plain arrays, and one row of game features per game, in raw units for any encoding.

Shape legend: N = frames of many games, B = batch, T = frames of a sequence, P = players (2), C = columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datasets.corpus.reader import Corpus
from datasets.corpus.state import FRAMES
from datasets.runtime.errors import UserError
from datasets.schema.columns import FORMS_WITHOUT_PERCENT, NUM_PLAYERS, OPTIONAL_FIELDS, VELOCITY_COLUMNS
from datasets.schema.splits import Split, SplitConfig, in_split
from datasets.schema.suspect_rules import SuspectGames

FLOAT_COLUMNS = ("x", "y", "percent", "shield", *VELOCITY_COLUMNS, "state_age", "hitlag", "hitstun")
"""Columns of `floats`, float32, raw units; 0 if the Slippi version does not record them."""
CODE_COLUMNS = (
    "action", "character", "stocks", "jumps", "l_cancel", "hurtbox", "ground", "last_attack", "combo",
    "facing", "airborne", "last_hit_by", "flags_0", "flags_1", "flags_2", "flags_3", "flags_4",
    "main_x", "main_y", "c_x", "c_y", "trigger", "buttons",
)  # fmt: skip
"""Columns of `codes`, int16; ground 65535 (none) becomes -1, and `buttons` keeps its bit pattern."""
GAME_COLUMNS = ("stage", *(f"has_{name}" for name in OPTIONAL_FIELDS), "has_state_flags", "p0_port", "p1_port")
"""Columns of `game`, int16. `has_state_flags` is 1 for games read from a .slp: they have flags and hitstun; those of
older pipelines may lack them. Ports are 1 to 4, or 0 where nothing tells them."""
BYTES_PER_FRAME = NUM_PLAYERS * (4 * len(FLOAT_COLUMNS) + 2 * len(CODE_COLUMNS))

_READ_COLUMNS = [f"p{player}_{name}" for player in range(NUM_PLAYERS) for name in FLOAT_COLUMNS + CODE_COLUMNS]


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameArrays:
    """The frames of some games, concatenated.

    floats: float32 (N, P, len(FLOAT_COLUMNS)); codes: int16 (N, P, len(CODE_COLUMNS)).
    """

    floats: np.ndarray
    codes: np.ndarray

    def __len__(self) -> int:
        return len(self.floats)


@dataclass(frozen=True, kw_only=True, slots=True)
class GameIndex:
    """The games of a corpus that a run uses: their locations and features. All arrays are (games,)."""

    corpus: Corpus
    game_ids: np.ndarray
    num_frames: np.ndarray
    shards: np.ndarray
    row_groups: np.ndarray
    first_rows: np.ndarray
    """First row of the game within its row group."""
    characters: np.ndarray
    """uint8 (games, P), external ids."""
    facts: np.ndarray
    """int16 (games, len(GAME_COLUMNS))."""

    def __len__(self) -> int:
        return len(self.game_ids)

    def row_of(self, game: int) -> int:
        """Row of a game of this index in the corpus' table of games."""
        return pc.index(self.corpus.games["game_id"], str(self.game_ids[game])).as_py()


def index_games(
    corpus: Corpus,
    split: Split,
    config: SplitConfig,
    *,
    for_evaluation: bool = False,
    suspect: SuspectGames = "keep",
) -> GameIndex:
    """The games of one split, in corpus order, without those of FORMS_WITHOUT_PERCENT.

    Args:
        for_evaluation: leave out games that may hold rollback frames from every split; validation and test never
            contain them.
        suspect: drop leaves out games that break a learned rule; those of a corpus without this column break none.
    Raises:
        UserError: the split is empty.
    """
    games = corpus.games
    numbers = games["split_number"].to_numpy()
    may_hold_rollbacks = games["may_hold_rollbacks"].to_numpy()
    chosen = in_split(numbers, split, config, may_hold_rollbacks)
    chosen &= ~np.isin(games["form"].to_numpy(), FORMS_WITHOUT_PERCENT)
    if for_evaluation:
        chosen &= ~may_hold_rollbacks
    if suspect == "drop":
        chosen &= games["suspect_rules"].fill_null(0).to_numpy() == 0
    rows = games.filter(pa.array(chosen))
    if not rows.num_rows:
        raise UserError(
            f"the {split} split of {corpus.location} holds none of its {games.num_rows} games; "
            "use more games, another split (wm eval: --split all; a run: train_split, eval.split), or other "
            "split.test_fraction and split.validation_fraction"
        )
    return GameIndex(
        corpus=corpus,
        game_ids=rows["game_id"].to_numpy(),
        num_frames=rows["num_frames"].to_numpy(),
        shards=rows["shard"].to_numpy(),
        row_groups=rows["row_group"].to_numpy(),
        first_rows=_first_rows_in_group(games)[chosen],
        characters=np.stack([rows[f"p{p}_character"].to_numpy() for p in range(NUM_PLAYERS)], axis=1),
        facts=_facts(rows),
    )


def _facts(games: pa.Table) -> np.ndarray:
    """Rows of GAME_COLUMNS: int16 (games, C)."""
    games = games.append_column("has_state_flags", pa.array(games["form"].to_numpy() == "slp"))
    facts = np.stack([games[name].cast(pa.int32()).fill_null(0).to_numpy() for name in GAME_COLUMNS], axis=1)
    return facts.clip(max=np.iinfo(np.int16).max).astype(np.int16)


def row_group_numbers(index: GameIndex) -> np.ndarray:
    """An id of the row group of each game, unique over all shards: int64 (games,)."""
    return _group_keys(pa.array(index.shards, pa.string()), index.row_groups)


def read_games(index: GameIndex, games: Sequence[int] | np.ndarray, *, out: FrameArrays | None = None) -> FrameArrays:
    """Read some games of an index, in the order given.

    Args:
        games: int (n,), positions in the index.
        out: arrays to fill, of exactly the games' total length; None allocates new ones.
    Raises:
        UserError: a shard cannot be read.
    """
    games = np.asarray(games)
    lengths = index.num_frames[games].astype(np.int64)
    return read_ranges(index, games, np.zeros_like(lengths), lengths, out=out)


def read_ranges(
    index: GameIndex, games: np.ndarray, starts: np.ndarray, ends: np.ndarray, *, out: FrameArrays | None = None
) -> FrameArrays:
    """Read ranges of frames, in the order given.

    Each row group is read once. Reading releases the GIL most of the time, so threads that read different games run
    in parallel.

    Args:
        games: int (n,), position in the index of each range's game.
        starts: int64 (n,), first frame of the range within its game.
        ends: int64 (n,), exclusive.
        out: arrays to fill, of exactly the ranges' total length; None allocates new ones.
    Raises:
        UserError: a shard cannot be read.
    """
    bounds = np.cumsum(ends - starts)
    out = allocate_frames(int(bounds[-1])) if out is None else out
    assert len(out) == len(out.codes) == bounds[-1]
    by_row_group: dict[tuple[str, int], list[int]] = {}
    for position, game in enumerate(games):
        by_row_group.setdefault((str(index.shards[game]), int(index.row_groups[game])), []).append(position)
    for (shard, row_group), positions in by_row_group.items():
        table = _read_row_group(index.corpus, shard, row_group)
        for position in positions:
            length, end = int(ends[position] - starts[position]), int(bounds[position])
            rows = table.slice(int(index.first_rows[games[position]] + starts[position]), length)
            _copy_rows(rows, out.floats[end - length : end], out.codes[end - length : end])
    return out


def allocate_frames(num_frames: int) -> FrameArrays:
    """Uninitialized arrays for some frames."""
    return FrameArrays(
        floats=np.empty((num_frames, NUM_PLAYERS, len(FLOAT_COLUMNS)), dtype=np.float32),
        codes=np.empty((num_frames, NUM_PLAYERS, len(CODE_COLUMNS)), dtype=np.int16),
    )


def _read_row_group(corpus: Corpus, shard: str, row_group: int, *, is_again: bool = False) -> pa.Table:
    path = f"{FRAMES}/{shard}"
    try:
        with corpus.open_file(path) as source, pq.ParquetFile(source) as file:
            if missing := sorted(set(_READ_COLUMNS) - set(file.schema_arrow.names)):
                raise UserError(
                    f"{corpus.location}/{path} lacks the columns {', '.join(missing)}; encode the replays again"
                )
            return file.read_row_group(row_group, columns=_READ_COLUMNS, use_threads=False)
    except (OSError, pa.ArrowInvalid) as error:
        if not is_again and corpus.discard_copy(path):
            return _read_row_group(corpus, shard, row_group, is_again=True)
        reason = str(error).splitlines()[0]
        raise UserError(
            f"cannot read {corpus.location}/{path} ({reason}); see `wm corpus verify {corpus.location}`"
        ) from error


def _first_rows_in_group(games: pa.Table) -> np.ndarray:
    """First row of each game within its row group: int64 (games,).

    In format 2, which does not store it, a row group begins with its first game.
    """
    if not games["row_in_group"].null_count:
        return games["row_in_group"].to_numpy().astype(np.int64)
    groups = _group_keys(games["shard"].combine_chunks(), games["row_group"].to_numpy())
    _, group_of_game = np.unique(groups, return_inverse=True)
    first_rows = games["first_row"].to_numpy()
    starts = np.full(group_of_game.max(initial=-1) + 1, np.iinfo(np.int64).max)
    np.minimum.at(starts, group_of_game, first_rows)
    return first_rows - starts[group_of_game]


def _group_keys(shards: pa.StringArray, row_groups: np.ndarray) -> np.ndarray:
    """An id for each pair of shard and row group: int64 (games,), ordered by the first occurrence of the shards."""
    return shards.dictionary_encode().indices.to_numpy().astype(np.int64) << 32 | row_groups.astype(np.int64)


def _copy_rows(rows: pa.Table, floats: np.ndarray, codes: np.ndarray) -> None:
    """Copy the columns of some frames into their slices of the arrays; a column with nulls becomes 0."""
    for target, names in ((floats, FLOAT_COLUMNS), (codes, CODE_COLUMNS)):
        for player in range(NUM_PLAYERS):
            for column, name in enumerate(names):
                values = rows[f"p{player}_{name}"]
                target[:, player, column] = values.to_numpy() if values.null_count == 0 else 0
