"""The processes of a test's cluster end with the test, also when it is killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from process_guard import marked
from waiting import wait_until

TEST = """
import os, subprocess, sys
sys.path.insert(0, sys.argv[1])
from process_guard import guarded
with guarded(sys.argv[2]):
    name, _, value = sys.argv[2].partition("=")
    subprocess.Popen(["sleep", "1000"], env=os.environ | {name: value + "-node"}, start_new_session=True)
    print("started", flush=True)
    sys.stdin.read()
"""


def test_processes_of_a_killed_test_end(tmp_path):
    mark = f"WM_TEST_GUARD={tmp_path}"
    support = Path(__file__).resolve().parents[1] / "support/servers"
    test = subprocess.Popen(
        [sys.executable, "-c", TEST, str(support), mark], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert test.stdout is not None and test.stdout.readline() == "started\n"
    wait_until(lambda: len(marked(mark)) == 1, within_s=60)  # Linux shows no environment while the program is loaded
    test.kill()
    test.wait()
    wait_until(lambda: not marked(mark), within_s=60)
