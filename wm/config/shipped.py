"""Configs that come with the package, by name: `wm train demo` needs no checkout."""

from importlib import resources
from pathlib import Path

from datasets.runtime.errors import UserError

SHIPPED_CONFIGS = Path(str(resources.files("wm"))) / "configs"


def shipped_names() -> list[str]:
    """Names of all shipped configs, runs and sweeps, sorted."""
    return sorted(path.stem for path in SHIPPED_CONFIGS.glob("*.yaml"))


def shipped_config(name: str) -> Path | None:
    """File of a shipped config, or None if no shipped config has this name."""
    return SHIPPED_CONFIGS / f"{name}.yaml" if name in shipped_names() else None


def config_file(name: str) -> Path:
    """The file of a config: a path, or the name of a shipped config.

    Raises:
        UserError: neither a file nor a shipped config has this name.
    """
    if (path := Path(name)).is_file():
        return path
    if (shipped := shipped_config(name)) is not None:
        return shipped
    raise UserError(f"config {name} does not exist; shipped configs: {', '.join(shipped_names())}")
