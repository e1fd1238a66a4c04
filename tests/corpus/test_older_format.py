"""Corpora of format 2 are read, verified and copied, and never written."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from chunks import files_of
from older_corpus import write_older_corpus

from datasets.corpus.chunk import EncodeOptions
from datasets.corpus.commit import Committer
from datasets.corpus.info import corpus_info
from datasets.corpus.maintenance.compact import compact
from datasets.corpus.maintenance.repair import repair
from datasets.corpus.maintenance.verify import verify
from datasets.corpus.reader import open_corpus
from datasets.corpus.state import FRAMES
from datasets.corpus.transfer.copy import copy_corpus
from datasets.loading.frames import index_games, read_games
from datasets.runtime.errors import UserError
from datasets.schema.splits import SplitConfig


@pytest.fixture(scope="module")
def older(tiny_corpus, tmp_path_factory) -> Path:
    """The tiny corpus in format 2."""
    return write_older_corpus(tiny_corpus, tmp_path_factory.mktemp("older") / "corpus")


def test_training_reads_the_same_frames(older, tiny_corpus):
    ours, theirs = (index_games(open_corpus(root), "all", SplitConfig()) for root in (tiny_corpus, older))
    assert ours.game_ids.tolist() == theirs.game_ids.tolist()
    some = np.arange(len(ours))[::3]
    np.testing.assert_array_equal(read_games(ours, some).floats, read_games(theirs, some).floats)
    assert corpus_info(open_corpus(older)).num_games == len(ours)


def test_it_is_verified_against_its_commits(older, tmp_path):
    copy_corpus(older, tmp_path / "copy")
    report = verify(tmp_path / "copy")
    assert report.text.startswith(f"{tmp_path / 'copy'} is sound"), report.text
    path = next((tmp_path / "copy" / FRAMES).iterdir())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "checksum mismatch" in verify(tmp_path / "copy").text
    os.truncate(path, 100)
    assert "has 100 bytes" in verify(tmp_path / "copy").text


@pytest.mark.parametrize("write", [repair, compact, lambda root: Committer(root, EncodeOptions())])
def test_it_is_not_written(write, older):
    before = files_of(older)
    with pytest.raises(UserError, match="corpus format 2, which is read but not written any more; encode the replays"):
        write(older)
    assert files_of(older) == before
