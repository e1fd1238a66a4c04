"""A job request: the `wm` command to run, its command line on the cluster, and the name of the job."""

import hashlib
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import yaml

from cluster.jobs.package import Upload, tracked_upload
from datasets.runtime.errors import UserError, one_line

HASH_CHARACTERS = 8
"""Hex characters of the config's hash in a job's name: 32 bits tell a person's runs apart."""
CODE = Path("wm") / "__init__.py"
"""A folder that holds it holds this project's code."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SubmitRequest:
    """One `wm` command to run as a Ray job on a cluster."""

    config: Path | None = None
    """YAML config of the run, unless it is a shipped config; inside the working directory if that is uploaded. None
    for a verb without one, such as encode."""

    is_shipped: bool = False
    """The config is shipped with the package, so that the job passes its name only, as in `wm train demo`."""

    overrides: tuple[str, ...] = ()
    """Arguments after the config, as for `wm train`: --seed 1; all arguments of a verb without a config"""

    command: tuple[str, ...] = ("train",)
    """The `wm` verb to run there: train, sweep, encode, ..."""

    address: str | None = None
    """URL of the Jobs API, https://HOST:PORT or http://127.0.0.1:PORT; default: RAY_ADDRESS, else port 8265 here"""

    working_dir: Path | None = None
    """The git checkout whose tracked files are uploaded. None: the current folder's, or none if that is no checkout,
    as with an installed package: then only the config is uploaded, and the cluster's own `wm` runs."""

    upload_anyway: tuple[str, ...] = ()
    """Tracked files that are uploaded although they look like secrets"""

    archive: Path | None = None
    """A zip that is uploaded as it is, instead of files from the working directory."""

    follow: bool = True
    """Print the job's log until the job ends; Ctrl-C does not stop the job"""

    name: str | None = None
    """Readable part of the job's name; default: the config's file name without its suffix"""

    def __post_init__(self) -> None:
        if not self.command:
            raise ValueError("command is empty: expected a wm verb such as train")
        if self.config is None and self.is_shipped:
            raise ValueError("is_shipped without a config: expected the path of the shipped config")


def checkout_of(request: SubmitRequest) -> Path | None:
    """The folder whose tracked files are uploaded; None if only the config is.

    Raises:
        UserError: no such folder; or this folder holds the project's code, but no git checkout.
    """
    if request.working_dir is not None:
        if not request.working_dir.is_dir():
            raise UserError(f"working dir {request.working_dir} is not a directory; expected a git checkout")
        return request.working_dir.resolve()
    here = Path.cwd()
    if any((folder / ".git").exists() for folder in (here, *here.parents)) or (here / CODE).is_file():
        return here
    return None


def upload_of(request: SubmitRequest) -> Upload:
    """The files to upload, without looking into them.

    Raises:
        UserError: as `checkout_of`, `relative_config` and `tracked_upload`.
    """
    config = relative_config(request)
    named = {} if config is None or request.config is None else {config.as_posix(): request.config.resolve()}
    checkout = checkout_of(request)
    if checkout is None:
        note = f"{Path.cwd()} is no git checkout: only the config is uploaded, and the cluster's own wm runs"
        return Upload(named, (note,))
    tracked = tracked_upload(checkout)
    return Upload(tracked.files | named, tracked.left_out)


def relative_config(request: SubmitRequest) -> Path | None:
    """The config's path inside the working directory, which is its path on the cluster too; None without a config, or
    with a shipped one.

    Raises:
        UserError: no such working directory, no such config, or the config lies outside.
    """
    checkout = checkout_of(request)
    if request.config is None or request.is_shipped:
        return None
    config = request.config.resolve()
    if not config.is_file():
        raise UserError(f"config {request.config} is not a file; expected the path of a YAML config")
    if checkout is None:
        return Path(config.name)
    if not config.is_relative_to(checkout):
        raise UserError(
            f"config {config} is outside the working dir {checkout}; expected it inside, because only the working "
            "dir is uploaded; move the config, or name another --working-dir"
        )
    return config.relative_to(checkout)


def config_there(request: SubmitRequest) -> str | None:
    """The config as the command names it on the cluster: a shipped config's name, or its path in the upload.

    Raises:
        UserError: as `relative_config`.
    """
    if request.is_shipped:
        assert request.config is not None
        return request.config.stem
    config = relative_config(request)
    return None if config is None else config.as_posix()


def entrypoint(request: SubmitRequest) -> str:
    """The shell command of the job: `wm COMMAND CONFIG OVERRIDES`.

    `wm` is found on the PATH of the head node's `ray start`, and imports the uploaded code, since Ray puts the working
    directory first on PYTHONPATH. Without this project's environment on that PATH the shell reports `wm: not found`;
    `python -m wm.cli` would run in any other Python and fail with an unrelated import error.
    """
    config = config_there(request)
    return shlex.join(["wm", *request.command, *([] if config is None else [config]), *request.overrides])


def job_name(request: SubmitRequest) -> str:
    """A readable name ending in a hash of the verb, the config's values and the overrides.

    The hash ignores comments, spacing and the order of keys: the same run has the same name in every checkout.

    Raises:
        UserError: the config is not a YAML mapping.
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
        reason = one_line(error)
        raise UserError(f"config {path} is not YAML ({reason}); expected a mapping of fields") from error
    except OSError as error:
        raise UserError(f"config {path} cannot be read ({error.strerror}); expected a YAML file") from error
    if not isinstance(loaded, dict):
        raise UserError(
            f"config {path} contains a {type(loaded).__name__}; expected a YAML mapping such as `model: ...`"
        )
    return loaded
