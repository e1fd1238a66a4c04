"""A job's folder, on a disk and in a bucket."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from object_stores import S3Server, s3_server

from cluster.card.job_folder import JobFolder, JobState, all_job_folders, job_folder, jobs_location
from cluster.card.run_card import RunCard
from datasets.runtime.errors import UserError
from datasets.runtime.storage import lease
from wm.config.typed_yaml import from_plain

CARD = RunCard(job="train-demo-1", verb="train", config="demo", created=datetime(2030, 1, 31, tzinfo=UTC))


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture(params=["disk", "bucket"])
def storage(request, tmp_path) -> str:
    """WM_STORAGE of a test."""
    if request.param == "disk":
        return str(tmp_path / "storage")
    return request.getfixturevalue("server").uri(request.node.name)


@pytest.fixture
def code(tmp_path) -> Path:
    """A working directory on the cluster."""
    (tmp_path / "code/wm/__pycache__").mkdir(parents=True)
    (tmp_path / "code/wm/cli.py").write_text("x")
    (tmp_path / "code/wm/__pycache__/cli.pyc").write_text("y")
    return tmp_path / "code"


@contextmanager
def held_elsewhere(folder: JobFolder) -> Iterator[None]:
    """Another process holds the lease; it is killed in the end."""
    code = "import sys, time; from cluster.card.job_folder import JobFolder; folder = JobFolder(sys.argv[1])\n"
    code += "folder.hold(); print('held', flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code, folder.uri], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process, process.stdout:
        try:
            assert process.stdout.readline() == "held\n"
            yield
        finally:
            process.kill()


def test_a_job_is_found_again_with_its_card_code_state_and_events(storage, code, tmp_path):
    folder = job_folder(CARD.job, storage)
    assert list(all_job_folders(storage)) == []
    folder.create(CARD, code)
    folder.create(CARD, code)
    assert folder.read_state() is None
    assert folder.events() == []
    written = folder.write_state(JobState(status="running", attempt=2, targets=128, submitted=CARD.created))
    folder.add_event("started", attempt=1)
    folder.add_event("died", exit_code=-9)
    (found,) = all_job_folders(storage)
    assert (found.job, found.read_card(), found.read_state()) == (CARD.job, CARD, written)
    assert written.updated is not None and not written.is_final
    found.add_event("started", attempt=2)
    rows = [(row["kind"], row.get("attempt")) for row in folder.events()]
    assert rows == [("started", 1), ("died", None), ("started", 2)]
    found.files.download("working_dir.zip", tmp_path / "got.zip")
    assert zipfile.ZipFile(tmp_path / "got.zip").namelist() == ["wm/cli.py"]
    assert "hidden" not in found.location


@pytest.fixture
def short_leases(monkeypatch):
    monkeypatch.setattr(lease, "LEASE_SECONDS", 3.0)


def test_a_job_takes_the_place_of_an_earlier_one_of_the_same_run_unless_that_is_held(storage, code, short_leases):
    earlier, later = job_folder(CARD.job, storage), job_folder(CARD.job, storage)
    earlier.create(CARD, code)
    earlier.write_state(JobState(status="failed", attempt=4))
    earlier.add_event("died")
    earlier.request_stop("now")
    assert later.stop_requested() == "now"
    again = replace(CARD, arguments=("--seed", "2"))
    with held_elsewhere(earlier), pytest.raises(UserError, match="runs already"):
        later.create(again, code)
    with later.hold():
        later.create(again, code)
    assert (later.read_card(), later.read_state(), later.events(), later.stop_requested()) == (again, None, [], None)
    later.request_stop("save")
    assert earlier.stop_requested() == "save"


def test_a_damaged_state_and_a_missing_card_are_named(storage):
    folder = job_folder("none", storage)
    with pytest.raises(UserError, match=r"none/card.json does not exist"):
        folder.read_card()
    for content, message in [
        (b"{", "is damaged"),
        (b"[]", "is damaged"),
        (b'{"state_version": 2, "status": "running"}', "state_version 2; expected 1"),
        (b'{"state_version": 1, "status": "lost"}', "status: found 'lost'"),
    ]:
        folder.files.replace("state.json", content)
        with pytest.raises(UserError, match=message):
            folder.read_state()


def test_a_job_is_held_by_one_process_at_a_time(storage, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.2)
    folder = job_folder(CARD.job, storage)
    assert not folder.is_held()
    code = f"from cluster.card.job_folder import JobFolder; JobFolder({folder.uri!r}).hold(); print()"
    with folder.hold():
        assert folder.is_held()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "already watched by another process" in done.stderr
    assert not folder.is_held()
    folder.hold().close()


def test_the_lease_of_a_killed_process_is_taken_over(storage, short_leases):
    folder = job_folder(CARD.job, storage)
    with held_elsewhere(folder):
        assert folder.is_held()
    with folder.hold():
        assert folder.is_held()


def test_storage_is_a_uri_or_an_absolute_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WM_STORAGE", raising=False)
    assert jobs_location() == str(tmp_path / ".wm/jobs")
    monkeypatch.setenv("WM_STORAGE", "s3://b/f?endpoint_override=h:1")
    assert job_folder("x").uri == "s3://b/f/jobs/x?endpoint_override=h:1"
    for wrong in ("melee", "s3:/b/f", "http://b/f"):
        monkeypatch.setenv("WM_STORAGE", wrong)
        with pytest.raises(UserError, match="WM_STORAGE: found"):
            jobs_location()


def test_a_states_keys_are_strict():
    with pytest.raises(UserError, match="unknown key atempt; did you mean attempt"):
        from_plain({"status": "running", "atempt": 1}, JobState, "state.json")
    assert JobFolder("/x/jobs/y").job == "y"
