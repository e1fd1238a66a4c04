"""A run's folder tells all, and its log outlives what happens to the disk."""

from __future__ import annotations

import getpass
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
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from datasets.corpus.reader import open_corpus
from datasets.runtime.errors import UserError
from wm.runs import append_file as record_file
from wm.runs.tensorboard import Board
from wm.config.run_config import CheckpointConfig, EvalConfig, RunConfig
from wm.runs.environment import code_version, command_line, environment
from wm.runs.run_folder import (
    RunLog,
    claim,
    describe_run,
    note_attempt,
    place_of_checkpoints,
    read_log,
    read_profile,
    write_profile,
)
from wm.data.training_data import open_data
from wm.config.typed_yaml import load_yaml

TRAIN_ROW = {"kind": "train", "loss": 1.5, "change_acc": 0.25}


def train_row(targets_seen: int) -> dict[str, Any]:
    return TRAIN_ROW | {"targets_seen": targets_seen}


def seen(out: Path, kind: str = "train") -> list[int]:
    return [row["targets_seen"] for row in read_log(out) if row["kind"] == kind]


def events(out: Path) -> list[Event]:
    """All events of a run's event files, in order; each record's checksums must be right."""
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
    """What TensorBoard would draw: a start of a session hides that step and later ones."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for event in events(out):
        if event.session_log.status == SessionLog.START:
            curves = {tag: [point for point in points if point[0] < event.step] for tag, points in curves.items()}
        for value in event.summary.value:
            curves.setdefault(value.tag, []).append((event.step, value.simple_value))
    return curves


@pytest.fixture
def config(tiny_corpus, tmp_path) -> RunConfig:
    return RunConfig(train_corpus=tiny_corpus, out=tmp_path / "run")


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


def test_a_resumed_run_forgets_what_came_after_its_checkpoint_but_not_what_happened_to_it(tmp_path):
    log = RunLog(tmp_path, 0)
    for row in (
        train_row(100),
        {"kind": "problem", "targets_seen": 120, "message": "the disk is full"},
        train_row(200),
        {"kind": "attempt", "number": 2, "resumed_at": 100, "why": "a worker died"},
        {"kind": "rollback", "targets_seen": 300, "to_targets": 100, "reason": "it exploded", "rate_factor": 0.3},
        train_row(300),
    ):
        log.write(row)
    log.close()
    log = RunLog(tmp_path, 100)
    assert log.count("rollback") == 1 and log.count("train") == 1
    log.write(train_row(150))
    log.close()
    rows = read_log(tmp_path)
    assert [row["kind"] for row in rows] == ["train", "problem", "attempt", "rollback", "train"]
    assert seen(tmp_path) == [100, 150]
    assert [row["targets_seen"] for row in rows] == [100, 120, 200, 300, 150]
    assert all(("at" in row) == (row["kind"] != "train") for row in rows)
    assert scalars(tmp_path)["train/loss"] == [(100, 1.5), (150, 1.5)]


def test_a_line_that_was_cut_off_spoils_no_other(tmp_path):
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


def test_rows_wait_while_the_runs_folder_is_away(tmp_path, capsys):
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
    said = capsys.readouterr().err.splitlines()
    assert sorted(line.split()[0] for line in said) == ["log.jsonl", "tensorboard"]
    assert all("training goes on" in line for line in said)


def test_a_folder_that_is_removed_for_good_stops_nothing(tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    log = RunLog(out, 0)
    log.write(train_row(1))
    shutil.rmtree(out)
    for number in range(100):
        log.write(train_row(number))
    log.close()
    assert not out.exists()


def test_a_full_disk_is_told_once_and_stops_nothing(tmp_path, capsys):
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    log = RunLog(tmp_path, 0)
    for number in range(50):
        log.write(train_row(number))
    assert capsys.readouterr().err == "log.jsonl cannot be written (No space left on device); training goes on\n"
    assert read_log(tmp_path) == []
    (tmp_path / "log.jsonl").unlink()
    log.write(train_row(50))
    log.close()
    assert seen(tmp_path) == list(range(51))


def test_what_waits_in_memory_is_bounded_and_what_was_lost_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(record_file, "KEPT_RECORDS", 10)
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
from wm.runs.run_folder import RunLog
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


def test_a_row_that_the_disk_took_half_of_is_written_again(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SMALL_FILES, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    assert seen(tmp_path) == list(range(30))
    assert done.stderr.count("log.jsonl cannot be written") == 2  # half a row, then none: no space, then too large
    text = (tmp_path / "log.jsonl").read_text()
    assert text.count("\n") == 32  # 30 rows, the half row, the problem


def test_a_closed_handle_is_opened_again(tmp_path):
    log = RunLog(tmp_path, 0)
    log.write(train_row(1))
    assert log._file._file is not None
    log._file._file.close()
    log.write(train_row(2))
    log.write(train_row(3))
    assert seen(tmp_path) == [1, 2, 3]


def test_a_dead_stderr_stops_nothing(tmp_path, monkeypatch):
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    with Path("/dev/full").open("wb", buffering=0) as dead:
        monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(dead, write_through=True))
        log = RunLog(tmp_path, 0)
        log.write(train_row(1))
        with pytest.raises(OSError, match="No space"):
            print("dead indeed", file=sys.stderr)
        monkeypatch.undo()
    assert read_log(tmp_path) == []


def test_a_disk_that_fills_while_a_run_resumes_loses_no_row(tmp_path):
    log = RunLog(tmp_path, 0)
    for number in (100, 200, 300):
        log.write(train_row(number))
    log.close()
    (tmp_path / "log.aside").mkdir()  # the rewritten log has no place
    log = RunLog(tmp_path, 200)
    log.write(train_row(250))
    assert seen(tmp_path) == [100, 200, 300]
    (tmp_path / "log.aside").rmdir()
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


def test_an_event_file_begins_as_tensorboard_wants_it(tmp_path):
    board = Board(tmp_path / "tensorboard")
    board.write("train", {"loss": 1.0}, 5)
    board.close()
    first = events(tmp_path)[0]
    assert first.file_version == "brain.Event:2"
    assert abs(first.wall_time - time.time()) < 60


def test_the_config_in_the_folder_is_one_that_wm_train_takes(config, tmp_path):
    config = replace(
        config, checkpoint=CheckpointConfig(every_s=1e-5, storage_path="s3://bucket/run"), eval=EvalConfig(contexts=(1, 60))
    )
    claim(config)
    data = open_data(config)
    describe_run(config, data.train, data.evaluation, ["wm", "train"])
    again = load_yaml(config.out / "config.yaml", RunConfig)
    assert again == config
    claim(again)
    with pytest.raises(UserError, match="seed is 0 there, 1 here"):
        claim(load_yaml(config.out / "config.yaml", RunConfig, ["--seed", "1"]))


def test_the_folder_names_the_data_by_what_is_in_it(config, tmp_path):
    claim(config)
    data = open_data(config)
    describe_run(config, data.train, data.evaluation, ["wm", "train"])
    facts = json.loads((config.out / "data.json").read_text())
    assert facts["train"]["num_games"] == len(data.train)
    assert facts["train"]["num_frames"] == int(data.train.num_frames.sum())
    assert facts["judged"]["num_games"] == len(data.evaluation)
    assert facts["train"]["manifest"] == facts["judged"]["manifest"]
    assert facts["train"]["game_ids"] != facts["judged"]["game_ids"]

    copy = tmp_path / "copy"
    shutil.copytree(config.train_corpus, copy)
    manifest = json.loads((copy / "corpus.json").read_text())
    for changed in (False, True):
        if changed:
            (copy / "corpus.json").write_text(json.dumps(manifest | {"options": {"other": 1}}))
        there = replace(data.train, corpus=open_corpus(copy))
        describe_run(config, there, data.evaluation, ["wm", "train"])
        found = json.loads((config.out / "data.json").read_text())["train"]
        assert (found["manifest"] == facts["train"]["manifest"]) is not changed
        assert found["game_ids"] == facts["train"]["game_ids"]


def test_the_environment_tells_commands_starts_code_and_machine(config, monkeypatch):
    claim(config)
    data = open_data(config)
    home = str(Path.home())
    for number in (1, 2):
        command = [f"{home}/bin/wm", "train", f"{home}/a.yaml", f"--out={home}/run", "--seed", str(number)]
        describe_run(config, data.train, data.evaluation, command)
        note_attempt(config.out, resumed_at=1_000 * (number - 1))
    text = (config.out / "environment.json").read_text()
    told = json.loads(text)
    assert [entry["command"] for entry in told["commands"]] == [
        f"wm train '~/a.yaml' '--out=~/run' --seed {number}" for number in (1, 2)
    ]
    assert [entry["resumed_at"] for entry in told["attempts"]] == [0, 1_000]
    assert all(entry["started"].endswith("Z") for entry in told["commands"] + told["attempts"])
    assert told["software"]["python"] == platform.python_version()
    assert {"torch", "ray", "numpy", "mamba-ssm", "triton"} <= told["software"].keys()
    assert told["machine"]["cores"] >= 1 and told["machine"]["memory_bytes"] > 1e8
    for private in (home, platform.node(), getpass.getuser()):
        assert len(private) < 4 or private not in text
    assert home not in text


def test_a_full_disk_keeps_no_attempt_from_starting(tmp_path, capsys):
    note_attempt(tmp_path / "gone", resumed_at=0)
    assert "environment.json cannot be written" in capsys.readouterr().err
    (tmp_path / "environment.json").write_text("{half")
    note_attempt(tmp_path, resumed_at=5)
    assert json.loads((tmp_path / "environment.json").read_text())["attempts"][0]["resumed_at"] == 5


def test_a_command_is_shown_without_credentials():
    words = ["wm", "train", "x.yaml", "--checkpoint.storage_path", "s3://KEY:SECRET@bucket/run"]
    assert command_line(words) == "wm train x.yaml --checkpoint.storage_path s3://bucket/run"
    assert command_line(["/somewhere/wm/__main__.py", "train"]) == "wm train"


def test_code_is_named_by_its_revision_or_by_its_version(tmp_path):
    def git(*words: str) -> None:
        names = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
        subprocess.run(["git", *names, "-C", str(tmp_path), *words], check=True, capture_output=True)

    assert set(code_version(tmp_path)) == {"version"}
    git("init")
    (tmp_path / "wm").mkdir()
    (tmp_path / "wm" / "a.py").write_text("1")
    git("add", ".")
    git("commit", "-m", "first")
    clean = code_version(tmp_path)
    assert len(clean["git_revision"]) == 40 and not clean["dirty"]
    (tmp_path / "letter.txt").write_text("no code")
    assert code_version(tmp_path) == clean
    (tmp_path / "wm" / "b.py").write_text("2")
    assert code_version(tmp_path) == clean | {"dirty": True}
    assert environment().keys() == {"code", "software", "machine"}


def test_the_profile_is_whole_at_every_moment(tmp_path):
    over = threading.Event()
    broken: list[object] = []

    def read() -> None:
        while not over.is_set():
            text = (tmp_path / "profile.json").read_text()
            if not text.endswith("}"):
                broken.append(text)

    write_profile(tmp_path, {"device": "cpu", "targets_per_s": 0.0})
    reader = threading.Thread(target=read)
    reader.start()
    for number in range(300):
        write_profile(tmp_path, {"device": "cpu", "targets_per_s": float(number)})
    over.set()
    reader.join()
    assert not broken
    assert read_profile(tmp_path) == {"profile_version": 1, "device": "cpu", "targets_per_s": 299.0}
    write_profile(tmp_path / "gone", {"device": "cpu"})
    assert read_profile(tmp_path / "gone") is None


def test_checkpoints_lie_in_the_folder_or_where_the_config_says(config):
    assert place_of_checkpoints(config) == os.fspath(config.out / "checkpoints")
    elsewhere = replace(config, checkpoint=CheckpointConfig(storage_path="gs://bucket/run"))
    assert place_of_checkpoints(elsewhere) == "gs://bucket/run"
