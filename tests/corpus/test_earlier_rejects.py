"""Which rejects of earlier runs are tried again, and which a new result supersedes."""

from __future__ import annotations

import pyarrow as pa
import pytest

from datasets.corpus.earlier_rejects import EarlierRejects, require_known
from datasets.runtime.errors import UserError
from datasets.runtime.version import tool_version
from datasets.schema.columns import REJECTS_SCHEMA

NOW = tool_version()


def earlier(*rows: tuple[str | None, str, str, str]) -> EarlierRejects:
    """Rejects with this key, place, code and version, each in a file of its own."""
    tables = []
    for number, (key, place, code, version) in enumerate(rows):
        facts = {"source": "s", "member": 0, "message": "m"}
        row = {"key": key, "location_key": place, "code": code, "tool_version": version}
        tables.append((f"{number}.parquet", pa.Table.from_pylist([facts | row], REJECTS_SCHEMA)))
    return EarlierRejects(tables)


def key(digit: str) -> str:
    return digit * 24


def retried(rejects: EarlierRejects, *codes: str) -> set[str]:
    return {f"{number:016x}"[0] for number in rejects.keys_to_retry(codes).tolist()}


def test_codes_that_are_named_are_tried_again():
    rejects = earlier((key("a"), "A", "unreadable", NOW), (key("b"), "B", "short", NOW), (key("c"), "C", "short", NOW))
    assert retried(rejects) == set()
    assert retried(rejects, "short") == {"b", "c"}
    assert retried(rejects, "short", "unreadable") == {"a", "b", "c"}


def test_what_an_older_version_may_have_failed_on_is_tried_again_unasked():
    codes = ("internal_error", "too_much_memory", "parser_hung", "unreadable")
    rejects = earlier(*((key(digit), digit, code, "an older one") for digit, code in zip("abcd", codes, strict=True)))
    assert retried(rejects) == {"a", "b", "c"}
    rejects = earlier(*((key(digit), digit, code, NOW) for digit, code in zip("abcd", codes, strict=True)))
    assert retried(rejects) == set()


def test_an_unknown_code_is_an_error():
    with pytest.raises(UserError, match="--retry shrot: no such reason code"):
        require_known(["short", "shrot"])


def test_a_result_supersedes_the_rejects_of_its_key_and_of_its_place_once():
    rejects = earlier(
        (key("a"), "A", "short", NOW), (key("b"), "A", "unreadable", NOW), (key("c"), "C", "short", NOW),
        (None, "A", "short", NOW),
    )  # fmt: skip
    assert rejects.superseded_by([key("a")]) == [(key("a"), "0.parquet", "short")]
    assert rejects.superseded_by([key("a"), "A"]) == [(key("b"), "1.parquet", "unreadable")]
    assert rejects.superseded_by(["A", "B"]) == []
    assert retried(rejects, "short") == {"c"}
