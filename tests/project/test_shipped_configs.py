"""Shipped configs are found by name."""

import pytest

from datasets.runtime.errors import UserError
from tune.config import SweepConfig
from tune.search.trials import trials_of
from wm.config.shipped import SHIPPED_CONFIGS, config_file, shipped_config, shipped_names
from wm.config.typed_yaml import load_yaml


def test_every_shipped_config_is_found_by_its_name():
    assert {"demo", "mamba2-medium", "sweeps/context"} <= set(shipped_names())
    for name in shipped_names():
        path = shipped_config(name)
        assert path is not None
        assert path.is_file()


def test_other_names_and_paths_are_no_shipped_config():
    for name in ("none", "demo.yaml", "../configs/demo", ""):
        assert shipped_config(name) is None


def test_a_sweep_needs_no_folder_before_its_name_and_hides_no_run():
    assert (
        config_file("demo", "sweep") == config_file("sweeps/demo", "sweep") == SHIPPED_CONFIGS / "sweeps" / "demo.yaml"
    )
    assert config_file("demo") == SHIPPED_CONFIGS / "demo.yaml"
    with pytest.raises(UserError, match="config contex does not exist; shipped configs: sweeps/context, sweeps/demo"):
        config_file("contex", "sweep")


@pytest.mark.parametrize(
    ("name", "num_trials"),
    [("context", 42), ("demo", 6), ("k-by-size", 24), ("k10-vs-k60", 15), ("lr", 16), ("size", 36)],
)
def test_every_shipped_sweep_expands_into_its_trials(name: str, num_trials: int):
    sweep = load_yaml(config_file(name, "sweep"), SweepConfig)
    trials = trials_of(sweep)
    assert len({trial.name for trial in trials}) == num_trials
    assert all(trial.config.optimizer.total_targets >= trial.config.eval.every_targets for trial in trials)


def test_there_is_no_shipped_sweep_without_a_test():
    sweeps = [name for name in shipped_names() if name.startswith("sweeps/")]
    assert sweeps == [f"sweeps/{name}" for name in ("context", "demo", "k-by-size", "k10-vs-k60", "lr", "size")]
