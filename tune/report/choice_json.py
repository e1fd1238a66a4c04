"""The choice of K as JSON data, for scripts."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from datasets.runtime.uris import without_credentials
from tune.report.choose_k import ChoiceReport
from tune.report.scaling import ScalingReport

FORMAT_VERSION = 1
"""1: first."""


def choice_json(report: ChoiceReport) -> dict[str, Any]:
    """Everything that the table and the page show. Numbers that are not finite are null."""
    choice, main = report.choice, report.choice.results[0]
    return plain(
        {
            "format_version": FORMAT_VERSION,
            "sweep": without_credentials(str(report.sweep)),
            "verdict": choice.verdict,
            "context": choice.context,
            "setting": choice.setting,
            "headline": report.headline,
            "reason": choice.reason,
            "metric": main.rule.metric,
            "threshold": main.rule.threshold,
            "is_relative": main.rule.relative,
            "reference": main.reference,
            "confidence": choice.confidence,
            "more": None if choice.more is None else asdict(choice.more),
            "num_games": choice.num_games,
            "num_games_left_out": choice.num_games_left_out,
            "num_seeds": choice.num_seeds,
            "num_trials": report.num_trials,
            "rows": [_row(report, i) for i in range(len(main.rows))],
            "also": [
                asdict(result.rule) | {"reference": result.reference, "rows": [asdict(row) for row in result.rows]}
                for result in choice.results[1:]
            ],
            "cells": [asdict(cell) for cell in report.cells],
            "slices": None if report.slices is None else asdict(report.slices),
            "scaling": scaling_json(report.scaling),
            "notes": list(report.notes),
        }
    )


def scaling_json(scaling: ScalingReport) -> dict[str, Any]:
    """The scaling fit as JSON data; `reason` says why there is no statement, or is null."""
    content = asdict(scaling)
    del content["fit"]["replicates"]
    return plain(content)


def plain(value: Any) -> Any:
    """JSON data with null for numbers that are not finite."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _row(report: ChoiceReport, number: int) -> dict[str, Any]:
    row = report.choice.results[0].rows[number]
    cell = report.cell(row.setting, row.context)
    return (
        {"K": row.context}
        | asdict(row)
        | {report.rule.metric: row.value}
        | asdict(cell.play)
        | {
            name: getattr(cell, name)
            for name in (
                "num_parameters", "train_flops", "device_s", "peak_gb", "is_on_play_front", "is_on_train_front",
                "coherence_20",
            )
        }
    )  # fmt: skip
