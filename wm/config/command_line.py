"""The config of a command line: a file or a shipped config, with overrides."""

from collections.abc import Sequence
from typing import Any

from datasets.runtime.errors import UserError
from wm.config.shipped import config_file
from wm.config.typed_yaml import load_yaml


def config_of(args: Sequence[str], config_type: type, verb: str) -> Any:
    """The config that a command names, with its `--dotted.name value` overrides.

    Raises:
        UserError: no config is named, or the config or an override is invalid.
    """
    if "--help" in args or "-h" in args:
        import tyro

        tyro.cli(config_type, prog=f"wm {verb} CONFIG", default=config_type(), args=["--help"])
    if not args or args[0].startswith("-"):
        raise UserError(f"no config given; expected wm {verb} CONFIG, for example wm {verb} demo")
    return load_yaml(config_file(args[0], verb), config_type, args[1:])
