"""Walks over sources, as the tests look at them."""

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
"""Stands for a connect code in a file's name."""
GAME_ID = "0123456789abcdef" * 2


def listed(*places: Path | str, done: frozenset[str] = frozenset()) -> list[ReplayInput]:
    """All inputs of some sources."""
    return list(Inputs([str(place) for place in places], done.__contains__))


def contents(*places: Path | str) -> list[bytes]:
    """The bytes of all inputs, in listing order."""
    return [read_input(replay) for replay in listed(*places)]


def fault(replay: ReplayInput) -> tuple[str, str]:
    """How an input is refused; its message names nothing."""
    with pytest.raises(ReplayError) as refused:
        read_input(replay)
    assert CODE not in refused.value.message
    assert "/" not in refused.value.message.replace("Input/output", "")
    return refused.value.code, refused.value.message


def content_or_code(replay: ReplayInput) -> bytes | str:
    """The bytes of an input, or the code of its refusal."""
    try:
        return read_input(replay)
    except ReplayError as error:
        assert CODE not in error.message
        return error.code


def peak_bytes(call: Callable[[], object]) -> int:
    """Memory that Python's allocators hand out at most while something runs."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
