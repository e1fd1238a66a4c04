"""Source files: YAML files that list a corpus' sources under a name, so that a command can name `ranked`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from datasets.runtime.errors import UserError

SHIPPED = Path(__file__).parent
NAME = re.compile(r"[A-Za-z0-9_-]+")
VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
EXPECTED_KEYS = {"description": "text", "sources": "a list of paths or URIs"}


def resolve(names: Iterable[str]) -> list[str]:
    """Expand names of sources to paths and URIs.

    Args:
        names: each a path or URI, which stays as it is; a path to a source file (.yaml); or the bare name of a source
            file in this folder, unless a file or folder of that name exists.
    Raises:
        UserError: a name is unknown, or a source file is invalid.
    """
    resolved: list[str] = []
    for name in names:
        if name.endswith((".yaml", ".yml")):
            resolved += _sources_in(Path(name).expanduser())
        elif NAME.fullmatch(name) and not os.path.exists(name):
            resolved += _sources_in(_shipped(name))
        else:
            resolved.append(name)
    return resolved


def _shipped(name: str) -> Path:
    path = SHIPPED / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(path.stem for path in SHIPPED.glob("*.yaml")))
        raise UserError(
            f"source {name} does not exist; expected a path, a URI, a .yaml file that lists sources, or {known}"
        )
    return path


def _sources_in(path: Path) -> list[str]:
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; expected a YAML file with sources") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: invalid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: found {type(content).__name__}, expected the keys description and sources")
    for key in content:
        if key not in EXPECTED_KEYS:
            raise UserError(f"{path}: {key}: unknown; expected {' and '.join(EXPECTED_KEYS)}")
    if not isinstance(content.get("description", ""), str):
        raise UserError(f"{path}: description: found {content['description']!r}, expected text")
    sources = content.get("sources")
    if not isinstance(sources, list) or not sources:
        raise UserError(f"{path}: sources: found {sources!r}, expected {EXPECTED_KEYS['sources']}")
    return [_expanded(source, f"{path}: sources.{index}") for index, source in enumerate(sources)]


def _expanded(source: Any, field: str) -> str:
    """A source with variables and ~ expanded."""
    if not isinstance(source, str) or not source:
        raise UserError(f"{field}: found {source!r}, expected a path or URI")
    for match in VARIABLE.finditer(source):
        if not os.environ.get(match[1] or match[2]):
            raise UserError(f"{field}: found {match[0]}, which is not set; set the variable {match[1] or match[2]}")
    return os.path.expanduser(os.path.expandvars(source))
