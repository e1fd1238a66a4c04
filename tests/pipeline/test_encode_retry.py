"""Rejects are taken up again: when asked to, by a newer version, and when the input has become whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from archive_making import write_archive

from datasets.corpus.chunk import EncodeOptions
from datasets.corpus.maintenance.verify import verify
from datasets.corpus.reader import open_corpus
from datasets.pipeline import encode_chunk
from datasets.pipeline.encode import EncodeSummary, encode, encode_in_process
from datasets.runtime.errors import UserError


@pytest.fixture
def games(synthetic_replays: Path) -> list[bytes]:
    """Two good replays."""
    longest = sorted(synthetic_replays.rglob("*.slp"), key=lambda path: path.stat().st_size)[-2:]
    return [path.read_bytes() for path in longest]


def encode_here(source: Path, out: Path, *, retry: tuple[str, ...] = (), **options: Any) -> EncodeSummary:
    return encode([source], out, EncodeOptions(**options), encode_in_process, retry=retry)


def codes(out: Path) -> list[str]:
    """Reason codes of all rejects, which the counts of the corpus must agree with."""
    corpus = open_corpus(out)
    found = corpus.rejects["code"].to_pylist()
    assert corpus.state.rejects.total() == len(found)
    report = verify(out)
    assert report.is_sound, report.text
    return found


def failing_at(replay: bytes) -> Callable[..., Any]:
    """A parser with a bug."""
    parse = encode_chunk.parse_replay

    def parse_or_fail(content: bytes, **options: Any) -> Any:
        if content == replay:
            raise KeyError("a bug")
        return parse(content, **options)

    return parse_or_fail


def test_a_reject_is_tried_again_when_asked_to_and_never_counted_twice(games, tmp_path, monkeypatch):
    source, out = write_archive(tmp_path / "dump.zip", {"a.slp": games[0], "b.slp": games[1]}), tmp_path / "corpus"
    with monkeypatch.context() as bug:
        bug.setattr(encode_chunk, "parse_replay", failing_at(games[0]))
        assert encode_here(source, out).rejects == {"internal_error": 1}
        assert encode_here(source, out).num_already_done == 2
        assert encode_here(source, out, retry=("internal_error",)).rejects == {"internal_error": 1}
        assert codes(out) == ["internal_error"]
    assert encode_here(source, out, retry=("short", "unopenable")).num_already_done == 2
    summary = encode_here(source, out, retry=("short", "internal_error"))
    assert (summary.num_games, summary.num_already_done) == (1, 1)
    assert codes(out) == []
    assert encode_here(source, out, retry=("internal_error",)).num_already_done == 2


def test_a_new_version_tries_again_what_an_older_one_may_have_failed_on(games, tmp_path, monkeypatch):
    source, out = write_archive(tmp_path / "dump.zip", {"a.slp": games[0], "b.slp": games[1]}), tmp_path / "corpus"
    with monkeypatch.context() as older:
        older.setattr(encode_chunk, "parse_replay", failing_at(games[0]))
        older.setattr("datasets.corpus.dedupe.tool_version", lambda: "0.0.1")
        encode_here(source, out)
    summary = encode_here(source, out)
    assert (summary.num_games, summary.num_already_done) == (1, 1)
    assert codes(out) == []


def test_a_finished_game_loses_the_reject_of_its_unfinished_file(games, tmp_path):
    source, out = tmp_path / "games", tmp_path / "corpus"
    source.mkdir()
    (source / "a.slp").write_bytes(games[0])
    (source / "b.slp").write_bytes(games[1][: len(games[1]) // 2])
    assert encode_here(source, out).rejects.total() == 1
    assert len(codes(out)) == 1
    (source / "b.slp").write_bytes(games[1])
    assert encode_here(source, out).num_games == 1
    assert codes(out) == []


@pytest.mark.parametrize("kind", [".zip", ".tar", ".tar.gz", ".7z"])
def test_an_archive_that_became_whole_loses_its_rejects(games, tmp_path, kind):
    path, out = tmp_path / f"dump{kind}", tmp_path / "corpus"
    (tmp_path / "dump").mkdir()
    (tmp_path / "dump" / "good.slp").write_bytes(games[0])
    write_archive(path, {"b.slp": games[1], "c.slp": games[0]})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 4])
    encode_here(tmp_path, out)
    assert codes(out)
    path.write_bytes(whole)
    summary = encode_here(tmp_path, out)
    assert summary.num_games == 1
    assert codes(out) == ["duplicate"]


def test_old_versions_are_repaired_in_a_corpus_that_was_made_without(real_replays, games, tmp_path):
    source, out = tmp_path / "games", tmp_path / "corpus"
    source.mkdir()
    (source / "a.slp").write_bytes(games[0])
    old = real_replays / "found" / "first_drift_of_cutter_3.6.slp.gz"
    (source / old.name).write_bytes(old.read_bytes())
    assert encode_here(source, out).rejects == {"parser_failed": 1}
    repaired = encode_here(source, out, retry=("parser_failed",), repair_old=True)
    assert repaired.num_already_done == 1
    assert "parser_failed" not in codes(out)
    with pytest.raises(UserError, match="repair_old is True there, False here"):
        encode_here(source, out)


def test_an_unknown_code_is_an_error_before_anything_is_encoded(games, tmp_path):
    source = write_archive(tmp_path / "dump.zip", {"a.slp": games[0]})
    with pytest.raises(UserError, match="--retry shrot: no such reason code"):
        encode_here(source, tmp_path / "corpus", retry=("shrot",))
