"""A training run as one YAML file: frozen dataclasses, strict types, errors that name file, path and value."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import hashlib
import json
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from datasets.errors import UserError
from datasets.splits import Split, SplitConfig
from datasets.targets import COUNTDOWN_FRAMES
from wm.model import ModelConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveConfig:
    """What a training example is."""

    kind: Literal["sequence", "window"] = "sequence"
    """sequence: every position of a sequence predicts its next frame. window: one prediction for a window of K."""
    context_frames: int = 10
    """K, frames: of a window when kind is window, and of the MLP's input."""
    sequence_frames: int = 64
    """S, predictions in a sequence when kind is sequence."""
    swap_players: bool = False
    """Show half of the examples with players 0 and 1 exchanged: the game does not care who is first."""

    def __post_init__(self) -> None:
        if not 1 <= self.context_frames <= COUNTDOWN_FRAMES:
            raise ValueError(
                f"context_frames={self.context_frames}: expected 1 .. {COUNTDOWN_FRAMES}, so that every judged "
                "frame has its full context"
            )
        if self.sequence_frames < 1:
            raise ValueError(f"sequence_frames={self.sequence_frames}: a sequence needs at least one prediction")

    @property
    def predictions(self) -> int:
        """Predictions that one example is trained on."""
        return self.sequence_frames if self.kind == "sequence" else 1

    @property
    def example_frames(self) -> int:
        """Frames of an example, the last target included."""
        return 1 + (self.sequence_frames if self.kind == "sequence" else self.context_frames)


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimiserConfig:
    """AdamW with warm-up and cosine, both over targets seen: a resumed run repeats itself."""

    total_targets: int = 2_000_000
    """Where the schedule ends, and the run, in targets (predictions trained on)."""
    batch_size: int = 32
    """Examples in a batch, of all workers together."""
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
        if min(self.total_targets, self.batch_size) < 1:
            raise ValueError("total_targets and batch_size must be at least 1")
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
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """auto takes bf16 where the hardware multiplies in it."""
    max_seconds: float | None = None
    """Stops the run after this many seconds of training; the schedule does not depend on it."""
    log_every_s: float = 5.0
    """Seconds between progress lines."""
    checkpoint_every_s: float = 120.0
    """Seconds between checkpoints; one is always written at the end."""
    keep_checkpoints: int = 2
    """Latest checkpoints that are kept."""
    max_failures: int = 3
    """Times a run with lost workers is restarted from its last checkpoint."""
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

    def __post_init__(self) -> None:
        if self.model.kind == "mlp" and self.objective.kind != "window":
            raise ValueError("objective.kind: model.kind mlp predicts one frame a window; set objective.kind: window")
        if self.num_workers < 1:
            raise ValueError(f"num_workers={self.num_workers}: a run needs at least one worker")
        if self.keep_checkpoints < 1:
            raise ValueError(f"keep_checkpoints={self.keep_checkpoints}: at least the last one must be kept")
        if self.seed < 0 or self.max_failures < 0:
            raise ValueError(f"seed={self.seed}, max_failures={self.max_failures}: neither may be negative")
        if self.optimiser.batch_size % self.num_workers:
            raise ValueError(
                f"optimiser.batch_size={self.optimiser.batch_size} is not a multiple of num_workers={self.num_workers}"
            )

    @property
    def contexts(self) -> tuple[int, ...]:
        """The contexts this run is judged at."""
        return (self.objective.context_frames,) if self.model.kind == "mlp" else self.eval.contexts


NOT_PART_OF_A_RUN = frozenset(
    {
        "out",
        "num_workers",
        "max_seconds",
        "log_every_s",
        "checkpoint_every_s",
        "keep_checkpoints",
        "max_failures",
    }
)
"""Fields that may differ when a run is resumed: they do not change what it learns."""

Config = TypeVar("Config")


def identity(config: RunConfig) -> dict[str, Any]:
    """What makes two runs the same run, as plain data."""
    plain = to_plain(config)
    return {name: value for name, value in plain.items() if name not in NOT_PART_OF_A_RUN}


def short_hash(plain: dict[str, Any]) -> str:
    """Eight hexadecimal digits that name a config."""
    return hashlib.blake2b(json.dumps(plain, sort_keys=True).encode(), digest_size=4).hexdigest()


def to_plain(config: Any) -> dict[str, Any]:
    """A config as JSON data."""
    return TypeAdapter(type(config)).dump_python(config, mode="json")


def load_yaml(path: Path, config_type: type[Config], overrides: Sequence[str] = ()) -> Config:
    """Read a config file, and change what `--dotted.name value` arguments say.

    Raises:
        UserError: no such file, not YAML, an unknown key, a wrong type or an impossible combination.
    """
    if not path.is_file():
        raise UserError(f"config {path} does not exist; the shipped ones are in configs/")
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())[:200]}") from error
    source = str(path)
    if overrides and isinstance(content, dict):
        content = with_overrides(content, config_type, overrides)
        source = f"{path} with the command line"
    return from_plain(content, config_type, source)


def with_overrides(content: dict[str, Any], config_type: Any, overrides: Sequence[str]) -> dict[str, Any]:
    """YAML content with `--dotted.name value ...` set over it; `--name` is true, `--no-name` false.

    Values are read as YAML; several, or one for a field that holds several, become a list.

    Raises:
        UserError: a word that belongs to no name.
    """
    changed = copy.deepcopy(content)
    words = [part for word in overrides for part in (word.split("=", 1) if word.startswith("--") else [word])]
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise UserError(f"found {word!r} on the command line; expected --dotted.name value")
        values = []
        while words and not words[0].startswith("--"):
            values.append(words.pop(0))
        *folders, name = word[2:].replace("-", "_").split(".")
        if not values and bool not in _options(_hint_at(config_type, [*folders, name.removeprefix("no_")])):
            raise UserError(f"{word} needs a value")
        if not values:
            values, name = [str(not name.startswith("no_"))], name.removeprefix("no_")
        hint = _hint_at(config_type, [*folders, name])
        place = changed
        for folder in folders:
            place = place.setdefault(folder, {})
            if not isinstance(place, dict):
                raise UserError(f"found {word} on the command line, but {folder} holds no further names")
        read = [_read_value(value, hint) for value in values]
        place[name] = read if len(read) > 1 or typing.get_origin(hint) is tuple else read[0]
    return changed


def _read_value(text: str, hint: Any) -> Any:
    """A word of the command line as YAML, or as it stands for a field that holds text."""
    if {str, Path} & set(_options(hint)):
        return None if text == "null" else text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"found {text!r} on the command line, which is not a YAML value") from error


def _options(hint: Any) -> tuple[Any, ...]:
    """The types that a field may have."""
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _hint_at(config_type: Any, path: Sequence[str]) -> Any:
    """The type of the field at a path; None for one that leads nowhere, which is found out later."""
    hint = config_type
    for name in path:
        owner = _dataclass_in(hint)
        hint = typing.get_type_hints(owner).get(name) if owner is not None else _value_type(hint)
    return hint


def _value_type(hint: Any) -> Any:
    """The type of a mapping's values."""
    return typing.get_args(hint)[1] if typing.get_origin(hint) is dict else None


def from_plain(content: Any, config_type: type[Config], source: str) -> Config:
    """Plain data -> config, strictly; `source` names it in errors."""
    if not isinstance(content, dict):
        raise UserError(f"{source}: found {type(content).__name__}, expected names with values")
    _refuse_unknown(content, config_type, source, "")
    try:
        return TypeAdapter(config_type).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "value_error":
            raise UserError(f"{source}: {path + ': ' if path else ''}{message}") from error
        raise UserError(f"{source}: {path}: found {first['input']!r}; {message}") from error


def _refuse_unknown(content: dict, config_type: Any, source: str, prefix: str) -> None:
    hints = typing.get_type_hints(config_type)
    for key, value in content.items():
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(hints)}"
            raise UserError(f"{source}: unknown key {prefix}{key}; {hint}")
        options = _options(hints[key])
        if isinstance(value, bool) and {int, float} & set(options) and bool not in options:
            raise UserError(f"{source}: {prefix}{key}: found {value}, expected a number")
        nested = _dataclass_in(hints[key])
        if nested is not None and isinstance(value, dict):
            _refuse_unknown(value, nested, source, f"{prefix}{key}.")


def _dataclass_in(hint: Any) -> Any:
    """The dataclass that a field holds, also as `X | None`."""
    return next((option for option in _options(hint) if dataclasses.is_dataclass(option)), None)
