"""Games that the corpus has are rejected as duplicates without parsing them again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from chunks import all_rows

from datasets.corpus.chunk import EncodeOptions
from datasets.pipeline import encode_chunk
from datasets.pipeline.encode import encode, encode_in_process
from datasets.pipeline.known_ids import NO_IDS, is_known, known_ids
from datasets.pipeline.parser_process import ParserProcess


def test_an_id_is_known_only_if_both_halves_are_those_of_one_game():
    ids = [half + other for half in ("0" * 16, "f" * 16, "8" + "0" * 15) for other in ("1" * 16, "2" * 16)]
    known = known_ids(ids)
    assert known.shape == (2, 6)
    assert all(is_known(known, one) for one in ids)
    assert not any(is_known(known, one) for one in ("0" * 16 + "3" * 16, "1" * 16 + "0" * 16, "7" + "0" * 31))
    assert not is_known(NO_IDS, "0" * 32)


@pytest.fixture
def twice(synthetic_replays, tmp_path) -> tuple[Path, Path]:
    """A folder of replays, and copies of four of them between other files."""
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
    for number, path in enumerate(sorted(synthetic_replays.glob("*.slp"))[:10]):
        shutil.copy2(path, (first if number < 8 else second) / path.name)
        if number < 4:
            shutil.copy2(path, second / f"copy of {path.name}")
    return first, second


def test_a_copy_of_a_game_of_the_corpus_is_a_duplicate_without_being_parsed(twice, tmp_path, monkeypatch):
    first, second = twice
    encode([first, second], tmp_path / "at once", EncodeOptions(), encode_in_process)
    encode([first], tmp_path / "added", EncodeOptions(), encode_in_process)
    parsed, parse = [], encode_chunk.parse_replay
    monkeypatch.setattr(encode_chunk, "parse_replay", lambda *a, **k: parsed.append(1) or parse(*a, **k))
    summary = encode([first, second], tmp_path / "added", EncodeOptions(), encode_in_process)
    assert (summary.num_games, summary.rejects) == (2, {"duplicate": 4})
    assert len(parsed) == 2
    at_once, added = all_rows(tmp_path / "at once"), all_rows(tmp_path / "added")
    assert at_once["rejects"].equals(added["rejects"])
    assert at_once["games"]["game_id"].equals(added["games"]["game_id"])


def echo_known_games(chunk, begin):
    """What a child got."""
    return chunk.known_games


def test_a_parser_process_hands_the_known_games_to_every_chunk(tmp_path):
    import pickle

    from datasets.pipeline.feed import Chunk
    from datasets.sources.inputs import SkipStats

    known = known_ids(["1" * 32, "2" * 32])
    chunk = Chunk(inputs=(), skipped=SkipStats(), staging=str(tmp_path), options=EncodeOptions())
    with ParserProcess(500 * 10**6, encode=f"{__name__}:echo_known_games", known_games=known) as parser:
        for _ in range(2):
            assert (pickle.loads(parser.encode(pickle.dumps(chunk))) == known).all()
