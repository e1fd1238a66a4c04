"""A cluster file, checked on the machine where `ray up` will run: nothing is rented, no cloud is asked."""

import importlib.util
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cluster.files.aws_checks import AWS_CHECKS, is_aws
from cluster.files.checks import Check, State
from cluster.files.cost import machine_of, most_expensive_hour
from cluster.files.ray_schema import schema_error
from cluster.files.read import commands_of, load_cluster_file, storage_of
from cluster.files.token import TOKEN

LEFT_OVER = "CHANGE_ME"
MIN_TOKEN_CHARACTERS = 32

Config = dict[str, Any]
Row = tuple[str, State, str, str, str]
"""name, state, found, expected, advice"""


def check_cluster_file(path: Path, prices: Mapping[str, float] | None = None) -> list[Check]:
    """What there is to know about a cluster file before `ray up`. Its paths count from the current folder.

    Args:
        path: a file for `ray up`, or a manifest of KubeRay, of which only left-over fields are checked.
        prices: dollars an hour of types of machines, for the bound of what an hour can cost.
    Raises:
        UserError: it cannot be read.
    """
    text = path.read_text() if path.is_file() else ""
    rows = list(left_overs(text))
    if "\napiVersion:" not in f"\n{text}":
        config = load_cluster_file(path)
        error = schema_error(config)
        rows.append(schema(error))
        if not error:  # the others rely on it
            checks: tuple[Callable[[Config], Iterator[Row]], ...] = (mounts, token, tools, commands, dashboard, storage)
            for check in (*checks, *(AWS_CHECKS if is_aws(config) else ())):
                rows += check(config)
            rows += hour(config, prices)
    return [
        Check(name=name, node=str(path), state=state, found=found, expected=expected, advice=advice)
        for name, state, found, expected, advice in rows
    ]


def left_overs(text: str) -> Iterator[Row]:
    """Fields that the owner has to fill in."""
    lines = [
        f"line {number}: {line.strip()[:80]}"
        for number, line in enumerate(text.splitlines(), 1)
        if LEFT_OVER in line.partition(" #")[0] and not line.lstrip().startswith("#")
    ]
    for line in lines:
        yield "fields to change", "red", line, "your own value", f"replace {LEFT_OVER} there"
    if not lines:
        yield "fields to change", "green", f"no {LEFT_OVER} left", "", ""


def schema(error: str | None) -> Row:
    """Ray's own check."""
    if error:
        return "Ray's schema", "red", error, "a file that `ray up` accepts", "correct it; the rest was not checked"
    return "Ray's schema", "green", "accepted", "", ""


def mounts(config: Config) -> Iterator[Row]:
    """What is copied to the machines exists here."""
    local = [source for source in config.get("file_mounts", {}).values() if source != TOKEN]
    missing = [source for source in local if not Path(source).expanduser().exists()]
    if missing:
        advice = "run `ray up` in the root of the checkout: file_mounts count from there"
        yield "file_mounts", "red", f"missing here: {', '.join(missing)}", f"{len(local)} files and folders", advice
    else:
        yield "file_mounts", "green", f"{len(local)} files and folders", "", ""


def token(config: Config) -> Iterator[Row]:
    """The password of the cluster exists, is readable by its owner only, and is shipped."""
    make = "run `wm cluster prepare` with this file"
    path = Path(TOKEN).expanduser()
    if TOKEN not in config.get("file_mounts", {}).values():
        yield "token", "red", f"file_mounts does not ship {TOKEN}", "a cluster with a token", f"add {TOKEN}: {TOKEN}"
    elif not path.is_file():
        yield "token", "red", f"no {TOKEN}", f"at least {MIN_TOKEN_CHARACTERS} characters", make
    elif len(path.read_text().strip()) < MIN_TOKEN_CHARACTERS:
        expected = f"at least {MIN_TOKEN_CHARACTERS} characters"
        yield "token", "red", f"{TOKEN} is shorter", expected, f"delete it, then {make}"
    elif (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077:
        yield "token", "red", f"{TOKEN} has mode {mode:o}", "600", f"chmod 600 {TOKEN}"
    else:
        yield "token", "green", f"{TOKEN}, mode {mode:o}", "", ""


def tools(config: Config) -> Iterator[Row]:
    """Programs and packages that `ray up` calls on this machine."""
    package = {"gcp": "googleapiclient"}.get(config["provider"]["type"], "boto3" if is_aws(config) else None)
    missing = [tool for tool in ("ssh", "rsync") if not shutil.which(tool)]
    if package and not importlib.util.find_spec(package):
        missing.append(f"the Python package {'google-api-python-client' if package == 'googleapiclient' else package}")
    if missing:
        yield (
            "tools of this machine",
            "red",
            f"no {', no '.join(missing)}",
            "ssh, rsync, the cloud's package",
            "install",
        )
    else:
        yield "tools of this machine", "green", ", ".join(["ssh", "rsync", *([package] if package else [])]), "", ""


def commands(config: Config) -> Iterator[Row]:
    """The machines' commands are well-formed shell."""
    for command in commands_of(config):
        done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, check=False)
        if done.returncode:
            yield "commands", "red", f"{command[:60]}: {done.stderr.strip()[:120]}", "well-formed shell", "correct it"
            return
    yield "commands", "green", f"{len(commands_of(config))} are well-formed", "", ""


def dashboard(config: Config) -> Iterator[Row]:
    """The dashboard and the Jobs API are reachable through SSH only."""
    starts = [command for command in commands_of(config) if "ray start" in command]
    if any("--dashboard-host" in start and "--dashboard-host=127.0.0.1" not in start for start in starts):
        yield "dashboard", "red", "on all interfaces", "--dashboard-host=127.0.0.1", "`ray dashboard` forwards it"
    else:
        yield "dashboard", "green", "on the head node's loopback interface", "", ""


def storage(config: Config) -> Iterator[Row]:
    """All machines know where runs and corpora are."""
    where = storage_of(config)
    expected = "s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or an absolute folder that all machines share"
    if where is None:
        yield (
            "storage",
            "red",
            "no WM_STORAGE in the set-up commands",
            expected,
            "runs would be lost with their machine",
        )
    elif not where.startswith(("s3://", "gs://", "/")):
        yield "storage", "red", f"WM_STORAGE={where}", expected, "correct it"
    else:
        yield "storage", "green", where, "", ""


def hour(config: Config, prices: Mapping[str, float] | None) -> Iterator[Row]:
    """What an hour can cost at most."""
    if not any(one.get("node_config") for one in config.get("available_node_types", {}).values()):
        return
    bound = most_expensive_hour(config, prices or {})
    if bound.unknown:
        kinds = dict.fromkeys(machine_of(one) for one in config["available_node_types"].values())
        unknown = ", ".join(kind for kind in kinds if kind not in (prices or {}))
        found = f"{config.get('max_workers', 2)} workers and the head node; no price of {unknown}"
        yield "an hour at most", "amber", found, "a price for each", "look up the prices of your region"
    else:
        yield "an hour at most", "green", f"{bound.usd:.2f} USD: {bound.machines}", "", ""
