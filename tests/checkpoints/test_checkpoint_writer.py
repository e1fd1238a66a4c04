"""Checkpoints written during training: complete or absent, never lost, and no failure ends a run."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from snapshots import CONFIG, failing, list_checkpoints, snapshot

from datasets.runtime.errors import UserError
from wm.checkpoints.files import CheckpointName
from wm.checkpoints.local_store import LocalStore
from wm.checkpoints.reader import load_model, load_resume, open_checkpoint, open_store
from wm.checkpoints.writer import CheckpointWriter
from wm.config.run_config import CheckpointConfig
from wm.model.world_model import build_model

KILLS = Path(__file__).parents[1] / "support" / "checkpoint_kills.py"


def stored(folder: Path) -> list[int]:
    """Targets seen by the checkpoints in a folder."""
    return [int(path.name.split("-")[1]) for path in list_checkpoints(folder)]


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Checkpoint writes wait until it is set."""
    gate = threading.Event()
    commit = LocalStore.commit

    def commit_later(store: LocalStore, name: CheckpointName, files: Iterable[tuple[str, bytes]]) -> int:
        assert gate.wait(60)
        return commit(store, name, files)

    monkeypatch.setattr(LocalStore, "commit", commit_later)
    yield gate
    gate.set()


def test_a_checkpoint_is_the_state_at_the_call_although_training_continues_at_once(tmp_path, gate):
    taken = snapshot(100)
    with CheckpointWriter(open_store(tmp_path), 2, failing) as writer:
        assert writer.save(taken)
        taken.model_state["weight"].zero_()
        taken.resume["optimizer"][0]["step"].zero_()
        taken.meta["targets_seen"] = 0
        gate.set()
    found, _ = open_store(tmp_path).newest_intact()
    assert found is not None
    assert found.meta["targets_seen"] == 100
    assert load_resume(found.path) == {
        "optimizer": {0: {"step": torch.tensor(100.0)}},
        "order": [1, (2.5, None, "x")],
    }
    assert torch.equal(load_file(found.path / "model.safetensors")["weight"], torch.full((8,), 100.0))


def test_a_checkpoint_is_skipped_counted_and_reported_once_while_the_previous_one_is_being_written(tmp_path, gate):
    reported: list[str] = []
    with CheckpointWriter(open_store(tmp_path), 5, reported.append) as writer:
        assert writer.save(snapshot(100))
        assert not writer.save(snapshot(200))
        assert not writer.save(snapshot(300))
        assert writer.num_skipped == 2
        assert writer.written is None
        assert not stored(tmp_path)
        gate.set()
        writer.wait()
        assert writer.save(snapshot(400))
    assert stored(tmp_path) == [100, 400]
    assert len(reported) == 1
    assert "still being written" in reported[0]


def test_a_waiting_save_is_written_after_the_running_one(tmp_path, gate):
    with CheckpointWriter(open_store(tmp_path), 5, failing) as writer:
        assert writer.save(snapshot(100))
        threading.Timer(0.2, gate.set).start()
        assert writer.save(snapshot(200), wait=True)
        assert writer.written is not None
        assert writer.written.targets_seen == 200
        assert stored(tmp_path) == [100, 200]


def test_a_state_with_tensors_of_other_shapes_is_written_as_well(tmp_path):
    with CheckpointWriter(open_store(tmp_path), 9, failing) as writer:
        for number, num_numbers in enumerate((8, 3, 0, 8)):
            writer.save(snapshot(number, num_numbers=num_numbers), wait=True)
    for number, path in enumerate(list_checkpoints(tmp_path)):
        assert load_resume(path)["optimizer"][0]["step"] == number


def test_a_real_network_is_opened_as_it_was_saved(tmp_path):
    torch.manual_seed(1)
    model = build_model(CONFIG.model, 10)
    taken = snapshot(100)
    taken.model_state.clear()
    taken.model_state.update(model.state_dict())
    with CheckpointWriter(open_store(tmp_path), 1, failing) as writer:
        writer.save(taken)
    loaded = load_model(open_checkpoint(tmp_path)).state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded[name])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_a_checkpoint_is_the_state_at_the_call_and_the_host_does_not_wait(tmp_path):
    taken = snapshot(100, num_numbers=50_000_000)
    busy = torch.randn(8_192, 8_192, device="cuda")
    with CheckpointWriter(open_store(tmp_path), 1, failing) as writer:
        for targets_seen in (100, 200):
            weight = torch.full((50_000_000,), float(targets_seen), device="cuda")
            taken.model_state["weight"], taken.meta["targets_seen"] = weight, targets_seen
            for _ in range(50):
                busy = busy @ busy / 100
            writer.save(taken)
            assert not torch.cuda.current_stream().query()  # the work queued before still runs
            weight.zero_()
            writer.wait()
            (path,) = list_checkpoints(tmp_path)
            assert bool((load_file(path / "model.safetensors")["weight"] == targets_seen).all())
            assert open_store(tmp_path).newest_intact()[1] == []


@pytest.mark.parametrize("value", [Path("x"), {1, 2}, object(), CONFIG])
def test_values_that_need_pickled_code_are_refused_at_the_call(tmp_path, value):
    taken = snapshot(100)
    taken.resume["more"] = {"deep": [value]}
    with CheckpointWriter(open_store(tmp_path), 1, failing) as writer:
        with pytest.raises(TypeError, match=r"resume.*more.*deep.*expected tensors and plain values"):
            writer.save(taken)
        assert writer.save(snapshot(200), wait=True)
    assert stored(tmp_path) == [200]


def test_a_save_blocks_training_for_less_than_a_hundredth_of_the_time_between_checkpoints(tmp_path):
    taken = snapshot(1, num_numbers=4_300_000)
    moments = {"exp_avg": torch.zeros(4_300_000), "exp_avg_sq": torch.zeros(4_300_000)}
    taken.resume["optimizer"][0] |= moments
    with CheckpointWriter(open_store(tmp_path), 1, failing) as writer:
        writer.save(taken)
        first = writer.blocked_s
        writer.wait()
        assert writer.written is not None
        path = tmp_path / str(writer.written)
        assert sum(file.stat().st_size for file in path.iterdir()) > 51_000_000  # as much as the medium model's
        assert writer.blocked_s == first < 0.01 * CheckpointConfig().every_s


def test_the_newest_and_the_best_are_kept(tmp_path):
    kept = []
    with CheckpointWriter(open_store(tmp_path), 2, failing) as writer:
        for targets_seen, change_acc in ((1, 0.1), (2, 0.2), (3, 0.8), (4, 0.3), (5, 0.4), (6, 0.5), (7, 0.1)):
            writer.save(snapshot(targets_seen, change_acc=change_acc), wait=True)
            kept.append(stored(tmp_path))
    assert kept == [[1], [1, 2], [2, 3], [3, 4], [3, 4, 5], [3, 5, 6], [3, 6, 7]]


def test_a_new_writer_keeps_what_the_previous_one_would_have_kept(tmp_path):
    for targets_seen, change_acc in ((1, 0.5), (2, 0.9), (3, 0.4), (4, 0.3)):
        with CheckpointWriter(open_store(tmp_path), 1, failing) as writer:
            writer.save(snapshot(targets_seen, change_acc=change_acc), wait=True)
    assert stored(tmp_path) == [2, 4]


def test_damaged_checkpoints_do_not_count_among_the_newest(tmp_path):
    with CheckpointWriter(open_store(tmp_path), 2, failing) as writer:
        for targets_seen in (1, 2, 3):
            writer.save(snapshot(targets_seen), wait=True)
    (tmp_path / "targets-000000000003" / "resume.pt").write_bytes(b"")
    with CheckpointWriter(open_store(tmp_path), 2, failing) as writer:
        writer.save(snapshot(4), wait=True)
        assert stored(tmp_path) == [2, 4]


def test_a_damaged_newer_checkpoint_costs_no_intact_one(tmp_path):
    with CheckpointWriter(open_store(tmp_path), 1, failing) as writer:
        writer.save(snapshot(9), wait=True)
    (tmp_path / "targets-000000000009" / "resume.pt").write_bytes(b"")
    with CheckpointWriter(open_store(tmp_path), 1, failing) as writer:
        for targets_seen in (5, 6, 9):
            writer.save(snapshot(targets_seen), wait=True)
            found, _ = open_store(tmp_path).newest_intact()
            assert found is not None
            assert found.meta["targets_seen"] == targets_seen
    assert [path.name for path in list_checkpoints(tmp_path)] == ["targets-000000000009-1"]


def test_checkpoints_of_another_version_are_left_alone(tmp_path):
    other = tmp_path / "targets-000000000001"
    other.mkdir()
    (other / "meta.json").write_text('{"checkpoint_version": 1, "encoding_version": 1}')
    with CheckpointWriter(open_store(tmp_path), 1, failing) as writer:
        for targets_seen in (2, 3):
            writer.save(snapshot(targets_seen), wait=True)
    assert stored(tmp_path) == [1, 3]


def test_a_run_that_rolled_back_cannot_resume_from_later_checkpoints(tmp_path):
    with CheckpointWriter(open_store(tmp_path), 9, failing) as writer:
        for targets_seen in (1, 2, 3):
            writer.save(snapshot(targets_seen))
            writer.wait()
        writer.drop_after(1)
        assert stored(tmp_path) == [1]


def test_temporary_files_of_a_killed_writer_are_deleted_by_the_next_one(tmp_path):
    leftover = tmp_path / ".targets-000000000007.4711"
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half")
    with CheckpointWriter(open_store(tmp_path), 1, failing) as writer:
        writer.save(snapshot(8), wait=True)
    assert [path.name for path in tmp_path.iterdir()] == ["targets-000000000008"]


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_writer_killed_at_any_moment_leaves_every_acknowledged_checkpoint(tmp_path, scheme):
    location = f"{scheme}{tmp_path}/store"
    done = subprocess.run(
        [sys.executable, KILLS, location, "--kills", "20", "--seed", "3"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "20 kills, each left an intact checkpoint" in done.stdout


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """No file can grow beyond some bytes: a write fails half-way, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_write_that_fails_half_way_is_reported_once_and_leaves_nothing_and_the_next_one_is_tried(tmp_path):
    reported: list[str] = []
    with CheckpointWriter(open_store(tmp_path), 1, reported.append) as writer:
        writer.save(snapshot(100), wait=True)
        with largest_file(100_000):
            for targets_seen in (200, 300):
                assert writer.save(snapshot(targets_seen, num_numbers=100_000))
                writer.wait()
        assert writer.num_failed == 2
        assert [path.name for path in tmp_path.iterdir()] == ["targets-000000000100"]
        writer.save(snapshot(400, num_numbers=100_000))
    assert stored(tmp_path) == [400]
    assert len(reported) == 1
    assert f"cannot be written to {tmp_path}" in reported[0]
    assert os.strerror(errno.EFBIG) in reported[0]
    assert "training continues" in reported[0]


def test_a_failed_write_at_the_end_of_a_run_is_one_line_and_older_checkpoints_remain(tmp_path):
    with CheckpointWriter(open_store(tmp_path), 1, lambda _: None) as writer:
        writer.save(snapshot(100), wait=True)
        with largest_file(100_000), pytest.raises(UserError, match="at 200 targets could not be written") as refused:
            writer.save(snapshot(200, num_numbers=100_000), wait=True)
    assert "\n" not in str(refused.value)
    assert "targets-000000000100" in str(refused.value)
    assert "run the same command again" in str(refused.value)
    found, damaged = open_store(tmp_path).newest_intact()
    assert found is not None
    assert (found.meta["targets_seen"], damaged) == (100, [])


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare, to mount a small disk")
def test_on_a_full_disk_the_run_continues_and_the_older_checkpoint_remains(tmp_path):
    script = """
import sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from snapshots import snapshot
from wm.checkpoints.reader import open_store
from wm.checkpoints.writer import CheckpointWriter
reported = []
with CheckpointWriter(open_store(sys.argv[1]), 1, reported.append) as writer:
    writer.save(snapshot(100), wait=True)
    writer.save(snapshot(200, num_numbers=2_000_000))
    writer.wait()
    assert writer.num_failed == 1
    assert "No space left on device" in reported[0] and "free space" in reported[0], reported
    assert [path.name for path in Path(sys.argv[1]).iterdir()] == ["targets-000000000100"]
    writer.save(snapshot(300), wait=True)
print(open_store(sys.argv[1]).newest_intact()[0].meta["targets_seen"])
"""
    mount = (
        f"mount -t tmpfs -o size=1m none {tmp_path} && exec {sys.executable} -c '{script}' {tmp_path} {KILLS.parent}"
    )
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", mount]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=KILLS.parents[2])
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"cannot mount a small disk: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "300"


def test_a_missing_folder_or_a_file_in_its_place_does_not_end_a_run(tmp_path):
    folder = tmp_path / "store"
    reported: list[str] = []
    with CheckpointWriter(open_store(folder), 1, reported.append) as writer:
        writer.save(snapshot(100), wait=True)
        shutil.rmtree(folder)
        writer.save(snapshot(200), wait=True)
        shutil.rmtree(folder)
        folder.write_text("")
        writer.save(snapshot(300))
        writer.wait()
        assert writer.num_failed == 1
        folder.unlink()
        writer.save(snapshot(400), wait=True)
    assert stored(folder) == [400]
    assert len(reported) == 1


def test_a_store_that_cannot_be_written_to_is_an_error_before_the_run_starts(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"checkpoints cannot be written to .*file/store"):
        CheckpointWriter(open_store(tmp_path / "file" / "store"), 1, failing)
    with pytest.raises(UserError, match="unsupported URI scheme"):
        CheckpointWriter(open_store("foo://bucket/run"), 1, failing)


def test_a_failing_log_does_not_end_the_writer(tmp_path, capsys):
    with CheckpointWriter(open_store(tmp_path / "store"), 1, failing) as writer:
        shutil.rmtree(tmp_path / "store")
        (tmp_path / "store").write_text("")
        writer.save(snapshot(100))
        writer.wait()
        (tmp_path / "store").unlink()
        writer.save(snapshot(200), wait=True)
    assert stored(tmp_path / "store") == [200]
    assert "it could not be logged" in capsys.readouterr().err
