"""The paths in a run's config. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from datasets.runtime.uris import is_remote
from wm.config.run_config import RunConfig
from wm.config.typed_yaml import from_plain, to_plain

RUN_FOLDERS = ("out", "checkpoint.storage_path")
"""Fields that name what a run writes to."""
PATH_FIELDS = ("out", "train_corpus", "eval_corpus", "init_from", "checkpoint.storage_path", "data.disk_cache")
"""Dotted names of all fields that hold a path or a URI."""


def local_paths(config: RunConfig) -> dict[str, Path]:
    """The paths of a config that are no URIs, by the names of their fields."""
    plain = to_plain(config)
    values = {name: _owner(plain, name)[_leaf(name)] for name in PATH_FIELDS}
    return {name: Path(value) for name, value in values.items() if value is not None and not is_remote(value)}


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The config with absolute paths, because workers and trials run in another directory."""
    plain = to_plain(config)
    for name, path in local_paths(config).items():
        _owner(plain, name)[_leaf(name)] = str(path.expanduser().resolve())
    return from_plain(plain, RunConfig, "config")


def _owner(plain: dict, name: str) -> dict:
    group = name.rpartition(".")[0]
    return plain[group] if group else plain


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]
