"""A run's log and curves: they survive disk trouble, and a resumed run drops what came after its checkpoint."""

from __future__ import annotations

import errno
import io
import json
import os
import platform
import shutil
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from wm.runs import run_log
from wm.runs.run_log import RunLog, read_log
from wm.runs.tensorboard import Curves

TRAIN_ROW = {"kind": "train", "loss": 1.5, "change_acc": 0.25}


def train_row(targets_seen: int) -> dict[str, Any]:
    return TRAIN_ROW | {"targets_seen": targets_seen}


def seen(out: Path, kind: str = "train") -> list[int]:
    return [row["targets_seen"] for row in read_log(out) if row["kind"] == kind]


def events(out: Path) -> list[Event]:
    """All events of a run's event files, in order, with checked checksums."""
    found = []
    for path in sorted((out / "tensorboard").iterdir()):
        content = path.read_bytes()
        while content:
            length, check = struct.unpack("<QI", content[:12])
            assert check == masked_crc32c(content[:8])
            record = content[12 : 12 + length]
            assert struct.unpack("<I", content[12 + length : 16 + length])[0] == masked_crc32c(record)
            found.append(Event.FromString(record))
            content = content[16 + length :]
    return found


def scalars(out: Path) -> dict[str, list[tuple[int, float]]]:
    """The curves that TensorBoard shows: a session start hides that step and later ones."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for event in events(out):
        if event.session_log.status == SessionLog.START:
            curves = {tag: [point for point in points if point[0] < event.step] for tag, points in curves.items()}
        for value in event.summary.value:
            curves.setdefault(value.tag, []).append((event.step, value.simple_value))
    return curves


def test_rows_go_to_the_log_and_their_floats_to_tensorboard(tmp_path):
    log = RunLog(tmp_path, 0)
    log.write({"kind": "start", "targets_seen": 0, "workers": 1})
    log.write(train_row(100))
    log.write({"kind": "eval", "targets_seen": 200, "context": 10, "change_acc": 0.5, "num_targets": 20})
    log.close()
    assert read_log(tmp_path) == [
        {"kind": "start", "targets_seen": 0, "workers": 1},
        train_row(100),
        {"kind": "eval", "targets_seen": 200, "context": 10, "change_acc": 0.5, "num_targets": 20},
    ]
    assert scalars(tmp_path) == {
        "train/loss": [(100, 1.5)],
        "train/change_acc": [(100, 0.25)],
        "eval_10/change_acc": [(200, 0.5)],
    }
    assert not [path.name for path in (tmp_path / "tensorboard").iterdir() if platform.node() in path.name]


def test_a_resumed_run_drops_rows_after_its_checkpoint_except_permanent_ones(tmp_path):
    log = RunLog(tmp_path, 0)
    for row in (
        train_row(100),
        {"kind": "problem", "targets_seen": 120, "message": "the disk is full"},
        train_row(200),
        {"kind": "problem", "message": "a worker crashed"},
        {"kind": "rollback", "targets_seen": 300, "to_targets": 100, "reason": "the loss spiked", "rate_factor": 0.3},
        train_row(300),
    ):
        log.write(row)
    log.close()
    log = RunLog(tmp_path, 100)
    assert log.count("rollback") == 1 and log.count("train") == 1
    log.write(train_row(150))
    log.close()
    rows = read_log(tmp_path)
    assert [row["kind"] for row in rows] == ["train", "problem", "problem", "rollback", "train"]
    assert seen(tmp_path) == [100, 150]
    assert [row["targets_seen"] for row in rows] == [100, 120, 200, 300, 150]
    assert all(("at" in row) == (row["kind"] != "train") for row in rows)
    assert scalars(tmp_path)["train/loss"] == [(100, 1.5), (150, 1.5)]


def test_a_truncated_line_damages_no_other(tmp_path):
    (tmp_path / "log.jsonl").write_text(json.dumps(train_row(1)) + '\nnull\n\n{"kind": "tra')
    log = RunLog(tmp_path, 10)
    log.write(train_row(20))
    log.close()
    assert seen(tmp_path) == [1, 20]
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"kind": "tra')
    log = RunLog(tmp_path, 20)
    log.write(train_row(30))
    log.close()
    assert seen(tmp_path) == [1, 20, 30]
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 3


def test_rows_are_kept_while_the_runs_folder_is_away(tmp_path, capsys):
    out, away = tmp_path / "run", tmp_path / "away"
    out.mkdir()
    log = RunLog(out, 0)
    log.write(train_row(1))
    out.rename(away)
    for number in range(2, 30):
        log.write(train_row(number))
    assert not out.exists()
    away.rename(out)
    log.write(train_row(30))
    log.close()
    assert seen(out) == list(range(1, 31))
    (problem,) = (row for row in read_log(out) if row["kind"] == "problem")
    assert problem["message"] == "log.jsonl could not be written for a while; no row was lost"
    assert [step for step, _ in scalars(out)["train/loss"]] == list(range(1, 31))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("log.jsonl cannot be written (") and line.endswith("; training continues")


def test_a_deleted_folder_stops_nothing(tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    log = RunLog(out, 0)
    log.write(train_row(1))
    shutil.rmtree(out)
    for number in range(100):
        log.write(train_row(number))
    log.close()
    assert not out.exists()


def test_a_full_disk_is_reported_once_and_stops_nothing(tmp_path, capsys):
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    log = RunLog(tmp_path, 0)
    for number in range(50):
        log.write(train_row(number))
    assert capsys.readouterr().err == "log.jsonl cannot be written (No space left on device); training continues\n"
    assert read_log(tmp_path) == []
    (tmp_path / "log.jsonl").unlink()
    log.write(train_row(50))
    log.close()
    assert seen(tmp_path) == list(range(51))


def test_pending_rows_are_bounded_and_lost_ones_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(run_log, "MAX_PENDING_ROWS", 10)
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    log = RunLog(tmp_path, 0)
    for number in range(25):
        log.write(train_row(number))
    (tmp_path / "log.jsonl").unlink()
    log.write(train_row(25))
    log.close()
    assert seen(tmp_path) == list(range(16, 26))
    (problem,) = (row for row in read_log(tmp_path) if row["kind"] == "problem")
    assert "16 rows were lost" in problem["message"]


SMALL_FILES = """
import resource, sys
from pathlib import Path
from wm.runs.run_log import RunLog
out = Path(sys.argv[1])
log = RunLog(out, 0)
row = lambda number: {"kind": "train", "targets_seen": number, "loss": 1.5}
for number in range(10):
    log.write(row(number))
size = (out / "log.jsonl").stat().st_size
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))  # half of the next row
for number in range(10, 20):
    log.write(row(number))
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
for number in range(20, 30):
    log.write(row(number))
log.close()
"""


def test_a_half_written_row_is_written_again(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SMALL_FILES, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    assert seen(tmp_path) == list(range(30))
    assert done.stderr.count("log.jsonl cannot be written") == 2  # half a row, then none: two different errors
    text = (tmp_path / "log.jsonl").read_text()
    assert text.count("\n") == 32  # 30 rows, the half row, the problem


def test_a_failing_stderr_stops_nothing(tmp_path, monkeypatch):
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    with Path("/dev/full").open("wb", buffering=0) as full:
        monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(full, write_through=True))
        log = RunLog(tmp_path, 0)
        log.write(train_row(1))
        with pytest.raises(OSError, match="No space"):
            print("fails", file=sys.stderr)
        monkeypatch.undo()
    assert read_log(tmp_path) == []


def test_a_disk_that_fills_up_during_a_resume_loses_no_row(tmp_path):
    log = RunLog(tmp_path, 0)
    for number in (100, 200, 300):
        log.write(train_row(number))
    log.close()
    (tmp_path / f".log.jsonl.{os.getpid()}").mkdir()  # the truncated log cannot be written
    log = RunLog(tmp_path, 200)
    log.write(train_row(250))
    assert seen(tmp_path) == [100, 200, 300]
    (tmp_path / f".log.jsonl.{os.getpid()}").rmdir()
    log.write(train_row(275))
    log.close()
    assert seen(tmp_path) == [100, 200, 250, 275]


def test_threads_may_write_at_once(tmp_path):
    log = RunLog(tmp_path, 0)
    threads = [
        threading.Thread(target=lambda first=first: [log.write(train_row(first + n)) for n in range(100)])
        for first in range(0, 400, 100)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert sorted(seen(tmp_path)) == list(range(400))


def test_a_row_takes_less_than_five_milliseconds(tmp_path):
    log = RunLog(tmp_path, 0)
    log.write(train_row(0))
    started = time.monotonic()
    for number in range(1, 301):
        log.write(train_row(number))
    assert (time.monotonic() - started) / 300 < 5e-3
    log.close()


def test_an_event_file_begins_with_its_version(tmp_path):
    curves = Curves(tmp_path / "tensorboard")
    curves.write("train", {"loss": 1.0}, 5)
    curves.close()
    first = events(tmp_path)[0]
    assert first.file_version == "brain.Event:2"
    assert abs(first.wall_time - time.time()) < 60


def test_curves_survive_a_full_disk_and_go_on_in_a_new_file(tmp_path, capsys, monkeypatch):
    def full(self) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    curves = Curves(tmp_path / "tensorboard", purge_from=0)
    curves.write("train", {"loss": 1.0}, 1)
    with monkeypatch.context() as patch:
        patch.setattr("wm.runs.tensorboard._EventFile.flush", full)
        for number in range(2, 30):  # more than tensorboardX's queue of ten
            curves.write("train", {"loss": 1.0}, number)
    curves.write("train", {"loss": 1.0}, 30)
    curves.close()
    assert capsys.readouterr().err == "tensorboard cannot be written (No space left on device); training continues\n"
    assert [step for step, _ in scalars(tmp_path)["train/loss"]] in ([1, 30], [1, 2, 30])
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2


FULL_DISK = """
import resource, sys
from pathlib import Path
from wm.runs.tensorboard import Curves
curves = Curves(Path(sys.argv[1]) / "tensorboard")
curves.write("train", {"loss": 1.0}, 0)
(path,) = (Path(sys.argv[1]) / "tensorboard").iterdir()
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, hard))
for number in range(1, 100):
    curves.write("train", {"loss": 1.0} | {f"metric {i}": 1.0 for i in range(20)}, number)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
curves.write("train", {"loss": 1.0}, 100)
curves.close()
"""


def test_no_event_blocks_where_a_file_cannot_grow(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    assert done.stderr.count("tensorboard cannot be written") == 1
    newest = max((tmp_path / "tensorboard").iterdir()).read_bytes()
    assert b"metric" not in newest and b"train/loss" in newest
