"""A training run as one YAML file: what can be said in it, with units and defaults."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from datasets.loading.targets import COUNTDOWN_FRAMES
from datasets.schema.splits import Split, SplitConfig
from wm.config.typed_yaml import to_plain
from wm.model.world_model import ModelConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveConfig:
    """What a training example is."""

    kind: Literal["sequence", "window"] = "sequence"
    """sequence: every position of a sequence predicts its next frame. window: one prediction for a window of K."""
    context_frames: int = 10
    """K, frames: of a window when kind is window, and of the MLP's input."""
    sequence_frames: int = 64
    """S, predictions in a sequence when kind is sequence."""
    windows: int = 1
    """Windows in an example when kind is window, each a frame on: the MLP encodes the frames that they share once."""
    swap_players: bool = False
    """Show half of the examples with players 0 and 1 exchanged: the game does not care who is first."""
    mirror: bool = False
    """Show half of the examples mirrored left to right: nearly all of the game does not care."""

    def __post_init__(self) -> None:
        if not 1 <= self.context_frames <= COUNTDOWN_FRAMES:
            raise ValueError(
                f"context_frames={self.context_frames}: expected 1 .. {COUNTDOWN_FRAMES}, so that every judged "
                "frame has its full context"
            )
        if min(self.sequence_frames, self.windows) < 1:
            raise ValueError(
                f"sequence_frames={self.sequence_frames}, windows={self.windows}: an example needs a prediction"
            )
        if self.windows > 1 and self.context_frames == 1:
            raise ValueError(f"windows={self.windows}: windows of one frame share none; expected 1")

    @property
    def predictions(self) -> int:
        """Predictions that one example is trained on."""
        return self.sequence_frames if self.kind == "sequence" else self.windows

    @property
    def example_frames(self) -> int:
        """Frames of an example, the last target included."""
        return self.predictions + (1 if self.kind == "sequence" else self.context_frames)


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimiserConfig:
    """Warm-up and decay over targets seen: a resumed run repeats itself."""

    kind: Literal["adamw", "muon"] = "adamw"
    """muon turns the momentum of inner matrices into an orthogonal update; the rest follows AdamW."""
    total_targets: int = 2_000_000
    """Where the schedule ends, and the run, in targets (predictions trained on)."""
    batch_size: int | Literal["auto"] = 32
    """Examples in a batch, of all workers together; auto takes the largest power of two that fits in memory."""
    micro_batch: int | None = None
    """Examples that a worker passes through the network at once; a batch of more is accumulated. None: all."""
    learning_rate: float = 1e-3
    """At the top of the schedule."""
    final_share: float = 0.02
    """Learning rate at the end, as a share of the top."""
    warmup_targets: int = 100_000
    """Targets over which the learning rate rises."""
    weight_decay: float = 0.01
    """Of weight matrices; vectors and embeddings do not decay."""
    beta1: float = 0.9
    """Decay of the gradient's mean."""
    beta2: float = 0.99
    """Decay of its square."""
    clip_norm: float = 1.0
    """Largest norm of the gradient."""

    def __post_init__(self) -> None:
        if min(self.total_targets, 1 if self.batch_size == "auto" else self.batch_size, self.micro_batch or 1) < 1:
            raise ValueError("total_targets, batch_size and micro_batch must be at least 1")
        if self.learning_rate <= 0 or self.clip_norm <= 0:
            raise ValueError("learning_rate and clip_norm must be positive")
        if min(self.weight_decay, self.warmup_targets) < 0:
            raise ValueError("weight_decay and warmup_targets must not be negative")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise ValueError(f"beta1={self.beta1}, beta2={self.beta2}: expected 0 .. 1, 1 excluded")
        if not 0 <= self.final_share <= 1:
            raise ValueError(f"final_share={self.final_share}: expected a share between 0 and 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalConfig:
    """How a run is judged while and after it trains."""

    contexts: tuple[int, ...] = (1, 5, 10, 30, 60, 120)
    """K, frames: the contexts judged at each validation (an MLP is judged at its own K)."""
    num_targets: int = 20_000
    """Judged frames at the end, chosen by hash."""
    progress_targets: int = 2_000
    """Judged frames while training."""
    every_targets: int = 500_000
    """Targets seen between two validations."""
    split: Split | None = None
    """Judged games; by default validation, or all of a separate eval_corpus."""

    def __post_init__(self) -> None:
        if not self.contexts or not all(1 <= k <= COUNTDOWN_FRAMES for k in self.contexts):
            raise ValueError(f"contexts={self.contexts}: expected one or more of 1 .. {COUNTDOWN_FRAMES} frames")
        if min(self.num_targets, self.progress_targets, self.every_targets) < 1:
            raise ValueError("num_targets, progress_targets and every_targets must be at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """How frames come to the device."""

    pool_frames: int = 4_000_000
    """Frames that are shuffled together; about 156 bytes each, held twice while the next pool is read."""
    lanes: int = 8
    """Parts of a pool that are shuffled in themselves; every batch takes as much from each. With more workers than
    lanes, several workers read the same files."""
    resident: Literal["auto", "always", "never"] = "auto"
    """Hold the whole corpus on the device: auto does where it takes at most resident_share of its memory."""
    resident_share: float = 0.3
    """Part of the device's free memory (of a CPU: of the machine's, over its workers) for a resident corpus."""

    def __post_init__(self) -> None:
        if min(self.pool_frames, self.lanes) < 1:
            raise ValueError("pool_frames and lanes must be at least 1")
        if not 0 < self.resident_share <= 0.9:
            raise ValueError(f"resident_share={self.resident_share}: expected a share above 0, at most 0.9")


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointConfig:
    """When the run is saved, where, and what is kept."""

    every_s: float = 300.0
    """Seconds between checkpoints; one is also written at the end of each epoch and of the run."""
    keep_last: int = 2
    """Newest checkpoints that are kept; beside them the best by val_loss and by change_acc."""
    to: str | None = None
    """Folder or s3://, gs:// URI where they lie; by default in the run's folder."""

    def __post_init__(self) -> None:
        if self.every_s < 0:
            raise ValueError(f"every_s={self.every_s}: must not be negative")
        if self.keep_last < 1:
            raise ValueError(f"keep_last={self.keep_last}: at least the last one must be kept")


@dataclass(frozen=True, kw_only=True, slots=True)
class DivergenceConfig:
    """What happens when the loss is not finite, or explodes."""

    action: Literal["rollback", "stop"] = "rollback"
    """rollback goes back to the last checkpoint, once in a run, with a lower rate; stop ends the run."""
    rate_factor: float = 0.3
    """What the learning rate is multiplied by from a rollback on."""
    explosion: float = 4.0
    """The loss has exploded when its mean over `window_steps` is that many times the lowest such mean of the run."""
    window_steps: int = 50
    """Steps whose losses are averaged."""

    def __post_init__(self) -> None:
        if not 0 < self.rate_factor < 1:
            raise ValueError(f"rate_factor={self.rate_factor}: expected a factor between 0 and 1")
        if self.explosion <= 1 or self.window_steps < 1:
            raise ValueError("explosion must be above 1 and window_steps at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """One training run."""

    train_corpus: Path = Path("corpora/replays")
    """Corpus to train on (made by `wm encode`)."""
    eval_corpus: Path | None = None
    """Corpus to be judged on; by default the validation split of train_corpus."""
    out: Path = Path("runs/run")
    """Folder of the run: log, TensorBoard, checkpoints. Running again into it resumes."""
    seed: int = 0
    """Of weights, order of examples and augmentation."""
    num_workers: int = 1
    """Data-parallel workers (GPUs, or processes on a CPU)."""
    use_gpu: bool = False
    """One GPU for each worker."""
    num_threads: int | Literal["auto"] = "auto"
    """CPU threads of a worker that trains without a GPU; auto: all cores, shared out among the machine's workers."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """auto takes bf16 where the hardware multiplies in it."""
    max_seconds: float | None = None
    """Stops the run after this many seconds of training; the schedule does not depend on it."""
    log_every_s: float = 5.0
    """Seconds between progress lines."""
    compile: Literal["auto", "never", "always"] = "auto"
    """Fuse element-wise work with torch.compile; auto: on a CPU, if the schedule is worth most of a minute."""
    max_failures: int = 3
    """Times a run whose workers died goes on from its last checkpoint; a notice after which it saved is no death."""
    train_split: Split | None = None
    """Games to train on; by default train, or all of train_corpus where eval_corpus is named."""
    split: SplitConfig = field(default_factory=SplitConfig)
    """Shares of games."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Shape of the network."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """What an example is."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """How weights follow the loss."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    """How the run is judged."""
    data: DataConfig = field(default_factory=DataConfig)
    """How frames come to the device."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When and where the run is saved."""
    divergence: DivergenceConfig = field(default_factory=DivergenceConfig)
    """What happens when the loss explodes."""

    def __post_init__(self) -> None:
        if self.model.kind == "mlp" and self.objective.kind != "window":
            raise ValueError("objective.kind: model.kind mlp predicts one frame a window; set objective.kind: window")
        if self.model.kind == "mamba2" and self.objective.kind == "window" and self.objective.windows > 1:
            raise ValueError(f"objective.windows={self.objective.windows}: mamba2 takes 1, or objective.kind: sequence")
        if self.num_workers < 1:
            raise ValueError(f"num_workers={self.num_workers}: a run needs at least one worker")
        if self.num_threads != "auto" and self.num_threads < 1:
            raise ValueError(f"num_threads={self.num_threads}: expected auto, or at least 1")
        if self.seed < 0 or self.max_failures < 0:
            raise ValueError(f"seed={self.seed}, max_failures={self.max_failures}: neither may be negative")
        batch_size = self.optimiser.batch_size
        if batch_size != "auto" and self.num_workers > 1 and batch_size < 2 * self.num_workers:
            raise ValueError(
                f"optimiser.batch_size={batch_size} is less than two examples for each of "
                f"num_workers={self.num_workers}"
            )

    @property
    def contexts(self) -> tuple[int, ...]:
        """The contexts this run is judged at."""
        return (self.objective.context_frames,) if self.model.kind == "mlp" else self.eval.contexts


NOT_PART_OF_A_RUN = frozenset(
    {
        "out",
        "num_workers",
        "num_threads",
        "max_seconds",
        "log_every_s",
        "compile",
        "max_failures",
        "checkpoint",
        "divergence",
        "data.resident",
        "data.resident_share",
        "optimiser.micro_batch",
    }
)
"""Fields that may differ when a run is resumed: they do not change what it learns."""


def identity(config: RunConfig) -> dict[str, Any]:
    """What makes two runs the same run, as plain data."""
    plain = to_plain(config)
    for group, name in (path.split(".") for path in NOT_PART_OF_A_RUN if "." in path):
        del plain[group][name]
    return {name: value for name, value in plain.items() if name not in NOT_PART_OF_A_RUN}


def short_hash(plain: dict[str, Any]) -> str:
    """Eight hexadecimal digits that name a config."""
    return hashlib.blake2b(json.dumps(plain, sort_keys=True).encode(), digest_size=4).hexdigest()
