"""Which context length K to take: result rows in, a recommendation with its reason out. Plain functions, no Ray."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets.runtime.errors import UserError
from tune.results import ResultRow, State, gather, open_sweep, state_of
from tune.table import flops_text, number_text, text_table
from tune.trials import SEED, place_text

WORTHLESS = 0.02
"""change_acc below which a model has learned next to nothing of the actions that begin."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One setting (a place on every axis but the seed) judged at one K, over its seeds that ran to the end."""

    setting: str
    """The place on the axes."""
    context: int
    """Judged K, frames."""
    change_acc: float
    """Mean over the seeds."""
    standard_error: float | None
    """Of that mean; None with one seed."""
    num_seeds: int
    """Seeds that ran to the end."""
    num_seeds_tried: int
    """Seeds of this setting in all, those that were stopped included."""
    pos_mae: float | None
    """Mean over the seeds, game units."""
    val_loss: float | None
    """Mean over the seeds, scaled units."""
    num_parameters: int
    """Of the network."""
    window_flops: float
    """Of predicting one frame from its last K."""
    train_flops: float
    """Of one seed's training."""
    train_s: float
    """Seconds of one seed's training, mean over the seeds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A recommended K and what speaks for it."""

    context: int
    """Recommended K, frames."""
    setting: str
    """The setting that is best at this K."""
    reason: str
    """One sentence."""
    notes: tuple[str, ...]
    """What weakens the choice."""
    best_by_context: tuple[Cell, ...]
    """The best setting at each K, by K."""
    cells: tuple[Cell, ...]
    """Every setting at every K."""
    fewest_targets: int
    """Targets after which the trials are compared: batches end a little beyond the same number."""
    most_targets: int
    """The same, of the trial that has seen most."""
    num_judged: int
    """Frames that they were judged on."""


def choose(path: Path) -> Choice:
    """Choose from a sweep's folder, also while it runs.

    Raises:
        UserError: no sweep is there, or none of its trials has run to its end.
    """
    notes = open_sweep(path)
    rows = gather(notes)
    return choose_from(rows, notes.tolerance, Counter(state_of(notes.folder(trial)) for trial in notes.trials))


def choose_from(rows: Sequence[ResultRow], tolerance: float, states: Mapping[State, int]) -> Choice:
    """The shortest K whose change_acc lies within the tolerance of the best.

    Only trials that ran to their end are compared: they have seen equally many targets. The tolerance is
    widened to the standard error of the best over its seeds.

    Args:
        tolerance: difference of change_acc.
        states: how many of the sweep's trials are how far, those without a row included.
    Raises:
        UserError: no trial has run to its end.
    """
    cells = compare(rows)
    if not cells and set(states) == {"failed"}:
        raise UserError("every trial of the sweep failed; failed.json in their folders says why")
    if not cells:
        raise UserError(
            f"no trial of the sweep has run to its end yet ({_counted(states)}); run the same `wm sweep` to go on"
        )
    contexts = sorted({cell.context for cell in cells})
    best_by_context = [max((c for c in cells if c.context == k), key=lambda c: c.change_acc) for k in contexts]
    best = max(best_by_context, key=lambda cell: cell.change_acc)
    margin = max(tolerance, best.standard_error or 0.0)
    chosen = next(cell for cell in best_by_context if cell.change_acc >= best.change_acc - margin)
    finals = _finals([row for row in rows if row.state == "finished"])
    return Choice(
        context=chosen.context,
        setting=chosen.setting,
        reason=_reason(chosen, best, margin, has_shorter=chosen.context > contexts[0]),
        notes=tuple(_notes(rows, best_by_context, chosen, states)),
        best_by_context=tuple(best_by_context),
        cells=tuple(cells),
        fewest_targets=min(row.targets_seen for row in finals),
        most_targets=max(row.targets_seen for row in finals),
        num_judged=min(row.num_judged for row in finals),
    )


def compare(rows: Sequence[ResultRow]) -> list[Cell]:
    """Last rows of the finished trials, pooled over seeds, by setting and K."""
    seeds_tried: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        seeds_tried[setting_of(row)].add(row.trial)
    groups: dict[tuple[str, int], list[ResultRow]] = defaultdict(list)
    for row in _finals([row for row in rows if row.state == "finished" and row.change_acc is not None]):
        groups[setting_of(row), row.context].append(row)
    return [_cell(setting, group, len(seeds_tried[setting])) for (setting, _), group in groups.items()]


def setting_of(row: ResultRow) -> str:
    """A trial's place on every axis but the seed, as text."""
    return place_text({path: value for path, value in row.axes.items() if path != SEED})


def describe(choice: Choice) -> str:
    """The choice as text for a terminal."""
    targets = f"{choice.fewest_targets:,}"
    if choice.most_targets > choice.fewest_targets:
        targets += f" to {choice.most_targets:,}"
    parts = [
        f"change_acc after {targets} targets, judged on {choice.num_judged:,} frames",
        _by_context_table(choice),
    ]
    if len({cell.setting for cell in choice.cells}) > 1:
        parts += ["change_acc of each setting by K", _by_setting_table(choice)]
    recommended = f"Recommended: K = {choice.context} ({choice.setting}). {choice.reason}"
    parts.append("\n".join([recommended, *(f"Note: {note}" for note in choice.notes)]))
    return "\n\n".join(parts)


def _finals(rows: Sequence[ResultRow]) -> list[ResultRow]:
    """The last row of each (trial, K)."""
    last: dict[tuple[str, int], ResultRow] = {}
    for row in rows:
        key = (row.trial, row.context)
        if key not in last or row.targets_seen > last[key].targets_seen:
            last[key] = row
    return list(last.values())


def _cell(setting: str, rows: list[ResultRow], num_seeds_tried: int) -> Cell:
    values = [row.change_acc for row in rows if row.change_acc is not None]
    mean = sum(values) / len(values)
    error = None
    if len(values) > 1:
        error = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
    return Cell(
        setting=setting,
        context=rows[0].context,
        change_acc=mean,
        standard_error=error,
        num_seeds=len(values),
        num_seeds_tried=num_seeds_tried,
        pos_mae=_mean([row.pos_mae for row in rows]),
        val_loss=_mean([row.val_loss for row in rows]),
        num_parameters=rows[0].num_parameters,
        window_flops=rows[0].window_flops,
        train_flops=sum(row.train_flops for row in rows) / len(rows),
        train_s=sum(row.seconds for row in rows) / len(rows),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _reason(chosen: Cell, best: Cell, margin: float, *, has_shorter: bool) -> str:
    if chosen is best:
        shorter = f", and no shorter K lies within {margin:.3f} of it" if has_shorter else ""
        return f"Its change_acc, {best.change_acc:.3f}, is the best{shorter}."
    return (
        f"It is the shortest K whose change_acc, {chosen.change_acc:.3f}, lies within {margin:.3f} of the best, "
        f"{best.change_acc:.3f} at K = {best.context}; predicting from a window costs "
        f"{chosen.window_flops / best.window_flops:.2f} times as much."
    )


def _notes(
    rows: Sequence[ResultRow], by_context: list[Cell], chosen: Cell, states: Mapping[State, int]
) -> Iterator[str]:
    if max(cell.change_acc for cell in by_context) < WORTHLESS:
        yield "no trial foretells the actions that begin: train on more targets before choosing."
    unfinished = states.get("begun", 0) + states.get("waiting", 0)
    if unfinished:
        yield f"trials that have not ended yet: {unfinished}; they may change this."
    missing = sorted({row.context for row in rows} - {cell.context for cell in by_context})
    if missing:
        yield f"no trial judged at K = {', '.join(map(str, missing))} ran to its end; these are not compared."
    if states.get("failed"):
        yield f"trials that failed: {states['failed']}; failed.json in their folders says why."
    if len(by_context) == 1:
        yield "only one K has been judged to the end; there is nothing to choose from."
    elif chosen.context == by_context[-1].context:
        yield "this is the longest K that was compared; a longer one may be better still."
    if all(cell.num_seeds == 1 for cell in by_context):
        yield "one seed each: how much seeds differ is not known, so small differences may be noise."
    if any(cell.num_seeds < cell.num_seeds_tried for cell in by_context):
        yield "where seeds were stopped early (n/m), the mean is of the better ones and flatters."


def _by_context_table(choice: Choice) -> str:
    header = ("   K", "change_acc", "± s.e.", "seeds", "pos_mae", "val_loss", "per window", "training", "train s",
              "parameters", "setting")  # fmt: skip
    rows = [
        (
            f"{'>' if cell.context == choice.context else ' '}{cell.context:3d}",
            number_text(cell.change_acc),
            number_text(cell.standard_error),
            f"{cell.num_seeds}/{cell.num_seeds_tried}",
            number_text(cell.pos_mae),
            number_text(cell.val_loss),
            flops_text(cell.window_flops),
            flops_text(cell.train_flops),
            number_text(cell.train_s, 0),
            f"{cell.num_parameters / 1e6:.1f} M",
            cell.setting,
        )
        for cell in choice.best_by_context
    ]
    return text_table(header, rows)


def _by_setting_table(choice: Choice) -> str:
    values = {(cell.setting, cell.context): cell.change_acc for cell in choice.cells}
    contexts = [cell.context for cell in choice.best_by_context]
    settings = list(dict.fromkeys(cell.setting for cell in choice.cells))
    rows = [(s, *(number_text(values.get((s, k))) for k in contexts)) for s in settings]
    return text_table(("setting", *(f"K={k}" for k in contexts)), rows)


def _counted(counts: Mapping[State, int]) -> str:
    return ", ".join(f"{number} {state}" for state, number in counts.items())
