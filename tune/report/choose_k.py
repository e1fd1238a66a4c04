"""Recommends a context length K from the results of a sweep. Plain functions, no Ray."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets.runtime.errors import UserError
from tune.report.table import flops_text, number_text, text_table
from tune.results.sweep_folder import ResultRow, collect_results, open_sweep
from tune.results.trial_status import State
from tune.search.trials import SEED, axes_text
from wm.config.run_config import Context
from wm.evaluation.metrics import context_order

MIN_CHANGE_ACC = 0.02
"""A model with a lower change_acc predicts hardly any action that starts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SettingResult:
    """One setting (a value on every axis but the seed) at one K, averaged over the seeds that ran to the end."""

    setting: str
    """The values on the axes."""
    context: Context
    """Evaluated K, frames."""
    change_acc: float
    """Mean over the seeds."""
    standard_error: float | None
    """Of that mean; None with one seed."""
    num_seeds: int
    """Seeds that ran to the end."""
    num_seeds_tried: int
    """All seeds of this setting, including stopped ones."""
    pos_mae: float | None
    """Mean over the seeds, game units."""
    val_loss: float | None
    """Mean over the seeds, scaled units."""
    num_parameters: int
    """Of the network."""
    window_flops: float
    """Of predicting one frame from the last K frames."""
    train_flops: float
    """Of one seed's training."""
    train_s: float
    """Seconds of one seed's training, mean over the seeds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A recommended K and the evidence for it."""

    context: Context
    """Recommended K, frames."""
    setting: str
    """The best setting at this K."""
    reason: str
    """One sentence."""
    notes: tuple[str, ...]
    """Limitations of the evidence."""
    best_by_context: tuple[SettingResult, ...]
    """The best setting at each K, by K."""
    results: tuple[SettingResult, ...]
    """Every setting at every K."""
    fewest_targets: int
    """Fewest targets of a compared trial; the last batch exceeds the configured number a little."""
    most_targets: int
    """Most targets of a compared trial."""
    num_evaluated: int
    """Evaluated frames."""


def choose(path: Path) -> Choice:
    """Choose from the results of a sweep, which may still run.

    Raises:
        UserError: the folder is not a sweep, or none of its trials has finished.
    """
    manifest = open_sweep(path)
    rows = collect_results(manifest)
    return choose_from(rows, manifest.choice.threshold, Counter(manifest.status(t).state for t in manifest.trials))


def choose_from(rows: Sequence[ResultRow], tolerance: float, states: Mapping[State, int]) -> Choice:
    """The shortest K whose change_acc is within the tolerance of the best.

    Compares finished trials only, which have seen equally many targets. The tolerance is at least the standard error
    of the best over its seeds.

    Args:
        tolerance: difference of change_acc.
        states: number of trials in each state, including trials without a row.
    Raises:
        UserError: no trial has finished.
    """
    results = compare(rows)
    if not results and set(states) == {"failed"}:
        raise UserError("every trial of the sweep failed; failed.json in their folders contains the reasons")
    if not results:
        counts = ", ".join(f"{number} {state}" for state, number in states.items())
        raise UserError(f"no trial of the sweep has finished yet ({counts}); run the same `wm sweep` to resume")
    contexts = sorted({result.context for result in results}, key=context_order)
    best_by_context = [max((r for r in results if r.context == k), key=lambda r: r.change_acc) for k in contexts]
    best = max(best_by_context, key=lambda result: result.change_acc)
    margin = max(tolerance, best.standard_error or 0.0)
    chosen = next(result for result in best_by_context if result.change_acc >= best.change_acc - margin)
    last = _last_rows([row for row in rows if row.state == "finished"])
    return Choice(
        context=chosen.context,
        setting=chosen.setting,
        reason=_reason(chosen, best, margin, has_shorter=chosen.context != contexts[0]),
        notes=tuple(_notes(rows, best_by_context, chosen, states)),
        best_by_context=tuple(best_by_context),
        results=tuple(results),
        fewest_targets=min(row.targets_seen for row in last),
        most_targets=max(row.targets_seen for row in last),
        num_evaluated=min(row.num_judged for row in last),
    )


def compare(rows: Sequence[ResultRow]) -> list[SettingResult]:
    """The last rows of the finished trials, averaged over seeds, by setting and K."""
    seeds_tried: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        seeds_tried[setting_of(row)].add(row.trial)
    groups: dict[tuple[str, Context], list[ResultRow]] = defaultdict(list)
    for row in _last_rows([row for row in rows if row.state == "finished" and row.change_acc is not None]):
        groups[setting_of(row), row.context].append(row)
    return [_average(setting, group, len(seeds_tried[setting])) for (setting, _), group in groups.items()]


def setting_of(row: ResultRow) -> str:
    """A trial's values on all axes but the seed, as text."""
    return axes_text({path: value for path, value in row.axes.items() if path != SEED})


def describe(choice: Choice) -> str:
    """The choice as text for a terminal."""
    targets = f"{choice.fewest_targets:,}"
    if choice.most_targets > choice.fewest_targets:
        targets += f" to {choice.most_targets:,}"
    parts = [
        f"change_acc after {targets} targets, evaluated on {choice.num_evaluated:,} frames",
        _by_context_table(choice),
    ]
    if len({result.setting for result in choice.results}) > 1:
        parts += ["change_acc of each setting by K", _by_setting_table(choice)]
    recommended = f"Recommended: K = {choice.context} ({choice.setting}). {choice.reason}"
    parts.append("\n".join([recommended, *(f"Note: {note}" for note in choice.notes)]))
    return "\n\n".join(parts)


def _last_rows(rows: Sequence[ResultRow]) -> list[ResultRow]:
    """The last row of each trial at each K."""
    last: dict[tuple[str, Context], ResultRow] = {}
    for row in rows:
        key = (row.trial, row.context)
        if key not in last or row.targets_seen > last[key].targets_seen:
            last[key] = row
    return list(last.values())


def _average(setting: str, rows: list[ResultRow], num_seeds_tried: int) -> SettingResult:
    values = [row.change_acc for row in rows if row.change_acc is not None]
    return SettingResult(
        setting=setting,
        context=rows[0].context,
        change_acc=statistics.mean(values),
        standard_error=statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None,
        num_seeds=len(values),
        num_seeds_tried=num_seeds_tried,
        pos_mae=_mean([row.pos_mae for row in rows]),
        val_loss=_mean([row.val_loss for row in rows]),
        num_parameters=rows[0].num_parameters,
        window_flops=rows[0].window_flops,
        train_flops=statistics.mean(row.train_flops for row in rows),
        train_s=statistics.mean(row.seconds for row in rows),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None


def _reason(chosen: SettingResult, best: SettingResult, margin: float, *, has_shorter: bool) -> str:
    if chosen is best:
        shorter = f", and no shorter K is within {margin:.3f} of it" if has_shorter else ""
        return f"Its change_acc, {best.change_acc:.3f}, is the best{shorter}."
    return (
        f"It is the shortest K whose change_acc, {chosen.change_acc:.3f}, is within {margin:.3f} of the best, "
        f"{best.change_acc:.3f} at K = {best.context}; predicting from a window costs "
        f"{chosen.window_flops / best.window_flops:.2f} times as much."
    )


def _notes(
    rows: Sequence[ResultRow], by_context: list[SettingResult], chosen: SettingResult, states: Mapping[State, int]
) -> Iterator[str]:
    if max(result.change_acc for result in by_context) < MIN_CHANGE_ACC:
        yield "no trial predicts the actions that start: train on more targets before choosing."
    unfinished = sum(states.get(state, 0) for state in ("pending", "running", "interrupted"))
    if unfinished:
        yield f"trials that have not ended yet: {unfinished}; they may change the recommendation."
    missing = {row.context for row in rows} - {result.context for result in by_context}
    if missing:
        yield f"no trial at K = {', '.join(map(str, sorted(missing, key=str)))} finished; these are not compared."
    if states.get("failed"):
        yield f"trials that failed: {states['failed']}; failed.json in their folders contains the reasons."
    if len(by_context) == 1:
        yield "only one K has a finished trial; there is nothing to compare."
    elif chosen.context == by_context[-1].context:
        yield "this is the longest K that was compared; a longer one may be better."
    if all(result.num_seeds == 1 for result in by_context):
        yield "one seed each: the variance over seeds is unknown, so small differences may be noise."
    if any(result.num_seeds < result.num_seeds_tried for result in by_context):
        yield "where ASHA stopped seeds (n/m), the mean covers the better ones and is biased upwards."


def _by_context_table(choice: Choice) -> str:
    header = ("   K", "change_acc", "± s.e.", "seeds", "pos_mae", "val_loss", "per window", "training", "train s",
              "parameters", "setting")  # fmt: skip
    rows = [
        (
            f"{'>' if result.context == choice.context else ' '}{result.context:>3}",
            number_text(result.change_acc),
            number_text(result.standard_error),
            f"{result.num_seeds}/{result.num_seeds_tried}",
            number_text(result.pos_mae),
            number_text(result.val_loss),
            flops_text(result.window_flops),
            flops_text(result.train_flops),
            number_text(result.train_s, 0),
            f"{result.num_parameters / 1e6:.1f} M",
            result.setting,
        )
        for result in choice.best_by_context
    ]
    return text_table(header, rows)


def _by_setting_table(choice: Choice) -> str:
    values = {(result.setting, result.context): result.change_acc for result in choice.results}
    contexts = [result.context for result in choice.best_by_context]
    settings = list(dict.fromkeys(result.setting for result in choice.results))
    rows = [(s, *(number_text(values.get((s, k))) for k in contexts)) for s in settings]
    return text_table(("setting", *(f"K={k}" for k in contexts)), rows)
