"""A job request: the `wm` command to run, its command line on the cluster, and the name of the job."""

import hashlib
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import yaml

from cluster.errors import ClusterError

HASH_CHARACTERS = 8
"""Hex characters of the config's hash in a job's name: 32 bits tell a person's runs apart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SubmitRequest:
    """One `wm` command to run as a Ray job on a cluster."""

    config: Path | None = None
    """YAML config of the run; inside the working directory, which is uploaded, unless it is a shipped config. None for
    a verb without one, such as encode."""

    is_shipped: bool = False
    """The config is shipped with the package, so that the job passes its name only, as in `wm train demo`."""

    overrides: tuple[str, ...] = ()
    """Arguments after the config, as for `wm train`: --seed 1; all arguments of a verb without a config"""

    command: tuple[str, ...] = ("train",)
    """The `wm` verb to run there: train, sweep, encode, ..."""

    address: str | None = None
    """URL of the Jobs API, http://HOST:PORT; default: RAY_ADDRESS, else http://127.0.0.1:8265"""

    working_dir: Path = Path(".")
    """The checkout whose code and configs are uploaded; data, runs and hidden files are not"""

    follow: bool = True
    """Print the job's log until the job ends; Ctrl-C does not stop the job"""

    name: str | None = None
    """Readable part of the job's name; default: the config's file name without its suffix"""

    def __post_init__(self) -> None:
        if not self.command:
            raise ValueError("command is empty: expected a wm verb such as train")
        if self.config is None and self.is_shipped:
            raise ValueError("is_shipped without a config: expected the path of the shipped config")


def relative_config(request: SubmitRequest) -> Path | None:
    """The config's path inside the working directory, which is its path on the cluster too; None without a config.

    Raises:
        ClusterError: no such working directory, no such config, or the config lies outside.
    """
    working_dir = request.working_dir.resolve()
    if not working_dir.is_dir():
        raise ClusterError(f"working dir {request.working_dir} is not a directory; expected a checkout of this project")
    if request.config is None:
        return None
    config = request.config.resolve()
    if not config.is_file():
        raise ClusterError(f"config {request.config} is not a file; expected the path of a YAML config")
    if not config.is_relative_to(working_dir):
        raise ClusterError(
            f"config {config} is outside the working dir {working_dir}; expected it inside, because only the working "
            "dir is uploaded; move the config, or name another --working-dir"
        )
    return config.relative_to(working_dir)


def entrypoint(request: SubmitRequest) -> str:
    """The shell command of the job: `wm COMMAND CONFIG OVERRIDES`.

    `wm` is found on the PATH of the head node's `ray start`, and imports the uploaded code, since Ray puts the working
    directory first on PYTHONPATH. Without this project's environment on that PATH the shell reports `wm: not found`;
    `python -m wm.cli` would run in any other Python and fail with an unrelated import error.
    """
    if request.is_shipped:
        assert request.config is not None
        config: Path | None = Path(request.config.stem)
    else:
        config = relative_config(request)
    return shlex.join(["wm", *request.command, *([] if config is None else [config.as_posix()]), *request.overrides])


def job_name(request: SubmitRequest) -> str:
    """A readable name ending in a hash of the verb, the config's values and the overrides.

    The hash ignores comments, spacing and the order of keys: the same run has the same name in every checkout.

    Raises:
        ClusterError: the config is not a YAML mapping.
    """
    identity = {
        "command": list(request.command),
        "config": None if request.config is None else _load_mapping(request.config),
        "overrides": list(request.overrides),
    }
    digest = hashlib.sha256(yaml.safe_dump(identity, sort_keys=True).encode()).hexdigest()
    name = request.name or (request.config.stem if request.config is not None else "")
    readable = "-".join([*request.command, *([name] if name else [])])
    return f"{re.sub(r'[^A-Za-z0-9_.]+', '-', readable).strip('-')}-{digest[:HASH_CHARACTERS]}"


def _load_mapping(path: Path) -> dict:
    """The YAML mapping in `path`. `wm` checks its fields."""
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ClusterError(f"config {path} is not YAML ({reason}); expected a mapping of fields") from error
    except OSError as error:
        raise ClusterError(f"config {path} cannot be read ({error.strerror}); expected a YAML file") from error
    if not isinstance(loaded, dict):
        raise ClusterError(
            f"config {path} contains a {type(loaded).__name__}; expected a YAML mapping such as `model: ...`"
        )
    return loaded
