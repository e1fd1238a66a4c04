"""A run card for a command that is watched without having been submitted: `wm watch --retries 3 -- train CONFIG`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import get_args

from cluster.card.job_folder import EVENTS_FILE, STATE_FILE, STOP_FILE, JobFolder, job_folder
from cluster.card.limits import Limits
from cluster.card.run_card import CARD_FILE, RunCard, Verb
from cluster.watch.subject import subject_of
from datasets.runtime.errors import UserError
from wm.config.run_identity import short_hash
from wm.config.typed_yaml import from_plain


def card_of(words: Sequence[str], limits: Limits, *, name: str | None = None, why: str | None = None) -> RunCard:
    """The card of a command.

    Args:
        words: the verb, its config and its arguments.
        name: of the job; by default made of the verb and of what the command works on, so that the same command goes on
            with the same job.
    Raises:
        UserError: a verb that cannot be watched, or that would refuse its arguments.
    """
    verbs = get_args(Verb)
    if not words or words[0] not in verbs:
        raise UserError(f"no command to watch; expected wm watch [limits] -- VERB ..., VERB one of {', '.join(verbs)}")
    verb, arguments = words[0], list(words[1:])
    has_config = verb in ("train", "sweep") and bool(arguments) and not arguments[0].startswith("-")
    config = arguments.pop(0) if has_config else None
    plain = {"verb": verb, "config": config, "arguments": arguments, "why": why}
    plain |= {"job": name or verb, "created": datetime.now(UTC).isoformat()}
    card = replace(from_plain(plain, RunCard, "the command line"), limits=limits)
    location = subject_of(card).location
    card = replace(card, out=location)
    if name is not None:
        return card
    leaf = re.sub(r"[^A-Za-z0-9_.]+", "-", location.rstrip("/").rpartition("/")[2]).strip("-.")
    return replace(card, job=f"watch-{verb}-{leaf}-{short_hash({'verb': verb, 'out': location})}")


def folder_of(card: RunCard) -> JobFolder:
    """The folder of the card's job, where the card is stored; an earlier job of the same name that has ended is over.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = job_folder(card.job)
    try:
        state = folder.read_state()
        if state is not None and state.is_final and not folder.is_held():
            folder.files.delete([STATE_FILE, EVENTS_FILE, STOP_FILE])
        folder.files.replace(CARD_FILE, card.to_json())
    except OSError as error:
        raise UserError(f"{folder.location} cannot be written ({error}); set WM_STORAGE to another place") from error
    return folder
