"""How a memory limit is divided, and how the memory of processes is measured."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from datasets.pipeline import memory_budget
from datasets.pipeline.memory_budget import (
    DEFAULT_FRACTION,
    parse_bytes,
    plan_for_cluster,
    plan_memory,
)
from datasets.runtime.errors import UserError
from datasets.runtime.hardware import process_memory, process_tree, total_memory_bytes, tree_memory
from datasets.sources.archives.sevenzip import SHARED_BYTES
from datasets.sources.scan_state import MAX_DICTIONARY_BYTES

TAKES_200_MB = "import os, sys, time; block = os.urandom(200_000_000); print('ready', flush=True); time.sleep(60)"


def test_sizes_are_read_with_any_unit():
    for text, expected in {
        "6GB": 6_000_000_000, "6 gb": 6_000_000_000, "6000M": 6_000_000_000,
        "1.5GiB": 1_610_612_736, "1.5 Gi": 1_610_612_736, "123": 123,
    }.items():  # fmt: skip
        assert parse_bytes(text, "--memory") == expected
    for wrong in ("", "much", "-1GB", "0", "0.4", "nan", "inf GB", "6 apples", "9" * 400 + "GB"):
        with pytest.raises(UserError, match=r"^--disk-cache-size '.*6GB"):
            parse_bytes(wrong, "--disk-cache-size")


@pytest.mark.parametrize("limit_gb", [2.1, 3, 4, 5])
def test_a_plan_never_exceeds_the_limit(limit_gb):
    limit = int(limit_gb * 1e9)
    plan = plan_memory(limit, num_cores=64)
    parsers = plan.num_parsers * (memory_budget.PARSER_BYTES + plan.parser_headroom_bytes)
    assert memory_budget.BASE_BYTES + memory_budget.READER_BYTES + plan.object_store_bytes + parsers <= limit
    assert plan.parser_headroom_bytes >= memory_budget.MIN_HEADROOM_BYTES
    assert plan.num_parsers >= plan_memory(int(2.1e9), num_cores=64).num_parsers


@pytest.mark.parametrize("limit_gb", [2.1, 3, 5, 9])
def test_dictionaries_of_7z_archives_get_what_is_spare_within_the_limit(limit_gb, monkeypatch):
    monkeypatch.setattr(memory_budget, "total_memory_bytes", lambda: 16 * 10**9)
    limit = int(limit_gb * 1e9)
    plan = plan_memory(limit, num_cores=4, num_archives=2)
    parsers = plan.num_parsers * (memory_budget.PARSER_BYTES + plan.parser_headroom_bytes)
    readers = plan.num_readers * (memory_budget.READER_BYTES + plan.dictionary_bytes - SHARED_BYTES)
    assert memory_budget.BASE_BYTES + readers + (plan.object_store_bytes or 0) + parsers <= limit
    assert plan.parser_headroom_bytes >= memory_budget.MIN_HEADROOM_BYTES
    assert SHARED_BYTES <= plan.dictionary_bytes <= MAX_DICTIONARY_BYTES
    assert plan_memory(15 * 10**9, num_cores=4, num_archives=2).dictionary_bytes == MAX_DICTIONARY_BYTES


def test_there_are_no_more_parsers_than_cores():
    assert plan_memory(total_memory_bytes(), num_cores=3).num_parsers == 3


def test_the_default_is_a_quarter_of_the_machine():
    limit = max(int(total_memory_bytes() * DEFAULT_FRACTION), int(2.1e9))
    assert plan_memory(None, num_cores=1) == plan_memory(limit, num_cores=1)


@pytest.mark.parametrize("num_archives", [0, 1, 2, 40])
def test_archives_open_at_once_fit_the_limit_and_leave_every_parser_its_memory(monkeypatch, num_archives):
    monkeypatch.setattr(memory_budget, "total_memory_bytes", lambda: 64 * 10**9)
    for limit in (int(2.1e9), 8 * 10**9, 16 * 10**9):
        plan = plan_memory(limit, num_cores=16, num_archives=num_archives)
        parsers = plan.num_parsers * (memory_budget.PARSER_BYTES + plan.parser_headroom_bytes)
        readers = plan.num_readers * memory_budget.READER_BYTES
        assert memory_budget.BASE_BYTES + readers + plan.object_store_bytes + parsers <= limit
        assert plan.parser_headroom_bytes >= memory_budget.MIN_HEADROOM_BYTES
        assert plan.num_parsers == plan_memory(limit, num_cores=16).num_parsers
        assert 1 <= plan.num_readers <= max(1, min(num_archives, 8))
    assert plan.num_readers == max(1, min(num_archives, 8))


def test_parsers_and_readers_of_a_cluster_fit_its_nodes():
    nodes = [(0, 4e9), (16, 64e9), (16, 8e9)]  # the last one has memory for 6 parsers
    assert plan_for_cluster(nodes).num_parsers == 22
    plan = plan_for_cluster(nodes, num_archives=40)
    assert (plan.num_parsers, plan.num_readers) == (11, 11)
    assert plan_for_cluster(nodes, num_archives=2, max_workers=4).num_parsers == 4
    assert plan_for_cluster([(0, 4e9)], num_archives=2).num_parsers == 1, "nodes will join"


def test_the_object_store_of_a_cluster_is_not_limited_by_the_nodes_at_the_start():
    assert plan_for_cluster([(0, 4e9)]).object_store_bytes is None


def test_an_impossible_limit_is_an_error_that_names_the_possible_range():
    expected = (
        rf"expected at least the \d\.\d GB .* and at most the {total_memory_bytes() / 1e9:.1f} GB of this machine"
    )
    for limit in (500_000_000, total_memory_bytes() * 2):
        with pytest.raises(UserError, match=expected):
            plan_memory(limit, num_cores=2)


def test_a_machine_that_is_too_small_is_an_error_whatever_the_limit(monkeypatch):
    monkeypatch.setattr(memory_budget, "total_memory_bytes", lambda: 2 * 10**9)
    for limit in (None, 10**9, 4 * 10**9):
        with pytest.raises(UserError, match=r"needs 2\.1 GB of memory; this machine has 2\.0 GB"):
            plan_memory(limit, num_cores=2)


def test_the_memory_of_a_tree_counts_its_children():
    before = tree_memory()
    child = subprocess.Popen([sys.executable, "-c", TAKES_200_MB], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        assert child.pid in process_tree(process_tree(child.pid)[0])
        assert process_memory(child.pid) > 200_000_000
        after = tree_memory()
        assert before is not None and after is not None
        assert after - before > 150_000_000
    finally:
        child.kill()
        child.wait()
    deadline = time.monotonic() + 5
    while process_memory(child.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process_memory(child.pid) == 0
