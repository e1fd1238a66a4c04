"""Which settings go on after a rung: ASHA (Li et al. 2018) that stops nobody within the noise. No Ray.

Trials race only within a level, that is with equal values on the compared axes. What races is a setting: its seeds are
averaged, and stopped together, also those that have not begun. So the choice has every seed of a setting or none of it,
and every level keeps its best settings.

A setting that is not among the best 1 / reduction_factor at a rung is stopped only if it is worse than the last of
those with the confidence of the config, by the bootstrap of `tune.analysis.paired`, paired by game and seed.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from datasets.runtime.errors import UserError
from tune.analysis.paired import Difference, paired_differences
from tune.config import SEED, SweepConfig
from tune.results.rung_record import RungDecision, decisions_of, record_decision, stop_decision
from tune.results.sweep_folder import for_each
from tune.results.trial_status import ENDED, run_of, status_of
from tune.search.axes import compared_axes, level_of, setting_of
from tune.search.cost import cost_of
from tune.search.trials import Trial, axes_text, check_first_rung
from wm.config.run_config import Context
from wm.evaluation.game_sums import GameSums, metric_values
from wm.runs.run import Run
from wm.runs.run_log import log_rows

Sums = Mapping[Context, GameSums]
ReadSums = Callable[[Trial, int], Sums | None]
"""Trial, targets seen -> the sums of its validation by context, or None if they are gone."""
Key = tuple[tuple[str, object], ...]


Entry = dict[int, tuple[str, int]]
"""A setting at a rung: seed -> trial and targets seen of the validation."""


class Rungs:
    """The rungs of a sweep. What it knows comes from the records and validations of the trials, in any order.

    Attributes:
        stopped: trials that may not go on, because a decision about their setting says so -> that decision.
    """

    def __init__(self, sweep: SweepConfig, trials: Sequence[Trial], costs: Mapping[str, float], read: ReadSums) -> None:
        """
        Args:
            costs: name of a trial -> FLOPs of training on one target.
        """
        self._sweep, self._asha, self._read, self._costs = sweep, sweep.asha, read, dict(costs)
        self._trials: dict[str, Trial] = {}
        self._siblings: dict[tuple[Key, Key], list[str]] = defaultdict(list)
        self._rungs: dict[tuple[float, Key], dict[Key, Entry]] = defaultdict(dict)
        self._latest: dict[str, int] = defaultdict(int)
        self._judged: dict[str, set[float]] = defaultdict(set)
        self._sums: dict[tuple[str, int], Sums] = {}
        self.stopped: dict[str, RungDecision] = {}
        for trial in trials:
            self.add_trial(trial, costs[trial.name])

    def add_trial(self, trial: Trial, flops_per_target: float) -> None:
        """Make a trial known."""
        self._trials[trial.name], self._costs[trial.name] = trial, flops_per_target
        siblings = self._siblings[self._keys(trial.name)]
        if trial.name not in siblings:
            siblings.append(trial.name)

    def restore(self, name: str, decisions: Iterable[RungDecision], validations: Sequence[int]) -> list[int]:
        """Take over what earlier commands recorded and logged about a trial.

        Args:
            validations: targets seen at each, ascending.
        Returns:
            The validations at rungs that no command has decided on; `decide` does.
        """
        for decision in decisions:
            if decision.rung is not None:
                self._enter(name, decision.rung, decision.targets_seen)
                self._judged[name].add(decision.rung)
            if decision.stops and decision.rung is not None:
                self._stop(name, decision)
            elif decision.stops:
                self.stopped.setdefault(name, decision)
        undecided: dict[float, int] = {}
        self._latest[name] = max(validations, default=0)
        for targets_seen in validations:
            rung = self._rung_of(name, targets_seen)
            if rung is not None and rung not in self._judged[name]:
                self._enter(name, rung, targets_seen)
                undecided.setdefault(rung, targets_seen)
        return list(undecided.values())

    def decide(self, name: str, targets_seen: int) -> dict[str, RungDecision]:
        """Decide after a validation of a trial.

        Returns:
            The decisions to record, by trial: the trial's own at a rung, and those of the other seeds if the setting is
            stopped. Empty where the validation belongs to no rung, or was decided before.
        """
        self._latest[name] = max(self._latest[name], targets_seen)
        rung = self._rung_of(name, targets_seen)
        if rung is None or rung in self._judged[name] or name in self.stopped:
            return {}
        self._judged[name].add(rung)
        self._enter(name, rung, targets_seen)
        level, setting = self._keys(name)
        entries = self._rungs[rung, level]
        score = self._score(entries[setting])
        reason, stops = self._verdict(entries, setting, rung)
        decision = RungDecision(targets_seen=targets_seen, rung=rung, score=score, stops=stops, reason=reason)
        if not stops:
            return {name: decision}
        before = set(self.stopped)
        self._stop(name, decision)
        return {name: decision} | {other: self.stopped[other] for other in set(self.stopped) - before}

    def record(self, name: str, decision: RungDecision) -> None:
        """Store a decision with its trial, also if the trial has not begun; returns when the storage has it.

        Raises:
            OSError: it cannot be written.
        """
        record_decision(run_of(self._trials[name].config).files, decision)

    def _rung_of(self, name: str, targets_seen: int) -> float | None:
        """The highest rung that a validation has reached; None before the first and at the end of the run.

        The first validation at a rung is compared there. If rungs are denser than validations, some stay empty.
        """
        total, scale = self._trials[name].config.optimizer.total_targets, self._scale(name)
        if targets_seen >= total:
            return None  # evaluated on more frames than a validation
        return max((r for r in self._asha.rungs_until(total * scale) if r <= targets_seen * scale), default=None)

    def _scale(self, name: str) -> float:
        """Units of the clock for each target."""
        return 1.0 if self._asha.time_attr == "targets" else self._costs[name]

    def _keys(self, name: str) -> tuple[Key, Key]:
        axes = self._trials[name].axes
        level, setting = level_of(self._sweep, axes), setting_of(self._sweep, axes)
        return tuple(sorted(level.items())), tuple(sorted(setting.items()))

    def _enter(self, name: str, rung: float, targets_seen: int) -> None:
        level, setting = self._keys(name)
        entry = self._rungs[rung, level].setdefault(setting, {})
        seed = (
            self._trials[name].config.seed if SEED in compared_axes(self._sweep) else 0
        )  # else seeds race like others
        entry.setdefault(seed, (name, targets_seen))

    def _stop(self, name: str, decision: RungDecision) -> None:
        """Stop a trial and the other seeds of its setting."""
        self.stopped.setdefault(name, decision)
        for other in self._siblings[self._keys(name)]:
            reason = f"with {SEED} {self._trials[name].config.seed}: {decision.reason}"
            seen = self._latest[other]
            self.stopped.setdefault(
                other, RungDecision(targets_seen=seen, rung=None, score=None, stops=True, reason=reason)
            )

    def _verdict(self, entries: Mapping[Key, Entry], setting: Key, rung: float) -> tuple[str, bool]:
        """Why a setting goes on or is stopped, and whether it is stopped."""
        sign = 1 if self._asha.higher_is_better else -1
        scores = {key: score for key, entry in entries.items() if (score := self._score(entry)) is not None}
        at_rung = f"rung {rung:,.0f} {self._asha.time_attr}"
        if setting not in scores:
            return f"{at_rung}: no {self._asha.metric} to compare", False
        ranking = sorted(scores, key=lambda key: -sign * scores[key])
        num_kept = math.ceil(len(ranking) / self._asha.reduction_factor)
        rank = ranking.index(setting) + 1
        text = f"{at_rung}: {self._asha.metric} {scores[setting]:.3f} is number {rank} of {len(ranking)}"
        if rank <= num_kept:
            return text, False
        cutoff = ranking[num_kept - 1]
        try:
            found = self._difference(entries[cutoff], entries[setting])
        except UserError as error:
            return f"{text}; {error}", False
        other = f"{axes_text(dict(cutoff))} ({scores[cutoff]:.3f})"  # pyrefly: ignore
        if found is None:
            return f"{text}; it has no seed, or fewer than two games, in common with {other}", False
        stops = found.low > 0
        evidence = (
            f"{found.difference:.3f} [{found.low:.3f}, {found.high:.3f}] worse than {other} on {found.num_events:,} "
            f"action changes in {found.num_games} games"
        )
        return f"{text}, {evidence}" + ("" if stops else ": not enough to stop it"), stops

    def _difference(self, better: Entry, worse: Entry) -> Difference | None:
        """How much worse one setting is than another, with the interval that the config's confidence asks for."""
        pair = self._sums_by_seed(better), self._sums_by_seed(worse)
        if not set(pair[0]) & set(pair[1]):
            return None
        two_sided = 2 * self._asha.confidence - 1
        return paired_differences({"": pair}, self._asha.metric, confidence=two_sided).get("")

    def _sums_by_seed(self, entry: Entry) -> dict[int, GameSums]:
        found = {seed: self.best(*where) for seed, where in entry.items()}
        return {seed: best[2] for seed, best in found.items() if best is not None}

    def _score(self, entry: Entry) -> float | None:
        """The mean over the seeds."""
        scores = [best[1] for where in entry.values() if (best := self.best(*where)) is not None]
        return sum(scores) / len(scores) if scores else None

    def best(self, name: str, targets_seen: int) -> tuple[Context, float, GameSums] | None:
        """The context at which a validation is compared, the metric there, and the sums; None if there is none."""
        sums = self._sums.get((name, targets_seen)) or self._read(self._trials[name], targets_seen)
        if sums is None:
            return None
        self._sums[name, targets_seen] = sums
        wanted = self._asha.context
        found = [
            (context, value, sums[context])
            for context in sums
            if (wanted is None or context == wanted or len(sums) == 1)
            and (value := metric_values(sums[context])[self._asha.metric]) is not None
        ]
        choose = max if self._asha.higher_is_better else min
        return choose(found, key=lambda entry: entry[1]) if found else None


def check_rungs_in_flops(sweep: SweepConfig, trials: Sequence[Trial]) -> None:
    """Check that the first rung lies between the first validation and the end of the longest trial, in FLOPs.

    Raises:
        UserError: it does not.
    """
    if sweep.asha.enabled and sweep.asha.time_attr == "flops":
        costs = [cost_of(trial.config).train_flops_per_target for trial in trials]
        ends = [cost * trial.config.optimizer.total_targets for cost, trial in zip(costs, trials, strict=True)]
        check_first_rung(sweep, sweep.base.eval.every_targets * min(costs), max(ends), "FLOPs")


def open_rungs(sweep: SweepConfig, trials: Sequence[Trial]) -> Rungs:
    """The rungs of a sweep with all that earlier commands recorded.

    What a killed command logged and did not decide on is decided here, before any trial goes on.
    """
    runs = {trial.name: run_of(trial.config) for trial in trials}
    costs = {name: cost_of(run.config).train_flops_per_target for name, run in runs.items()}
    rungs = Rungs(sweep, trials, costs, lambda trial, targets_seen: run_of(trial.config).evaluations.read(targets_seen))
    undecided = []
    for name, (decisions, validations) in zip(runs, for_each(_history, runs.values(), sweep.out), strict=True):
        undecided += [(name, targets_seen) for targets_seen in rungs.restore(name, decisions, validations)]
    for name, targets_seen in undecided:
        for other, decision in rungs.decide(name, targets_seen).items():
            rungs.record(other, decision)
    for name, decision in rungs.stopped.items():
        if stop_decision(runs[name].files) is None and status_of(runs[name]).state not in ENDED:
            rungs.record(name, decision)
    return rungs


def _history(run: Run) -> tuple[list[RungDecision], list[int]]:
    """What earlier commands decided about a trial, and targets seen at each validation in its log."""
    logged = {row["targets_seen"] for row in log_rows(run.files) if row["kind"] == "eval"}
    return decisions_of(run.files), sorted(logged)
