"""Axes expand into trials, settings are drawn, and a mistake in a sweep's config is one line that names the field."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest

from datasets.runtime.errors import UserError
from tune.config import SIZES, SweepConfig
from tune.search.axes import level_of, setting_of
from tune.search.source import TrialSource
from tune.search.suggest import Outcome, optuna_setting, random_setting
from tune.search.trials import Trial, trial_of, trials_of
from wm.config.typed_yaml import from_plain, to_plain


def a_sweep(**content: Any) -> SweepConfig:
    return from_plain(content, SweepConfig, "sweep.yaml")


# -- grid


def test_every_combination_is_a_trial_with_a_unique_name():
    axes = {"size": ["small", "xl"], "optimizer.learning_rate": ["1e-3", 0.01], "seed": [0, 1]}
    trials = trials_of(a_sweep(axes=axes))
    assert len({trial.name for trial in trials}) == 8
    first = trials[0]
    assert first.name.startswith("small_learning_rate0.001_seed0_") and first.config.out.name == first.name
    assert first.axes == {"size": "small", "optimizer.learning_rate": 0.001, "seed": 0}
    assert (first.config.model.d_model, first.config.model.num_layers) == (SIZES["small"]["model.d_model"], 2)
    assert trials[-1].config.model.d_model == SIZES["xl"]["model.d_model"]


def test_the_seeds_of_a_setting_follow_each_other_wherever_the_axis_stands():
    trials = trials_of(a_sweep(axes={"seed": [0, 1], "size": ["small", "xl"]}))
    assert [(trial.axes["size"], trial.axes["seed"]) for trial in trials] == [
        ("small", 0), ("small", 1), ("xl", 0), ("xl", 1),
    ]  # fmt: skip


def test_k_is_trained_with_windows_and_only_evaluated_with_sequences():
    axes = {"objective.kind": ["sequence", "window"], "objective.context_frames": [5, 30]}
    trials = trials_of(a_sweep(axes=axes, base={"eval": {"contexts": [1, 10]}}))
    assert [trial.config.contexts for trial in trials] == [(1, 10), (5,), (30,)]
    assert [trial.axes.get("objective.context_frames") for trial in trials] == [None, 5, 30]


def test_an_mlp_is_left_out_of_the_whole_game_that_sequences_are_evaluated_at():
    axes = {"kind": {"mlp": {"model.kind": "mlp", "objective.kind": "window"}, "mamba2": {"model.kind": "mamba2"}}}
    mlp, mamba2 = trials_of(a_sweep(axes=axes, base={"eval": {"contexts": [5, "stream"]}}))
    assert (mlp.config.contexts, mamba2.config.contexts) == ((10,), (5, "stream"))


def test_the_sizes_of_mamba_do_not_multiply_an_mlp():
    axes = {"model.kind": ["mamba2", "mlp"], "size": ["small", "medium"]}
    trials = trials_of(a_sweep(axes=axes, base={"objective": {"kind": "window"}}))
    assert [trial.axes.get("size") for trial in trials] == ["small", "medium", None]


def test_fields_that_only_make_sense_together_are_one_named_value():
    objective = {"sequence": {}, "window": {"objective.kind": "window", "optimizer.batch_size": 256}}
    sweep = a_sweep(axes={"objective": objective, "objective.context_frames": [5, 30]})
    trials = trials_of(sweep)
    assert [trial.axes for trial in trials] == [
        {"objective": "sequence"},
        {"objective": "window", "objective.context_frames": 5},
        {"objective": "window", "objective.context_frames": 30},
    ]
    assert [trial.config.optimizer.batch_size for trial in trials] == [32, 256, 256]
    assert [level_of(sweep, trial.axes) for trial in trials] == [trial.axes for trial in trials], "compared, not raced"


def test_only_what_is_not_compared_races():
    axes = {"objective.kind": ["window"], "objective.context_frames": [5], "size": ["small"], "seed": [3]}
    sweep = a_sweep(axes=axes)
    (trial,) = trials_of(sweep)
    assert level_of(sweep, trial.axes) == {"objective.kind": "window", "objective.context_frames": 5}
    assert setting_of(sweep, trial.axes) == {"size": "small"}
    by_size = a_sweep(axes=axes, compare=["size"])
    assert level_of(by_size, trial.axes) == {"size": "small"}
    assert setting_of(by_size, trial.axes) == {key: trial.axes[key] for key in list(axes) if key != "size"}


def test_an_axis_may_have_one_value():
    (trial,) = trials_of(a_sweep(axes={"seed": 3}))
    assert trial.axes == {"seed": 3}


def test_a_trial_is_the_same_whatever_the_order_of_its_values():
    sweep = a_sweep(axes={"seed": [0, 1], "size": ["small", "xl"]})
    for trial in trials_of(sweep):
        assert trial_of(sweep, dict(reversed(trial.axes.items()))) == trial


# -- random and Optuna


RANGES = {
    "optimizer.learning_rate": {"low": "1e-4", "high": 1e-2, "log": True},
    "model.num_layers": {"low": 1, "high": 4},
    "optimizer.weight_decay": {"low": 0, "high": 0.1, "step": 0.05},
    "optimizer.kind": ["adamw", "muon"],
}


def test_a_random_search_draws_each_setting_once_and_crosses_it_with_the_compared_axes():
    sweep = a_sweep(axes=RANGES | {"seed": [0, 1]}, search="random", num_samples=20)
    trials = trials_of(sweep)
    assert len(trials) == 40
    assert len({tuple(setting_of(sweep, trial.axes).items()) for trial in trials}) == 20
    rates = [math.log(trial.config.optimizer.learning_rate) for trial in trials]
    assert min(rates) < math.log(3e-4) and max(rates) > math.log(3e-3)
    assert {trial.config.model.num_layers for trial in trials} == {1, 2, 3, 4}
    assert {trial.config.optimizer.weight_decay for trial in trials} == {0, 0.05, 0.1}
    assert {trial.config.optimizer.kind for trial in trials} == {"adamw", "muon"}


def test_a_random_search_repeats_itself_and_grows_with_num_samples():
    names = [[trial.name for trial in trials_of(a_sweep(axes=RANGES, search="random", num_samples=n))] for n in (5, 9)]
    assert names[1][:5] == names[0]
    other = a_sweep(axes=RANGES, search="random", num_samples=5, search_seed=1)
    assert random_setting(other, 0) != random_setting(a_sweep(axes=RANGES, search="random", num_samples=5), 0)


def test_optuna_approaches_the_optimum_and_repeats_itself_from_the_results_alone():
    pytest.importorskip("optuna")
    sweep = a_sweep(axes=RANGES, search="optuna", num_samples=40)

    def loss(setting: dict[str, Any]) -> float:
        return abs(math.log(setting["optimizer.learning_rate"] / 1e-3)) + (setting["optimizer.kind"] == "muon")

    outcomes: list[Outcome] = []
    for number in range(30):
        setting = optuna_setting(sweep, 0, number, outcomes)
        assert setting == optuna_setting(sweep, 0, number, list(outcomes)), "a restarted sweep suggests the same"
        outcomes.append(Outcome(setting=setting, state="finished", score=-loss(setting), time=1000))
    first, last = (sum(loss(outcome.setting) for outcome in part) / 10 for part in (outcomes[:10], outcomes[-10:]))
    assert last < 0.75 * first
    trial_of(sweep, outcomes[-1].setting)


def test_optuna_knows_running_stopped_and_failed_settings():
    pytest.importorskip("optuna")
    sweep = a_sweep(axes=RANGES, search="optuna", num_samples=4)
    settings = [random_setting(sweep, number) for number in range(4)]
    outcomes = [
        Outcome(setting=settings[0], state="running"),
        Outcome(setting=settings[1], state="stopped", score=0.1, time=500),
        Outcome(setting=settings[2], state="failed"),
        Outcome(setting=settings[3], state="finished", score=math.nan),
    ]
    assert set(optuna_setting(sweep, 0, 4, outcomes)) == set(RANGES)


# -- mistakes


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({}, "axes: found none"),
        ({"model.d_modle": [1]}, "did you mean model.d_model"),
        ({"optimiser.beta1": [0.9]}, "axes.optimiser.beta1 was renamed; use axes.optimizer.beta1"),
        ({"size": ["huge"]}, "found 'huge', expected small, medium, large, xl"),
        ({"size": ["small"], "model.d_model": [64]}, "axes.model.d_model: the axis size sets model.d_model too"),
        ({"model.d_model": [33]}, r"axes \(model.d_model=33\): model: headdim=64 does not divide"),
        ({"optimizer.learning_rate": ["fast"]}, "optimizer.learning_rate: found 'fast'"),
        ({"eval.num_targets": [10]}, "evaluated on the same frames"),
        ({"optimizer.total_targets": [1_000_000]}, "runs of different lengths cannot race"),
        ({"seed": []}, "axes.seed: found no values"),
        ({"kind": {"a": {"model.kinds": "mlp"}}}, "axes.kind: model.kinds: a run has no such field"),
    ],
)
def test_a_wrong_axis_is_named_with_its_value(axes: dict, message: str):
    with pytest.raises(UserError, match=message):
        trials_of(a_sweep(axes=axes))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"axis": {}}, "unknown key axis; did you mean axes"),
        ({"base": {"optimiser": {}}}, "base.optimiser was renamed; use base.optimizer"),
        ({"base": {"optimisation": {}}}, "unknown key base.optimisation"),
        ({"base": {"max_seconds": 5}}, "base.max_seconds"),
        ({"base": {"out": "x"}}, "base.out"),
        ({"base": {"use_gpu": True}}, "gpus_per_trial=0.0"),
        ({"asha": {"grace_targets": 10}}, "asha.grace_targets was renamed; use asha.grace"),
        ({"asha": {"reduction_factor": 1}}, "asha.reduction_factor: found 1, expected a number greater than"),
        ({"asha": {"time_attr": "seconds"}}, "asha.time_attr: found 'seconds', expected 'targets' or 'flops'"),
        ({"asha": {"rungs": [2, 1]}}, "asha: asha.rungs=.* expected ascending"),
        ({"asha": {"metric": "accuracy"}}, "asha.metric: found 'accuracy'"),
        ({"choice": {"metric": "pos_mae", "also": {"pos_mae": 0.1}}}, "choice.also.pos_mae"),
        ({"axes": {"seed": None}}, "axes.seed: found None, expected a list of values, a range"),
        ({"axes": {"seed": {"low": 1}}}, "axes.seed: high of the range is missing"),
        ({"axes": {"seed": {"low": 3, "high": 1}}}, "axes.seed: found low=3 and high=1"),
        ({"axes": {"seed": {"low": 0, "high": 1, "log": True}}}, "axes.seed: low=0: a logarithmic range"),
        ({"axes": {"seed": {"low": 0, "high": 1, "max": 3}}}, "axes.seed: unknown key max of a range"),
        ({"axes": {"seed": {"low": 0, "high": "nan"}}}, "axes.seed: high: found 'nan', expected a finite number"),
        ({"axes": {"model.d_model": {"low": 1, "high": 2}}}, "search: grid cannot try every value of a range"),
        ({"search": "random"}, "num_samples: search: random needs the number"),
        ({"num_samples": 3}, "num_samples=3: search: grid tries every combination"),
        (
            {"axes": {"seed": {"low": 1, "high": 2}}, "search": "random", "num_samples": 1},
            "axes.seed: found a range, but a compared axis",
        ),
        ({"callbacks": "wandb"}, "callbacks: found 'wandb', expected a list of dotted paths"),
        ({"max_usd": 3}, "max_usd=3: set usd_per_hour"),
        ({"max_hours": -1}, "max_hours: found -1"),
        ({"max_concurrent": 0}, "max_concurrent: found 0"),
    ],
)
def test_a_wrong_sweep_is_refused_with_the_field(content: dict, message: str):
    with pytest.raises(UserError, match=message):
        a_sweep(**content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"base": {"eval": {"contexts": [1, 5]}}, "asha": {"context": 7}}, "asha.context=7: trial .* at K = 1, 5"),
        ({"asha": {"grace": 10}}, r"asha.grace=10: expected 500000 targets \(base.eval.every_targets\)"),
        ({"asha": {"rungs": ["3e6", "4e6"]}}, r"asha.rungs=3e\+06: expected .* to less than 2e\+06 targets"),
        ({"search": "random", "num_samples": 3}, "search: random has nothing to draw"),
        ({"compare": ["seeds"]}, "compare: found seeds, expected axes of this sweep"),
    ],
)
def test_asha_must_be_able_to_compare_the_trials(content: dict, message: str):
    with pytest.raises(UserError, match=message):
        trials_of(a_sweep(axes={"seed": [0, 1]}, **content))


def test_full_schedules_of_several_lengths_are_an_axis_if_they_do_not_race():
    axes = {"optimizer.total_targets": [1_000_000, 2_000_000]}
    for options in ({"compare": ["optimizer.total_targets"]}, {"asha": {"enabled": False}}):
        trials = trials_of(a_sweep(axes=axes, **options))
        assert [trial.config.optimizer.total_targets for trial in trials] == [1_000_000, 2_000_000]


def test_a_sweep_as_plain_data_is_the_same_sweep():
    sweep = a_sweep(axes=RANGES | {"size": {"a": {"model.d_state": 32}}}, search="random", num_samples=2)
    assert [trial.name for trial in trials_of(from_plain(to_plain(sweep), SweepConfig, "stored"))] == [
        trial.name for trial in trials_of(sweep)
    ]


# -- the order in which trials start


def outcome_by_rate(setting: dict[str, Any], trials: list[Any]) -> Outcome:
    score = -abs(math.log(setting["optimizer.learning_rate"] / 1e-3))
    return Outcome(setting=setting, state="finished", score=score, time=1000)


def all_trials(source: TrialSource) -> list[Trial]:
    found = []
    while (trial := source.next()[0]) is not None:
        found.append(trial)
    return found


def test_optuna_has_a_study_for_each_level_and_runs_all_seeds_of_a_setting():
    pytest.importorskip("optuna")
    axes = {"optimizer.learning_rate": RANGES["optimizer.learning_rate"], "objective.kind": ["sequence", "window"]}
    sweep = a_sweep(axes=axes | {"seed": [0, 1]}, search="optuna", num_samples=4)
    source = TrialSource(sweep, trials_of(sweep), outcome_by_rate)
    trials = all_trials(source)
    assert len(trials) == source.num_expected == 16 and trials == source.trials
    by_setting = Counter((trial.axes["objective.kind"], trial.axes["optimizer.learning_rate"]) for trial in trials)
    assert set(by_setting.values()) == {2}
    assert Counter(kind for kind, _ in by_setting) == {"sequence": 4, "window": 4}


def test_a_sweep_that_was_killed_continues_with_the_suggestions_that_exist():
    pytest.importorskip("optuna")
    axes = {"optimizer.learning_rate": RANGES["optimizer.learning_rate"], "seed": [0, 1]}
    sweep = a_sweep(axes=axes, search="optuna", num_samples=5)
    first = TrialSource(sweep, trials_of(sweep), outcome_by_rate)
    whole = all_trials(first)
    for num_known in (2, 5, 8):  # killed after so many
        resumed = TrialSource(sweep, whole[: 2 * -(-num_known // 2)], outcome_by_rate)
        assert all_trials(resumed) == whole


def test_optuna_ends_when_every_setting_was_tried():
    pytest.importorskip("optuna")
    sweep = a_sweep(axes={"model.num_layers": [1, 2, 3]}, search="optuna", num_samples=10)

    def outcome(setting: dict[str, Any], trials: list[Any]) -> Outcome:
        return Outcome(setting=setting, state="finished", score=setting["model.num_layers"], time=1000)

    trials = all_trials(TrialSource(sweep, trials_of(sweep), outcome))
    assert len(trials) <= 3 and len({trial.name for trial in trials}) == len(trials)
