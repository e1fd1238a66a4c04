"""`wm preflight` on a real cluster of three nodes with a bucket: all green, and each red made to happen."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml
from loopback_cluster import LoopbackCluster, loopback_cluster
from object_stores import S3Server, s3_server
from tiny_runs import tiny_run

from datasets.corpus.transfer.copy import copy_corpus
from datasets.runtime.version import DISTRIBUTION
from wm.config.run_config import RunConfig
from wm.config.typed_yaml import to_plain

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Setting:
    cluster: LoopbackCluster
    store: S3Server
    corpus: Path
    """On a disk; in the bucket it is at `corpus`."""


@pytest.fixture(scope="module")
def setting(tiny_corpus: Path) -> Iterator[Setting]:
    """A head without CPUs, two workers, and a bucket with the corpus."""
    with s3_server() as store, loopback_cluster() as cluster:
        copy_corpus(tiny_corpus, store.uri("corpus"))
        cluster.add_node()
        cluster.add_node()
        yield Setting(cluster=cluster, store=store, corpus=tiny_corpus)


@pytest.fixture
def config(setting: Setting, tmp_path: Path) -> RunConfig:
    """A run of two workers, all of it in the bucket."""
    config = tiny_run(setting.corpus, tmp_path / "run")
    return replace(
        config,
        train_corpus=setting.store.uri("corpus"),
        out=setting.store.uri("run"),
        num_workers=2,
        num_threads=1,
        compile="never",
        checkpoint=replace(config.checkpoint, keep_last=2),
        data=replace(config.data, disk_cache=tmp_path / "cache"),
    )


def run_preflight(
    setting: Setting, config: RunConfig, folder: Path, *options: str
) -> tuple[int, list[dict[str, str]], str]:
    """Exit code, checks and text of the command on the head."""
    file, result = folder / "run.yaml", folder / "checks.json"
    file.write_text(yaml.safe_dump(to_plain(config)))
    result.unlink(missing_ok=True)
    done = setting.cluster.run(
        sys.executable, "-m", "wm.cli", "preflight", str(file), "--json", str(result), *options, check=False
    )
    text = done.stdout + done.stderr
    assert result.exists(), text
    return done.returncode, json.loads(result.read_text())["checks"], text


def states(checks: list[dict[str, str]], state: str) -> list[str]:
    return [f"{one['name']}: {one['found']}" for one in checks if one["state"] == state]


def named(checks: list[dict[str, str]], name: str) -> list[dict[str, str]]:
    return [check for check in checks if check["name"] == name]


def test_a_sound_cluster_is_green_and_nothing_is_left_behind(setting, config, tmp_path):
    code, checks, text = run_preflight(setting, config, tmp_path)
    assert not states(checks, "red") and code == 0, text
    amber = {check["name"] for check in checks if check["state"] == "amber"}
    assert amber <= {"disk of Ray's session", "disk for the cache", "time-outs and limits"}, text
    for name, number in (("versions", 3), ("clock", 3), ("storage, written", 3), ("corpus, read", 3), ("device", 2),
                         ("all-reduce", 1), ("update", 2), ("checkpoint", 1), ("corpus", 1), ("games", 1)):  # fmt: skip
        assert len(named(checks, name)) == number, (name, text)
    assert "hidden" not in text
    assert not setting.store.keys("run")


def test_a_damaged_shard_is_red(setting, config, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(setting.corpus, broken)
    shard = next((broken / "frames").iterdir())
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 0xFF
    shard.write_bytes(content)
    code, checks, text = run_preflight(setting, replace(config, train_corpus=broken), tmp_path)
    assert code == 1 and any("checksum mismatch" in one for one in states(checks, "red")), text
    assert "not tried" in named(checks, "rehearsal")[0]["found"]


def test_a_bucket_that_refuses_is_red_on_every_node(setting, config, tmp_path):
    elsewhere = replace(config, out=setting.store.uri("x").replace("bucket", "none"))
    code, checks, text = run_preflight(setting, elsewhere, tmp_path)
    refused = [check for check in named(checks, "storage, written") if check["state"] == "red"]
    assert code == 1 and len(refused) == 3 and "there is no bucket" in refused[0]["found"], text


def test_a_batch_that_is_far_too_large_and_gpus_that_do_not_exist_are_red(setting, config, tmp_path):
    """1,500 sequences need about 2 MB for each of 17 frames in this network, more than the machine has."""
    huge = replace(
        config,
        model=replace(config.model, d_model=512, num_layers=24),
        optimizer=replace(config.optimizer, batch_size=1_500),
    )
    code, checks, text = run_preflight(setting, huge, tmp_path)
    assert code == 1 and "use optimizer.micro_batch_size below" in named(checks, "rehearsal")[0]["found"], text

    gpus = replace(config, use_gpu=True)
    code, checks, text = run_preflight(setting, gpus, tmp_path, "--machines-minutes", "0.05")
    assert code == 1 and "did not come within 0.05 minutes" in named(checks, "machines")[0]["found"], text
    assert "ray status" in text


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=False).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_red(setting, config, tmp_path):
    with small_disk(tmp_path / "small", "64k") as disk:
        full = replace(config, data=replace(config.data, disk_cache=disk / "cache"), out=disk / "run")
        code, checks, text = run_preflight(setting, full, tmp_path)
    red = {check["name"] for check in checks if check["state"] == "red"}
    assert code == 1 and {"disk for the cache", "disk for checkpoints", "storage, written"} <= red, text


def test_a_node_with_another_version_is_red(setting, config, tmp_path):
    other = tmp_path / "site"
    info = other / f"{DISTRIBUTION.replace('-', '_')}-0.0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {DISTRIBUTION}\nVersion: 0.0.1\n")
    path = f"{other}:{setting.cluster.environment['PYTHONPATH']}"
    node = setting.cluster.add_node(0, env={"PYTHONPATH": path, "NCCL_P2P_DISABLE": "1"})
    try:
        code, checks, text = run_preflight(setting, config, tmp_path)
    finally:
        node.kill()
    (different,) = [check for check in named(checks, "versions") if check["state"] == "red"]
    assert code == 1 and different["found"] == f"{DISTRIBUTION} 0.0.1" and different["node"] == node.address, text
    assert "NCCL_P2P_DISABLE=1" in text
