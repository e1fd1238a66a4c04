"""A run is killed, its corpus is compacted, and the run resumed: the same run, or a warning that it is not."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import assert_same_weights, checkpoints, run, tiny_run, weights

from datasets.corpus.chunk import EncodeOptions
from datasets.corpus.maintenance.compact import compact
from datasets.corpus.reader import open_corpus
from datasets.corpus.state import FRAMES
from datasets.loading import sequences
from datasets.pipeline.encode import encode, encode_in_process
from wm.checkpoints.reader import open_checkpoint
from wm.config.typed_yaml import to_plain
from wm.runs.run_log import read_log

KILLED = """
import json, os, signal, sys, time
import torch
torch.set_num_threads(1)
from datasets.loading import sequences
from wm.config.run_config import RunConfig
from wm.config.typed_yaml import from_plain
from wm.data.training_data import open_data
from wm.runs.run import Run
from wm.training.trainer import train

sequences.MIN_ROW_GROUPS = int(sys.argv[2])
config = from_plain(json.loads(sys.argv[1]), RunConfig, "test")
run = Run(config)
run.claim()

def kill(rows):
    while run.checkpoints.newest_meta() is None:  # a thread writes it
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)

train(run, open_data(config), kill, None)
"""


@pytest.fixture(scope="module")
def two_shards(synthetic_replays, tmp_path_factory) -> Path:
    """A corpus that was encoded by two commands."""
    out = tmp_path_factory.mktemp("two-shards") / "corpus"
    replays = sorted(synthetic_replays.glob("*.slp"))
    for half in (replays[: len(replays) // 2], replays):
        encode(half, out, EncodeOptions(), encode_in_process)
    assert len(open_corpus(out).state.files[FRAMES]) == 2
    return out


@pytest.mark.parametrize(
    ("min_row_groups", "is_same"),
    [
        pytest.param(64, True, id="a-small-corpus"),
        pytest.param(1, False, id="a-corpus-shuffled-by-row-groups"),
    ],
)
def test_a_killed_run_resumes_on_the_compacted_corpus_as_the_same_run_or_says_that_it_is_another(
    two_shards, tmp_path, monkeypatch, min_row_groups, is_same
):
    monkeypatch.setattr(sequences, "MIN_ROW_GROUPS", min_row_groups)
    corpus = tmp_path / "corpus"
    shutil.copytree(two_shards, corpus)
    straight, killed = (tiny_run(corpus, tmp_path / name) for name in ("straight", "killed"))
    run(straight)
    script = [sys.executable, "-c", KILLED, json.dumps(to_plain(killed)), str(min_row_groups)]
    done = subprocess.run(script, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2_000:]
    compact(corpus)
    assert len(open_corpus(corpus).state.files[FRAMES]) == 1
    run(killed, resume=open_checkpoint(killed.out).path)
    messages = [row["message"] for row in read_log(killed.out) if row["kind"] == "problem"]
    warnings = [text for text in messages if text.startswith("the shards of the training corpus were merged")]
    if is_same:
        assert not warnings, messages
        assert_same_weights(weights(checkpoints(straight)[-1]), weights(checkpoints(killed)[-1]))
    else:
        assert len(warnings) == 1, messages
