"""A corpus of several shards."""

from __future__ import annotations

from pathlib import Path

import pytest

NUM_SHARDS = 3


@pytest.fixture(scope="session")
def sharded_corpus(synthetic_replays: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus of the synthetic replays, encoded by several commands: a shard from each."""
    from datasets.corpus.chunk import EncodeOptions
    from datasets.pipeline.encode import encode, encode_in_process

    out = tmp_path_factory.mktemp("sharded") / "corpus"
    replays = sorted(synthetic_replays.rglob("*.slp"))
    for number in range(NUM_SHARDS):
        encode(replays[number::NUM_SHARDS], out, EncodeOptions(), encode_in_process)
    return out
