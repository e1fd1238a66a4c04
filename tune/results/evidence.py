"""What a sweep's finished trials tell: the sums by game of their final evaluations, and what they cost.

Only trials that trained and were evaluated to their end count; the others are left out, each with its reason.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from datasets.runtime.errors import UserError
from tune.analysis.evidence import TrialEvidence
from tune.config import SEED, AxisValue
from tune.results.sweep_folder import SweepManifest, coherence_of, for_each, reading_sweep
from tune.results.trial_status import State, status_at
from tune.search.trials import axes_text
from wm.config.run_config import Context, RunConfig
from wm.evaluation.game_sums import GameSums, metric_values
from wm.runs.run import PROFILE_FILE, RUN_FILE, Run
from wm.runs.run_log import log_rows

CONTEXT_AXIS = "objective.context_frames"


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedTrial:
    """A trial that trained and was evaluated to its end."""

    evidence: TrialEvidence
    config: RunConfig
    targets_seen: int
    """Targets trained on."""
    num_parameters: int
    """Of the network."""
    train_flops: float
    """Matrix multiplications of training, FLOPs."""
    train_s: float
    """Seconds of training, without evaluation."""
    num_devices: int
    """GPUs, or processes on CPUs, that trained at once."""
    device: str
    """Type of device: `cpu` or `cuda`."""
    validations: tuple[dict[str, Any], ...]
    """Rows of the log, one for each validation before the end and context."""
    peak_gb: float | None
    """Most memory of a training process, or on a GPU of the device, GB; None if it is not known."""
    coherence_20: float | None
    """Position error of dreams over 20 frames, game units; None if it was not measured."""

    @property
    def device_s(self) -> float:
        """Seconds of training times devices."""
        return self.train_s * self.num_devices

    @property
    def val_loss(self) -> dict[Context, float]:
        """Validation loss by context, where it has a value."""
        values = {context: metric_values(sums)["val_loss"] for context, sums in self.evidence.sums.items()}
        return {context: value for context, value in values.items() if value is not None}


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepEvidence:
    """All finished trials of a sweep, and why the others are left out."""

    trials: tuple[FinishedTrial, ...]
    left_out: dict[str, str]
    """Name of a trial -> reason."""

    @property
    def evidence(self) -> list[TrialEvidence]:
        """The input of the statistics."""
        return [trial.evidence for trial in self.trials]


def load_evidence(manifest: SweepManifest) -> SweepEvidence:
    """Read the finished trials of a sweep, which may still run.

    Raises:
        UserError: no trial has finished, or the sweep cannot be read.
    """
    trials, left_out = [], {}
    with reading_sweep(manifest.location):
        loaded = for_each(lambda name: _load(manifest, name), manifest.trials, manifest.out)
    for name, found in zip(manifest.trials, loaded, strict=True):
        if isinstance(found, str):
            left_out[name] = found
        else:
            trials.append(found)
    if not trials:
        reasons = _counted(left_out.values())
        raise UserError(f"no trial of {manifest.location} has finished ({reasons}); run the same `wm sweep` to resume")
    return SweepEvidence(trials=tuple(trials), left_out=left_out)


def setting_text(axes: Mapping[str, AxisValue]) -> str:
    """A trial's values on all axes but K and the seed, as text."""
    return axes_text({name: value for name, value in axes.items() if name not in (SEED, CONTEXT_AXIS)})


def _load(manifest: SweepManifest, name: str) -> FinishedTrial | str:
    """A trial, or why it is left out."""
    facts = manifest.trials[name]
    try:
        run = manifest.run(name)
        if not run.files.exists(RUN_FILE):
            return _unfinished("pending", "")
        meta = run.checkpoints.newest_meta()
        status = status_at(run, meta)
    except UserError as error:
        return str(error)
    if status.state != "finished" or meta is None:
        return _unfinished(status.state, status.reason)
    sums = run.evaluations.read(meta["targets_seen"])
    if sums is None or not _is_of(sums, meta["metrics"]):
        return "the sums by game of its final evaluation are missing or damaged"
    objective, profile = run.config.objective, _profile(run)
    evidence = TrialEvidence(
        trial=name,
        setting=setting_text(facts["axes"]),
        seed=run.config.seed,
        trained_context=objective.sequence_frames if objective.kind == "sequence" else objective.context_frames,
        sums=sums,
    )
    return FinishedTrial(
        evidence=evidence,
        config=run.config,
        targets_seen=meta["targets_seen"],
        num_parameters=facts["num_parameters"],
        train_flops=facts["train_flops_per_target"] * meta["targets_seen"],
        train_s=meta["seconds"],
        num_devices=profile.get("workers") or run.config.max_workers,
        device="cuda" if run.config.use_gpu else "cpu",
        validations=tuple(
            row for row in log_rows(run.files) if row["kind"] == "eval" and row["targets_seen"] < meta["targets_seen"]
        ),
        peak_gb=profile.get("device_peak_gb") or profile.get("peak_gb"),
        coherence_20=coherence_of(run, meta["targets_seen"]),
    )


def _is_of(sums: Mapping[Context, GameSums], rows: list[dict[str, Any]]) -> bool:
    """Whether the sums are of the evaluation whose metrics the checkpoint holds."""
    frames = {row["context"]: row["num_targets"] for row in rows}
    return {context: int(np.sum(by_game.num_frames)) for context, by_game in sums.items()} == frames


def _profile(run: Run) -> dict[str, Any]:
    try:
        content = json.loads(run.files.read(PROFILE_FILE))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _unfinished(state: State, reason: str) -> str:
    texts = {
        "pending": "it has not started",
        "running": "it still runs",
        "interrupted": "it was interrupted; the same `wm sweep` resumes it",
        "stopped": "ASHA stopped it",
        "failed": "it failed",
        "finished": "it has no checkpoint",
    }
    return texts[state] + (f" ({reason})" if reason and state != "stopped" else "")


def _counted(reasons: Any) -> str:
    counts: dict[str, int] = {}
    for reason in reasons:
        counts[reason] = counts.get(reason, 0) + 1
    return "; ".join(f"{number} x {reason}" for reason, number in counts.items())
