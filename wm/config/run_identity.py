"""What makes two configs the same run, and what may change when it is resumed. Imports no torch."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any

from datasets.runtime.errors import UserError, first_difference
from datasets.runtime.uris import without_credentials, without_key
from wm.config.run_config import RunConfig
from wm.config.typed_yaml import from_stored, to_plain

NOT_PART_OF_A_RUN = frozenset(
    {
        "out",
        "num_workers",
        "num_threads",
        "max_seconds",
        "log_every_s",
        "compile",
        "cuda_graph",
        "max_failures",
        "checkpoint",
        "divergence",
        "data.device_cache",
        "data.device_cache_fraction",
        "data.disk_cache",
        "data.disk_cache_size",
        "optimizer.micro_batch_size",
        "eval.validation_contexts",
        "eval.best_metric",
        "eval.best_context",
    }
)
"""Fields that affect neither what a run learns nor how it is evaluated at its end."""
CHANGEABLE = NOT_PART_OF_A_RUN | {
    "train_corpus",  # a checkpoint names its games, wherever they are (`check_same_games`)
    "eval_corpus",
    "use_gpu",
    "precision",
    "model.scan_backend",
    "eval",
}
"""Fields that may change when a run is resumed: the same updates follow, up to rounding."""


def to_stored(config: RunConfig) -> dict[str, Any]:
    """A config as plain data to be stored: without the keys and secrets of URIs."""
    plain = to_plain(config)
    fields = [(plain, name) for name in ("out", "train_corpus", "eval_corpus", "init_from")]
    for group, name in (*fields, (plain["checkpoint"], "storage_path")):
        group[name] = group[name] and without_key(group[name])
    return plain


def identity(config: RunConfig) -> dict[str, Any]:
    """The fields that tell runs apart, as plain data to be stored."""
    return _without(to_stored(config), NOT_PART_OF_A_RUN)


def check_same_run(stored: Any, config: RunConfig, location: str) -> None:
    """Check that a config may resume a run.

    Args:
        stored: `identity` of the run's first command, perhaps of an older version.
        location: names the run in messages.
    Raises:
        UserError: the config would train another model, or `stored` is not a run's.
    """
    began = to_plain(from_stored(stored, RunConfig, location))
    there, here = (
        _without(plain, CHANGEABLE) | {"init_from": plain["init_from"] and without_credentials(plain["init_from"])}
        for plain in (began, to_plain(config))
    )
    if there != here:
        raise UserError(
            f"{location} contains a run with other options ({first_difference(there, here)}); use those to resume it, "
            f"another --out to begin anew, or both --out NEW and --init-from {location} to begin with its weights"
        )


def changed_options(before: RunConfig, now: RunConfig) -> str:
    """The fields in which a resumed run differs from its checkpoint, `use_gpu true (was false), ...`; empty if none."""
    changes = _changes(_without(to_stored(before), {"out"}), _without(to_stored(now), {"out"}))
    return ", ".join(changes)


def short_hash(plain: dict[str, Any]) -> str:
    """Eight hexadecimal digits that identify a config."""
    return hashlib.blake2b(json.dumps(plain, sort_keys=True).encode(), digest_size=4).hexdigest()


def _without(plain: dict[str, Any], paths: frozenset[str] | set[str]) -> dict[str, Any]:
    """A copy without the fields of some dotted paths."""
    kept = copy.deepcopy(plain)
    for path in sorted(paths, reverse=True):  # a field before its group
        *groups, name = path.split(".")
        owner = kept
        for group in groups:
            owner = owner[group]
        del owner[name]
    return kept


def _changes(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    changes = []
    for name, value in now.items():
        if isinstance(value, dict) and isinstance(before[name], dict):
            changes += _changes(before[name], value, f"{prefix}{name}.")
        elif value != before[name]:
            changes.append(f"{prefix}{name} {_shown(value)} (was {_shown(before[name])})")
    return changes


def _shown(value: Any) -> str:
    """A value as YAML shows it, without the credentials of a URI."""
    return without_credentials(value) if isinstance(value, str) else json.dumps(value)
