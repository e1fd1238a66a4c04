"""Scans of sources for tests."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from datasets.runtime.errors import ReplayError
from datasets.sources.inputs import ReplayInput
from datasets.sources.reading import read_input
from datasets.sources.scan import Inputs

CODE = "SOME#123"
"""A connect code in a file's name, which no message may contain."""
GAME_ID = "0123456789abcdef" * 2


def listed(*sources: Path | str, done: frozenset[str] = frozenset()) -> list[ReplayInput]:
    """All inputs of some sources."""
    return list(Inputs([str(source) for source in sources], done.__contains__))


def contents(*sources: Path | str) -> list[bytes]:
    """The bytes of all inputs, in listing order."""
    return [read_input(replay) for replay in listed(*sources)]


def rejection(replay: ReplayInput) -> tuple[str, str]:
    """Reason code and message of a rejected input; the message contains no name."""
    with pytest.raises(ReplayError) as rejected:
        read_input(replay)
    assert CODE not in rejected.value.message
    assert "/" not in rejected.value.message.replace("Input/output", "")
    return rejected.value.code, rejected.value.message


def content_or_code(replay: ReplayInput) -> bytes | str:
    """The bytes of an input, or the code of its rejection."""
    try:
        return read_input(replay)
    except ReplayError as error:
        assert CODE not in error.message
        return error.code


def peak_bytes(call: Callable[[], object]) -> int:
    """Peak of the memory that Python allocates during a call."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
