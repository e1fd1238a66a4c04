"""The config of a sweep: a base run, axes over its fields, and early stopping."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from datasets.runtime.uris import is_uri_as_path
from wm.config.run_config import RunConfig
from wm.evaluation.metrics import MetricName

AxisValue = int | float | bool | str
"""A value on an axis. YAML reads 1e-3 as text; it is converted to the type of its field."""


SIZES = {
    "small": {"d_model": 128, "num_layers": 2},
    "medium": {"d_model": 256, "num_layers": 4},
    "large": {"d_model": 384, "num_layers": 6},
    "xl": {"d_model": 512, "num_layers": 4},
}
"""Values of the axis `size`: widths and numbers of layers of Mamba-2."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AshaConfig:
    """Asynchronous successive halving (Li et al. 2018, arXiv 1810.05934) over targets seen.

    Rungs are at grace_targets times 1, reduction_factor, reduction_factor ** 2, ... At each rung a trial continues if
    it is among the best 1 / reduction_factor of the trials that have reached the rung so far.
    """

    enabled: bool = True
    """If false, every trial runs to its end."""
    grace_targets: int = 500_000
    """Targets seen before a trial can be stopped: the first rung."""
    reduction_factor: float = 3.0
    """One of so many trials continues after a rung."""
    metric: MetricName = "change_acc"
    """Metric that compares trials: accuracies are maximized, pos_mae and val_loss minimized."""
    context: int | None = None
    """K, frames, at which trials are compared; null compares each trial at its best K."""

    def __post_init__(self) -> None:
        if self.grace_targets < 1:
            raise ValueError(f"grace_targets={self.grace_targets}: expected at least 1")
        if self.reduction_factor < 2:
            raise ValueError(f"reduction_factor={self.reduction_factor}: expected at least 2")

    @property
    def higher_is_better(self) -> bool:
        """Whether the metric is maximized."""
        return self.metric.endswith("_acc")


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepConfig:
    """Many training runs that differ in a few fields and are evaluated on the same frames."""

    out: Path = Path("runs/sweep")
    """Folder of the sweep: its trials and results. The same command resumes it."""
    base: RunConfig = field(default_factory=RunConfig)
    """The run that the axes vary."""
    axes: dict[str, tuple[AxisValue, ...]] = field(default_factory=dict)
    """Dotted path of a field of the run, or `size` -> its values; every combination is a trial."""
    asha: AshaConfig = field(default_factory=AshaConfig)
    """Early stopping."""
    max_concurrent: int = 2
    """Trials that run concurrently; on CPUs they share the cores."""
    cpus_per_trial: float = 1.0
    """Logical CPUs that Ray reserves for a trial."""
    gpus_per_trial: float = 0.0
    """GPUs of a trial; with a fraction such as 0.5 two trials share a GPU."""
    tolerance: float = 0.01
    """Largest loss of change_acc accepted for a shorter context."""

    def __post_init__(self) -> None:
        if self.max_concurrent < 1 or self.cpus_per_trial <= 0 or self.gpus_per_trial < 0:
            raise ValueError("max_concurrent must be at least 1, cpus_per_trial positive, gpus_per_trial not negative")
        if self.base.use_gpu != (self.gpus_per_trial > 0):
            raise ValueError(
                f"base.use_gpu is {self.base.use_gpu} and gpus_per_trial={self.gpus_per_trial}: "
                "set both to train on GPUs, or neither"
            )
        if self.base.num_workers != 1:
            raise ValueError(f"base.num_workers={self.base.num_workers}: a trial runs in one process; set 1")
        if self.base.max_seconds is not None:
            raise ValueError("base.max_seconds: trials are compared at equal targets seen; set optimizer.total_targets")
        if is_uri_as_path(self.out):
            raise ValueError(f"out: {self.out} is a URI; a sweep must be in a local folder or on a shared file system")
        if self.base.out != RunConfig().out:
            raise ValueError("base.out: trials are written below the sweep's folder; set out instead")
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"tolerance={self.tolerance}: expected a difference of accuracies, 0 to 1")
        if self.asha.enabled:
            self._check_rungs()

    def _check_rungs(self) -> None:
        """A rung before the first validation, or after the end, would have no effect."""
        every, total = self.base.eval.every_targets, self.base.optimizer.total_targets
        if not every <= self.asha.grace_targets <= total:
            raise ValueError(
                f"asha.grace_targets={self.asha.grace_targets}: expected base.eval.every_targets ({every}) to "
                f"base.optimizer.total_targets ({total})"
            )
