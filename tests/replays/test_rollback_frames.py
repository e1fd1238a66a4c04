"""Rollback frames are detected in recordings without frame ids."""

from __future__ import annotations

import numpy as np
import pytest
from older_pipeline import Recording, stored
from rollback_trials import Outcome, try_rows, with_few_rollbacks

from datasets.legacy.parsed_container import ParsedFile
from datasets.legacy.parsed_game import FIELDS_TO_READ, recorded_columns
from datasets.legacy.rollback_frames import MAX_CERTAIN_ROLLBACKS, find_final_rows


@pytest.fixture(scope="module")
def dev_recordings(inventory, read_real):
    """The real dev recordings with their columns, by file name."""
    recordings = {}
    for row in inventory:
        if row["set"] == "dev":
            recording = Recording(read_real(row["file"]))
            file = ParsedFile(stored(recording.fields("parsed-v2")), FIELDS_TO_READ)
            recordings[row["file"]] = (recording, recorded_columns(file))
    return recordings


@pytest.fixture(scope="module")
def outcomes(dev_recordings) -> dict[str, tuple[int, bool, Outcome]]:
    """For each dev recording: its number of rollbacks, whether it has hitlag, and the outcome of the detection."""
    return {
        name: (
            int((np.diff(recording.frame_ids) != 1).sum()),
            players[0]["hitlag"] is not None,
            try_rows(players, np.arange(len(recording.frame_ids)), recording.final_rows),
        )
        for name, (recording, players) in dev_recordings.items()
    }


def test_a_certain_game_has_exactly_the_frames_of_its_replay(outcomes):
    certain = [outcome for _, _, outcome in outcomes.values() if outcome.is_certain]
    assert len(certain) == 30
    assert all(outcome.num_left == outcome.num_lost == 0 for outcome in certain)


def test_a_game_without_rollbacks_is_certain(outcomes):
    without = [outcome for number, _, outcome in outcomes.values() if number == 0]
    assert len(without) == 28
    assert all(outcome.is_certain for outcome in without)


def test_a_game_with_more_than_a_few_rollbacks_is_uncertain(outcomes):
    many = [outcome for number, _, outcome in outcomes.values() if number > MAX_CERTAIN_ROLLBACKS]
    assert many and not any(outcome.is_certain for outcome in many)


def test_no_final_row_is_lost(outcomes):
    assert sum(outcome.num_lost for *_, outcome in outcomes.values()) == 0


def test_nearly_all_replaced_rows_are_removed_if_hitlag_is_recorded(outcomes, dev_recordings):
    with_hitlag = [name for name, (_, has_hitlag, _) in outcomes.items() if has_hitlag]
    replaced = [len(dev_recordings[n][0].frame_ids) - len(dev_recordings[n][0].final_rows) for n in with_hitlag]
    left = sum(outcomes[name][2].num_left for name in with_hitlag)
    assert sum(replaced) > 5_000
    assert left < sum(replaced) / 100


def test_all_rows_are_kept_if_hitlag_is_not_recorded(dev_recordings, outcomes):
    for name, (number, has_hitlag, outcome) in outcomes.items():
        if not has_hitlag:
            assert find_final_rows(dev_recordings[name][1]).rows is None
            assert outcome.is_certain == (number == 0), name


def test_a_few_rollbacks_are_removed_wherever_they_are(dev_recordings):
    recording, players = dev_recordings["5cff7cd3a7683ba6.slp"]
    random = np.random.default_rng(5)
    for number in (1, 2, 3, 3, 3):
        rows = with_few_rollbacks(recording, number, random)
        assert len(rows) > len(recording.final_rows)
        assert try_rows(players, rows, recording.final_rows) == Outcome(is_certain=True, num_left=0, num_lost=0)


def test_a_missing_row_in_an_action_of_fixed_length_makes_a_game_uncertain(dev_recordings):
    recording, players = dev_recordings["0addeb324a519cb6.slp"]
    rows = np.arange(len(recording.frame_ids))
    dying = np.flatnonzero(players[0]["action"] < 3)
    assert find_final_rows(players).is_certain
    assert not try_rows(players, np.delete(rows, dying[10]), rows).is_certain


def test_a_game_without_state_ages_is_uncertain(dev_recordings):
    _, players = dev_recordings["0addeb324a519cb6.slp"]
    known = find_final_rows([columns | {"state_age": None} for columns in players])
    assert known.rows is None and not known.is_certain


def test_very_short_recordings_have_no_rollbacks(dev_recordings):
    _, players = dev_recordings["0addeb324a519cb6.slp"]
    for num_rows in (1, 2, 5, 70):
        shown = [{name: None if v is None else v[:num_rows] for name, v in columns.items()} for columns in players]
        assert find_final_rows(shown).rows is None
