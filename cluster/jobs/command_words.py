"""The words of a command line that runs another command: its own, the verb among them, and those after `--`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TypeVar

Verb = TypeVar("Verb", bound=str)


def split_at_dashes(args: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Arguments before and after `--`."""
    at = list(args).index("--") if "--" in args else len(args)
    return list(args[:at]), tuple(args[at + 1 :])


def take_verb(own: Sequence[str], verbs: Sequence[Verb], flags: Collection[str]) -> tuple[Verb | None, list[str]]:
    """The first verb among the words, wherever options stand, and the other words.

    Args:
        flags: options without a value; the word after any other option is its value, and no verb.
    """
    for at, word in enumerate(own):
        verb = next((one for one in verbs if one == word), None)
        before = own[at - 1] if at else ""
        if verb is not None and (not before.startswith("--") or "=" in before or before in flags):
            return verb, [*own[:at], *own[at + 1 :]]
    return None, list(own)
