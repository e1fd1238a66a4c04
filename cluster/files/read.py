"""A cluster file and what it says, without Ray."""

import re
from pathlib import Path
from typing import Any

import yaml

from datasets.runtime.errors import UserError

STORAGE = re.compile(r"\bWM_STORAGE=['\"]?([^\s'\";]+)")


def load_cluster_file(path: Path) -> dict[str, Any]:
    """The content of a cluster file.

    Raises:
        UserError: it does not exist, or is no YAML with a `provider`.
    """
    try:
        config = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; expected a cluster file, such as cluster.yaml") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict) or not isinstance(config.get("provider"), dict) or "type" not in config["provider"]:
        raise UserError(f"{path} has no provider.type: expected a file for `ray up`, such as cluster.yaml")
    return config


def commands_of(config: dict[str, Any]) -> list[str]:
    """All commands that the file runs on its machines."""
    return [command for key, listed in config.items() if key.endswith("_commands") for command in listed]


def storage_of(config: dict[str, Any]) -> str | None:
    """The cluster's storage, WM_STORAGE in the set-up commands: `s3://BUCKET/FOLDER`, `gs://...` or a shared folder."""
    found = [match[1] for command in commands_of(config) for match in STORAGE.finditer(command)]
    return found[0] if found else None


def bucket_of(storage: str | None) -> str:
    """The bucket of an `s3://` or `gs://` URI.

    Raises:
        UserError: it is none.
    """
    match = re.match(r"(?:s3|gs)://([^/?]+)", storage or "")
    if not match:
        raise UserError(f"WM_STORAGE is {storage}: expected s3://BUCKET/FOLDER in the file's setup_commands")
    return match[1]
