"""The run card: what a job is, why it runs, what it may cost. Stored as `card.json` with the job and in its run."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from cluster.card.limits import Limits
from datasets.runtime.errors import UserError
from wm.config.typed_yaml import from_plain, to_plain

CARD_FILE = "card.json"
CARD_VERSION = 1
"""1: first."""
Verb = Literal["train", "sweep", "encode", "eval"]
"""Verbs that run as jobs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GitState:
    """The code that was submitted."""

    revision: str
    """Commit, 40 hexadecimal digits."""
    clean: bool
    """No tracked file differs from the commit."""
    diff_sha256: str | None = None
    """Of `git diff HEAD`; None if clean."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunCard:
    """One job."""

    job: str
    """Id of the job; its folder has this name."""
    verb: Verb
    config: str | None = None
    """As the command names it: a shipped config, or a path in the working directory; None for a verb without one."""
    arguments: tuple[str, ...] = ()
    """Of the command, after the config."""
    out: str | None = None
    """Where the result goes: absolute path or URI."""
    why: str | None = None
    created: datetime
    """With its zone."""
    git: GitState | None = None
    """None: not submitted from a checkout."""
    data: dict[str, Any] | None = None
    """Corpora by their role; with digests where they can be read from where the job was submitted."""
    estimate: dict[str, Any] | None = None
    """What `wm plan` says: at least hours, usd, targets, machines."""
    no_estimate: str | None = None
    """Why there is no estimate."""
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not self.job or "/" in self.job or self.job.startswith("."):
            raise ValueError(f"job {self.job!r}: expected a name without slashes")

    def command(self, *more: str) -> list[str]:
        """The command that does the work: `wm VERB CONFIG ARGUMENTS`.

        Args:
            more: further arguments, such as `limits.fallback`.
        """
        return ["wm", self.verb, *([] if self.config is None else [self.config]), *self.arguments, *more]

    def command_line(self) -> str:
        """The command as it is typed."""
        return shlex.join(self.command())

    def to_json(self) -> bytes:
        """The content of `card.json`."""
        return json.dumps({"card_version": CARD_VERSION, **to_plain(self)}, indent=1).encode()


def parse_card(content: bytes, source: str) -> RunCard:
    """A card from the content of `card.json`.

    Args:
        source: names the file in errors.
    Raises:
        UserError: not JSON, another version, an unknown key, a wrong type, or a value out of range.
    """
    try:
        plain = json.loads(content)
    except ValueError as error:
        raise UserError(f"{source} is not JSON ({error}); expected a run card, which `wm submit` writes") from error
    if not isinstance(plain, dict):
        raise UserError(f"{source} holds a {type(plain).__name__}; expected a run card, which `wm submit` writes")
    version = plain.pop("card_version", None)
    if version != CARD_VERSION:
        raise UserError(
            f"{source} has card_version {version}; expected {CARD_VERSION}; submit the job again with this version"
        )
    return from_plain(plain, RunCard, source)


def read_card(path: Path) -> RunCard:
    """A card from a file.

    Raises:
        UserError: the file cannot be read, or as `parse_card`.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); expected a run card") from error
    return parse_card(content, str(path))
