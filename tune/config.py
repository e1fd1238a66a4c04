"""A sweep as one YAML file: a base run, axes over its fields, and when the weak are stopped."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from wm.config.run_config import RunConfig

AxisValue = int | float | bool | str
"""A value on an axis; a number written like 1e-3 reaches us as text and is read as its field's type says."""
JudgedMetric = Literal["change_acc", "action_acc", "pos_mae", "val_loss"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SizeConfig:
    """A named size of Mamba-2."""

    d_model: int
    """Width of a frame's vector."""
    num_layers: int
    """Blocks."""


SIZES = {
    "small": SizeConfig(d_model=128, num_layers=2),
    "medium": SizeConfig(d_model=384, num_layers=4),
    "large": SizeConfig(d_model=512, num_layers=6),
    "xl": SizeConfig(d_model=768, num_layers=4),
}
"""Values of the axis `size`, which stands for model.d_model and model.num_layers together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AshaConfig:
    """Asynchronous successive halving (Li et al. 2018, arXiv 1810.05934) over targets seen.

    At each rung (grace_targets, times reduction_factor, again ...) a trial goes on if it stands among the best
    1 / reduction_factor of the trials that have reached this rung so far.
    """

    enabled: bool = True
    """Off: every trial runs to its end."""
    grace_targets: int = 500_000
    """Targets seen before a trial can be stopped: the first rung."""
    reduction_factor: float = 3.0
    """One trial in so many passes a rung."""
    metric: JudgedMetric = "change_acc"
    """What trials are compared by: accuracies upwards, pos_mae and val_loss downwards."""
    context: int | None = None
    """K, frames, at which trials are compared; by default each trial's best K."""

    def __post_init__(self) -> None:
        if self.grace_targets < 1:
            raise ValueError(f"grace_targets={self.grace_targets}: expected at least 1")
        if self.reduction_factor < 2:
            raise ValueError(f"reduction_factor={self.reduction_factor}: expected at least 2")

    @property
    def higher_is_better(self) -> bool:
        """Which way the metric points."""
        return self.metric.endswith("_acc")


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepConfig:
    """Many training runs that differ in a few fields, judged on the same frames."""

    out: Path = Path("runs/sweep")
    """Folder of the sweep: its trials and results. Running again into it resumes."""
    base: RunConfig = field(default_factory=RunConfig)
    """The run that every trial is, but for the axes."""
    axes: dict[str, tuple[AxisValue, ...]] = field(default_factory=dict)
    """Dotted path of a field of the run, or `size` -> its values; every combination is a trial."""
    asha: AshaConfig = field(default_factory=AshaConfig)
    """When trials are stopped early."""
    max_concurrent: int = 2
    """Trials that run at once; on CPUs they share the cores."""
    cpus_per_trial: float = 1.0
    """Logical CPUs that Ray sets aside for a trial."""
    gpus_per_trial: float = 0.0
    """GPUs of a trial; a share such as 0.5 lets two trials use one GPU."""
    tolerance: float = 0.01
    """Of the choice of K: change_acc given up at most for a shorter context."""

    def __post_init__(self) -> None:
        if self.max_concurrent < 1 or self.cpus_per_trial <= 0 or self.gpus_per_trial < 0:
            raise ValueError("max_concurrent must be at least 1, cpus_per_trial positive, gpus_per_trial not negative")
        if self.base.use_gpu != (self.gpus_per_trial > 0):
            raise ValueError(
                f"base.use_gpu is {self.base.use_gpu} and gpus_per_trial={self.gpus_per_trial}: "
                "set both for GPUs, or none"
            )
        if self.base.num_workers != 1:
            raise ValueError(f"base.num_workers={self.base.num_workers}: a trial runs in one process; set 1")
        if self.base.max_seconds is not None:
            raise ValueError("base.max_seconds: trials are compared at equal targets seen; set optimizer.total_targets")
        if self.base.out != RunConfig().out:
            raise ValueError("base.out: trials live below the sweep's own folder; set out")
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"tolerance={self.tolerance}: expected a difference of accuracies, 0 to 1")
        if self.asha.enabled:
            self._check_rungs()

    def _check_rungs(self) -> None:
        """A rung before the first validation, or behind the end, would never be seen."""
        every, total = self.base.eval.every_targets, self.base.optimizer.total_targets
        if not every <= self.asha.grace_targets <= total:
            raise ValueError(
                f"asha.grace_targets={self.asha.grace_targets}: expected base.eval.every_targets ({every}) to "
                f"base.optimizer.total_targets ({total})"
            )
