"""Games that break a learned rule, from the encode to training: stored with a flag, counted, refused or left out on
request."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path

import pyarrow as pa
import pytest

from datasets.checks.filters import FilterConfig
from datasets.corpus.chunk import EncodeOptions
from datasets.corpus.info import corpus_info, describe
from datasets.corpus.reader import open_corpus
from datasets.loading.frames import index_games
from datasets.pipeline.encode import encode, encode_in_process
from datasets.replays.slp_reader import parse_replay
from datasets.schema.columns import FIRST_FRAME_ID
from datasets.schema.splits import SplitConfig
from datasets.schema.suspect_rules import suspect_bits

PRE_FRAME, MAIN_X = 0x37, 0x19


@pytest.fixture(scope="module")
def replays(synthetic_replays: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two good replays, and one with a stick between its steps in three frames."""
    folder = tmp_path_factory.mktemp("suspect") / "replays"
    folder.mkdir()
    for number, path in enumerate(sorted(synthetic_replays.rglob("*.slp"))[:3]):
        content = path.read_bytes()
        (folder / path.name).write_bytes(with_sticks_between_steps(content) if number == 1 else content)
    return folder


def with_sticks_between_steps(content: bytes) -> bytes:
    """The replay with 0.5001 for a stick in three frames."""
    port = parse_replay(content).facts.players[0].port
    assert port is not None
    heads = [struct.pack(">BiBB", PRE_FRAME, frame + FIRST_FRAME_ID, port - 1, 0) for frame in range(200, 900)]
    for head in [head for head in heads if content.count(head) == 1][:3]:
        at = content.index(head) + MAIN_X
        content = content[:at] + struct.pack(">f", 0.5001) + content[at + 4 :]
    return content


@pytest.fixture(scope="module")
def corpus_folder(replays: Path) -> Path:
    out = replays.parent / "corpus"
    encode([replays], out, EncodeOptions(), encode_in_process)
    return out


def test_a_suspect_game_is_stored_with_its_rules_and_its_number_of_frames(corpus_folder):
    games = open_corpus(corpus_folder).games
    assert sorted(games["suspect_rules"].to_pylist()) == [0, 0, suspect_bits(["off_grid"])]
    assert sorted(games["suspect_frames"].to_pylist()) == [0, 0, 3]


def test_the_description_of_a_corpus_counts_suspect_games_by_rule(corpus_folder):
    info = corpus_info(open_corpus(corpus_folder))
    assert (info.num_suspect, info.suspect_by_rule, info.num_unchecked) == (1, {"off_grid": 1}, 0)
    assert "suspect games  1: off_grid 1\n" in describe(info, show_rejects=False)


def test_strict_rejects_a_suspect_game_by_the_same_code(replays):
    out = replays.parent / "strict"
    encode([replays], out, EncodeOptions(filters=FilterConfig(strict=True)), encode_in_process)
    corpus = open_corpus(out)
    assert corpus.games["suspect_rules"].to_pylist() == [0, 0]
    ((code, message),) = [(reject["code"], reject["message"]) for reject in corpus.rejects.to_pylist()]
    assert code == "off_grid" and "main_x is not a multiple of its step" in message and "in 2 more" in message


def test_training_takes_suspect_games_unless_they_are_dropped(corpus_folder):
    corpus = open_corpus(corpus_folder)
    kept = index_games(corpus, "all", SplitConfig())
    dropped = index_games(corpus, "all", SplitConfig(), suspect="drop")
    suspect = corpus.games["suspect_rules"].to_numpy() > 0
    assert kept.game_ids.tolist() == corpus.games["game_id"].to_pylist()
    assert dropped.game_ids.tolist() == kept.game_ids[~suspect].tolist()


def test_games_of_a_corpus_without_the_column_are_not_suspect(corpus_folder):
    corpus = open_corpus(corpus_folder)
    games = corpus.games
    for name in ("suspect_rules", "suspect_frames"):
        at = games.schema.get_field_index(name)
        games = games.set_column(at, games.schema.field(name), pa.nulls(len(games), games.schema.field(name).type))
    older = dataclasses.replace(corpus)
    older.__dict__["games"] = games
    assert len(index_games(older, "all", SplitConfig(), suspect="drop")) == 3
    info = corpus_info(older)
    assert (info.num_suspect, info.num_unchecked) == (0, 3)
    assert "suspect games  0; 3 not checked" in describe(info, show_rejects=False)
