"""`wm corpus info`: the contents of a corpus, as text and as plain data."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from datasets.corpus.reader import Corpus
from datasets.corpus.state import FRAMES
from datasets.schema.columns import OPTIONAL_FIELDS
from datasets.schema.melee_ids import character_name, stage_name
from datasets.schema.optional_tables import OPTIONAL_TABLES, ROW_COUNTS
from datasets.schema.splits import SplitConfig, in_split
from datasets.schema.suspect_rules import suspect_rules_in


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusInfo:
    """Counts over one corpus."""

    num_games: int
    num_frames: int
    bytes_per_frame: float
    """Bytes of the frames table on disk per frame."""
    optional_bytes_per_frame: dict[str, float]
    """The same of each optional table that the corpus has."""
    games_by_character: dict[str, int]
    """Games with a character; a mirror match counts once."""
    games_by_stage: dict[str, int]
    games_by_version: dict[str, int]
    games_without: dict[str, int]
    """Games that lack an optional field or table."""
    games_by_split: dict[str, int]
    num_suspect: int
    """Games that break a learned rule."""
    suspect_by_rule: dict[str, int]
    """Games that break each of these rules; a game may break several."""
    num_unchecked: int
    """Games that the rules were not applied to: in a corpus of an older format, or with rollback frames."""
    rejects_by_reason: dict[str, int]
    rejects: list[dict[str, Any]]


def corpus_info(corpus: Corpus) -> CorpusInfo:
    """Count the contents of a corpus."""
    games = corpus.games.to_pydict()
    num_frames = sum(games["num_frames"])
    characters: Counter[str] = Counter()
    for pair in zip(games["p0_character"], games["p1_character"], strict=True):
        characters.update({character_name(character) for character in pair})
    numbers = np.asarray(games["split_number"], dtype=np.float64)
    may_hold_rollbacks = np.asarray(games["may_hold_rollbacks"], dtype=bool)
    splits = ("train", "validation", "test")
    suspect = [bits for bits in games["suspect_rules"] if bits is not None]
    rejects = corpus.rejects.to_pylist()
    return CorpusInfo(
        num_games=len(games["game_id"]),
        num_frames=num_frames,
        bytes_per_frame=corpus.num_bytes(FRAMES) / max(1, num_frames),
        optional_bytes_per_frame={
            table: corpus.num_bytes(table) / max(1, num_frames) for table in OPTIONAL_TABLES if corpus.num_bytes(table)
        },
        games_by_character=dict(characters.most_common()),
        games_by_stage=dict(Counter(stage_name(stage) for stage in games["stage"]).most_common()),
        games_by_version=dict(sorted(Counter(version or "unknown" for version in games["slippi_version"]).items())),
        games_without={name: games[f"has_{name}"].count(False) for name in OPTIONAL_FIELDS}
        | {table: games[column].count(None) for table, column in ROW_COUNTS.items()},
        games_by_split={s: int(in_split(numbers, s, SplitConfig(), may_hold_rollbacks).sum()) for s in splits},
        num_suspect=sum(bits > 0 for bits in suspect),
        suspect_by_rule=dict(Counter(rule for bits in suspect for rule in suspect_rules_in(bits)).most_common()),
        num_unchecked=len(games["game_id"]) - len(suspect),
        rejects_by_reason=dict(Counter(reject["code"] for reject in rejects).most_common()),
        rejects=rejects,
    )


def describe(info: CorpusInfo, show_rejects: bool) -> str:
    """The counts as a text table."""
    rows = [
        ("games", f"{info.num_games:,}"),
        ("frames", f"{info.num_frames:,} ({info.num_frames / 3600 / 60:.1f} hours of play)"),
        ("bytes per frame", _bytes_text(info)),
        ("splits", _counts(info.games_by_split)),
        ("stages", _counts(info.games_by_stage)),
        ("characters", _counts(info.games_by_character)),
        ("versions", _counts(info.games_by_version)),
        ("games without", _counts(info.games_without)),
        ("suspect games", _suspect_text(info)),
        (
            "rejects",
            f"{len(info.rejects):,}" + (f": {_counts(info.rejects_by_reason)}" if info.rejects else ""),
        ),
    ]
    lines = [f"{name:>14}  {text}" for name, text in rows]
    if show_rejects:
        lines += [
            f"{'':>14}  {reject['source']} {reject['path'] or '#{}'.format(reject['member'])}: "
            f"{reject['message']} [{reject['code']}]"
            for reject in info.rejects
        ]
    return "\n".join(lines)


def _bytes_text(info: CorpusInfo) -> str:
    others = [f"{num_bytes:.1f} in {table}" for table, num_bytes in info.optional_bytes_per_frame.items()]
    return ", and ".join([f"{info.bytes_per_frame:.1f}", *others])


def _suspect_text(info: CorpusInfo) -> str:
    text = f"{info.num_suspect:,}" + (f": {_counts(info.suspect_by_rule)}" if info.num_suspect else "")
    return f"{text}; {info.num_unchecked:,} not checked" if info.num_unchecked else text


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())
