"""Frames found again in recordings without frame ids."""

from __future__ import annotations

import numpy as np
import pytest
from older_pipeline import Recording, stored
from rollback_trials import Outcome, try_rows, with_few_rollbacks

from datasets.legacy.parsed_container import ParsedFile
from datasets.legacy.parsed_game import WANTED, recorded_columns
from datasets.legacy.rollback_frames import MAX_TRUSTED_REPEATS, recognise_rollbacks


@pytest.fixture(scope="module")
def dev_recordings(inventory, read_real):
    """Real dev recordings with their columns, by file."""
    recordings = {}
    for row in inventory:
        if row["set"] == "dev":
            recording = Recording(read_real(row["file"]))
            file = ParsedFile(stored(recording.fields("parsed-v2")), WANTED)
            recordings[row["file"]] = (recording, recorded_columns(file))
    return recordings


@pytest.fixture(scope="module")
def outcomes(dev_recordings) -> dict[str, tuple[int, bool, Outcome]]:
    """For each dev recording its number of rollbacks, whether it has hitlag, and what was recognised."""
    return {
        name: (
            int((np.diff(recording.frame_ids) != 1).sum()),
            players[0]["hitlag"] is not None,
            try_rows(players, np.arange(len(recording.frame_ids)), recording.rows_that_count),
        )
        for name, (recording, players) in dev_recordings.items()
    }


def test_a_game_that_is_trusted_holds_exactly_the_frames_of_its_replay(outcomes):
    trusted = [outcome for _, _, outcome in outcomes.values() if outcome.is_certain]
    assert len(trusted) == 30
    assert all(outcome.num_left == outcome.num_lost == 0 for outcome in trusted)


def test_no_game_without_rollbacks_is_flagged(outcomes):
    without = [outcome for number, _, outcome in outcomes.values() if number == 0]
    assert len(without) == 28
    assert all(outcome.is_certain for outcome in without)


def test_a_game_with_more_than_a_few_rollbacks_is_flagged(outcomes):
    many = [outcome for number, _, outcome in outcomes.values() if number > MAX_TRUSTED_REPEATS]
    assert many and not any(outcome.is_certain for outcome in many)


def test_no_frame_is_lost_with_the_rows_that_were_sent_again(outcomes):
    assert sum(outcome.num_lost for *_, outcome in outcomes.values()) == 0


def test_nearly_all_rows_that_were_sent_again_are_removed_where_there_is_hitlag(outcomes, dev_recordings):
    with_hitlag = [name for name, (_, has_hitlag, _) in outcomes.items() if has_hitlag]
    replaced = [len(dev_recordings[n][0].frame_ids) - len(dev_recordings[n][0].rows_that_count) for n in with_hitlag]
    left = sum(outcomes[name][2].num_left for name in with_hitlag)
    assert sum(replaced) > 5_000
    assert left < sum(replaced) / 100


def test_rows_are_left_as_they_are_where_there_is_no_hitlag(dev_recordings, outcomes):
    for name, (number, has_hitlag, outcome) in outcomes.items():
        if not has_hitlag:
            assert recognise_rollbacks(dev_recordings[name][1]).rows is None
            assert outcome.is_certain == (number == 0), name


def test_a_few_rollbacks_are_taken_out_wherever_they_are(dev_recordings):
    recording, players = dev_recordings["5cff7cd3a7683ba6.slp"]
    random = np.random.default_rng(5)
    for number in (1, 2, 3, 3, 3):
        rows = with_few_rollbacks(recording, number, random)
        assert len(rows) > len(recording.rows_that_count)
        assert try_rows(players, rows, recording.rows_that_count) == Outcome(is_certain=True, num_left=0, num_lost=0)


def test_a_game_that_lacks_a_row_is_flagged_where_an_action_is_too_short_for_it(dev_recordings):
    recording, players = dev_recordings["0addeb324a519cb6.slp"]
    rows = np.arange(len(recording.frame_ids))
    dying = np.flatnonzero(players[0]["action"] < 3)
    assert recognise_rollbacks(players).is_certain
    assert not try_rows(players, np.delete(rows, dying[10]), rows).is_certain


def test_without_clocks_nothing_is_certain(dev_recordings):
    _, players = dev_recordings["0addeb324a519cb6.slp"]
    known = recognise_rollbacks([columns | {"state_age": None} for columns in players])
    assert known.rows is None and not known.is_certain


def test_recordings_of_a_moment_or_without_rows_are_no_trouble(dev_recordings):
    _, players = dev_recordings["0addeb324a519cb6.slp"]
    for num_rows in (1, 2, 5, 70):
        shown = [{name: None if v is None else v[:num_rows] for name, v in columns.items()} for columns in players]
        assert recognise_rollbacks(shown).rows is None
