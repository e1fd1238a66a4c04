"""A run whose folder is in object storage: as on a disk, also after a kill and during an outage."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from object_stores import S3Server, google_server, s3_server
from tiny_runs import STEP, assert_same_weights, tiny_run, weights, with_targets
from waiting import wait_until

from datasets.runtime.errors import UserError
from datasets.runtime.storage import lease
from datasets.schema.splits import SplitConfig
from wm.checkpoints.reader import open_checkpoint
from wm.config.run_config import CheckpointConfig, RunConfig
from wm.config.typed_yaml import load_yaml, to_plain
from wm.data.training_data import open_data
from wm.launch.train_worker import work
from wm.report.run_report import write_report
from wm.runs import mirror
from wm.runs.console import print_progress
from wm.runs.crash_history import CrashHistory
from wm.runs.run import Run
from wm.runs.run_files import open_run_files
from wm.runs.run_log import LOG_FILE, parse_log
from wm.runs.stop_request import POLL_SECONDS, StopRequest
from wm.training.trainer import Trainer

NUM_UPDATES, KILLED_AT = 30, 9


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture(autouse=True)
def short_times(monkeypatch) -> None:
    """Locks and uploads at shorter intervals."""
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.3)
    monkeypatch.setattr(lease, "LEASE_SECONDS", 2.0)
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(mirror, "UPLOAD_SECONDS", 0.2)


@pytest.fixture(scope="module")
def config(request, have_real_replays) -> RunConfig:
    """A run of a tiny network on a few games, real ones where there are some."""
    corpus = request.getfixturevalue("dev_corpus" if have_real_replays else "tiny_corpus")
    split = SplitConfig(test_fraction=0.7, validation_fraction=0.15)
    return replace(with_targets(tiny_run(corpus, Path("none")), NUM_UPDATES), split=split)


def train_here(config: RunConfig) -> Run:
    """Train as a driver with one worker does, in this process."""
    run = Run(config)
    run.claim()
    with run.lock():
        run.describe(open_data(config), ["wm", "train"])
        work(Run(config), "command")
    return run


@pytest.fixture(scope="module")
def undisturbed(config, tmp_path_factory) -> RunConfig:
    """The same run, on a disk."""
    on_disk = replace(config, out=tmp_path_factory.mktemp("undisturbed") / "run")
    train_here(on_disk)
    return on_disk


def rows(config: RunConfig) -> list[dict[str, Any]]:
    """What the log says about learning, in order."""
    found = parse_log(open_run_files(config.out).read(LOG_FILE).decode())
    names = ("kind", "targets_seen", "loss", "change_acc", "context", "val_loss")
    return [{name: row.get(name) for name in names} for row in found if row["kind"] in ("train", "eval")]


def assert_same_run(config: RunConfig, undisturbed: RunConfig) -> None:
    assert rows(config) == rows(undisturbed)
    assert_same_weights(*(weights(open_checkpoint(one.out).path) for one in (config, undisturbed)))


def test_everything_that_a_run_keeps_is_in_the_bucket(server, config, undisturbed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    in_bucket = replace(config, out=server.uri("a run"))
    with print_progress(Run(in_bucket)):
        run = train_here(in_bucket)
    assert not list(tmp_path.iterdir())
    printed = capsys.readouterr().out
    assert printed.count("eval K = 5") == sum(row["kind"] == "eval" for row in rows(in_bucket)) > 1
    assert_same_run(in_bucket, undisturbed)
    on_disk = {path.relative_to(undisturbed.out).parts[0] for path in undisturbed.out.rglob("*") if path.is_file()}
    keys = server.keys("a run/")
    assert {key.split("/")[1] for key in keys} == on_disk - {"run.lock", "worker.lock"}
    for key in keys:
        assert b"hidden@" not in server.read(key), key
    assert run.is_complete(run.checkpoints.newest_meta())
    server.client.download_file("bucket", "a run/config.yaml", str(tmp_path / "config.yaml"))
    again = load_yaml(tmp_path / "config.yaml", RunConfig)
    assert "key" not in str(again.out) and replace(again, out=in_bucket.out) == in_bucket
    page = write_report(tmp_path / "report.html", str(in_bucket.out), title="A", evaluation={}, corpus=None).read_text()
    assert "change_acc" in page and "total_targets: " in page and "hidden@" not in page


KILLED = """
import json, sys
import torch
torch.set_num_threads(1)  # as the undisturbed run: the last bit of some sums depends on it
from wm.config.run_config import RunConfig
from wm.config.typed_yaml import from_plain
from wm.data.training_data import open_data
from wm.launch.train_worker import work
from wm.runs.run import Run
from wm.training.trainer import Trainer
update = Trainer.update
def update_and_print(self, share):
    update(self, share)
    print(self.num_updates, flush=True)
Trainer.update = update_and_print
config = from_plain(json.loads(sys.argv[1]), RunConfig, "config")
run = Run(config)
run.claim()
with run.lock():
    run.describe(open_data(config), ["wm", "train"])
    work(Run(config), "killed")
"""


def test_a_run_that_is_killed_is_continued_on_another_machine(server, config, undisturbed):
    in_bucket = replace(config, out=server.uri("killed"))
    command = [sys.executable, "-c", KILLED, json.dumps(to_plain(in_bucket))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == KILLED_AT:
                break
        process.kill()
    assert process.returncode == -signal.SIGKILL
    newest = Run(in_bucket).checkpoints.newest_meta()
    seen = 0 if newest is None else newest["targets_seen"]
    if seen:
        before = [row for row in rows(undisturbed) if row["kind"] == "train" and row["targets_seen"] <= seen]
        assert [row for row in rows(in_bucket) if row["kind"] == "train"][: len(before)] == before
    run = train_here(in_bucket)
    assert_same_run(in_bucket, undisturbed)
    assert len(run.files.read_json("environment.json")["attempts"]) == 2


def test_an_outage_of_the_storage_is_reported_and_ends_no_run(server, config, undisturbed, monkeypatch):
    in_bucket = replace(config, out=server.uri("outage"))
    update, reported, messages = Trainer.update, threading.Event(), []

    def update_during_outage(self: Trainer, share: Any) -> None:
        if self.num_updates == 10:
            server.stop()
            threading.Thread(target=lambda: (reported.wait(60), server.start())).start()
        update(self, share)

    def report(problem: str, error: Exception, known: set[str]) -> None:
        if problem not in known:
            known.add(problem)
            messages.append(f"{problem} ({error})")
            reported.set()

    monkeypatch.setattr(Trainer, "update", update_during_outage)
    monkeypatch.setattr(mirror, "report_once", report)
    train_here(in_bucket)
    assert_same_run(in_bucket, undisturbed)
    assert [message.partition(" (")[0] for message in messages] == ["s3://bucket/outage cannot be written"]
    assert "hidden@" not in messages[0]


def test_a_run_may_live_in_google_cloud_storage(config, tmp_path):
    with google_server() as address:
        uri = f"gs://anonymous@bucket/run?endpoint_override={address}&scheme=http&retry_limit_seconds=5"
        short = with_targets(replace(config, checkpoint=CheckpointConfig(every_s=0.0, keep_last=1)), 8)
        in_bucket, on_disk = replace(short, out=uri), replace(short, out=tmp_path / "run")
        run = train_here(in_bucket)
        train_here(on_disk)
        assert_same_run(in_bucket, on_disk)
        assert len(run.checkpoints.names()) <= 3  # the newest and the best; older ones are deleted
        assert Run(in_bucket).is_complete(run.checkpoints.newest_meta())


class Forbidden(BaseHTTPRequestHandler):
    """A server that refuses everything."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return lambda: self.send_error(403)
        raise AttributeError(name)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


def test_storage_without_permission_is_one_line(config):
    with ThreadingHTTPServer(("127.0.0.1", 0), Forbidden) as server:
        threading.Thread(target=server.serve_forever).start()
        uri = f"s3://key:hidden@bucket/run?endpoint_override=127.0.0.1:{server.server_port}&scheme=http"
        with pytest.raises(UserError, match=r"bucket/run cannot be used as a run's folder.*permissions") as refused:
            Run(replace(config, out=uri)).claim()
        server.shutdown()
    assert "\n" not in str(refused.value) and "hidden" not in str(refused.value)


def test_a_stop_request_reaches_rank_0_before_ray_kills(server):
    driver, worker = (StopRequest(open_run_files(server.uri("stop"))) for _ in range(2))
    with driver.on_signals(), worker.watched():
        assert not worker.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        wait_until(worker.is_set, "the request")
    assert POLL_SECONDS <= 0.5  # `ray job stop` kills after three seconds
    assert not driver.is_set_for_run()


def test_every_rank_may_add_to_the_crash_history(server):
    histories = [CrashHistory(open_run_files(server.uri("crashes")), "command") for _ in range(3)]
    histories[0].record_start(0)
    for rank, history in enumerate(histories):
        history.record_crash(ZeroDivisionError(f"on rank {rank}"), rank)
    (attempt,) = histories[1].attempts()
    assert attempt.error == "ZeroDivisionError: on rank 0"
    assert histories[2].remedy() == "see s3://bucket/crashes/crash.txt"
    assert [key for key in server.keys("crashes/") if "crash.txt/" in key]


def test_a_bucket_with_something_else_or_another_run_is_refused(server, config):
    server.write("thesis/chapter.tex", b"mine")
    with pytest.raises(UserError, match="s3://bucket/thesis exists and is not a run"):
        Run(replace(config, out=server.uri("thesis"))).claim()
    Run(replace(config, out=server.uri("other"))).claim()
    with pytest.raises(UserError, match="s3://bucket/other contains a run with other options"):
        Run(replace(config, out=server.uri("other"), seed=1)).claim()
    server.write("other/run.json", b"{half")
    with pytest.raises(UserError, match="is damaged; name another folder"):
        Run(replace(config, out=server.uri("other"))).claim()


def test_storage_that_cannot_be_used_is_one_line_within_seconds(server, config):
    missing = server.uri("run").replace("@bucket", "@no-such-bucket")
    away = server.uri("run").replace(f":{server.port}", ":9")
    for uri in (missing, away):
        started = time.monotonic()
        with pytest.raises(UserError, match="cannot be used as a run's folder") as refused:
            Run(replace(config, out=uri)).claim()
        assert time.monotonic() - started < 20
        assert "\n" not in str(refused.value) and "hidden" not in str(refused.value)


@pytest.mark.parametrize(
    ("out", "expected"),
    [
        ("s3:/bucket/run", "a URI has two slashes: s3://BUCKET/FOLDER"),
        ("gs://", "which names no bucket"),
        ("s3:///run", "which names no bucket"),
        ("ftp://host/run", "expected a local path, s3://BUCKET/FOLDER or gs://BUCKET/FOLDER"),
    ],
)
def test_a_wrong_uri_is_refused_with_the_config(tmp_path, out, expected):
    (tmp_path / "run.yaml").write_text(json.dumps({"out": out}))
    for overrides in ([], ["--out", out]):
        with pytest.raises(UserError, match=expected):
            load_yaml(tmp_path / "run.yaml", RunConfig, overrides)


def test_what_rank_0_wrote_is_read_there_before_it_is_uploaded(server, monkeypatch):
    monkeypatch.setattr(mirror, "UPLOAD_SECONDS", 3_600.0)
    here, elsewhere = (open_run_files(server.uri("grows")) for _ in range(2))
    here.open_folder(())
    (here.folder / "evaluations").mkdir()
    (here.folder / "evaluations" / "1").write_bytes(b"one")
    assert (here.read("evaluations/1"), here.names("evaluations")) == (b"one", ["1"])
    assert elsewhere.names() == []
    here.upload()
    assert (elsewhere.read("evaluations/1"), elsewhere.names("evaluations")) == (b"one", ["1"])
    (here.folder / "evaluations" / "1").unlink()
    here.upload()
    assert elsewhere.names() == []


def test_rows_of_the_log_are_uploaded_before_a_checkpoint_is_committed(server, config, monkeypatch):
    monkeypatch.setattr(mirror, "UPLOAD_SECONDS", 3_600.0)
    in_bucket = replace(config, out=server.uri("flushed"))
    update, checked = Trainer.update, []

    def update_and_check(self: Trainer, share: Any) -> None:
        self._recorder.wait()
        newest = self.run.checkpoints.newest_meta()
        if newest is not None:
            logged = [row["targets_seen"] for row in rows(in_bucket) if row["kind"] == "train"]
            checked.append(set(range(STEP, newest["targets_seen"] + 1, STEP)) <= set(logged))
        update(self, share)

    monkeypatch.setattr(Trainer, "update", update_and_check)
    train_here(with_targets(in_bucket, 4))
    assert checked and all(checked)
