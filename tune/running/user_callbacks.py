"""Callbacks of Ray Tune that a sweep's config names: W&B, MLflow, or the user's own."""

from __future__ import annotations

import importlib
from typing import Any

from ray.tune import Callback

from datasets.runtime.errors import UserError, one_line
from tune.config import SweepConfig


def user_callbacks(sweep: SweepConfig) -> list[Callback]:
    """The callbacks, made with their keyword arguments.

    Raises:
        UserError: there is no such class, its package is missing, or it does not take the arguments.
    """
    return [_make(path, arguments) for path, arguments in sweep.callbacks.items()]


def _make(path: str, arguments: dict[str, Any]) -> Callback:
    module, _, name = path.rpartition(".")
    if not module:
        raise UserError(f"callbacks.{path}: expected a dotted path, such as ray.air.integrations.mlflow.{path}")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"callbacks.{path} cannot be imported ({_text(error)}); install its package") from error
    if not (isinstance(found, type) and issubclass(found, Callback)):
        raise UserError(f"callbacks.{path} is not a subclass of ray.tune.Callback")
    try:
        return found(**arguments)
    except TypeError as error:
        raise UserError(f"callbacks.{path}: {_text(error)}") from error
    except Exception as error:  # of whatever package: each has its own for a missing login or dependency
        raise UserError(f"callbacks.{path} cannot be used ({_text(error)})") from error


def _text(error: Exception) -> str:
    return one_line(error) or type(error).__name__
