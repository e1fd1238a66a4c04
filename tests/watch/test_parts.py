"""Parts of the watch that touch the world: stacks, the command and its orphan, webhook, journal, progress."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from killing import is_alive
from object_stores import s3_server
from waiting import wait_until
from webhook_server import SECRET, webhook_server

from cluster.card.job_folder import JobFolder, JobState
from cluster.card.limits import Limits
from cluster.card.run_card import RunCard
from cluster.watch.command import Command, wait_for_orphan
from cluster.watch.journal import Journal, stored_by_an_earlier_watch
from cluster.watch.process import stall_minutes_of, totals_of, watch_job
from cluster.watch.spending import node_price
from cluster.watch.subject import Subject, subject_of
from cluster.watch.webhook import Webhook
from datasets.corpus.reader import open_corpus
from datasets.runtime.process.stacks import collect_stacks, kill_registered, registered

PATIENCE_S = 120.0


def a_card(**facts: Any) -> RunCard:
    return RunCard(**({"job": "night", "verb": "train", "created": datetime.now(UTC)} | facts))


WORKING = """
import sys, threading, time
from datasets.runtime.process.stacks import dumping_stacks

def wait_for_another_rank():
    print("ready", flush=True)
    threading.Event().wait()

with dumping_stacks(sys.argv[1]):
    wait_for_another_rank()
"""


@pytest.fixture
def working(tmp_path: Path) -> Iterator[subprocess.Popen]:
    """A process that hangs while it works for a run."""
    words = [sys.executable, "-c", WORKING, f"{tmp_path}/sweep/trials/a"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_hanging_process_tells_where_it_hangs_and_goes_on(working, tmp_path):
    for _ in range(2):
        (found,) = collect_stacks(f"{tmp_path}/sweep")
        assert found.pid == working.pid and found.state in ("sleeping", "running")
        assert found.text.count("in wait_for_another_rank") == 1
    assert working.poll() is None


def test_a_stopped_process_is_named_and_continued(working, tmp_path):
    os.kill(working.pid, signal.SIGSTOP)
    os.waitpid(working.pid, os.WUNTRACED)  # the signal has arrived
    (found,) = collect_stacks(f"{tmp_path}/sweep/trials/a")
    assert found.state == "stopped" and "wait_for_another_rank" in found.text


def test_processes_of_another_run_are_left_alone(working, tmp_path):
    for other in (f"{tmp_path}/swee", f"{tmp_path}/sweep/trials/b"):
        assert collect_stacks(other) == [] and kill_registered(other) == []
    assert working.poll() is None
    assert kill_registered(f"{tmp_path}/sweep") == [working.pid]
    assert working.wait(PATIENCE_S) == -signal.SIGKILL
    assert registered(f"{tmp_path}/sweep") == []


def synthesizing(out: Path) -> list[str]:
    """A command that takes long and needs no Ray."""
    return ["synth", "--out", str(out), "--num-games", "100000"]


WATCH_THAT_IS_KILLED = """
import json, sys, time
from cluster.watch.command import Command
command = Command(sys.argv[1:], "a place")
print(json.dumps(command.identity()), flush=True)
time.sleep(1000)
"""


def test_a_command_ends_when_its_watch_is_killed_and_the_next_watch_waits_for_it(tmp_path):
    words = [sys.executable, "-c", WATCH_THAT_IS_KILLED, *synthesizing(tmp_path / "games")]
    watch = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert watch.stdout is not None
    identity = json.loads(watch.stdout.readline())
    wait_until(lambda: any((tmp_path / "games").glob("*")))
    assert is_alive(identity["pid"])
    watch.kill()
    watch.wait()
    watch.stdout.close()
    assert "has ended" in (wait_for_orphan(identity, PATIENCE_S) or "ended before: has ended")
    assert not is_alive(identity["pid"])
    assert wait_for_orphan(identity, 0.0) is None and wait_for_orphan(None, 0.0) is None


def test_an_orphan_that_does_not_end_is_killed():
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(999)"
    )
    process = subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE, process_group=0)
    assert process.stdout is not None and process.stdout.readline()
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    identity = {"pid": process.pid, "started": fields[19], "boot": boot}
    assert "was killed" in (wait_for_orphan(identity, 0.1) or "")
    assert process.wait(PATIENCE_S) == -signal.SIGKILL
    process.stdout.close()
    assert wait_for_orphan(identity | {"pid": os.getpid()}, 0.0) is None  # another process of that id


def test_a_command_is_asked_to_end_or_killed_with_its_group(tmp_path):
    command = Command(synthesizing(tmp_path / "a"), "a place")
    wait_until(lambda: any((tmp_path / "a").glob("*")))
    assert command.exit_code is None and os.getpgid(command.pid) == command.pid
    command.terminate()
    wait_until(lambda: command.exit_code is not None)
    assert command.exit_code == 143
    other = Command(synthesizing(tmp_path / "b"), "a place")
    other.kill()
    wait_until(lambda: other.exit_code is not None)
    assert other.exit_code == -signal.SIGKILL
    other.terminate()


def test_messages_reach_slack_and_discord_and_are_tried_again_after_an_error():
    failures: list[str] = []
    with webhook_server() as server:
        webhook = Webhook(server.url, failures.append, pauses_s=(0.01, 0.01))
        server.answers += [503, 429]
        webhook.send("night: started")
        webhook.send("x" * 5_000)
        webhook.close(PATIENCE_S)
    assert server.messages[0] == {"text": "night: started", "content": "night: started"}
    assert len(server.messages[1]["content"]) <= 2_000
    assert failures == []


def test_a_webhook_that_refuses_or_does_not_answer_is_reported_without_its_url_and_delays_nothing():
    failures: list[str] = []
    with webhook_server() as server:
        webhook = Webhook(server.url, failures.append, pauses_s=(0.01,))
        server.answers += [404]
        webhook.send("refused for good")
        wait_until(lambda: failures)
        assert failures == ["webhook at 127.0.0.1: the server answered 404"]
        server.is_silent.set()
        began = time.monotonic()
        for number in range(200):
            webhook.send(f"message {number}")
        assert time.monotonic() - began < 5.0
        assert failures[-1] == "100 messages wait; this one is dropped"
        server.is_silent.clear()
    gone: list[str] = []
    webhook = Webhook(server.url, gone.append, pauses_s=(0.01,))
    webhook.send("nobody is there")
    webhook.close(PATIENCE_S)
    assert gone == ["webhook at 127.0.0.1: no answer (ConnectionRefusedError)"]
    assert SECRET not in str(failures + gone)


def a_subject(folder: Path) -> Subject:
    """The run in a folder."""
    return subject_of(a_card(config="demo", arguments=("--out", str(folder), "--train-corpus", str(folder))))


def test_events_wait_for_the_run_to_exist_and_for_storage_that_is_away(tmp_path, capsys):
    folder, run = JobFolder(str(tmp_path / "jobs" / "night")), tmp_path / "run"
    (tmp_path / "jobs").touch()  # where the folder should be: nothing can be written
    card = a_card(config="demo", limits=Limits(webhook=f"https://example.com/{SECRET}"), why="to see")
    journal = Journal(folder, card, a_subject(run))
    journal.event("start", "it begins", number=1)
    journal.state(JobState(status="running", attempt=1), {"totals": {"attempt": 1}}, is_urgent=True)
    wait_until(lambda: "cannot be written" in capsys.readouterr().err)
    (tmp_path / "jobs").unlink()
    wait_until(lambda: len(folder.events()) == 1 and folder.read_state())
    assert not run.exists()
    run.mkdir()
    (run / "run.json").write_text("{}")
    journal.event("end", "it ends")
    journal.close()
    assert [row["kind"] for row in folder.events()] == ["start", "end"]
    assert stored_by_an_earlier_watch(folder) == {"totals": {"attempt": 1}}
    rows = [json.loads(line) for line in (run / "watch.jsonl").read_text().splitlines()]
    assert [(row["kind"], row["message"]) for row in rows] == [("start", "it begins"), ("end", "it ends")]
    kept = json.loads((run / "card.json").read_text())
    assert kept["why"] == "to see" and kept["limits"]["webhook"] is None and SECRET not in str(kept)


def test_events_of_a_run_in_a_bucket_are_kept_there(tmp_path):
    with s3_server() as server:
        place = server.uri("run")
        subject = subject_of(a_card(config="demo", arguments=("--out", place, "--train-corpus", str(tmp_path))))
        assert subject.files is not None
        subject.files.write("run.json", b"{}")
        folder = JobFolder(server.uri("jobs/night"))
        journal = Journal(folder, a_card(config="demo"), subject)
        journal.event("start", "it begins")
        journal.event("end", "it ends")
        journal.close()
        assert [row["kind"] for row in folder.events()] == ["start", "end"]
        lines = subject.files.read_appended("watch.jsonl").decode().splitlines()
        assert [json.loads(line)["kind"] for line in lines] == ["start", "end"]


def test_the_progress_of_a_run_is_that_of_its_newest_rows(tmp_path):
    subject = a_subject(tmp_path)
    assert (subject.progress().targets, subject.progress().signs_of_life) == (0, 0)
    rows: list[dict[str, Any]] = [
        {"kind": "start", "targets_seen": 0}, {"kind": "train", "targets_seen": 500},
        {"kind": "eval", "targets_seen": 500, "context": 10, "change_acc": 0.1},
        {"kind": "problem", "targets_seen": 900, "message": "a warning is no progress"},
    ]  # fmt: skip
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = subject.progress()
    assert (found.targets, found.signs_of_life, found.starts, len(found.evaluations)) == (500, 3, 1, 1)
    assert found.has_moved
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "start", "targets_seen": 500}) + "\n")
    assert (subject.progress().starts, subject.progress().has_moved) == (2, False)
    assert found.total_targets and found.total_targets > 500


def test_the_progress_of_a_sweep_is_the_sum_over_its_trials(tmp_path):
    subject = subject_of(a_card(verb="sweep", config="demo", arguments=("--out", str(tmp_path))))
    for name, targets in (("a", 300), ("b", 400)):
        folder = tmp_path / "trials" / name
        folder.mkdir(parents=True)
        (folder / "log.jsonl").write_text(json.dumps({"kind": "train", "targets_seen": targets}) + "\n")
    (tmp_path / "trials" / "experiment_state-sweep.json").touch()  # Ray Tune's, beside the trials
    assert subject.progress().targets == 700


def test_the_progress_of_an_encode_is_its_committed_games(tiny_corpus):
    subject = subject_of(a_card(verb="encode", arguments=("replays", "--out", str(tiny_corpus))))
    assert subject.progress().targets == len(open_corpus(tiny_corpus).games)
    assert subject.location == str(tiny_corpus)


@pytest.mark.parametrize(
    ("instance_type", "gpus", "cpus", "price"),
    [("p4d.24xlarge", 8, 96, 32.77), ("unknown", 8, 96, 16.0), (None, 0, 4, 0.2)],
)
def test_a_machine_costs_what_its_type_costs_else_its_gpus_else_its_cpus(instance_type, gpus, cpus, price):
    prices = {"p4d.24xlarge": 32.77, "GPU": 2.0, "CPU": 0.05}
    assert node_price(prices, instance_type, gpus, cpus) == pytest.approx(price)
    assert node_price({}, instance_type, gpus, cpus) is None
    spot = prices | {"p4d.24xlarge:spot": 12.0}
    assert node_price(spot, "p4d.24xlarge", 8, 96, is_spot=True) == 12.0
    assert node_price(prices, "p4d.24xlarge", 8, 96, is_spot=True) == 32.77


def test_a_stall_is_a_part_of_the_estimate_and_at_least_a_quarter_of_an_hour():
    assert stall_minutes_of(a_card()) == 15
    assert stall_minutes_of(a_card(estimate={"hours": 1.0})) == 15
    assert stall_minutes_of(a_card(estimate={"hours": 10.0})) == 30


def test_a_watch_takes_up_the_counts_of_the_one_before():
    stored = {"totals": {"attempt": 3, "stalls": 1, "spending": {"usd": 2.5, "usd_per_hour": 1.0, "at_s": 5.0}}}
    totals = totals_of(stored)
    assert (totals.attempt, totals.stalls, totals.spending.usd) == (3, 1, 2.5)
    assert totals_of({}).attempt == 0


@pytest.mark.parametrize(("status", "exit_code"), [("succeeded", 0), ("stopped", 1)])
def test_a_job_that_has_ended_elsewhere_is_not_run_again(status, exit_code, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    folder, working_dir = JobFolder(str(tmp_path / "job")), tmp_path / "code"
    working_dir.mkdir()
    folder.create(a_card(verb="encode", arguments=("replays", "--out", str(tmp_path / "corpus"))), working_dir)
    folder.write_state(JobState(status=status, attempt=1))
    assert watch_job(folder.read_card(), folder) == exit_code
    assert f"has already ended: {status}" in capsys.readouterr().out
    assert not folder.events() and not (tmp_path / "corpus").exists()
