"""Configs that come with the package, by name: `wm train demo` needs no checkout."""

from importlib import resources
from pathlib import Path

from datasets.runtime.errors import UserError

SHIPPED_CONFIGS = Path(str(resources.files("wm"))) / "configs"


SWEEPS = "sweeps"
"""Folder of the sweeps among them."""


def shipped_names() -> list[str]:
    """Names of all shipped configs, sorted; those of sweeps begin with `sweeps/`."""
    return sorted(
        path.relative_to(SHIPPED_CONFIGS).with_suffix("").as_posix() for path in SHIPPED_CONFIGS.rglob("*.yaml")
    )


def shipped_config(name: str) -> Path | None:
    """File of a shipped config, or None if no shipped config has this name."""
    return SHIPPED_CONFIGS / f"{name}.yaml" if name in shipped_names() else None


def config_file(name: str, verb: str = "train") -> Path:
    """The file of a config: a path, or the name of a shipped config. A sweep needs no `sweeps/` before its name.

    Args:
        verb: that gets the config, train or sweep: there is a run and a sweep of the name demo.
    Raises:
        UserError: neither a file nor a shipped config has this name.
    """
    if (path := Path(name)).is_file():
        return path
    names = [f"{SWEEPS}/{name}", name] if verb == "sweep" else [name]
    for candidate in names:
        if (shipped := shipped_config(candidate)) is not None:
            return shipped
    fitting = [known for known in shipped_names() if known.startswith(f"{SWEEPS}/") == (verb == "sweep")]
    raise UserError(f"config {name} does not exist; shipped configs: {', '.join(fitting)}")
