"""An evening on a cluster of three machines with a bucket between them, as `wm submit` runs it."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
from bucket_runs import NUM_UPDATES, TINY, UPDATE, BucketRun
from ray_machines import STORAGE, RayCluster, finish, wait_until

TRAINS = "^ray::.*TrainWorker"
TARGETS_OF_A_TRIAL = 2_560
TINY_SWEEP = (
    "--axes", '{"optimizer.learning_rate": [3e-3, 3e-5]}', "--asha.enabled", "false", "--base.precision", "fp32",
    "--base.split.test-fraction", "0", "--base.split.validation-fraction", "0.4",
    "--base.model.d-model", "32", "--base.model.headdim", "32", "--base.model.d-state", "16",
    "--base.model.num-layers", "1", "--base.objective.sequence-frames", "16", "--base.optimizer.batch-size", "8",
    "--base.optimizer.total-targets", str(TARGETS_OF_A_TRIAL), "--base.optimizer.warmup-targets", "128",
    "--base.eval.contexts", "1", "5", "--base.eval.validation-contexts", "[5]", "--base.eval.num-targets", "100",
    "--base.eval.validation-targets", "50", "--base.eval.every-targets", "1280", "--base.log-every-s", "0.2",
)  # fmt: skip
"""Overrides of the sweep `demo`: two trials of some seconds, judged on several games."""
pytestmark = [pytest.mark.xdist_group("cluster"), pytest.mark.slow]


def start_training(cluster: RayCluster, corpus: str, name: str) -> tuple[BucketRun, subprocess.Popen[str]]:
    """Submit a run of two workers that needs both nodes."""
    run = BucketRun(cluster.bucket, name)
    own = ["--train-corpus", corpus, "--out", run.out, "--num-workers", "2"]
    return run, cluster.submit("train", "demo", "--", *own, *TINY)


def test_replays_in_a_bucket_become_a_corpus_and_a_model_although_a_worker_dies(cluster, corpus):
    run, job = start_training(cluster, corpus, "short")
    wait_until(run.checkpoints, "a checkpoint", job)
    victims = [machine for machine in cluster.workers if machine.processes(TRAINS)]
    assert victims
    victims[0].kill(TRAINS)
    printed = finish(job)
    assert "SUCCEEDED" in printed
    run.result()
    assert run.targets_seen() == NUM_UPDATES * UPDATE
    assert run.num_starts() == 2
    assert [row["targets_seen"] for row in run.log() if row["kind"] == "eval"] == sorted(
        {row["targets_seen"] for row in run.log() if row["kind"] == "eval"}
    ), "each evaluation once"


def test_a_sweep_and_an_evaluation_run_on_the_cluster_with_everything_in_the_bucket(cluster, corpus, tmp_path):
    out = f"{STORAGE}/sweeps/rates"
    cluster.submit_and_wait("sweep", "demo", "--", "--base.train-corpus", corpus, "--out", out, *TINY_SWEEP)
    page = tmp_path / "choice.json"
    printed = " ".join(cluster.wm("choose-k", out, "--json", page).split())
    choice = json.loads(page.read_text())
    assert printed.startswith(" ".join(choice["reason"].split())), "the verdict comes first"
    assert re.match(r"K = (1|5) is (enough|needed):|Not decided:", choice["reason"]), choice["reason"]
    assert (choice["num_trials"], [row["K"] for row in choice["rows"]]) == (2, [1, 5])
    rows = map(json.loads, (cluster.bucket.read("sweeps/rates/results.jsonl") or b"").splitlines())
    stored = {
        (f"learning_rate={row['axes']['optimizer.learning_rate']:g}", row["context"]): row["change_acc"]
        for row in rows
        if row["targets_seen"] == TARGETS_OF_A_TRIAL
    }
    shown = {(cell["setting"], cell["context"]): cell["value"] for cell in choice["cells"]}
    assert shown == pytest.approx(stored) and len(stored) == 4, "two settings at two K"
    run, job = start_training(cluster, corpus, "evaluated")
    finish(job)
    printed = cluster.wm("eval", run.out, corpus, "--out", tmp_path / "evaluation")
    assert "val_loss" in printed or "change_acc" in printed
