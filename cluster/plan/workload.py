"""What a run is to do, as plain numbers: its network, its targets, its evaluations and checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from datasets.runtime.errors import UserError
from wm.config.model_config import ModelConfig
from wm.config.run_config import Context, EvalConfig, ObjectiveConfig, RunConfig

FRAMES_PER_GAME = 11_500
"""Of ranked games (`docs/encode-at-scale.md`): 3.3 billion frames of 287,504 games."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """A network and its objective, as far as its cost depends on them."""

    num_parameters: int
    flops_per_target: float
    """Matrix multiplications of training."""
    kind: str | None = None
    """mamba2 or mlp; None: of another system."""
    encoding: int | None = None
    objective: str | None = None
    """sequence or window."""
    predictions: int = 1
    """Targets of an example."""
    frames_per_target: float = 1.0
    """Frames that pass through the network for a target."""
    width: int | None = None
    """Width of the residual stream times layers, or of the hidden layers: what activations grow with."""

    @property
    def size_text(self) -> str:
        """As a table shows it."""
        return f"{self.num_parameters / 1e6:.1f} M"


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """One training run."""

    name: str
    """Of the size: small, medium, large, xl, or the config's."""
    network: Network
    targets: int
    games: int | None = None
    """Training games; None: not asked for."""
    frames_per_game: float = FRAMES_PER_GAME
    batch_size: int | None = None
    """Examples over all workers; None: auto, that is as many for each worker as the profile has."""
    validation_every: int
    """Targets between two validations."""
    validation_frames: int
    """That pass through the network in one."""
    final_frames: int
    checkpoint_every_s: float
    kept_checkpoints: int
    pool_frames: int
    has_stream: bool = False
    """Whether it is evaluated on whole games as well, whose cost is not counted."""

    @property
    def epochs(self) -> float | None:
        """Passes over the training games; None if their number is not known."""
        return self.targets / (self.games * self.frames_per_game) if self.games else None

    @property
    def corpus_frames(self) -> float | None:
        """Of the training games; None if their number is not known."""
        return self.games * self.frames_per_game if self.games else None

    @property
    def num_validations(self) -> int:
        """Before the end."""
        return max(0, (self.targets - 1) // self.validation_every)


def network_of(config: RunConfig) -> Network:
    """Count a config's network; counted once for each network and objective."""
    return _counted(config.model, config.objective)


@cache
def _counted(model: ModelConfig, objective: ObjectiveConfig) -> Network:
    from tune.search.cost import cost_of  # imports torch

    cost = cost_of(RunConfig(model=model, objective=objective, eval=EvalConfig(contexts=(1,))))
    is_mlp = model.kind == "mlp"
    return Network(
        num_parameters=cost.num_parameters,
        flops_per_target=cost.train_flops_per_target,
        kind=model.kind,
        encoding=model.encoding,
        objective=objective.kind,
        predictions=objective.predictions,
        frames_per_target=objective.context_frames
        if is_mlp
        else (objective.example_frames - 1) / objective.predictions,
        width=sum(model.hidden_sizes) if is_mlp else model.d_model * model.num_layers,
    )


def workload_of(
    config: RunConfig,
    name: str,
    *,
    games: int | None = None,
    epochs: float | None = None,
    frames_per_game: float = FRAMES_PER_GAME,
) -> Workload:
    """The run of a config, on its own `total_targets`, or on some epochs of some games.

    Args:
        games: to train on.
    Raises:
        UserError: epochs without games, or numbers that are not positive.
    """
    if (games is not None and games < 1) or (epochs is not None and not 0 < epochs < float("inf")):
        raise UserError(f"games={games} and epochs={epochs}: expected positive numbers")
    if not 0 < frames_per_game < float("inf"):
        raise UserError(f"frames_per_game={frames_per_game}: expected a positive number")
    if epochs is not None and games is None:
        raise UserError(f"--epochs {epochs:g}: name the number of training games with --games")
    targets = config.optimizer.total_targets
    if games is not None and epochs is not None:
        targets = max(1, round(games * frames_per_game * epochs))
    batch_size = config.optimizer.batch_size
    return Workload(
        name=name,
        network=network_of(config),
        targets=targets,
        games=games,
        frames_per_game=frames_per_game,
        batch_size=None if batch_size == "auto" else batch_size,
        validation_every=config.eval.every_targets,
        validation_frames=_frames(config.validation_contexts, config.eval.validation_targets),
        final_frames=_frames(config.contexts, config.eval.num_targets),
        checkpoint_every_s=config.checkpoint.every_s,
        kept_checkpoints=config.checkpoint.keep_last + 1,
        pool_frames=config.data.pool_frames,
        has_stream="stream" in config.contexts,
    )


def with_targets(workload: Workload, targets: int) -> Workload:
    """The same on another number of targets."""
    return replace(workload, targets=max(1, targets))


def _frames(contexts: tuple[Context, ...], num_targets: int) -> int:
    return num_targets * sum(k for k in contexts if k != "stream")
