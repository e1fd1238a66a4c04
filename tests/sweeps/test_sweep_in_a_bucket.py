"""A sweep whose folder is in object storage: as on a disk, also after a kill, elsewhere, and during an outage."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from killing import descendants, send, still_alive
from object_stores import S3Server, google_server, s3_server
from ray.tune import ExperimentAnalysis
from tiny_sweeps import TOTAL, tiny_sweep
from waiting import wait_until

from cluster.report.write import write_report
from cluster.watch.subject import SweepSubject
from datasets.runtime.errors import UserError
from datasets.runtime.storage import lease
from tune.cli import choose_k, choose_size
from tune.config import SweepConfig
from tune.results.rung_record import decisions_of
from tune.results.sweep_folder import SWEEP_LOCK, lock_sweep, open_sweep
from tune.results.trial_status import Failure, mark_failed, status_of
from tune.running.sweep import run_sweep
from tune.search.trials import Trial, trials_of
from wm.config.typed_yaml import from_plain, to_plain
from wm.runs import mirror
from wm.runs.run import Run
from wm.runs.run_files import open_run_files
from wm.runs.run_log import log_rows

SPLIT = {"validation_fraction": 0.4}
"""So that the tiny corpus has several games to evaluate on."""
ENDLESS_S = 300.0
GONE_S = 15.0


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


def rows_of_results(sweep: SweepConfig) -> list[dict[str, Any]]:
    """The final table, without what depends on the clock."""
    content = open_run_files(sweep.out).read("results.jsonl").decode()
    rows = [json.loads(line) for line in content.splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def log_of(trial: Trial) -> list[dict[str, Any]]:
    return log_rows(Run(trial.config).files)


def starts_of(trial: Trial) -> list[int]:
    """Targets seen at each start of a trial's training."""
    attempts = Run(trial.config).files.read_json("environment.json").get("attempts", [])
    return [attempt["resumed_at"] for attempt in attempts]


def start_command(sweep: SweepConfig, folder: Path, *options: str) -> subprocess.Popen[str]:
    """Run `wm sweep` in a folder of its own, as on another machine."""
    folder.mkdir()
    (folder / "sweep.yaml").write_text(json.dumps(to_plain(sweep)))
    (folder / "scratch").mkdir()
    return subprocess.Popen(
        [sys.executable, "-m", "wm.cli", "sweep", "sweep.yaml", *options],
        cwd=folder,
        env=os.environ | {"TMPDIR": str(folder / "scratch")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def printed_by(command: subprocess.Popen[str]) -> str:
    """What a command printed that ended well."""
    printed = command.communicate(timeout=ENDLESS_S)[0]
    assert command.returncode == 0, printed[-5_000:]
    return printed


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_another_machine_goes_on_with_a_sweep_from_the_bucket_alone_and_everything_reads_it_there(
    server, tiny_corpus, tmp_path, monkeypatch, capsys
):
    options: dict[str, Any] = {"max_concurrent": 1, "base": {"split": SPLIT}}
    sweep = tiny_sweep(tiny_corpus, server.uri("sweeps/rates"), **options)
    on_disk = tiny_sweep(tiny_corpus, tmp_path / "undisturbed", **options)
    first, second = trials_of(sweep)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    run_sweep(tiny_sweep(tiny_corpus, sweep.out, max_flops=1e6, **options))
    printed = capsys.readouterr().out
    assert "(max_flops) is used up" in printed and "hidden" not in printed
    assert not list((tmp_path / "here").iterdir()), "everything is in the bucket"
    assert status_of(Run(second.config)).state == "pending"
    log_before = log_of(first)
    spent = open_run_files(sweep.out).read_json("spent.json")
    assert set(spent["device_seconds"]) == {first.name}

    # Another process, as a job of the same Ray: it shares nothing else with the first command.
    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    printed = printed_by(start_command(sweep, tmp_path / "elsewhere"))
    monkeypatch.delenv("RAY_ADDRESS")
    assert "2 trials in s3://bucket/sweeps/rates" in printed and "hidden" not in printed
    assert {path.name for path in (tmp_path / "elsewhere").iterdir()} == {"sweep.yaml", "scratch"}
    run_sweep(on_disk)
    assert rows_of_results(sweep) == rows_of_results(on_disk)
    assert log_of(first)[: len(log_before)] == log_before, "what it had trained was not trained again"
    assert len(starts_of(second)) == 1
    spent_in_all = open_run_files(sweep.out).read_json("spent.json")
    assert set(spent_in_all["device_seconds"]) == {first.name, second.name}
    assert spent_in_all["seconds"] > spent["seconds"]
    assert b"targets" in server.read(f"sweeps/rates/trials/{first.name}/train.log")
    for key in server.keys("sweeps/rates"):
        assert b"key:hidden" not in server.read(key), key

    # What reads a sweep.
    capsys.readouterr()
    (tmp_path / "reading").mkdir()
    monkeypatch.chdir(tmp_path / "reading")
    assert choose_k([str(sweep.out), "--json", "choice.json"]) == 0
    there = capsys.readouterr().out
    assert choose_k([str(on_disk.out), "--json", "on_disk.json"]) == 0
    for name in ("verdict", "context", "reason", "num_trials", "num_games"):
        assert json.loads(Path("choice.json").read_text())[name] == json.loads(Path("on_disk.json").read_text())[name]
    assert json.loads(Path("choice.json").read_text())["sweep"] == "s3://bucket/sweeps/rates"
    assert json.loads(Path("choice.json").read_text())["reason"].split(":")[0] in " ".join(there.split())
    assert choose_size([str(sweep.out)]) == 0
    write_report(str(sweep.out), None, None, None)
    assert "rates" in Path("report.html").read_text() and "key:hidden" not in Path("report.html").read_text()
    assert SweepSubject(sweep).progress().targets == 2 * TOTAL
    filesystem, path = open_run_files(sweep.out).arrow_path()
    analysis = ExperimentAnalysis(f"{path}/trials", storage_filesystem=filesystem)
    assert [len(frame) for frame in analysis.trial_dataframes.values()] == [4, 4]
    assert [trial.status for trial in analysis.trials] == ["TERMINATED", "TERMINATED"]


@pytest.mark.slow
def test_a_sweep_may_live_in_google_cloud_storage(tiny_corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options: dict[str, Any] = {"max_concurrent": 1, "base": {"split": SPLIT}}
    with google_server() as address:
        uri = f"gs://anonymous@bucket/sweeps/rates?endpoint_override={address}&scheme=http&retry_limit_seconds=5"
        sweep = tiny_sweep(tiny_corpus, uri, **options)
        on_disk = tiny_sweep(tiny_corpus, tmp_path / "undisturbed", **options)
        _, second = trials_of(sweep)
        run_sweep(tiny_sweep(tiny_corpus, uri, max_flops=1e6, **options))
        assert "(max_flops) is used up" in capsys.readouterr().out
        assert status_of(Run(second.config)).state == "pending"
        run_sweep(sweep)
        run_sweep(on_disk)
        assert rows_of_results(sweep) == rows_of_results(on_disk)
        assert len(starts_of(second)) == 1
        assert choose_k([uri, "--json", "choice.json"]) == 0
        assert json.loads(Path("choice.json").read_text())["num_trials"] == 2


@pytest.fixture
def short_times(monkeypatch) -> None:
    """Locks and uploads at shorter intervals, and leases that no test outlives."""
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.3)
    monkeypatch.setattr(lease, "LEASE_SECONDS", 3_600.0)
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(mirror, "UPLOAD_SECONDS", 0.2)


def test_two_commands_on_one_sweep_exclude_each_other_in_one_line(server, short_times):
    uri = server.uri("sweeps/locked")
    with lock_sweep(uri), pytest.raises(UserError) as refused:
        lock_sweep(uri)
    assert str(refused.value) == (
        "another process runs a sweep in s3://bucket/sweeps/locked; wait for it, or name another --out"
    )
    lock_sweep(uri).close()


def test_what_cannot_work_is_one_line(server, tiny_corpus, short_times):
    for out, expected in (
        ("s3:/bucket/sweep", "a URI has two slashes: s3://BUCKET/FOLDER"),
        ("gs://", "which names no bucket"),
        ("ftp://host/sweep", "expected a local path, s3://BUCKET/FOLDER or gs://BUCKET/FOLDER"),
    ):
        with pytest.raises(UserError, match=expected):
            from_plain({"out": out}, SweepConfig, "sweep.yaml")
    server.write("thesis/chapter.tex", b"mine")
    for read, expected in (
        (lambda: lock_sweep(server.uri("thesis")), "s3://bucket/thesis exists and is not a sweep"),
        (lambda: open_sweep(server.uri("thesis")), r"s3://bucket/thesis is not a sweep \(sweep.json is missing\)"),
        (lambda: open_sweep("s3:/bucket/x"), "a URI has two slashes"),
    ):
        with pytest.raises(UserError, match=expected) as refused:
            read()
        assert "\n" not in str(refused.value) and "hidden" not in str(refused.value)
    missing = server.uri("x").replace("@bucket", "@no-such-bucket")
    away = server.uri("x").replace(f":{server.port}", ":9")
    for uri in (missing, away):
        started = time.monotonic()
        with pytest.raises(UserError, match=r"cannot be used as a sweep's folder|there is no bucket") as refused:
            lock_sweep(uri)
        assert time.monotonic() - started < 20
        assert "\n" not in str(refused.value) and "hidden" not in str(refused.value)
    server.write(f"killed/{SWEEP_LOCK}.4711", b"?")
    lock_sweep(server.uri("killed")).close()


def test_a_trial_that_failed_or_was_stopped_before_it_began_is_known_from_the_bucket(server, tiny_corpus):
    sweep = tiny_sweep(tiny_corpus, server.uri("sweeps/states"))
    failed, other = (Run(trial.config) for trial in trials_of(sweep))
    mark_failed(failed.files, Failure(kind="diverged", reason="the loss is not finite"))
    assert [status_of(run).state for run in (failed, other)] == ["failed", "pending"]
    other.claim()
    with other.lock():
        assert status_of(other).state == "running"
    assert status_of(other).state == "interrupted"


def killed_sweep(corpus: Path, out: str | Path) -> SweepConfig:
    """Three trials, one at a time, of which ASHA stops the last one; long enough to be killed in each."""
    every = 2_048
    return tiny_sweep(
        corpus,
        out,
        4 * every,
        axes={"optimizer.learning_rate": [1e-2, 3e-3, 1e-9]},
        asha={"grace": every, "reduction_factor": 2, "metric": "val_loss", "context": 5, "confidence": 0.6},
        max_concurrent=1,
        base={
            "eval": {"contexts": [5], "num_targets": 60, "validation_targets": 30, "every_targets": every},
            "checkpoint": {"every_s": 0.5},
            "split": SPLIT,
        },
    )


@pytest.mark.slow
def test_a_sweep_whose_machine_is_lost_at_any_moment_goes_on_from_the_bucket_on_another_one(
    server, tiny_corpus, tmp_path
):
    choose = random.Random(0)
    sweep = killed_sweep(tiny_corpus, server.uri("sweeps/killed"))
    trials = trials_of(sweep)
    for number in range(2):
        command = start_command(sweep, tmp_path / f"machine-{number}")
        while sum(len(starts_of(trial)) for trial in trials) <= number:
            assert command.poll() is None, command.communicate()[0]
            time.sleep(0.1)
        time.sleep(choose.uniform(0, 8))
        tree = descendants(command.pid)
        send(signal.SIGKILL, [command.pid, *tree])
        command.communicate()
        assert not still_alive(tree, GONE_S)
        ended = {trial.name: log_of(trial) for trial in trials if is_ended(trial)}
    printed = printed_by(start_command(sweep, tmp_path / "last"))
    undisturbed = killed_sweep(tiny_corpus, tmp_path / "undisturbed")
    printed_by(start_command(undisturbed, tmp_path / "disk"))
    assert rows_of_results(sweep) == rows_of_results(undisturbed), printed
    for trial in trials:
        if trial.name in ended:
            assert log_of(trial) == ended[trial.name], f"{trial.name} had ended and ran again"
        decided = [decision.rung for decision in decisions_of(Run(trial.config).files)]
        assert len(set(decided)) == len(decided) > 0, trial.name


def is_ended(trial: Trial) -> bool:
    return status_of(Run(trial.config)).state in ("finished", "stopped", "failed")


@pytest.mark.slow
def test_half_a_minute_without_the_bucket_ends_neither_the_sweep_nor_a_trial(server, tiny_corpus, tmp_path):
    sweep = killed_sweep(tiny_corpus, server.uri("sweeps/outage"))
    first, *_ = trials = trials_of(sweep)
    command = start_command(sweep, tmp_path / "machine")
    wait_until(lambda: any(row["kind"] == "train" for row in log_of(first)))
    server.stop()
    threading.Timer(30.0, server.start).start()
    printed = printed_by(command)
    assert "cannot be reached" in printed
    undisturbed = killed_sweep(tiny_corpus, tmp_path / "undisturbed")
    printed_by(start_command(undisturbed, tmp_path / "disk"))
    assert rows_of_results(sweep) == rows_of_results(undisturbed), printed
    assert [len(starts_of(trial)) for trial in trials] == [1, 1, 1], "an outage ends no trial's process"


@pytest.mark.slow
def test_sigterm_saves_the_running_trial_to_the_bucket(server, tiny_corpus, tmp_path):
    sweep = killed_sweep(tiny_corpus, server.uri("sweeps/stopped"))
    first, *_ = trials_of(sweep)
    command = start_command(sweep, tmp_path / "machine")
    wait_until(lambda: any(row["kind"] == "train" for row in log_of(first)))
    command.terminate()
    printed = command.communicate(timeout=60)[0]
    assert command.returncode == 128 + signal.SIGTERM, printed
    assert "stopped; 1 trials are saved and 2 have not begun; run the same command again to resume" in printed
    assert status_of(Run(first.config)).state == "interrupted" and status_of(Run(first.config)).targets_seen > 0
