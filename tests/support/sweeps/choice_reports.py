"""Reports on the choice of K, as they would follow from a sweep of two sizes: stated numbers, no statistics."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from tune.analysis.allocation import Allocation
from tune.analysis.choice import ContextChoice, ContextResult, MoreEvidence, Rule, RuleResult, Verdict
from tune.analysis.paired import Difference
from tune.analysis.scaling import HoldOut, Interval, ScalingFit, ScalingPoint
from tune.report.cells import Cell
from tune.report.choose_k import ChoiceReport
from tune.report.scaling import ScalingReport
from tune.report.slices import SliceReport
from tune.results.play_cost import PlayCost
from wm.config.run_config import Context

CONTEXTS: tuple[Context, ...] = (1, 5, 10, 30, 60, 120, "stream")
VALUES = (0.598, 0.719, 0.733, 0.733, 0.734, 0.734, 0.737)
SETTINGS = {"small, objective.kind=sequence": 0.02, "medium, objective.kind=sequence": 0.0}
BEST = "medium, objective.kind=sequence"


def a_report(verdict: Verdict = "enough", *, with_also: bool = True) -> ChoiceReport:
    """A report with all of its parts."""
    rows = tuple(_row(context, value) for context, value in zip(CONTEXTS, VALUES, strict=True))
    results = [RuleResult(rule=Rule(), reference="stream", rows=rows)]
    if with_also:
        rule = Rule(metric="pos_mae", threshold=0.03, relative=True)
        also = tuple(replace(row, value=0.172, low=0.170, high=0.174) for row in rows)
        results.append(RuleResult(rule=rule, reference="stream", rows=also))
    choice = ContextChoice(
        verdict=verdict,
        context=10,
        setting=BEST,
        reason="K = 10 is enough: it loses 0.004 of change_acc to whole game (at most 0.014 with 95 % confidence).",
        remarks=("one seed: the variation between trainings is unknown",),
        results=tuple(results),
        more=MoreEvidence(games=120, seeds=None, targets=2_000_000) if verdict == "undecided" else None,
        num_games=42,
        num_games_left_out=0,
        num_seeds=3,
        confidence=0.95,
    )
    cells = tuple(
        _cell(setting, context, value - lower, is_on_front=setting == BEST and context == "stream")
        for context, value in zip(CONTEXTS, VALUES, strict=True)
        for setting, lower in SETTINGS.items()
    )
    return ChoiceReport(
        sweep=Path("runs/sweep"),
        choice=choice,
        cells=cells,
        slices=a_slice_report(),
        scaling=a_scaling_report(),
        notes=(*choice.remarks, "1 of 7 trials are left out: 1 x ASHA stopped it"),
        num_trials=6,
    )


def a_slice_report() -> SliceReport:
    """Twelve kinds of actions, four characters, and the time since the last hit."""
    actions = [f"action {i}" if i else "special situations, with a long <b>name</b>" for i in range(12)]
    return SliceReport(
        metric="change_acc",
        longer="stream",
        shorter=10,
        settings=(BEST, BEST),
        differences={
            "action": {name: _difference(0.01 * (i - 3), 4_000 // (i + 1)) for i, name in enumerate(actions)},
            "character": {name: _difference(0.004, 900) for name in ("Fox", "Falco", "Marth", "Sheik")},
            "since hit": {name: _difference(0.002, 1_200) for name in ("0-9 frames", "120 frames or more")},
        },
        num_left_out={"action": 3, "character": 0, "since hit": 0},
    )


def a_scaling_report(no_statement: str | None = None) -> ScalingReport:
    """Nine runs of three sizes."""

    def about(value: float) -> Interval:
        return Interval(value=value, low=0.9 * value, high=1.15 * value)

    fit = ScalingFit(
        irreducible_loss=about(0.25),
        parameter_coefficient=about(20.0),
        parameter_exponent=about(0.45),
        target_coefficient=about(60.0),
        target_exponent=about(0.45),
        replicates=np.array([[np.log(0.25), np.log(20.0), 0.45, np.log(60.0), 0.45]] * 2),
        residual=0.011,
        hold_out=HoldOut(num_points=2, mean_error=0.013, num_inside=2),
        no_statement=no_statement,
        num_points=9,
        num_sizes=3,
        num_durations=3,
        size_range=(2e5, 4e6),
        target_range=(5e5, 2e6),
    )
    points = tuple(
        ScalingPoint(num_parameters=n, num_targets=d, loss=0.25 + 20 * n**-0.45 + 60 * d**-0.45)
        for n in (2e5, 1e6, 4e6)
        for d in (5e5, 1e6, 2e6)
    )
    allocations = tuple(
        Allocation(
            budget_flops=budget,
            num_parameters=about(2e6),
            num_targets=about(1e7),
            loss=about(0.3),
            extrapolation=budget / 5e13,
            no_statement=no_statement,
        )
        for budget in (1e14, 1e15)
    )
    return ScalingReport(
        context=10,
        points=points,
        fit=fit,
        reason=no_statement,
        flops_per_parameter_and_target=6.2,
        flops_per_device_s=4e10,
        device="cpu",
        largest_flops=5e13,
        allocations=allocations,
    )


def _row(context: Context, value: float) -> ContextResult:
    loss = VALUES[-1] - value
    return ContextResult(
        context=context,
        setting=BEST,
        value=value,
        low=value - 0.015,
        high=value + 0.015,
        loss=loss,
        loss_low=max(0.0, loss - 0.01),
        loss_high=loss + 0.01,
        num_judged=20_000,
        num_events=3_480,
        num_games=42,
        num_seeds=3,
        beyond_training=context in (120, "stream"),
        status="reference" if context == "stream" else "worse" if loss > 0.05 else "non-inferior",
    )


def _cell(setting: str, context: Context, value: float, *, is_on_front: bool) -> Cell:
    size = 1.0 if setting == BEST else 0.25
    return Cell(
        setting=setting,
        context=context,
        value=value,
        low=value - 0.015,
        high=value + 0.015,
        num_seeds=3,
        num_parameters=int(4.1e6 * size),
        train_flops=5e13 * size,
        device_s=4_000 * size,
        peak_gb=0.89,
        play=PlayCost(
            ms_per_frame=4.0 * size, flops_per_frame=7.8e6 * size, state_bytes=int(1.1e6 * size), carries_state=True
        ),
        coherence_20=2.7 if setting == BEST else 3.4,
        is_on_play_front=is_on_front,
        is_on_train_front=is_on_front,
    )


def _difference(difference: float, num_events: int) -> Difference:
    return Difference(
        value_a=0.7 + difference,
        value_b=0.7,
        difference=difference,
        low=difference - 0.015,
        high=difference + 0.015,
        standard_error=0.007,
        num_judged=20_000,
        num_events=num_events,
        num_games=42,
        num_seeds=3,
    )
