"""What is asked of the cluster: the request, the command line that runs there, and the name of the job."""

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

    config: Path
    """YAML config of the run; it must lie inside the working directory, which travels to the cluster."""

    overrides: tuple[str, ...] = ()
    """Words added after the config, as `wm train` takes them: --seed 1"""

    command: tuple[str, ...] = ("train",)
    """The `wm` verb to run there: train, sweep, encode, ..."""

    address: str | None = None
    """Where the Jobs API answers, http://HOST:PORT; default: RAY_ADDRESS, else http://127.0.0.1:8265"""

    working_dir: Path = Path(".")
    """The checkout whose code and configs are uploaded; data, runs and hidden files stay here"""

    follow: bool = True
    """Print the job's log until it ends, and exit as it does; Ctrl-C leaves it running"""

    name: str | None = None
    """First part of the job's name; default: the config's file name without its ending"""

    def __post_init__(self) -> None:
        if not self.command:
            raise ValueError("command is empty: expected a wm verb such as train")


def relative_config(request: SubmitRequest) -> Path:
    """The config's path inside the working directory, which is its path on the cluster too.

    Raises:
        ClusterError: no such working directory, no such config, or the config lies outside.
    """
    working_dir, config = request.working_dir.resolve(), request.config.resolve()
    if not working_dir.is_dir():
        raise ClusterError(f"working dir {request.working_dir} is not a directory; expected a checkout of this project")
    if not config.is_file():
        raise ClusterError(f"config {request.config} is not a file; expected the path of a YAML config")
    if not config.is_relative_to(working_dir):
        raise ClusterError(
            f"config {config} lies outside the working dir {working_dir}, and only that is uploaded; "
            "move the config into it, or name another --working-dir"
        )
    return config.relative_to(working_dir)


def entrypoint(request: SubmitRequest) -> str:
    """The shell command of the job: `wm COMMAND CONFIG OVERRIDES`.

    `wm` is found on the PATH of the head node's `ray start`; its code is the uploaded one all the same, since
    Ray puts the working directory first on PYTHONPATH. `python -m wm.cli` would be looked up on the same
    PATH, and a foreign python answers there with a riddle about imports where a missing `wm` says so.
    """
    config = relative_config(request).as_posix()
    return shlex.join(["wm", *request.command, config, *request.overrides])


def job_name(request: SubmitRequest) -> str:
    """A readable name ending in a hash of what decides the run: verb, config values and overrides.

    Comments, spacing and the order of keys do not count: the same run has the same name from every checkout.

    Raises:
        ClusterError: the config is not a YAML mapping.
    """
    decisive = {
        "command": list(request.command),
        "config": _load_mapping(request.config),
        "overrides": list(request.overrides),
    }
    digest = hashlib.sha256(yaml.safe_dump(decisive, sort_keys=True).encode()).hexdigest()
    readable = "-".join([*request.command, request.name or request.config.stem])
    return f"{re.sub(r'[^A-Za-z0-9_.]+', '-', readable).strip('-')}-{digest[:HASH_CHARACTERS]}"


def _load_mapping(path: Path) -> dict:
    """The YAML mapping in `path`; its fields are for `wm` to check, not for this room."""
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        why = " ".join(str(error).split())
        raise ClusterError(f"config {path} is not YAML ({why}); expected a mapping of fields") from error
    except OSError as error:
        raise ClusterError(f"config {path} cannot be read ({error.strerror}); expected a YAML file") from error
    if not isinstance(loaded, dict):
        raise ClusterError(
            f"config {path} holds a {type(loaded).__name__}; expected a YAML mapping such as `model: ...`"
        )
    return loaded
