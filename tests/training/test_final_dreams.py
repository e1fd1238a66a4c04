"""The coherence that a run measures at its end, and where it is shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_runs import checkpoints, run, tiny_run

from wm.config.run_config import RunConfig
from wm.data.training_data import open_data
from wm.rollout.judge import judge
from wm.runs.console import format_row
from wm.runs.run import Run
from wm.runs.run_log import read_log
from wm.training import validation
from wm.training.recorder import Recorder
from wm.training.validation import measure_dreams


@pytest.fixture
def config(tiny_corpus: Path, tmp_path: Path) -> RunConfig:
    """A tiny run that ends with dreams."""
    config = tiny_run(tiny_corpus, tmp_path / "run")
    return replace(config, eval=replace(config.eval, num_dreams=8))


def rows_of(config: RunConfig) -> list[dict]:
    return [row for row in read_log(Path(config.out)) if row["kind"] == "dreams"]


def test_a_finished_run_has_the_coherence_of_its_model_in_a_file_and_a_row_of_its_log(config):
    seen = run(config).targets_seen
    stored = Run(config).evaluations.read_dreams(seen)
    assert stored is not None and stored["num_starts"] == 8
    (row,) = rows_of(config)
    assert row["coherence_20"] == stored["coherence_20"]
    assert row["still_20"] == stored["baselines"]["stand still"]["coherence_20"]
    assert f"coherence {row['coherence_20']:.2f} game units over 20 frames" in format_row(row, config)


def test_the_same_command_measures_nothing_again(config, monkeypatch):
    run(config)
    monkeypatch.setattr(validation, "judge", lambda *args, **options: pytest.fail("measured again"))
    run(config, resume=checkpoints(config)[-1])
    assert len(rows_of(config)) == 1


def test_a_run_that_was_killed_before_its_dreams_measures_them_when_it_goes_on(config, monkeypatch):
    monkeypatch.setattr(validation, "judge", _killed)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    assert not rows_of(config)
    monkeypatch.setattr(validation, "judge", judge)
    run(config, resume=checkpoints(config)[-1])
    assert len(rows_of(config)) == 1


def _killed(*args: object, **options: object) -> None:
    raise KeyboardInterrupt


def test_no_dreams_are_measured_if_none_are_asked_for(config):
    none = replace(config, eval=replace(config.eval, num_dreams=0))
    seen = run(none).targets_seen
    assert Run(none).evaluations.read_dreams(seen) is None and not rows_of(none)


def test_a_network_whose_weights_have_diverged_is_a_warning(config):
    of_config = Run(config)
    of_config.claim()
    from wm.model.world_model import build_model

    model = build_model(config.model, 5)
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    recorder = Recorder(of_config, 0, 0, scan_backend="torch")
    try:
        measure_dreams(model, open_data(config).evaluation, recorder, targets_seen=7, num_dreams=4)
    finally:
        recorder.close()
    (row,) = [row for row in read_log(Path(config.out)) if row["kind"] == "problem"]
    assert row["message"].startswith("no coherence: the model predicts numbers that are not finite")
    assert model.training
