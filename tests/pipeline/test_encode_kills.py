"""`wm encode` is killed at random moments and resumed: the corpus equals that of an uninterrupted run.

A short version of `make faults`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from kills import SIGTERM_EXIT, SURVIVES, VICTIMS, run_trials


@pytest.fixture(scope="module")
def replays(tmp_path_factory) -> Path:
    """160 short synthetic replays: a few seconds of work in ten chunks."""
    from datasets.synth import SynthOptions, synthesize

    out = tmp_path_factory.mktemp("replays-of-kills") / "replays"
    synthesize(out, SynthOptions(num_games=160, seed=9, max_frames=2_400))
    return out


def check(replays: Path, tmp_path: Path, kinds: list[str], num_moments: int, storage: str = "disk") -> None:
    """Kill, resume, compare."""
    trials = run_trials([str(replays)], tmp_path, kinds, num_moments, 4, storage)
    assert len(trials) == len(kinds) * num_moments
    assert all(one.is_same for one in trials)
    assert any(one.was_running for one in trials)
    assert all(one.exit_code == 0 for one in trials if one.kind in SURVIVES)
    assert all(one.exit_code in (0, SIGTERM_EXIT) for one in trials if one.kind == "sigterm")


@pytest.mark.slow
def test_a_killed_worker_or_process_tree_does_not_change_the_corpus(replays, tmp_path):
    check(replays, tmp_path, ["worker", "tree"], 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", VICTIMS)
def test_kills_at_twenty_moments_do_not_change_the_corpus(replays, tmp_path, kind):
    check(replays, tmp_path, [kind], 20)


@pytest.mark.slow
def test_kills_of_an_encode_into_a_bucket_do_not_change_the_corpus(replays, tmp_path):
    check(replays, tmp_path, ["child", "tree", "sigterm"], 1, "s3")
