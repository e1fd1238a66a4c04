"""Frozen dataclasses <-> YAML and plain data: strict types, errors that name file, path and value."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from datasets.runtime.errors import UserError
from wm.config.shipped import shipped_names

Config = TypeVar("Config")


def to_plain(config: Any) -> dict[str, Any]:
    """A config as JSON data."""
    return TypeAdapter(type(config)).dump_python(config, mode="json")


def load_yaml(path: Path, config_type: type[Config], overrides: Sequence[str] = ()) -> Config:
    """Read a config file, and change what `--dotted.name value` arguments say.

    Raises:
        UserError: no such file, not YAML, an unknown key, a wrong type or an impossible combination.
    """
    if not path.is_file():
        raise UserError(f"config {path} does not exist; shipped configs: {', '.join(shipped_names())}")
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())[:200]}") from error
    source = str(path)
    if overrides and isinstance(content, dict):
        content = with_overrides(content, config_type, overrides)
        source = f"{path} with the command line"
    return from_plain(content, config_type, source)


def with_overrides(content: dict[str, Any], config_type: Any, overrides: Sequence[str]) -> dict[str, Any]:
    """YAML content with `--dotted.name value ...` set over it; `--name` is true, `--no-name` false.

    Values are read as YAML; several, or one for a field that holds several, become a list.

    Raises:
        UserError: a word that belongs to no name.
    """
    changed = copy.deepcopy(content)
    words = [part for word in overrides for part in (word.split("=", 1) if word.startswith("--") else [word])]
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise UserError(f"found {word!r} on the command line; expected --dotted.name value")
        values = []
        while words and not words[0].startswith("--"):
            values.append(words.pop(0))
        *folders, name = word[2:].replace("-", "_").split(".")
        if not values and bool not in _options(_hint_at(config_type, [*folders, name.removeprefix("no_")])):
            raise UserError(f"{word} needs a value")
        if not values:
            values, name = [str(not name.startswith("no_"))], name.removeprefix("no_")
        hint = _hint_at(config_type, [*folders, name])
        place = changed
        for folder in folders:
            place = place.setdefault(folder, {})
            if not isinstance(place, dict):
                raise UserError(f"found {word} on the command line, but {folder} holds no further names")
        read = [_read_value(value, hint) for value in values]
        place[name] = read if len(read) > 1 or typing.get_origin(hint) is tuple else read[0]
    return changed


def _read_value(text: str, hint: Any) -> Any:
    """A word of the command line as YAML, or as it stands for a field that holds text."""
    if {str, Path} & set(_options(hint)):
        return None if text == "null" else text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"found {text!r} on the command line, which is not a YAML value") from error


def _options(hint: Any) -> tuple[Any, ...]:
    """The types that a field may have."""
    return typing.get_args(hint) if _is_union(hint) else (hint,)


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (types.UnionType, typing.Union)  # X | Literal[...] is the second


def _hint_at(config_type: Any, path: Sequence[str]) -> Any:
    """The type of the field at a path; None for one that leads nowhere, which is found out later."""
    hint = config_type
    for name in path:
        owner = _dataclass_in(hint)
        hint = typing.get_type_hints(owner).get(name) if owner is not None else _value_type(hint)
    return hint


def _value_type(hint: Any) -> Any:
    """The type of a mapping's values."""
    return typing.get_args(hint)[1] if typing.get_origin(hint) is dict else None


def from_plain(content: Any, config_type: type[Config], source: str) -> Config:
    """Plain data -> config, strictly; `source` names it in errors."""
    if not isinstance(content, dict):
        raise UserError(f"{source}: found {type(content).__name__}, expected names with values")
    _refuse_unknown(content, config_type, source, "")
    try:
        return TypeAdapter(config_type).validate_python(content)
    except ValidationError as error:
        first, *others = error.errors()
        place, message = first["loc"], first["msg"].removeprefix("Value error, ")
        if _is_union(_hint_at(config_type, [str(part) for part in place[:-1]])):
            # One error for each type that the field may have, which pydantic adds to the path.
            place = place[:-1]
            also = [other["msg"].removeprefix("Input should be ") for other in others if other["loc"][:-1] == place]
            message = " or ".join([message, *also])
        path = ".".join(str(part) for part in place)
        if first["type"] == "value_error":
            raise UserError(f"{source}: {path + ': ' if path else ''}{message}") from error
        raise UserError(f"{source}: {path}: found {first['input']!r}; {message}") from error


def _refuse_unknown(content: dict, config_type: Any, source: str, prefix: str) -> None:
    hints = typing.get_type_hints(config_type)
    for key, value in content.items():
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(hints)}"
            raise UserError(f"{source}: unknown key {prefix}{key}; {hint}")
        options = _options(hints[key])
        if isinstance(value, bool) and {int, float} & set(options) and bool not in options:
            raise UserError(f"{source}: {prefix}{key}: found {value}, expected a number")
        nested = _dataclass_in(hints[key])
        if nested is not None and isinstance(value, dict):
            _refuse_unknown(value, nested, source, f"{prefix}{key}.")


def _dataclass_in(hint: Any) -> Any:
    """The dataclass that a field holds, also as `X | None`."""
    return next((option for option in _options(hint) if dataclasses.is_dataclass(option)), None)
