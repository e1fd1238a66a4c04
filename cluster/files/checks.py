"""What a check of a cluster, or of a cluster file, found. `wm preflight` prints these."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

State = Literal["green", "amber", "red"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One row of the table that `wm preflight` prints."""

    name: str
    """What was checked, in a few words: `token`, `free disk`."""
    node: str
    """The node (host name or address) or the file that it was checked on."""
    state: State
    """`red` stops a submission, `amber` is worth a look, `green` is well."""
    found: str
    """What there is, on one line."""
    expected: str
    """What there should be; empty where nothing else could be."""
    advice: str = ""
    """What to do about it; dropped if green."""

    def __post_init__(self) -> None:
        if self.state == "green":
            object.__setattr__(self, "advice", "")

    def as_json(self) -> dict[str, str]:
        """The fields by name, for `--json`."""
        return asdict(self)


def worst(checks: Iterable[Check]) -> State:
    """The worst state of `checks`; green if there are none."""
    states = {check.state for check in checks}
    return "red" if "red" in states else "amber" if "amber" in states else "green"
