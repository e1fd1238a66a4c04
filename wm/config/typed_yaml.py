"""Frozen dataclasses <-> YAML, command-line overrides and plain data. Types and ranges are enforced by pydantic.

Numbers are checked here and nowhere else. A field declares its range with pydantic's types (`PositiveInt`,
`Annotated[float, Field(ge=0, allow_inf_nan=False)]`); a YAML file, an override, or an option of a command wrapped in
`checked` that violates it raises a one-line UserError with file, dotted path, value found and value expected.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError, validate_call

from datasets.runtime.errors import UserError
from wm.config.renamed_keys import RENAMED_KEYS, RENAMED_VALUES, VALUES_BEFORE, is_stored_config
from wm.config.shipped import shipped_names

Config = TypeVar("Config")
Result = TypeVar("Result")


def to_plain(config: Any) -> dict[str, Any]:
    """A config as JSON data."""
    return TypeAdapter(type(config)).dump_python(config, mode="json")


def load_yaml(path: Path, config_type: type[Config], overrides: Sequence[str] = ()) -> Config:
    """Read a config file and apply `--dotted.name value` overrides.

    Renamed keys are an error, except in the config.yaml of a run folder, where they are translated.

    Raises:
        UserError: no such file, invalid YAML, an unknown or renamed key, a wrong type, a value out of range, or an
            impossible combination.
    """
    if not path.is_file():
        raise UserError(f"config {path} does not exist; shipped configs: {', '.join(shipped_names())}")
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())[:200]}") from error
    if is_stored_config(path):
        content = translate_keys(content, config_type)
    source = str(path)
    if overrides and isinstance(content, dict):
        content = with_overrides(content, config_type, overrides)
        source = f"{path} with the command line"
    return from_plain(content, config_type, source)


def from_plain(content: Any, config_type: type[Config], source: str) -> Config:
    """Plain data -> config.

    Args:
        source: names the data in errors.
    Raises:
        UserError: see `load_yaml`.
    """
    if not isinstance(content, dict):
        raise UserError(f"{source}: found {type(content).__name__}, expected a mapping of keys to values")
    _check_keys(content, config_type, source, "")
    try:
        return TypeAdapter(config_type).validate_python(content)
    except ValidationError as error:
        path, mistake = _first_mistake(error, lambda path: _type_at(config_type, path))
        raise UserError(": ".join([source, *([".".join(path)] if path else []), mistake])) from error


def from_stored(content: Any, config_type: type[Config], source: str) -> Config:
    """As `from_plain`, of data that an older version may have written: renamed keys are translated."""
    return from_plain(translate_keys(content, config_type), config_type, source)


def translate_keys(content: Any, config_type: Any) -> Any:
    """Stored plain data (all of a config or a part of it) with the current keys and values, and newer fields added."""
    if not isinstance(content, dict):
        return content
    name = config_type.__name__
    types_of = typing.get_type_hints(config_type)
    translated: dict[str, Any] = dict(VALUES_BEFORE.get(name, {}))
    for old_key, value in content.items():
        key = RENAMED_KEYS.get(name, {}).get(old_key, old_key)
        nested = _dataclass_in(types_of.get(key))
        if nested is not None:
            translated[key] = translate_keys(value, nested)
        else:
            renamed = RENAMED_VALUES.get(name, {}).get(key, {})
            translated[key] = renamed.get(value, value) if isinstance(value, str) else value
    return translated


def renamed_path(path: str, config_type: Any) -> str | None:
    """The current dotted path of a field whose path holds a renamed key; None if it holds none."""
    current, owner = [], config_type
    for key in path.split("."):
        current.append(RENAMED_KEYS.get(owner.__name__, {}).get(key, key) if owner else key)
        owner = _dataclass_in(typing.get_type_hints(owner).get(current[-1])) if owner else None
    renamed = ".".join(current)
    return None if renamed == path else renamed


def with_overrides(content: dict[str, Any], config_type: Any, overrides: Sequence[str]) -> dict[str, Any]:
    """YAML content with `--dotted.name value ...` applied; `--name` sets true, `--no-name` false.

    Values are read as YAML. Several values, or one for a field that holds a tuple, become a list.

    Raises:
        UserError: an argument without a name, a name without a value, or a renamed key.
    """
    changed = copy.deepcopy(content)
    words = [part for word in overrides for part in (word.split("=", 1) if word.startswith("--") else [word])]
    while words:
        option = words.pop(0)
        if not option.startswith("--"):
            raise UserError(f"found {option!r} on the command line; expected --dotted.name value")
        values = []
        while words and not words[0].startswith("--"):
            values.append(words.pop(0))
        path = option[2:].replace("-", "_")
        if renamed := renamed_path(path, config_type):
            raise UserError(f"{option} was renamed; use --{renamed}")
        *folders, name = path.split(".")
        if not values:
            name, flag = name.removeprefix("no_"), not name.startswith("no_")
            if bool not in _options(_type_at(config_type, [*folders, name])):
                raise UserError(f"{option} needs a value")
            values = [str(flag)]
        field_type = _type_at(config_type, [*folders, name])
        section = changed
        for folder in folders:
            section = section.setdefault(folder, {})
            if not isinstance(section, dict):
                raise UserError(f"found {option} on the command line, but {folder} has no fields")
        parsed = [_parse(value, field_type) for value in values]
        section[name] = parsed if len(parsed) > 1 or typing.get_origin(field_type) is tuple else parsed[0]
    return changed


def checked(command: Callable[..., Result]) -> Callable[..., Result]:
    """Check the options of a command against the types and ranges of its parameters before it runs.

    For commands that tyro parses: `tyro.cli(checked(command), ...)`. A parameter declares its range with pydantic's
    types (`num_targets: PositiveInt = 20_000`), as do the fields of a dataclass parameter; nan and inf are refused
    where `allow_inf_nan=False`. Signature and docstring stay, so tyro's help does too.

    Raises (when called):
        UserError: `--num-targets: found 0, expected a number greater than 0`.
    """
    validated = validate_call(config=ConfigDict(revalidate_instances="always", arbitrary_types_allowed=True))(command)
    parameters = list(inspect.signature(command).parameters)
    types_of = typing.get_type_hints(command)

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Result:
        options = dict(zip(parameters, args, strict=False)) | kwargs
        try:
            return validated(**options)
        except ValidationError as error:
            path, mistake = _first_mistake(error, lambda path: _type_at(types_of[path[0]], path[1:]) if path else None)
            raise UserError(f"--{path[-1].replace('_', '-')}: {mistake}" if path else mistake) from error

    return run


def _first_mistake(error: ValidationError, type_at: Callable[[list[str]], Any]) -> tuple[list[str], str]:
    """Path of pydantic's first error, and `found x, expected y`."""
    first, *others = error.errors()
    path = [str(part) for part in first["loc"]]
    messages = [first["msg"]]
    if _is_union(type_at(path[:-1])):
        # pydantic reports one error per member of a union and appends the member to the path.
        path = path[:-1]
        messages += [other["msg"] for other in others if other["loc"][:-1] == first["loc"][:-1]]
    if first["type"] == "value_error":
        return path, first["msg"].removeprefix("Value error, ")
    expected = " or ".join(dict.fromkeys(_expectation(message) for message in messages))
    return path, f"found {first['input']!r}, expected {expected}"


def _expectation(message: str) -> str:
    """pydantic's message as what was expected."""
    wanted = re.sub(r"^\w+ should (?:be|have) (.*?)(?:, unable to parse .*| after validation, .*)?$", r"\1", message)
    return f"a number {wanted}" if wanted.startswith(("greater", "less")) else wanted


def _check_keys(content: dict, config_type: Any, source: str, prefix: str) -> None:
    """Refuse renamed and unknown keys, and booleans where a number is expected (Python's bool is an int)."""
    types_of = typing.get_type_hints(config_type)
    for key, value in content.items():
        if key in (renamed := RENAMED_KEYS.get(config_type.__name__, {})):
            raise UserError(f"{source}: {prefix}{key} was renamed; use {prefix}{renamed[key]}")
        if key not in types_of:
            near = difflib.get_close_matches(str(key), types_of, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(types_of)}"
            raise UserError(f"{source}: unknown key {prefix}{key}; {hint}")
        options = _options(types_of[key])
        if isinstance(value, bool) and {int, float} & set(options) and bool not in options:
            raise UserError(f"{source}: {prefix}{key}: found {value}, expected a number")
        nested = _dataclass_in(types_of[key])
        if nested is not None and isinstance(value, dict):
            _check_keys(value, nested, source, f"{prefix}{key}.")


def _parse(text: str, field_type: Any) -> Any:
    """A value of the command line: YAML, or as it is for a field that holds text."""
    if {str, Path} & set(_options(field_type)):
        return None if text == "null" else text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"found {text!r} on the command line, which is not a YAML value") from error


def _type_at(config_type: Any, path: Sequence[str]) -> Any:
    """The type of the field at a path, of a mapping's or a tuple's values; None for a path that leads nowhere."""
    found = config_type
    for name in path:
        if (owner := _dataclass_in(found)) is not None:
            found = typing.get_type_hints(owner).get(name)
        else:
            origin = typing.get_origin(found)
            found = typing.get_args(found)[origin is dict] if origin in (dict, tuple) else None
    return found


def _dataclass_in(field_type: Any) -> Any:
    """The dataclass that a field holds, also as `X | None`."""
    return next((option for option in _options(field_type) if dataclasses.is_dataclass(option)), None)


def _options(field_type: Any) -> tuple[Any, ...]:
    """The members of a union, or the type itself."""
    return typing.get_args(field_type) if _is_union(field_type) else (field_type,)


def _is_union(field_type: Any) -> bool:
    return typing.get_origin(field_type) in (types.UnionType, typing.Union)  # X | Literal[...] is the latter
