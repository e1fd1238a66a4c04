"""`wm watch` around a real `wm train` on this machine: a night with deaths, and nights that end at each limit."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from killing import descendants, is_alive, start_printing_to
from train_kills import WORKER, differences, seen_by, small_corpus, tiny_run
from webhook_server import SECRET, webhook_server

from cluster.card.job_folder import JobFolder, JobState
from wm.config.run_config import RunConfig
from wm.config.typed_yaml import to_plain
from wm.data.training_data import open_data
from wm.runs.run import Run
from wm.runs.run_log import read_log
from wm.training.trainer import train

NUM_UPDATES = 300
PATIENCE_S = 300.0
JOB = "night"


class Night:
    """One job, and the watches that run it."""

    def __init__(self, config: RunConfig, storage: Path) -> None:
        self.config, self.folder = config, JobFolder(str(storage / "jobs" / JOB))
        self._storage = storage
        self._yaml = config.out.with_suffix(".yaml")
        self._yaml.write_text(json.dumps(to_plain(config)))
        self.printed = config.out.with_suffix(".printed")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *limits: str) -> subprocess.Popen[bytes]:
        """Start a watch."""
        words = [sys.executable, "-m", "wm.cli", "watch", "--name", JOB, "--every-s", "0.3", *limits]
        before = os.environ.get("WM_STORAGE")
        os.environ["WM_STORAGE"] = str(self._storage)
        try:
            self.process = start_printing_to(self.printed, [*words, "--", "train", str(self._yaml)])
        finally:
            os.environ.pop("WM_STORAGE") if before is None else os.environ.update(WM_STORAGE=before)
        return self.process

    def wait(self, is_so: Callable[[], Any]) -> Any:
        """Wait until something is so."""
        deadline = time.monotonic() + PATIENCE_S
        while not (found := is_so()):
            assert self.process is not None and self.process.poll() is None, self.text()
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.05)
        return found

    def ended(self) -> JobState:
        """Wait for the end of the watch: the state of the job."""
        assert self.process is not None
        self.process.wait(PATIENCE_S)
        state = self.folder.read_state()
        assert state is not None
        return state

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [row for row in self.folder.events() if row["kind"] == kind]

    def driver(self) -> int | None:
        """Process id of the command."""
        try:
            command = json.loads(self.folder.files.read("watch.json"))["command"]
        except (OSError, ValueError):
            return None
        return None if command is None else command["pid"]

    def trains(self, at_targets: int, attempt: int = 1) -> bool:
        """Whether an attempt has begun its log, which workers of the one before may still write to, and gone on."""
        if not self.config.out.exists() or self.worker() is None:
            return False
        kinds = [row["kind"] for row in read_log(self.config.out) if row["kind"] in ("start", "train")]
        return kinds.count("start") == attempt and kinds[-1] == "train" and seen_by(self.config) >= at_targets

    def worker(self) -> int | None:
        """Process id of the process that trains."""
        tree = descendants(self.driver() or 0) if self.driver() else {}
        return next((pid for pid, command in tree.items() if re.search(WORKER, command)), None)

    def text(self) -> str:
        return self.printed.read_text()[-3_000:]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("watch")
    return tiny_run(small_corpus(folder), folder / "undisturbed", NUM_UPDATES)


@pytest.mark.slow
def test_a_night_with_a_killed_driver_a_hanging_worker_and_a_killed_watch_ends_like_an_undisturbed_one(
    config, tmp_path
):
    run = Run(config)
    run.claim()
    train(run, open_data(config), lambda rows: None, None)
    disturbed = replace(config, out=tmp_path / "run")
    with webhook_server() as server:
        night = Night(disturbed, tmp_path)
        limits = ("--stall", "1", "--webhook", server.url, "--webhook-every", "5000")
        night.start(*limits)
        night.wait(lambda: night.trains(2_500))
        os.kill(night.driver() or 0, signal.SIGKILL)
        night.wait(lambda: len(night.events("started")) == 2 and night.trains(9_000, attempt=2))

        os.kill(night.worker() or 0, signal.SIGSTOP)
        night.wait(lambda: len(night.events("started")) == 3 and night.trains(17_000, attempt=3))
        (stacks,) = night.events("stacks")
        text = night.folder.files.read(stacks["file"]).decode()
        assert "train_worker.py" in text and "ray_train.py" in text and ", stopped, works for" in text
        assert "trainer.py" in night.printed.read_text()

        driver = night.driver() or 0
        night.process.kill()
        night.process.wait()
        night.start(*limits)
        state = night.ended()
        assert not is_alive(driver)
    assert state.status == "succeeded" and state.attempt == 4, night.text()
    assert differences(config, disturbed) == []
    texts = [message["text"] for message in server.messages]
    assert all(message["content"] == message["text"] for message in server.messages)
    for part in ("was started, attempt 1", "killed by signal 9", "no new targets for", " targets", "finished"):
        assert any(part in text for text in texts), part
    rows = [json.loads(line) for line in (disturbed.out / "watch.jsonl").read_text().splitlines()]
    assert {"start", "started", "ended", "stall", "stacks", "restart", "end"} <= {row["kind"] for row in rows}
    kept = [path.read_text(errors="replace") for path in disturbed.out.glob("*") if path.is_file()]
    assert not any(SECRET in text for text in [*kept, night.printed.read_text()])


@pytest.mark.slow
def test_a_run_that_misses_its_threshold_saves_and_ends_and_so_does_one_whose_money_or_time_is_over(config, tmp_path):
    validating = replace(config, out=tmp_path / "run", eval=replace(config.eval, every_targets=2_560))
    night = Night(validating, tmp_path)
    night.start("--kill", "val_loss@5 > 0.0001 at 2000")
    state = night.ended()
    assert (state.status, state.attempt) == ("stopped", 1), night.text()
    assert state.reason is not None and state.reason.startswith("val_loss is") and "limit at 2,000" in state.reason
    saved = Run(validating).checkpoints.newest_meta()
    assert saved is not None and 2_000 <= saved["targets_seen"] < validating.optimizer.total_targets

    limits = tmp_path / "limits.yaml"
    limits.write_text("budget_usd: 1.0\nprices: {CPU: 1000.0}\n")
    for words, reason in (
        (("--limits", str(limits), "--save-s", "3600"), "the budget of 1.00 USD is used up"),
        (("--deadline", "23:59", "--save-s", "86400"), "the deadline"),
    ):
        night.start(*words)
        state = night.ended()
        assert state.status == "stopped" and state.attempt <= 1, night.text()  # what nodes cost is seen a moment later
        assert state.reason is not None and state.reason.startswith(reason)
        assert night.process is not None and night.process.returncode == 1
    assert Run(validating).checkpoints.newest_meta() == saved
