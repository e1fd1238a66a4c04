"""`wm encode` is killed at random moments and resumed: the corpus equals that of an uninterrupted run.

A short version of `make faults`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from kills import VICTIMS, run_trials


@pytest.fixture(scope="module")
def replays(tmp_path_factory) -> Path:
    """80 short synthetic replays: a few seconds of work in twenty chunks."""
    from datasets.synth import SynthOptions, synthesize

    out = tmp_path_factory.mktemp("eighty") / "replays"
    synthesize(out, SynthOptions(num_games=80, seed=9, max_frames=2_400))
    return out


def check(replays: Path, tmp_path: Path, kinds: list[str], num_moments: int) -> None:
    """Kill, resume, compare."""
    trials = run_trials([str(replays)], tmp_path, kinds, num_moments, seed=4)
    assert len(trials) == len(kinds) * num_moments
    assert all(one.is_same for one in trials)
    assert any(one.was_running for one in trials)
    assert all(one.exit_code == 0 for one in trials if one.kind in ("worker", "child"))


def test_a_killed_worker_or_process_tree_does_not_change_the_corpus(replays, tmp_path):
    check(replays, tmp_path, ["worker", "tree"], 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", VICTIMS)
def test_kills_at_twenty_moments_do_not_change_the_corpus(replays, tmp_path, kind):
    check(replays, tmp_path, [kind], 20)
