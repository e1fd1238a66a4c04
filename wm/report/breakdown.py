"""Where the model is strong and weak: by kind of action, character and stage; and what it mistakes for what."""

from __future__ import annotations

from typing import Any

from wm.evaluation.action_groups import action_name
from wm.report.bars import bar
from wm.report.formats import NO_DATA, compact_text, count_text, number, share_text
from wm.report.markup import Child, Markup, join, tag
from wm.report.results import (
    ACTION_ACC,
    CHANGE_ACC,
    POS_MAE,
    Estimate,
    Metric,
    Result,
    Slice,
    best_baseline,
    context_text,
    headline_model,
)
from wm.report.section import Section, hidden, nothing, small, table, term

SHOWN_ROWS = 10
"""Rows of a table that are open at once; the rest folds."""
SHOWN_ANSWERS = 3
HEADINGS = {"action": "By kind of action", "character": "By character", "stage": "By stage"}


Rivals = dict[str, dict[str, float]]
"""Metric -> group -> value of the best baseline there."""


def breakdown_section(results: list[Result]) -> Section:
    """The model's metrics on each kind of frames, beside those of the baseline that is best over all frames."""
    model = headline_model(results)
    dimensions = {name: parts for name, parts in (model.slices if model else {}).items() if parts}
    body = join([_dimension(name, parts, _rivals(results, name)) for name, parts in dimensions.items()])
    context = f" ({context_text(model.context)})" if model and model.context is not None else ""
    return Section(
        key="breakdown",
        heading="Where it is strong, where weak",
        sentence=(
            f"The same judged frames{context} sorted into groups, the largest first: good is an accuracy bar that ends "
            "right of the dashed mark, the baseline, and a position error that ends left of it; a wide whisker means "
            "that too few frames were judged to be sure."
        ),
        body=body if dimensions else nothing("This evaluation was not broken down."),
    )


def _rivals(results: list[Result], dimension: str) -> Rivals:
    """Of action accuracy and position error; the baselines' change accuracy is 0 by definition."""
    rivals: Rivals = {CHANGE_ACC.key: {}}
    for metric in (ACTION_ACC, POS_MAE):
        baseline = best_baseline(results, metric)
        values = {
            part.name: number(part.estimate(metric.key).value)
            for part in (baseline.slices.get(dimension, []) if baseline else [])
        }
        rivals[metric.key] = {name: value for name, value in values.items() if value is not None}
    return rivals


def _dimension(name: str, parts: list[Slice], rivals: Rivals) -> Markup:
    ordered = sorted(parts, key=lambda part: (-part.count, part.name))
    shown, more = ordered[:SHOWN_ROWS], ordered[SHOWN_ROWS:]
    heading = HEADINGS.get(name, f"By {name}")
    folded = None
    if more:
        folded = tag("details", tag("summary", f"{len(more)} smaller ones"), _slice_table(more, rivals, heading))
    return join(tag("h3", heading), _slice_table(shown, rivals, heading), folded)


def _slice_table(parts: list[Slice], rivals: Rivals, heading: str) -> Markup:
    errors = [number(part.estimate(POS_MAE.key).value) or 0.0 for part in parts]
    errors += [rivals[POS_MAE.key].get(part.name, 0.0) for part in parts]
    fulls = {CHANGE_ACC: 1.0, ACTION_ACC: 1.0, POS_MAE: 1.05 * max(errors) or 1.0}
    headings: list[Child] = [hidden("Group")]
    headings += [join(term(metric), small(metric.direction)) for metric in fulls]
    rows = [
        [
            join(part.name, small(compact_text(part.count), " pairs")),
            *(_bar_cell(metric, part, full, rivals[metric.key].get(part.name)) for metric, full in fulls.items()),
        ]
        for part in parts
    ]
    mark = " Dashed mark, and “vs”: the best baseline; ✗: the model is worse." if any(rivals.values()) else ""
    caption = f"Pairs of frame and player in each group; whiskers are 95% intervals.{mark}"
    return table(caption, headings, rows, class_="slices", label=heading)


def _bar_cell(metric: Metric, part: Slice, full: float, reference: float | None) -> Markup:
    estimate = part.estimate(metric.key)
    if number(estimate.value) is None:
        return metric.shown(estimate.value)
    words = f"{metric.key} {metric.text(estimate.value)}"
    if estimate.interval:
        words += f", 95% interval {metric.text(estimate.interval[0])} to {metric.text(estimate.interval[1])}"
    versus = None
    if reference is not None:
        words += f"; baseline {metric.text(reference)}"
        versus = _versus(metric, estimate.value, reference)
    return tag("div", metric.shown(estimate.value), versus, bar(estimate, full, words, reference), class_="bar-cell")


def _versus(metric: Metric, value: float | None, reference: float) -> Markup:
    """The baseline's value, with a cross where the model is worse."""
    worse = value is not None and metric.better(reference, value)
    cross = join(tag("span", " ✗", aria_hidden="true"), hidden(" (the model is worse)")) if worse else None
    return tag("span", "vs ", metric.shown(reference), cross, class_="versus worse" if worse else "versus")


def confusion_section(results: list[Result]) -> Section:
    """For the actions most often missed as they begin: how often right, and what was said instead."""
    model = headline_model(results)
    rows = sorted(model.confusions if model else [], key=lambda row: (row.get("right") or 0) - (row.get("count") or 0))
    caption = (
        "Actions at the moment they begin, those with the most misses first. Actions that go by a number are mostly "
        "special moves, which differ from character to character."
    )
    headings: list[Child] = ["What began", "Named right", "What the model said instead"]
    return Section(
        key="confusion",
        heading="What it mixes up",
        sentence=(
            "The actions that the model missed most often: mixing up near twins, such as two hit animations, is "
            "harmless; saying that nothing happens where an attack begins is bad."
        ),
        body=table(caption, headings, [_confusion(row) for row in rows], class_="confusion", label="Confused actions")
        if rows
        else nothing("No misses were recorded."),
    )


def _confusion(row: dict[str, Any]) -> list[Child]:
    count, right = number(row.get("count")) or 0.0, number(row.get("right")) or 0.0
    share = Estimate(value=right / count if count else None)
    words = f"right {count_text(right)} of {count_text(count)} times"
    answers = [
        tag("li", tag("span", action_text(said.get("action")), class_="answer"), " ", _share_of(said, count))
        for said in (row.get("predicted") or [])[: SHOWN_ANSWERS + 1]
        if said.get("action") != row.get("truth")
    ][:SHOWN_ANSWERS]
    return [
        join(action_text(row.get("truth")), small(count_text(count), " times")),
        join(CHANGE_ACC.shown(share.value), bar(share, 1.0, words)),
        tag("ul", answers, class_="answers") if answers else NO_DATA,
    ]


def _share_of(said: dict[str, Any], count: float) -> Markup:
    times = number(said.get("count")) or 0.0
    return tag("span", share_text(times / count) if count else count_text(times), class_="share")


def action_text(action: object) -> str:
    """A player's word for an action: ids by Slippi's list, names in capitals made readable."""
    if isinstance(action, int):
        return action_name(action)
    text = str(action)
    return text.replace("_", " ").lower() if text.isupper() else text
