"""A throughput profile: what `wm profile` or a run has measured on one machine, and what a plan takes from it.

Versions (`profile_version`): 1 is a run's of before 0.3: without the network, which is that of the config.yaml beside
it. 2: with network, parameters, device's name, and the seconds of every part of a run. Absent figures are null.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError

from cluster.plan.workload import Network, network_of
from datasets.runtime.errors import UserError
from datasets.runtime.storage.bucket_folder import BucketFolder
from datasets.runtime.uris import is_remote
from wm.config.run_config import RunConfig
from wm.config.typed_yaml import from_stored, load_yaml
from wm.runs.run import CONFIG_FILE, PROFILE_FILE, PROFILE_VERSION

RETRY_S = 3.0
"""For a bucket, which a laptop may not be allowed to read."""
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Something that a run did several times while it did not train."""

    number: NonNegativeInt = 0
    seconds: Seconds = 0.0
    frames: NonNegativeInt = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """The figures of one profile, checked. Keys of the file that are not here are ignored."""

    profile_version: Literal[1, 2]
    device: Literal["cpu", "cuda"]
    workers: PositiveInt
    targets_per_s: Seconds
    """Of all workers; the median of the log's intervals."""
    mean_targets_per_s: Positive | None = None
    mean_wait_share: Share | None = None
    wait_share: Share = 0.0
    steady_s: Seconds | None = None
    steady_cpu_s: Seconds | None = None
    device_name: str | None = None
    threads: PositiveInt | None = None
    batch_size: PositiveInt | None = None
    resident: bool = False
    compiled: bool = False
    num_parameters: PositiveInt | None = None
    flops_per_target: Positive | None = None
    model: dict[str, Any] | None = None
    objective: dict[str, Any] | None = None
    train_games: NonNegativeInt | None = None
    train_frames: NonNegativeInt | None = None
    start_s: Seconds | None = None
    warm_up_s: Seconds | None = None
    end_s: Seconds | None = None
    validations: Part = Part()
    final_evaluation: Part = Part()
    checkpoints: Part = Part()
    checkpoint_bytes: NonNegativeInt | None = None
    peak_gb: NonNegativeFloat | None = None
    device_peak_gb: NonNegativeFloat | None = None
    data: Literal["corpus", "synthetic"] = "corpus"
    """synthetic: no waits for input, nor Ray's start."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredProfile:
    """A profile with its network."""

    source: str
    """The file, for messages."""
    profile: Profile
    network: Network

    @property
    def targets_per_s(self) -> float:
        """Of all workers, on average."""
        return self.profile.mean_targets_per_s or self.profile.targets_per_s

    @property
    def wait_share(self) -> float:
        """Share of the training time in which it waited for input."""
        profile = self.profile
        return profile.wait_share if profile.mean_wait_share is None else profile.mean_wait_share

    @property
    def flops_per_s(self) -> float:
        """Training FLOPs of all workers."""
        return self.targets_per_s * self.network.flops_per_target

    @property
    def cores(self) -> int:
        """CPU threads that trained, of all workers; 1 if it is not known."""
        return self.profile.workers * (self.profile.threads or 1)

    @property
    def evaluation_s_per_frame(self) -> float | None:
        """Of validations and the final evaluation together; None if none was measured."""
        parts = (self.profile.validations, self.profile.final_evaluation)
        frames = sum(part.frames for part in parts)
        return sum(part.seconds for part in parts) / frames if frames else None

    @property
    def checkpoint_s(self) -> float:
        """That a checkpoint keeps training from going on."""
        return self.profile.checkpoints.seconds / max(1, self.profile.checkpoints.number)


def read_profiles(locations: Sequence[Path | str]) -> list[MeasuredProfile]:
    """Read profiles.

    Args:
        locations: paths or URIs of files, or of folders of runs.
    Raises:
        UserError: as `read_profile`; or no path is given.
    """
    if not locations:
        raise UserError(
            "no throughput profile is known; run `wm profile CONFIG` on the machine that is to train, then name its "
            "file with --profile"
        )
    return [read_profile(location) for location in locations]


def read_profile(location: Path | str) -> MeasuredProfile:
    """Read a profile.

    Args:
        location: path or URI of a file, or of the folder of a run.
    Raises:
        UserError: it is missing, damaged, of a newer version, or says nothing about speed or network.
    """
    if isinstance(location, str) and is_remote(location):
        path, read = _in_bucket(location)
    else:
        path = Path(location)
        path = path / PROFILE_FILE if path.is_dir() else path
        read = path.read_bytes
    try:
        content = json.loads(read())
    except FileNotFoundError:
        raise UserError(f"profile {path} does not exist; `wm profile CONFIG` measures one") from None
    except (OSError, ValueError) as error:
        raise UserError(f"profile {path} cannot be read ({error}); measure again with `wm profile CONFIG`") from error
    return parse_profile(content, path)


def _in_bucket(location: str) -> tuple[str, Callable[[], bytes]]:
    """The URI of a profile without credentials, and what reads it."""
    uri, question, options = location.partition("?")
    is_file = uri.endswith(".json")
    parent, name = uri.rpartition("/")[::2] if is_file else (uri, PROFILE_FILE)
    folder = BucketFolder(f"{parent}{question}{options}", retry_s=RETRY_S)
    return f"{folder.location.rstrip('/')}/{name}", lambda: folder.read(name)


def parse_profile(content: Any, path: Path | str) -> MeasuredProfile:
    """A profile from its JSON data; see `read_profile`.

    Args:
        path: the file, for messages; on a disk, a config.yaml beside it describes the network of version 1.
    """
    version = content.get("profile_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > PROFILE_VERSION:
        raise UserError(f"profile {path} has version {version}, this tool reads up to {PROFILE_VERSION}; update it")
    try:
        profile = TypeAdapter(Profile).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(
            f"profile {path}: {place}: found {first['input']!r:.60}, {first['msg'].lower()}; measure again with `wm "
            "profile CONFIG`"
        ) from error
    if not profile.targets_per_s:
        raise UserError(f"profile {path} has no speed: its run ended too early; measure with `wm profile CONFIG`")
    return MeasuredProfile(source=str(path), profile=profile, network=_network(profile, path))


def _network(profile: Profile, path: Path | str) -> Network:
    if profile.model is not None and profile.objective is not None:
        return network_of(
            from_stored({"model": profile.model, "objective": profile.objective}, RunConfig, f"profile {path}")
        )
    if profile.num_parameters is not None and profile.flops_per_target is not None:
        return Network(num_parameters=profile.num_parameters, flops_per_target=profile.flops_per_target)
    config = path.with_name(CONFIG_FILE) if isinstance(path, Path) else None
    if config is None or not config.is_file():
        raise UserError(
            f"profile {path} of version {profile.profile_version} does not tell its network; keep it beside its run's "
            f"{CONFIG_FILE}, or measure with `wm profile CONFIG`"
        )
    return network_of(load_yaml(config, RunConfig))
