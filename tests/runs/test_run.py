"""A run's folder: who owns it, and what it records about config, data, environment and throughput."""

from __future__ import annotations

import getpass
import json
import platform
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from datasets.corpus.reader import open_corpus
from datasets.corpus.state import dump_json
from datasets.runtime.errors import UserError
from wm.config.run_config import CheckpointConfig, EvalConfig, RunConfig
from wm.config.typed_yaml import load_yaml
from wm.data.training_data import open_data
from wm.runs.environment import code_version, command_line, environment
from wm.runs.run import Run
from wm.runs.run_files import LocalRunFiles, Lock


@pytest.fixture
def config(tiny_corpus, tmp_path) -> RunConfig:
    return RunConfig(train_corpus=tiny_corpus, out=tmp_path / "run")


def test_wm_train_accepts_the_config_in_the_folder(config, tmp_path):
    config = replace(
        config,
        checkpoint=CheckpointConfig(every_s=1e-5, storage_path="s3://bucket/run"),
        eval=EvalConfig(contexts=(1, 60)),
    )
    run = Run(config)
    run.claim()
    run.describe(open_data(config), ["wm", "train"])
    again = load_yaml(config.out / "config.yaml", RunConfig)
    assert again == config
    Run(again).claim()
    with pytest.raises(UserError, match="seed is 0 there, 1 here"):
        Run(load_yaml(config.out / "config.yaml", RunConfig, ["--seed", "1"])).claim()


def test_the_folder_identifies_the_data_by_content(config, tmp_path):
    run, data = Run(config), open_data(config)
    run.claim()
    run.describe(data, ["wm", "train"])
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
            manifest.pop("checksum")
            (copy / "corpus.json").write_bytes(dump_json(manifest | {"options": {"other": 1}}))
        run.describe(replace(data, train=replace(data.train, corpus=open_corpus(copy))), ["wm", "train"])
        found = json.loads((config.out / "data.json").read_text())["train"]
        assert (found["manifest"] == facts["train"]["manifest"]) is not changed
        assert found["game_ids"] == facts["train"]["game_ids"]


def test_the_environment_records_commands_starts_code_and_machine(config):
    run, data = Run(config), open_data(config)
    run.claim()
    home = str(Path.home())
    for number in (1, 2):
        command = [f"{home}/bin/wm", "train", f"{home}/a.yaml", f"--out={home}/run", "--seed", str(number)]
        run.describe(data, command)
        run.record_environment(resumed_at=1_000 * (number - 1))
    text = (config.out / "environment.json").read_text()
    recorded = json.loads(text)
    assert [entry["command"] for entry in recorded["commands"]] == [
        f"wm train '~/a.yaml' '--out=~/run' --seed {number}" for number in (1, 2)
    ]
    assert [entry["resumed_at"] for entry in recorded["attempts"]] == [0, 1_000]
    assert all(entry["started"].endswith("Z") for entry in recorded["commands"] + recorded["attempts"])
    assert recorded["software"]["python"] == platform.python_version()
    assert {"torch", "ray", "numpy", "mamba-ssm", "triton"} <= recorded["software"].keys()
    assert recorded["machine"]["cores"] >= 1 and recorded["machine"]["memory_bytes"] > 1e8
    for private in (home, platform.node(), getpass.getuser()):
        assert len(private) < 4 or private not in text
    assert home not in text


def test_a_full_disk_prevents_no_attempt(tmp_path, capsys):
    Run(RunConfig(out=tmp_path / "gone")).record_environment(resumed_at=0)
    assert "environment.json cannot be written" in capsys.readouterr().err
    (tmp_path / "environment.json").write_text("{half")
    Run(RunConfig(out=tmp_path)).record_environment(resumed_at=5)
    assert json.loads((tmp_path / "environment.json").read_text())["attempts"][0]["resumed_at"] == 5


def test_a_command_is_shown_without_credentials():
    words = ["wm", "train", "x.yaml", "--checkpoint.storage_path", "s3://KEY:SECRET@bucket/run"]
    assert command_line(words) == "wm train x.yaml --checkpoint.storage_path s3://bucket/run"
    assert command_line(["/somewhere/wm/__main__.py", "train"]) == "wm train"


def test_code_is_identified_by_its_revision_or_version(tmp_path):
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
    (tmp_path / "letter.txt").write_text("not code")
    assert code_version(tmp_path) == clean
    (tmp_path / "wm" / "b.py").write_text("2")
    assert code_version(tmp_path) == clean | {"dirty": True}
    assert environment().keys() == {"code", "software", "machine"}


def test_the_profile_is_complete_at_every_moment(tmp_path):
    run, is_over = Run(RunConfig(out=tmp_path)), threading.Event()
    broken: list[object] = []

    def read() -> None:
        while not is_over.is_set():
            text = (tmp_path / "profile.json").read_text()
            if not text.endswith("}"):
                broken.append(text)

    run.write_profile({"device": "cpu", "targets_per_s": 0.0})
    reader = threading.Thread(target=read)
    reader.start()
    for number in range(300):
        run.write_profile({"device": "cpu", "targets_per_s": float(number)})
    is_over.set()
    reader.join()
    assert not broken
    profile = json.loads((tmp_path / "profile.json").read_text())
    assert profile == {"profile_version": 2, "device": "cpu", "targets_per_s": 299.0}
    Run(RunConfig(out=tmp_path / "gone")).write_profile({"device": "cpu"})
    assert not (tmp_path / "gone").exists()


def test_checkpoints_are_in_the_folder_or_where_the_config_says(config, tmp_path):
    assert Run(config).checkpoints.location == str(config.out / "checkpoints")
    elsewhere = replace(config, checkpoint=CheckpointConfig(storage_path=f"file://{tmp_path}/elsewhere"))
    assert Run(elsewhere).checkpoints.location == f"file://{tmp_path}/elsewhere"


def test_a_folder_in_which_a_kill_or_a_full_disk_cut_off_the_claim_can_be_claimed(config):
    config.out.mkdir()
    (config.out / ".run.json.1").touch()
    Run(config).stop_request.clear()  # as a sweep does in the folders of its trials
    Run(config).claim()
    assert (config.out / "run.json").exists()


HOLDER = """
import sys, time
from pathlib import Path
from wm.config.run_config import RunConfig
from wm.runs.run import Run
with getattr(Run(RunConfig(out=Path(sys.argv[1]))), sys.argv[2])(*sys.argv[4:]):
    print("locked", flush=True)
    time.sleep(float(sys.argv[3]))
"""


def holder(folder: Path, lock: str, seconds: float, *arguments: str) -> subprocess.Popen[str]:
    """A process that holds a lock of a run for some seconds."""
    command = [sys.executable, "-c", HOLDER, str(folder), lock, str(seconds), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "locked\n"
    return process


def test_two_drivers_do_not_train_in_one_folder(tmp_path):
    with holder(tmp_path, "lock", 60) as other:
        try:
            with pytest.raises(UserError, match="another process is training"):
                Run(RunConfig(out=tmp_path)).lock()
        finally:
            other.kill()


def test_rank_0_waits_for_the_workers_of_a_killed_driver_to_end(tmp_path, monkeypatch):
    lock, refusals = LocalRunFiles.lock, []
    with holder(tmp_path, "lock_as_rank_0", 600, "first") as other:

        def lock_or_end_the_other(files: LocalRunFiles, *arguments: str) -> Lock:
            try:
                return lock(files, *arguments)
            except UserError as refused:
                refusals.append(str(refused))
                other.kill()
                raise

        monkeypatch.setattr(LocalRunFiles, "lock", lock_or_end_the_other)
        try:
            Run(RunConfig(out=tmp_path)).lock_as_rank_0("second").close()
            assert refusals and "workers of an earlier command still train" in refusals[0]
        finally:
            other.kill()
