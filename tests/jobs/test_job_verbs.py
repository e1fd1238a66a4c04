"""`wm jobs`, `wm logs`, `wm stop` and jobs that survive their head, on real head nodes with storage on a disk."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from checkouts import copy_of_the_code
from head_node import VENV_BIN, Head, head_node
from waiting import wait_until

from cluster import cli as cluster_cli
from cluster.card.job_folder import JobState, job_folder
from cluster.card.run_card import RunCard
from cluster.jobs.client import connect
from cluster.submit.resume import resume_jobs
from datasets.runtime.errors import UserError

WAIT_S = 300
SHORT, LONG = 2_000, 40_000
"""Targets of a run that ends at once, and of one that is disturbed before its end."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Path) -> Path:
    """A checkout with configs in it, beside the cluster's storage."""
    folder = tmp_path_factory.mktemp("place")
    checkout = copy_of_the_code(folder)
    for name, targets in {"short": SHORT, "long": LONG}.items():
        (checkout / f"{name}.yaml").write_text(yaml.safe_dump(tiny_config(tiny_corpus, targets)))
    return folder


@pytest.fixture(scope="module")
def head(place: Path) -> Iterator[Head]:
    with head_node(WM_STORAGE=f"{place}/storage") as head:
        yield head


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch, place: Path):
    """Use a head node from here, as a laptop that knows the cluster's storage."""

    def use(head: Head) -> None:
        for name in ("RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_MODE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(head.token_path))
        monkeypatch.setenv("RAY_ADDRESS", head.url)
        monkeypatch.setenv("WM_STORAGE", f"{place}/storage")
        monkeypatch.chdir(place / "checkout")

    return use


def tiny_config(corpus: Path, targets: int) -> dict:
    """A run on one CPU worker; it saves at every chance."""
    return {
        "train_corpus": str(corpus),
        "precision": "fp32",
        "checkpoint": {"every_s": 0.0, "keep_last": 3},
        "model": {"kind": "mamba2", "d_model": 32, "num_layers": 1, "d_state": 16},
        "objective": {"sequence_frames": 16},
        "optimizer": {"total_targets": targets, "warmup_targets": 500, "batch_size": 16},
        "eval": {"contexts": [5], "num_targets": 100, "validation_targets": 50, "every_targets": targets},
    }


def submitted(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Submit a job that is not followed; returns its id."""
    assert cluster_cli.submit([*arguments[:1], "--no-follow", "--no-preflight", *arguments[1:]]) == 0
    found = re.search(r"^submitted (\S+);", capsys.readouterr().out, re.MULTILINE)
    assert found
    return found[1]


def listed(capsys: pytest.CaptureFixture[str]) -> dict[str, dict]:
    """The rows of `wm jobs --json` by job."""
    capsys.readouterr()
    assert cluster_cli.jobs(["--json"]) == 0
    return {row["job"]: row for row in json.loads(capsys.readouterr().out)}


def newest(run: Path) -> dict:
    """meta.json of a run's newest checkpoint; empty without one."""
    found = sorted(run.glob("checkpoints/targets-*/meta.json"))
    return json.loads(found[-1].read_text()) if found else {}


def last_evaluation(run: Path) -> list[dict]:
    """The rows of a finished run's final evaluation, without its time."""
    meta = newest(run)
    assert meta["finished"]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in meta["metrics"]]


@pytest.mark.slow
def test_the_line_of_a_dry_run_pasted_into_a_shell_submits_the_job(head, use, place, capsys):
    use(head)
    out = place / "runs/pasted"
    assert (
        cluster_cli.submit(["train", "short.yaml", "--dry-run", "--why", "it's a test", "--", "--out", str(out)]) == 0
    )
    line = capsys.readouterr().out.splitlines()[-1]
    job = shlex.split(line)[shlex.split(line).index("--submission-id") + 1]
    assert job not in listed(capsys), "a dry run starts nothing"
    done = subprocess.run(
        f"export PATH={VENV_BIN}:$PATH; {line}", shell=True, capture_output=True, text=True, check=False, timeout=WAIT_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert newest(out)["finished"]
    row = listed(capsys)[job]
    assert (row["verb"], row["status"], row["attempts"]) == ("train", "succeeded", 1)
    assert row["targets"] == newest(out)["targets_seen"] >= SHORT
    assert (row["out"], row["why"]) == (str(out), "it's a test")
    with pytest.raises(UserError, match="expected one that `wm jobs` shows"):
        cluster_cli.logs(["train-nothing"])
    assert cluster_cli.logs([job[:-3]]) == 0
    assert f"{row['targets']:,} targets" in capsys.readouterr().out
    assert cluster_cli.stop([job]) == 0
    assert f"{job} has ended already: succeeded" in capsys.readouterr().out


@pytest.mark.slow
def test_a_stopped_job_has_saved_and_its_place_is_free_again(head, use, place, capsys):
    use(head)
    out = place / "runs/stopped"
    job = submitted(capsys, "train", "long.yaml", "--", "--out", str(out))
    wait_until(lambda: newest(out), "a checkpoint", WAIT_S)
    with pytest.raises(UserError, match=f"the same run is already RUNNING as {job}"):
        cluster_cli.submit(["train", "long.yaml", "--no-preflight", "--", "--out", str(out)])
    with pytest.raises(UserError, match=rf"{job} is RUNNING and writes to {out}"):
        cluster_cli.submit(["train", "long.yaml", "--no-preflight", "--", "--out", str(out), "--seed", "1"])
    assert cluster_cli.stop([job]) == 0
    printed = capsys.readouterr().out
    assert f"{job}: stopped after" in printed
    assert not newest(out)["finished"]
    assert newest(out)["targets_seen"] > 0
    assert listed(capsys)[job]["status"] == "stopped"
    assert resume_jobs(head.url) == 0
    assert listed(capsys)[job]["status"] == "stopped", "a stopped job is not taken up"


@pytest.mark.slow
def test_a_job_that_preflight_finds_red_is_not_submitted(head, use, place, tmp_path, capsys):
    use(head)
    out = tmp_path / "run"
    places = ["--train-corpus", str(tmp_path / "nothing"), "--out", str(out)]
    with pytest.raises(UserError, match=r"preflight refuses the job \(.*corpus.*; expected no red check"):
        cluster_cli.submit(["train", "short.yaml", "--", *places])
    assert not out.exists()
    assert [row["verb"] for row in listed(capsys).values() if row["job"].startswith("train-short")][1:] == []


def test_jobs_of_the_storage_are_listed_without_a_head(use, head, place, monkeypatch, capsys):
    use(head)
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    folder = job_folder("train-of-a-lost-head")
    folder.create(
        RunCard(job=folder.job, verb="train", config="short.yaml", created=datetime.now(UTC)), Path("cluster")
    )
    folder.write_state(JobState(status="succeeded", attempt=2, targets=SHORT))
    row = listed(capsys)[folder.job]
    assert (row["status"], row["attempts"], row["targets"]) == ("succeeded", 2, SHORT)
    monkeypatch.delenv("WM_STORAGE")
    with pytest.raises(UserError, match="nothing answers at"):
        cluster_cli.jobs([])


def test_without_a_token_with_a_wrong_one_and_from_another_address_a_job_is_refused(head, use, monkeypatch, tmp_path):
    use(head)
    arguments = ["train", "short.yaml", "--no-preflight", "--", "--out", str(tmp_path / "run")]
    jobs = len(connect(None).list_jobs())
    monkeypatch.setenv("RAY_ADDRESS", head.url.replace("127.0.0.1", "127.0.0.2"))
    with pytest.raises(UserError, match=r"nothing answers at http://127\.0\.0\.2"):
        cluster_cli.submit(arguments)
    monkeypatch.setenv("RAY_ADDRESS", head.url)
    for token in (None, "wr0ng"):
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
        if token:
            (tmp_path / "token").write_text(token)
        with pytest.raises(UserError, match="requires the cluster's token"):
            cluster_cli.submit(arguments)
    use(head)
    assert len(connect(None).list_jobs()) == jobs
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_stop_now_kills_the_run_and_frees_its_place(head, use, place, capsys):
    use(head)
    out = place / "runs/killed"
    job = submitted(capsys, "train", "long.yaml", "--", "--out", str(out))
    wait_until(lambda: newest(out), "a checkpoint", WAIT_S)
    assert cluster_cli.stop([job, "--now"]) == 0
    printed = capsys.readouterr().out
    assert f"{job} was asked to end now" in printed and f"{job}: stopped" in printed
    assert not newest(out)["finished"]
    assert [event["kind"] for event in job_folder(job).events()][-1] == "end"
    assert not job_folder(job).is_held()
    assert listed(capsys)[job]["status"] == "stopped"


@pytest.mark.slow
def test_a_job_of_a_lost_head_tells_what_happened_and_can_be_stopped_for_good(use, head, place, capsys):
    out = place / "runs/left"
    with head_node(WM_STORAGE=f"{place}/storage") as lost:
        use(lost)
        job = submitted(capsys, "train", "long.yaml", "--", "--out", str(out))
        wait_until(lambda: newest(out), "a checkpoint", WAIT_S)
        lost.kill()
    assert cluster_cli.logs([job]) == 0
    printed = capsys.readouterr().out
    assert f"the log of {job} was on a head node that is gone; what happened:" in printed and "  started" in printed
    assert cluster_cli.stop([job, "--now"]) == 0
    assert f"{job}: stopped; nothing ran any more" in capsys.readouterr().out
    use(head)
    assert resume_jobs(head.url) == 0
    assert listed(capsys)[job]["status"] == "stopped"


@pytest.mark.slow
def test_a_head_that_is_shut_down_interrupts_its_job_which_costs_no_retry(use, head, place, capsys):
    out = place / "runs/interrupted"
    with head_node(WM_STORAGE=f"{place}/storage") as first:
        use(first)
        job = submitted(capsys, "train", "long.yaml", "--retries", "0", "--", "--out", str(out))
        wait_until(lambda: newest(out), "a checkpoint", WAIT_S)
        first.shut_down()
    assert newest(out)["targets_seen"] < LONG
    state = job_folder(job).read_state()
    assert state is not None and not state.is_final, (state, job_folder(job).events())
    use(head)
    assert resume_jobs(head.url) == 0
    assert f"{job}: taken up as {job}.2, after attempt 1 was shut down" in capsys.readouterr().out
    assert cluster_cli.logs([job, "--follow"]) == 0
    assert f"(the log of {job} was on a head node that is gone)" in capsys.readouterr().out
    assert listed(capsys)[job]["status"] == "succeeded"


@pytest.mark.slow
def test_a_job_whose_head_was_killed_goes_on_with_a_new_head_to_the_same_result(use, head, place, capsys):
    undisturbed, out = place / "runs/undisturbed", place / "runs/disturbed"
    with head_node(WM_STORAGE=f"{place}/storage") as lost:
        use(lost)
        job = submitted(capsys, "train", "long.yaml", "--retries", "1", "--", "--out", str(out))
        wait_until(lambda: newest(out), "a checkpoint", WAIT_S)
        lost.kill()
    assert newest(out)["targets_seen"] < LONG
    found = listed(capsys)[job]
    assert found["status"] == "lost", (found, job_folder(job).events())
    use(head)
    resume = [sys.executable, "-m", "wm.cli", "jobs", "resume"]
    both = [subprocess.Popen(resume, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    printed = "".join(process.communicate(timeout=WAIT_S)[0] for process in both)
    assert printed.count(f"{job}: taken up as {job}.2") == 1, printed
    assert cluster_cli.logs([job, "--follow"]) == 0
    row = listed(capsys)[job]
    assert (row["status"], row["attempts"], row["ray_jobs"]) == ("succeeded", 2, [f"{job}.2"])
    assert cluster_cli.submit(["train", "long.yaml", "--no-preflight", "--", "--out", str(undisturbed)]) == 0
    assert last_evaluation(out) == last_evaluation(undisturbed)
    assert "resumed" in [event["kind"] for event in job_folder(job).events()]
