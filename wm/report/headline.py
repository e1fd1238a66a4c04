"""The first thing one sees: three numbers, each against the best rule that needs no learning."""

from __future__ import annotations

from wm.report.bars import strip
from wm.report.formats import NO_DATA, number
from wm.report.markup import Markup, join, tag
from wm.report.results import (
    HEADLINE_METRICS,
    POS_MAE,
    Estimate,
    Metric,
    Result,
    best_baseline,
    context_text,
    headline_model,
)
from wm.report.section import Section, nothing, term

MEANING = {
    "change_acc": "of the moments when a player's action changes, the model named the new action",
    "action_acc": "of all moments, the model named the action (most of the time it stays the same, so this is easy)",
    "pos_mae": "game units off per frame and axis; Final Destination is 171 units wide",
}


def headline_section(results: list[Result]) -> Section:
    """Change accuracy, action accuracy and position error of the best model against the best baseline."""
    model = headline_model(results)
    if model is None:
        body = nothing("No model was judged in this evaluation.")
    else:
        num_models = sum(result.is_model for result in results)
        body = join(
            tag("div", [_tile(metric, model, results) for metric in HEADLINE_METRICS], class_="tiles"),
            tag("p", _note(model, num_models), class_="note"),
        )
    return Section(
        key="headline",
        heading="In short",
        sentence=(
            "How well the model tells the next frame, against the best simple rule that needs no learning: good is "
            "a dot clear of the dashed mark on the better side, bad is a dot on it or on the other side."
        ),
        body=body,
    )


def _note(model: Result, num_models: int) -> str:
    choice = ""
    if num_models > 1:
        choice = f"Context shown: {context_text(model.context)}, the best change_acc of the {num_models} judged. "
    return (
        f"{choice}Strips run from 0 (left) to 100%, or for the position error to a little over the larger value. "
        "The shaded stretch around each mark is the 95% interval: with other games like these, the number would "
        "most likely fall in it."
    )


def _tile(metric: Metric, model: Result, results: list[Result]) -> Markup:
    estimate, rival = model.estimate(metric.key), best_baseline(results, metric)
    rival_estimate = rival.estimate(metric.key) if rival else None
    return tag(
        "article",
        tag("h3", metric.title, " ", tag("span", term(metric), class_="key")),
        tag("p", metric.shown(estimate.value), class_="big"),
        tag("p", interval_text(metric, estimate), class_="interval"),
        _strip(metric, estimate, rival, rival_estimate),
        _verdict(metric, estimate, rival, rival_estimate),
        tag("p", MEANING[metric.key], class_="meaning"),
        class_="tile",
    )


def interval_text(metric: Metric, estimate: Estimate) -> Markup:
    """The 95% interval in words, or that there is none."""
    if estimate.interval is None:
        return join(f"95% interval {NO_DATA}")
    low, high = estimate.interval
    return join("95% interval ", metric.shown(low), " to ", metric.shown(high))


def _strip(metric: Metric, estimate: Estimate, rival: Result | None, rival_estimate: Estimate | None) -> Markup | None:
    value = number(estimate.value)
    if value is None:
        return None
    ends = [value, *(estimate.interval or ())]
    if rival_estimate:
        ends += [number(rival_estimate.value) or 0.0, *(rival_estimate.interval or ())]
    full = max(ends) * 1.1 if metric is POS_MAE else 1.0
    beside = f"; best baseline {metric.text(rival_estimate.value)}" if rival and rival_estimate else ""
    return strip(estimate, rival_estimate, full, f"{metric.key}: model {metric.text(value)}{beside}")


def _verdict(metric: Metric, estimate: Estimate, rival: Result | None, rival_estimate: Estimate | None) -> Markup:
    """Better, worse or not clear, in words and with a sign, so that nothing hangs on colour."""
    value = number(estimate.value)
    if rival is None or rival_estimate is None or rival_estimate.value is None:
        return tag("p", "No baseline has this number.", class_="verdict unclear")
    versus = join(f"“{rival.name}” (", metric.shown(rival_estimate.value), ")")
    if value is None:
        return tag("p", "– no number for the model; best baseline: ", versus, class_="verdict unclear")
    better = metric.better(value, rival_estimate.value)
    if value == rival_estimate.value or _touch(estimate, rival_estimate):
        return tag("p", "≈ no clear difference from ", versus, class_="verdict unclear")
    if better:
        return tag("p", "✓ better than ", versus, class_="verdict good")
    return tag("p", "✗ worse than ", versus, class_="verdict bad")


def _touch(a: Estimate, b: Estimate) -> bool:
    """Whether two intervals overlap; False where one is missing."""
    if a.interval is None or b.interval is None:
        return False
    return a.interval[0] <= b.interval[1] and b.interval[0] <= a.interval[1]
