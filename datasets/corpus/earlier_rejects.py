"""The rejects that a corpus had before a run: which inputs to try again, and which rows a new result supersedes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from datasets.runtime.errors import UserError
from datasets.runtime.version import tool_version
from datasets.schema.reject_reasons import REJECT_REASONS

RETRIED_BY_NEW_VERSIONS = frozenset({
    "internal_error", "too_much_memory", "parser_crashed", "parser_hung", "parser_failed",
})  # fmt: skip
"""Codes for which this project may be at fault: rejects of another version are tried again without being asked to."""


def require_known(codes: Collection[str]) -> None:
    """Raise a UserError if a reason code does not exist."""
    if unknown := sorted(set(codes) - REJECT_REASONS.keys()):
        raise UserError(
            f"--retry {unknown[0]}: no such reason code; `wm corpus info` lists those of a corpus, such as "
            "too_much_memory"
        )


class EarlierReject(NamedTuple):
    """A row of the rejects table."""

    key: str
    file: str
    """Name of its file in `rejects/`."""
    code: str


class EarlierRejects:
    """Rejects of earlier runs; about 400 bytes each."""

    def __init__(self, tables: Iterable[tuple[str, pa.Table]]) -> None:
        """Args:
        tables: name and rows of each file of the rejects table. Rows without keys (format 2) are left out.
        """
        self._by_place: defaultdict[str, set[EarlierReject]] = defaultdict(set)
        self._old: set[EarlierReject] = set()
        self._all: set[EarlierReject] = set()
        for file, table in tables:
            columns = (table[name].to_pylist() for name in ("key", "location_key", "code", "tool_version"))
            for key, location_key, code, version in zip(*columns, strict=True):
                if key is None:
                    continue
                reject = EarlierReject(key, file, code)
                self._all.add(reject)
                self._by_place[key].add(reject)
                self._by_place[location_key or key].add(reject)
                if code in RETRIED_BY_NEW_VERSIONS and version != tool_version():
                    self._old.add(reject)

    def keys_to_retry(self, codes: Collection[str]) -> np.ndarray:
        """Inputs to try again: those of the codes, and those that another version of this project may have failed on.

        Returns:
            uint64: the first 16 hexadecimal digits of their keys.
        """
        retried = self._old | {reject for reject in self._all if reject.code in codes}
        return np.array(sorted({int(reject.key[:16], 16) for reject in retried}), dtype=np.uint64)

    def superseded_by(self, places: Iterable[str]) -> list[EarlierReject]:
        """The rejects that new results supersede, each returned once.

        Args:
            places: keys and location keys of the inputs that have a result now.
        """
        found = {reject for place in places for reject in self._by_place.get(place, ())} & self._all
        self._all -= found
        return sorted(found)
