"""What an encode may use of the memory, and what processes are said to use."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from datasets.pipeline.memory_budget import (
    DEFAULT_SHARE,
    parse_bytes,
    plan_memory,
)
from datasets.runtime.errors import UserError
from datasets.runtime.hardware import process_memory, process_tree, total_memory_bytes, tree_memory

TAKES_200_MB = "import os, sys, time; block = os.urandom(200_000_000); print('ready', flush=True); time.sleep(60)"


def test_sizes_are_read_with_any_unit():
    assert parse_bytes("6GB") == parse_bytes("6 gb") == parse_bytes("6000M") == 6_000_000_000
    assert parse_bytes("1.5GiB") == 1_610_612_736
    assert parse_bytes("123") == 123
    for wrong in ("", "much", "-1GB", "6 apples"):
        with pytest.raises(UserError, match="6GB"):
            parse_bytes(wrong)


@pytest.mark.parametrize("limit_gb", [2.1, 3, 4, 5])
def test_a_plan_never_shares_out_more_than_the_limit(limit_gb):
    from datasets.runtime import hardware as memory

    limit = int(limit_gb * 1e9)
    plan = plan_memory(limit, num_cores=64)
    parsers = plan.num_parsers * (memory.PARSER_BYTES + plan.parser_spare_bytes)
    assert memory.BASE_BYTES + memory.READER_BYTES + plan.object_store_bytes + parsers <= limit
    assert plan.parser_spare_bytes >= memory.SPARE_BYTES
    assert plan.num_parsers >= plan_memory(int(2.1e9), num_cores=64).num_parsers


def test_there_are_no_more_parsers_than_cores():
    assert plan_memory(total_memory_bytes(), num_cores=3).num_parsers == 3


def test_the_default_is_a_quarter_of_the_machine():
    assert plan_memory(None, num_cores=1).limit_bytes == int(total_memory_bytes() * DEFAULT_SHARE)


def test_a_limit_that_cannot_be_held_is_an_error_that_says_what_can():
    with pytest.raises(UserError, match=r"needs \d\.\d GB"):
        plan_memory(500_000_000, num_cores=2)
    with pytest.raises(UserError, match="this machine has"):
        plan_memory(total_memory_bytes() * 2, num_cores=2)


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
