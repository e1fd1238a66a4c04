"""A training run as one YAML file: every option with its unit and default. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ByteSize, Field, NonNegativeInt, PositiveInt

from datasets.loading.targets import COUNTDOWN_FRAMES
from datasets.runtime.uris import URI, mistake_in
from datasets.schema.splits import Split, SplitConfig
from datasets.schema.suspect_rules import SuspectGames
from wm.config.model_config import ModelConfig
from wm.config.rollout_config import RolloutConfig

PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Uri = Annotated[str, Field(pattern=URI)]
ContextFrames = Annotated[int, Field(ge=1, le=COUNTDOWN_FRAMES)]
"""Context length K, frames; at most the countdown, so that every evaluation frame has its full context."""
Context = ContextFrames | Literal["stream"]
"""Frames of context of an evaluation, or `stream`: the recurrent state is carried through the whole game before."""

MetricName = Literal["change_acc", "action_acc", "pos_mae", "val_loss"]
"""Metrics of an evaluation, see `wm.evaluation.metrics`."""
PREFERRED_CONTEXT = 10
"""Context at which checkpoints are compared by default, if the run is evaluated at it."""


def default_best_context(contexts: Collection[Context]) -> Context:
    """Of those at which a run is evaluated: the preferred one if it is among them, otherwise the longest in frames."""
    if PREFERRED_CONTEXT in contexts:
        return PREFERRED_CONTEXT
    return max((k for k in contexts if k != "stream"), default="stream" if contexts else PREFERRED_CONTEXT)


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveConfig:
    """What a training example is."""

    kind: Literal["sequence", "window"] = "sequence"
    """sequence: every position of a sequence predicts its next frame. window: one prediction per window of K frames."""
    context_frames: ContextFrames = 10
    """Context length K, frames: of a window if kind is window, and of the MLP's input."""
    sequence_frames: PositiveInt = 64
    """Predictions per sequence if kind is sequence."""
    num_windows: PositiveInt = 1
    """Windows per example if kind is window, one frame apart; the MLP encodes the frames that they share once."""
    swap_players: bool = False
    """Augmentation: exchange players 0 and 1 in half of the examples."""
    mirror: bool = False
    """Augmentation: mirror half of the examples left to right."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """Training on inputs that are as wrong as those of a dream."""

    def __post_init__(self) -> None:
        if self.num_windows > 1 and self.context_frames == 1:
            raise ValueError(f"num_windows={self.num_windows}: windows of one frame share no frame; expected 1")
        self._check_rollout()

    def _check_rollout(self) -> None:
        """Check that a sequence has room for what `rollout` asks for."""
        rollout, num_frames = self.rollout, self.sequence_frames
        if rollout.is_on and self.kind != "sequence":
            shares = " and ".join(rollout.positive_shares)
            raise ValueError(f"rollout: takes kind: sequence; found kind: {self.kind}; set {shares} to 0")
        if rollout.two_passes.share > 0 and num_frames < rollout.two_passes.longest_run + 2:
            raise ValueError(
                f"rollout.two_passes.longest_run={rollout.two_passes.longest_run}: expected at most "
                f"sequence_frames - 2 = {num_frames - 2}"
            )
        if rollout.unroll.share > 0 and max(rollout.unroll.frames) > num_frames // 2:
            raise ValueError(
                f"rollout.unroll.frames={list(rollout.unroll.frames)}: expected at most half of "
                f"sequence_frames={num_frames}, since a dream needs frames before it"
            )

    @property
    def predictions(self) -> int:
        """Predictions per training example."""
        return self.sequence_frames if self.kind == "sequence" else self.num_windows

    @property
    def example_frames(self) -> int:
        """Frames per example, the last target included."""
        return self.predictions + (1 if self.kind == "sequence" else self.context_frames)


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """Optimizer and learning-rate schedule. The schedule follows the targets seen, so a resumed run repeats it."""

    kind: Literal["adamw", "muon"] = "adamw"
    """muon orthogonalizes the momentum of inner weight matrices; all other parameters use AdamW."""
    total_targets: PositiveInt = 2_000_000
    """Length of the schedule and of the run, in targets (trained predictions)."""
    batch_size: PositiveInt | Literal["auto"] = 32
    """Examples per batch over all workers; auto takes the largest power of two that fits in memory, within limits that
    leave enough updates (`wm/training/schedule.py`)."""
    reference_batch_size: PositiveInt | None = None
    """Examples per batch that learning_rate, beta1, beta2 and warmup_targets are meant for. For another batch size they
    are scaled, the rate by the square root of the ratio (`wm/training/schedule.py`). None: no scaling."""
    micro_batch_size: PositiveInt | None = None
    """Examples per forward pass of a worker; larger batches accumulate gradients. None: the whole batch."""
    learning_rate: PositiveFloat = 1e-3
    """Peak learning rate."""
    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.02
    """Final learning rate over the peak."""
    warmup_targets: NonNegativeInt = 100_000
    """Learning-rate warm-up, in targets."""
    weight_decay: NonNegativeFloat = 0.01
    """Of weight matrices; vectors and embeddings do not decay."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of the first moment."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Decay of the second moment."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are clipped to this norm."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalConfig:
    """How a run is evaluated during and after training."""

    contexts: Annotated[tuple[Context, ...], Field(min_length=1)] = (1, 5, 10, 30, 60, 120)
    """Contexts of the evaluation at the end of the run: K, frames, or `stream`, the state carried through the whole
    game before, as a Mamba-2 plays (an MLP is evaluated at its own K)."""
    num_targets: PositiveInt = 20_000
    """Evaluation frames at the end of the run, chosen by hash."""
    num_dreams: NonNegativeInt = 300
    """Dreams of 20 frames at the end of the run, by which its coherence is measured (`wm rollout`); 0 for none."""
    validation_targets: PositiveInt = 2_000
    """Evaluation frames of a validation during training: the first of num_targets."""
    validation_contexts: Annotated[tuple[Context, ...], Field(min_length=1)] | None = None
    """Contexts of a validation during training, some of contexts; by default best_context alone. The time of a
    validation is that of training on validation_targets times the sum of these over 3 targets; `stream` reads the
    games up to their last target."""
    every_targets: PositiveInt = 500_000
    """Targets seen between two validations."""
    best_metric: MetricName = "change_acc"
    """The best checkpoint is that with the best value of this metric on the validation_targets."""
    best_context: Context | None = None
    """At this context, one of contexts; by default 10 if it is among them, otherwise the longest in frames."""
    split: Split | None = None
    """Evaluation games; by default validation, or all of a separate eval_corpus."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Which games are trained on, and how their frames reach the device."""

    suspect: SuspectGames = "keep"
    """Training games that break a learned rule (`games.suspect_rules`): such a game is a good one that nobody has seen
    the like of, or has a few wrong values (`docs/reliability.md`). Evaluation keeps them, so that runs stay comparable.
    """

    pool_frames: PositiveInt = 4_000_000
    """Size of a pool (the shuffle buffer), in frames of about 188 bytes; the next pool is prefetched beside it."""
    lanes: PositiveInt = 8
    """Parts of a pool that are shuffled separately; every batch takes as many examples from each. With more workers
    than lanes, several workers read the same files."""
    device_cache: Literal["auto", "always", "never"] = "auto"
    """Keep the whole corpus in device memory; auto: if it takes at most device_cache_fraction of the free memory."""
    device_cache_fraction: Annotated[float, Field(gt=0, le=0.9)] = 0.3
    """Largest part of the device's free memory (CPU: of the machine's, split among its workers) for the cache."""
    disk_cache: Path | None = None
    """Folder on each machine's disk for copies of a corpus in object storage; by default melee-world-model in the
    user's cache folder (XDG_CACHE_HOME). Choose the machine's fastest disk."""
    disk_cache_size: ByteSize | Literal["auto"] = "auto"
    """Bytes of all copies together, such as 200GB; auto: half of what the disk has left. A larger corpus is copied
    again in each epoch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointConfig:
    """When and where the run is saved, and how many checkpoints are kept."""

    every_s: NonNegativeFloat = 300.0
    """Seconds between checkpoints; one is also written at the end of each epoch and of the run. 0: one after each
    update, which waits until the one before is written."""
    keep_last: PositiveInt = 2
    """Newest checkpoints to keep, in addition to the best one (eval.best_metric)."""
    storage_path: str | None = None
    """Folder or s3://, gs:// URI of the checkpoints; by default inside the run folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DivergenceConfig:
    """What happens on a non-finite loss or a loss spike."""

    action: Literal["rollback", "stop"] = "rollback"
    """rollback returns to the last checkpoint with a lower learning rate, once per run; stop ends the run."""
    lr_factor: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """The learning rate is multiplied by this after a rollback."""
    spike_ratio: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 4.0
    """A loss spike: the mean loss of `window_steps` steps is this many times the lowest such mean of the run."""
    window_steps: PositiveInt = 50
    """Steps per mean loss."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """One training run."""

    train_corpus: Path | Uri = Path("corpora/replays")
    """Corpus to train on (made by `wm encode`): its folder, or its s3:// or gs:// URI."""
    eval_corpus: Path | Uri | None = None
    """Corpus to evaluate on; by default the validation split of train_corpus."""
    out: Path | Uri = Path("runs/run")
    """Folder of the run, or its s3:// or gs:// URI: log, TensorBoard, checkpoints. The same command resumes the run."""
    init_from: str | None = None
    """Begin with the weights of another run: its folder or URI (the newest intact checkpoint; RUN/best for its
    best), or one checkpoint. The optimizer, the schedule and the order of batches begin anew."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of weight initialization, shuffling and augmentation."""
    num_workers: PositiveInt | tuple[int, int] = 1
    """Data-parallel workers (GPUs, or processes on a CPU). [min, max]: as many as the cluster has room for; the number
    changes when nodes come and go."""
    use_gpu: bool = False
    """One GPU per worker."""
    num_threads: PositiveInt | Literal["auto"] = "auto"
    """CPU threads of a worker without a GPU; auto divides the machine's cores among its workers."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """auto uses bf16 if the hardware multiplies in it."""
    max_seconds: PositiveFloat | None = None
    """Stops the run after this many seconds of training; the schedule does not depend on it."""
    log_every_s: NonNegativeFloat = 5.0
    """Seconds between progress lines."""
    compile: Literal["auto", "never", "always"] = "auto"
    """torch.compile the model; auto: on a CPU, if the run is long enough to pay for most of a minute of compilation."""
    cuda_graph: bool = False
    """Capture the update as a CUDA graph after a few updates and replay it: saves the host's time, which limits small
    batches. One GPU, and not for muon. Off by default until it has been measured on a GPU."""
    max_failures: NonNegativeInt = 3
    """Restarts from the last checkpoint after a worker died; a preemption after which it saved does not count."""
    train_split: Split | None = None
    """Games to train on; by default train, or all of train_corpus if eval_corpus is set."""
    split: SplitConfig = field(default_factory=SplitConfig)
    """Sizes of the splits."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Shape of the network."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """What a training example is."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Optimizer and learning-rate schedule."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    """How the run is evaluated."""
    data: DataConfig = field(default_factory=DataConfig)
    """How frames reach the device."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When and where the run is saved."""
    divergence: DivergenceConfig = field(default_factory=DivergenceConfig)
    """What happens on a loss spike."""

    def __post_init__(self) -> None:
        for name, location in (
            ("out", self.out),
            ("train_corpus", self.train_corpus),
            ("eval_corpus", self.eval_corpus),
        ):
            if location is not None and (mistake := mistake_in(location)):
                raise ValueError(f"{name}: {mistake}")
        if self.model.kind == "mlp" and self.objective.kind != "window":
            raise ValueError("objective.kind: model.kind mlp predicts one frame per window; set objective.kind: window")
        num_windows = self.objective.num_windows
        if self.model.kind == "mamba2" and self.objective.kind == "window" and num_windows > 1:
            raise ValueError(f"objective.num_windows={num_windows}: mamba2 takes 1, or objective.kind: sequence")
        self._check_contexts()
        batch_size, workers = self.optimizer.batch_size, self.max_workers
        if not 1 <= self.min_workers <= workers:
            raise ValueError(f"num_workers={list(self.num_workers_range)}: expected [min, max] with 1 <= min <= max")
        if self.cuda_graph and workers > 1:
            raise ValueError(f"cuda_graph=True takes one worker; found num_workers={self.num_workers}")
        if self.cuda_graph and self.optimizer.kind == "muon":
            raise ValueError("cuda_graph=True takes optimizer.kind=adamw; with muon the host takes part in each update")
        if self.cuda_graph and self.objective.rollout.is_on:
            shares = " and ".join(self.objective.rollout.positive_shares)
            raise ValueError(
                f"cuda_graph=True takes no objective.rollout, whose updates differ from each other; set {shares} to 0"
            )
        if batch_size == "auto" and self.min_workers < workers:
            raise ValueError(
                f"optimizer.batch_size=auto depends on the number of workers, which changes with "
                f"num_workers={list(self.num_workers_range)}; expected a number of examples"
            )
        if batch_size != "auto" and workers > 1 and batch_size < 2 * workers:
            raise ValueError(
                f"optimizer.batch_size={batch_size} is less than two examples for each of num_workers={workers}"
            )

    @property
    def num_workers_range(self) -> tuple[int, int]:
        """The least and the largest number of workers; equal unless the run is elastic."""
        return (self.num_workers, self.num_workers) if isinstance(self.num_workers, int) else self.num_workers

    @property
    def min_workers(self) -> int:
        """The least number of workers that the run trains with."""
        return self.num_workers_range[0]

    @property
    def max_workers(self) -> int:
        """The largest number of workers that the run trains with."""
        return self.num_workers_range[1]

    def _check_contexts(self) -> None:
        """Check that a validation evaluates some of the contexts, `best_context` among them."""
        best, chosen = self.eval.best_context, self.eval.validation_contexts
        if self.model.kind == "mlp" and "stream" in self.eval.contexts:
            raise ValueError(
                f"eval.contexts={list(self.eval.contexts)}: model.kind mlp carries no state, so it has no stream; "
                "leave stream out"
            )
        if best is not None and best not in self.contexts:
            raise ValueError(f"eval.best_context={best}: expected one of eval.contexts={list(self.contexts)}")
        if chosen is not None and not {self.best_context} <= set(chosen) <= set(self.contexts):
            raise ValueError(
                f"eval.validation_contexts={list(chosen)}: expected some of eval.contexts={list(self.contexts)}, "
                f"among them eval.best_context={self.best_context}"
            )

    @property
    def micro_batch_size(self) -> int | None:
        """Examples per forward pass of a worker; None: its whole part of a batch.

        An elastic run with fewer workers makes more passes, not larger ones: memory suffices for any number.
        """
        size, batch_size = self.optimizer.micro_batch_size, self.optimizer.batch_size
        if size is None and self.min_workers < self.max_workers and batch_size != "auto":
            return -(-batch_size // self.max_workers)
        return size

    @property
    def contexts(self) -> tuple[Context, ...]:
        """The contexts at which this run is evaluated at its end."""
        return (self.objective.context_frames,) if self.model.kind == "mlp" else self.eval.contexts

    @property
    def validation_contexts(self) -> tuple[Context, ...]:
        """The contexts at which this run is evaluated during training."""
        return self.eval.validation_contexts or (self.best_context,)

    @property
    def best_context(self) -> Context:
        """The context at which checkpoints are compared."""
        return self.eval.best_context or default_best_context(self.contexts)

    @property
    def final_evaluation(self) -> dict[str, Any]:
        """What the run is evaluated on at its end, as JSON data."""
        return {"num_targets": self.eval.num_targets, "contexts": list(self.contexts)}
