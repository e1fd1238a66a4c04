"""ASHA: what races with what, what stops a setting, and that no kill lets a trial pass a rung unjudged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from datasets.runtime.errors import UserError
from tune.config import SweepConfig
from tune.results.rung_record import RungDecision, decisions_of
from tune.results.trial_status import status_of
from tune.running.asha import TIME, make_scheduler
from tune.running.rungs import Rungs, check_rungs_in_flops, open_rungs
from tune.search.cost import cost_of
from tune.search.trials import Trial, trials_of
from wm.config.run_identity import identity
from wm.config.typed_yaml import from_plain
from wm.evaluation.game_sums import GameSums
from wm.objective.weights import VAL_LOSS_WEIGHTS
from wm.runs.run import Run

NUM_GAMES = 40
FIRST, SECOND = 500_000, 1_500_000


def a_sweep(tmp_path: Path, axes: dict[str, Any], **content: Any) -> SweepConfig:
    base = {"optimizer": {"total_targets": 4_000_000}, "eval": {"contexts": [10]}}
    return from_plain({"out": str(tmp_path), "base": base, "axes": axes} | content, SweepConfig, "sweep.yaml")


def sums_of(accuracy: float, changes_per_game: int = 50) -> GameSums:
    """An evaluation whose expected accuracy varies by game, equally for all predictors of these games."""
    by_game = np.clip(accuracy + np.random.default_rng(0).normal(0, 0.1, NUM_GAMES), 0, 1)
    changes = np.full(NUM_GAMES, changes_per_game)
    right = np.random.default_rng(round(1000 * accuracy)).binomial(changes, by_game)
    zeros = np.zeros(NUM_GAMES)
    return GameSums(
        game_ids=np.array([f"game {number}" for number in range(NUM_GAMES)]), num_frames=changes * 10,
        num_pairs=changes * 20, num_right=changes * 18, num_changes=changes, num_changes_right=right,
        position_error=zeros, loss_totals=dict.fromkeys(VAL_LOSS_WEIGHTS, zeros),
        loss_counts=dict.fromkeys(VAL_LOSS_WEIGHTS, zeros + 1),
    )  # fmt: skip


class Race:
    """Rungs of a sweep whose validations are invented."""

    def __init__(self, sweep: SweepConfig) -> None:
        self.sweep, self.trials = sweep, trials_of(sweep)
        self.sums: dict[tuple[str, int], Mapping[Any, GameSums]] = {}
        self.rungs = self.new_rungs()

    def new_rungs(self) -> Rungs:
        costs = {trial.name: 100.0 if "xl" in trial.name else 10.0 for trial in self.trials}
        return Rungs(
            self.sweep, self.trials, costs, lambda trial, targets_seen: self.sums.get((trial.name, targets_seen))
        )

    def trial(self, **axes: Any) -> Trial:
        wanted = {key.replace("__", "."): value for key, value in axes.items()}
        (found,) = [trial for trial in self.trials if wanted.items() <= trial.axes.items()]
        return found

    def validate(self, trial: Trial, targets_seen: int, accuracy: float, **options: int) -> dict[str, RungDecision]:
        self.sums[trial.name, targets_seen] = {10: sums_of(accuracy, **options)}
        return self.rungs.decide(trial.name, targets_seen)


def test_a_setting_that_is_clearly_worse_than_the_cut_off_is_stopped_and_the_events_are_stated(tmp_path: Path):
    race = Race(a_sweep(tmp_path, {"size": ["small", "xl"]}))
    small, xl = race.trials
    (first,) = race.validate(small, FIRST, 0.6).values()
    assert not first.stops, "there is nothing to compare it with"
    (second,) = race.validate(xl, FIRST, 0.4).values()
    assert second.stops
    assert f"change_acc {second.score:.3f} is number 2 of 2" in second.reason
    assert "worse than small" in second.reason and "2,000 action changes in 40 games" in second.reason
    assert set(race.rungs.stopped) == {xl.name}


def test_a_rung_whose_interval_is_wider_than_the_difference_stops_nobody(tmp_path: Path):
    race = Race(a_sweep(tmp_path, {"size": ["small", "medium", "large", "xl"]}))
    accuracies = (0.52, 0.515, 0.518, 0.512)
    decisions = [race.validate(t, FIRST, a, changes_per_game=4) for t, a in zip(race.trials, accuracies, strict=True)]
    found = [decision for by_trial in decisions for decision in by_trial.values()]
    assert len(found) == 4 and not any(decision.stops for decision in found)
    assert any("not enough to stop it" in decision.reason for decision in found), "worse by chance, and not stopped"
    assert not race.rungs.stopped


def test_k_and_the_objective_do_not_race(tmp_path: Path):
    axes = {
        "objective.kind": ["sequence", "window"],
        "objective.context_frames": [5, 60],
        "optimizer.learning_rate": [1e-3, 1e-4],
    }
    race = Race(a_sweep(tmp_path, axes))
    accuracies = {None: 0.7, 5: 0.2, 60: 0.5}
    for trial in race.trials:
        loss = 0.1 if trial.axes["optimizer.learning_rate"] == 1e-4 else 0
        race.validate(trial, FIRST, accuracies[trial.axes.get("objective.context_frames")] - loss)
    going_on = [trial.axes for trial in race.trials if trial.name not in race.rungs.stopped]
    assert [axes["optimizer.learning_rate"] for axes in going_on] == [1e-3] * 3, (
        "the best of every level, whatever its K"
    )


def test_the_seeds_of_a_setting_are_judged_by_their_mean_and_stopped_together(tmp_path: Path):
    race = Race(a_sweep(tmp_path, {"size": ["small", "xl"], "seed": [0, 1, 2]}))
    for seed, accuracy in ((0, 0.60), (1, 0.58)):
        race.validate(race.trial(size="small", seed=seed), FIRST, accuracy)
    lucky = race.validate(race.trial(size="xl", seed=0), FIRST, 0.60)
    assert not any(decision.stops for decision in lucky.values())
    unlucky = race.validate(race.trial(size="xl", seed=1), FIRST, 0.20)
    assert set(unlucky) == {race.trial(size="xl", seed=1).name}, "0.40 against 0.59, but over seeds 0.60 and 0.20"
    race.validate(race.trial(size="small", seed=2), FIRST, 0.59)


def test_seeds_race_like_other_axes_where_they_are_not_compared(tmp_path: Path):
    race = Race(a_sweep(tmp_path, {"seed": [0, 1]}, compare=["objective.kind"]))
    race.validate(race.trials[0], FIRST, 0.6)
    race.validate(race.trials[1], FIRST, 0.3)
    assert set(race.rungs.stopped) == {race.trials[1].name}


def test_rungs_can_lie_at_equal_flops_of_training(tmp_path: Path):
    options = {"asha": {"time_attr": "flops", "rungs": [5e6, 2e7]}}
    race = Race(a_sweep(tmp_path, {"size": ["small", "xl"]}, **options))
    small, xl = race.trials
    assert race.validate(small, 100_000, 0.5) == {}, "1e6 FLOPs"
    assert race.validate(small, FIRST, 0.6)[small.name].rung == 5e6
    assert race.validate(xl, 100_000, 0.3)[xl.name].stops, "1e7 FLOPs: the same rung after a fifth of the targets"


def test_a_rung_in_flops_must_lie_within_a_trial(tmp_path: Path):
    sweep = a_sweep(tmp_path, {"model.num_layers": [1]}, asha={"time_attr": "flops"})
    with pytest.raises(UserError, match=r"asha.grace=500000: expected .* FLOPs \(base.eval.every_targets\) to less"):
        check_rungs_in_flops(sweep, trials_of(sweep))
    end = cost_of(trials_of(sweep)[0].config).train_flops_per_target * 4_000_000
    fitting = a_sweep(tmp_path, {"model.num_layers": [1]}, asha={"time_attr": "flops", "grace": end / 4})
    check_rungs_in_flops(fitting, trials_of(fitting))


def test_a_rung_is_judged_once_at_the_first_validation_that_reaches_it(tmp_path: Path):
    race = Race(a_sweep(tmp_path, {"size": ["small", "xl"]}))
    small, _ = race.trials
    assert race.validate(small, FIRST - 1, 0.5) == {}
    assert [d.rung for d in race.validate(small, FIRST + 9, 0.5).values()] == [FIRST]
    assert race.validate(small, FIRST + 9, 0.5) == {}
    assert race.validate(small, SECOND - 1, 0.5) == {}
    assert [d.rung for d in race.validate(small, SECOND, 0.5).values()] == [SECOND]
    assert race.validate(small, 4_000_000, 0.1) == {}, "the end of a run is no rung"


def test_what_was_recorded_stays_decided_and_what_was_only_logged_is_decided_at_restart(tmp_path: Path):
    race = Race(a_sweep(tmp_path, {"size": ["small", "medium", "xl"]}))
    small, medium, xl = race.trials
    record = {small.name: race.validate(small, FIRST, 0.6), medium.name: race.validate(medium, FIRST, 0.3)}
    race.sums[xl.name, FIRST] = {10: sums_of(0.3)}  # a kill came between the log and the decision
    race.rungs = race.new_rungs()
    undecided = {
        trial.name: race.rungs.restore(trial.name, record.get(trial.name, {}).values(), [FIRST])
        for trial in race.trials
    }
    assert undecided == {small.name: [], medium.name: [], xl.name: [FIRST]}
    assert set(race.rungs.stopped) == {medium.name}
    assert race.rungs.decide(small.name, FIRST) == {}, "a trial that resumed before its rung and reached it again"
    assert race.rungs.decide(xl.name, FIRST)[xl.name].stops


def test_a_validation_without_sums_stops_nobody(tmp_path: Path):
    race = Race(a_sweep(tmp_path, {"size": ["small", "xl"]}))
    small, xl = race.trials
    race.validate(small, FIRST, 0.6)
    (decision,) = race.rungs.decide(xl.name, FIRST).values()
    assert not decision.stops and "no change_acc to compare" in decision.reason


# -- on the disk, with Tune's interface


def start(trial: Trial, validations: dict[int, GameSums]) -> None:
    """A trial's folder with some validations."""
    run = Run(trial.config)
    run.files.create()
    run.files.write_json("run.json", identity(trial.config))
    for targets_seen, sums in validations.items():
        run.evaluations.write(targets_seen, {10: sums})
        with (run.files.folder / "log.jsonl").open("a") as log:
            log.write(f'{{"kind": "eval", "targets_seen": {targets_seen}, "context": 10}}\n')


def report(scheduler: Any, trial: Trial, targets_seen: int) -> str:
    tune_trial = SimpleNamespace(custom_trial_name=trial.name)
    return scheduler.on_trial_result(None, tune_trial, {TIME: targets_seen})


def test_a_decision_is_on_the_disk_before_tune_has_it_and_holds_for_seeds_that_have_not_begun(tmp_path: Path):
    sweep = a_sweep(tmp_path, {"model.num_layers": [1, 2], "seed": [0, 1]})
    trials = trials_of(sweep)
    good, _, bad, sibling = trials
    start(good, {FIRST: sums_of(0.6)})
    start(bad, {FIRST: sums_of(0.3)})
    seen: list[str] = []
    sums = {good.name: {10: sums_of(0.6)}, bad.name: {10: sums_of(0.3)}}
    rungs = Rungs(sweep, trials, {trial.name: 1.0 for trial in trials}, lambda trial, targets_seen: sums[trial.name])
    scheduler = make_scheduler(sweep, rungs, lambda name, decision: seen.append(name))
    assert report(scheduler, good, FIRST) == "CONTINUE"
    assert report(scheduler, bad, FIRST) == "STOP"
    assert seen == [good.name, bad.name, sibling.name]
    assert [status_of(Run(trial.config)).state for trial in (bad, sibling)] == ["stopped", "stopped"]
    assert decisions_of(Run(good.config).files)[0].rung == FIRST
    assert report(scheduler, sibling, 100) == "STOP", "if it was already running"


def test_a_validation_that_a_killed_command_did_not_decide_on_is_decided_before_the_trial_goes_on(tmp_path: Path):
    sweep = a_sweep(tmp_path, {"model.num_layers": [1, 2], "seed": [0, 1]})
    good, _, bad, sibling = trials_of(sweep)
    start(good, {FIRST: sums_of(0.6)})
    start(bad, {FIRST: sums_of(0.3)})
    rungs = open_rungs(sweep, trials_of(sweep))
    assert set(rungs.stopped) == {bad.name, sibling.name}
    assert [status_of(Run(trial.config)).state for trial in (good, bad, sibling)] == [
        "interrupted", "stopped", "stopped",
    ]  # fmt: skip
    again = open_rungs(sweep, trials_of(sweep))
    assert set(again.stopped) == {bad.name, sibling.name}
    assert len(decisions_of(Run(bad.config).files)) == 1


def test_without_asha_every_trial_runs_to_its_end(tmp_path: Path):
    sweep = a_sweep(tmp_path, {"seed": [0, 1]}, asha={"enabled": False})
    trials = trials_of(sweep)
    scheduler = make_scheduler(sweep, open_rungs(sweep, trials))
    assert report(scheduler, trials[0], FIRST) == "CONTINUE"
