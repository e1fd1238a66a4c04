"""Configs that come with the package, by name: `wm train demo` needs no checkout."""

from importlib import resources
from pathlib import Path

SHIPPED_CONFIGS = Path(str(resources.files("wm"))) / "configs"


def shipped_names() -> list[str]:
    """Names of all shipped configs, runs and sweeps, sorted."""
    return sorted(path.stem for path in SHIPPED_CONFIGS.glob("*.yaml"))


def shipped_config(name: str) -> Path | None:
    """File of a shipped config, or None if no shipped config has this name."""
    return SHIPPED_CONFIGS / f"{name}.yaml" if name in shipped_names() else None
