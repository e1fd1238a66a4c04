"""The benchmarks of training at tiny sizes: that they run, count what they say they count, and notice what is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from datasets.corpus.reader import open_corpus
from datasets.loading.frames import GameIndex, index_games, read_games
from datasets.loading.sequences import gather
from datasets.runtime.errors import UserError
from datasets.schema.splits import SplitConfig
from wm.config.run_config import ObjectiveConfig, RunConfig
from wm.config.shipped import SHIPPED_CONFIGS
from wm.config.typed_yaml import load_yaml
from wm.data.synthetic_batch import synthetic_batch
from wm.model.encoding import to_frames
from wm.model.heads import DELTAS, VELOCITIES, feature_scales
from wm.model.ops import ssd
from wm.model.world_model import build_model
from wm.objective.losses import ground_truth

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "benchmarks"))

import ray_overhead  # noqa: E402
import time_to_quality  # noqa: E402
import train_step  # noqa: E402
from ablations import ablation  # noqa: E402
from gpu import gpu_correctness  # noqa: E402
from measures import host_traffic, results_file, step_cases, validation  # noqa: E402
from measures.ablation_runs import COHERENCE, Cell, config_of  # noqa: E402
from measures.flops import flops_per_target  # noqa: E402
from older_system import networks as older_networks  # noqa: E402
from older_system import recipe as older_recipe  # noqa: E402

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def games(tiny_corpus) -> GameIndex:
    """All synthetic games."""
    return index_games(open_corpus(tiny_corpus), "all", SplitConfig())


def shipped(name: str) -> RunConfig:
    return load_yaml(SHIPPED_CONFIGS / f"{name}.yaml", RunConfig)


def counted_flops(config: RunConfig, batch: int) -> float:
    """Operations of the matrix products of forward and backward for a target, as torch counts them."""
    model = build_model(config.model, config.objective.context_frames)
    frames = synthetic_batch(config, batch, CPU).frames
    with FlopCounterMode(display=False) as counter:
        prediction = model(frames, last_only=config.objective.kind == "window")
        (prediction.deltas.sum() + prediction.categories["action"].sum()).backward()
    return counter.get_total_flops() / batch / config.objective.predictions


def test_operations_of_the_mlp_are_those_that_torch_counts():
    assert flops_per_target(shipped("mlp")) == pytest.approx(counted_flops(shipped("mlp"), 3), rel=1e-6)


@pytest.mark.parametrize("objective", ["sequence", "window"])
def test_operations_of_mamba_2_are_nearly_those_that_torch_counts(objective):
    """Torch counts the masked half of the scan, which is waste, and no depthwise convolution: each about 2 %."""
    medium = shipped("mamba2-medium")
    config = replace(
        medium, objective=ObjectiveConfig(kind=objective), model=replace(medium.model, scan_backend="torch")
    )
    assert flops_per_target(config) == pytest.approx(counted_flops(config, 2), rel=0.05)


def test_every_read_of_a_value_is_counted():
    value = torch.ones(3)

    def work() -> None:
        value.sum().item()
        bool(value[0] > 0)

    assert host_traffic.measure_traffic(work, CPU).scalar_reads == 2


def test_waits_count_within_the_work_and_bytes_by_direction():
    def event(name: str, at: float, category: str = "cuda_runtime", **args: int) -> dict:
        return {"name": name, "ts": at, "dur": 1.0, "cat": category, "args": args}

    events = [
        event(host_traffic.MARK, 10.0, "user_annotation") | {"dur": 10.0},
        event("cudaStreamSynchronize", 12.0),
        event("cudaMemcpyAsync", 13.0),
        event("cudaDeviceSynchronize", 25.0),
        event("Memcpy HtoD (Pinned -> Device)", 13.0, "gpu_memcpy", bytes=300),
        event("Memcpy DtoH (Device -> Pageable)", 14.0, "gpu_memcpy", bytes=8),
        event("Memcpy DtoD (Device -> Device)", 14.0, "gpu_memcpy", bytes=1_000),
    ]
    assert host_traffic.count_events(events) == (300.0, 8.0, 1)


def test_a_mamba_2_sees_as_many_frames_in_windows_as_in_sequences():
    medium = step_cases.plain_config("mamba2-medium")
    window = replace(medium, objective=replace(medium.objective, kind="window"))
    frames = [
        step_cases.batch_of("mamba2-medium", config, CPU, None) * (config.objective.example_frames - 1)
        for config in (medium, window)
    ]
    assert frames[1] == pytest.approx(frames[0], rel=0.02)


def test_the_references_networks_have_the_older_systems_sizes():
    sizes = [
        sum(parameter.numel() for parameter in network.parameters()) / 1e6
        for network in (older_networks.OlderMamba2(), older_networks.OlderMLP(10))
    ]
    assert sizes == [pytest.approx(4.3, abs=0.05), pytest.approx(1.43, abs=0.01)]


def test_the_references_scan_is_ours():
    x, b, c = torch.randn(2, 10, 3, 8), torch.randn(2, 10, 4), torch.randn(2, 10, 4)
    dt, a = torch.rand(2, 10, 3), -torch.rand(3)
    torch.testing.assert_close(older_networks.quadratic_scan(x, dt, a, b, c), ssd.scan(x, dt, a, b, c)[0])


def test_a_training_sample_of_the_reference_is_what_the_judge_shows_it(games):
    game, start, context = 1, 700, 10
    dataset = older_recipe.WindowDataset(games, context)
    sample = dataset[int(games.num_frames[0]) - context + start]
    batch = gather(read_games(games, [game]), games.facts[[game]], torch.tensor([start]).numpy(), context + 1)
    frames = to_frames(batch)
    shown = older_recipe.normalised(frames)
    for name in ("numbers", "indices"):
        assert torch.equal(sample[name], shown[name][0, :-1])
    assert torch.equal(sample["controllers"], shown["controllers"][0])
    truth = ground_truth(frames.slice(context - 1, context), frames.slice(context, context + 1))
    names = (*DELTAS, *VELOCITIES)
    moved = torch.cat([truth.deltas, truth.velocities], dim=-1)[0, 0] * feature_scales(names, CPU)
    torch.testing.assert_close(sample["true_numbers"][:, : len(names)], moved, atol=1e-5, rtol=1e-4)


def test_a_reference_that_knows_the_truth_has_no_position_error(games):
    class Knowing(torch.nn.Module):
        """Says the deltas that it is given."""

        deltas = torch.zeros(1, 2, 4)

        def forward(self, window: older_recipe.Window) -> torch.Tensor:
            outputs = torch.zeros(1, 2, older_networks.NUM_OUTPUTS)
            outputs[..., :4] = self.deltas
            return outputs

    frames = to_frames(gather(read_games(games, [0]), games.facts[[0]], torch.tensor([900]).numpy(), 11))
    truth = ground_truth(frames.slice(9, 10), frames.slice(10, 11))
    reference = Knowing()
    reference.deltas = truth.deltas[:, 0] * feature_scales(DELTAS, CPU)
    predicted = older_recipe.EvaluationAdapter(reference, 10)(frames)
    torch.testing.assert_close(predicted.deltas, truth.deltas)


@pytest.mark.parametrize("kind", ["mamba2", "mlp"])
def test_the_reference_learns(games, kind):
    reference = older_recipe.OlderRecipe(games, kind, batch_size=32, d_model=64, num_layers=1)
    batch = next(iter(reference._loader))
    losses = []
    for _ in range(25):
        reference.step(batch)
        losses.append(reference.metrics["loss"])
    assert losses[-1] < 0.8 * losses[0]
    assert len(reference.metrics) == 15
    assert reference.targets_seen == 25 * 32
    assert reference.evaluate(games, 50)["val_loss"] > 0


def test_the_cost_of_a_validation_is_measured_beside_that_of_training(tiny_corpus, capsys, monkeypatch):
    options = ["--config", "demo", "--contexts", "1", "10", "--targets", "50", "--seconds", "0"]
    monkeypatch.setattr(sys, "argv", ["validation.py", str(tiny_corpus), *options])
    validation.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["targets"] == 50 and list(found["seconds_by_context"]) == ["1", "10"]
    trained_s = found["every_targets"] / found["train_targets_per_s"]
    assert found["share"] == pytest.approx(found["validation_s"] / trained_s)
    assert found["validation_s"] > sum(found["seconds_by_context"].values())


def wrong_checks(scene: gpu_correctness.Scene) -> list[str]:
    return [check.name for check in gpu_correctness.run_checks(scene) if not check.is_right]


def test_a_backend_that_ignores_its_state_fails_the_checks(games, monkeypatch):
    right, right_step = ssd.scan, ssd.step

    def forgetful(x, dt, a, b, c, state=None, return_state=False):
        return right(x, dt, a, b, c, None if state is None else 0 * state, return_state)

    def forgetful_step(x, dt, a, b, c, state, **options):
        return right_step(x, dt, a, b, c, 0 * state, **options)

    monkeypatch.setattr(ssd, "scan", forgetful)
    monkeypatch.setattr(ssd, "step", forgetful_step)
    monkeypatch.setattr(gpu_correctness, "CHECKS", (gpu_correctness.check_scans, gpu_correctness.check_steps))
    wrong = wrong_checks(gpu_correctness.Scene(device=CPU, backends=("torch",), tiny=True, index=games))
    assert "step, torch, fp32" in wrong
    assert "scan, torch, fp32, 64 frames with a state" in wrong
    assert "scan, torch, fp32, 64 frames" not in wrong


def test_a_check_that_raises_is_wrong_and_the_others_still_run(games, monkeypatch):
    def raising(_scene: gpu_correctness.Scene):
        raise RuntimeError("called a synchronizing operation")
        yield

    monkeypatch.setattr(gpu_correctness, "CHECKS", (raising, gpu_correctness.check_loaders))
    done = gpu_correctness.run_checks(gpu_correctness.Scene(device=CPU, backends=("torch",), tiny=True, index=games))
    assert [check.is_right for check in done] == [False, True]


def test_a_nan_error_is_never_right():
    assert not gpu_correctness.Check(name="x", error=float("nan"), tolerance=1.0).is_right


def test_the_worst_of_some_seeds_is_each_metrics_own():
    runs = [
        time_to_quality.Trained(
            name="sequence", seed=seed, asked_seconds=180, curve=[], baselines={},
            final={"seconds": 180.0, "targets": targets, "change_acc": acc, "pos_mae": mae, "val_loss": loss},
        )
        for seed, (targets, acc, mae, loss) in enumerate([(10, 0.5, 0.2, 0.3), (20, 0.4, 0.1, None)])
    ]  # fmt: skip
    assert time_to_quality.worst(runs) == {
        "seconds": 180.0, "targets": 10, "change_acc": 0.4, "pos_mae": 0.2, "val_loss": 0.3,
    }  # fmt: skip


def test_rays_overhead_is_told_apart_from_its_start():
    def leg(way: str, startup: float, speed: float) -> ray_overhead.Leg:
        return ray_overhead.Leg(way=way, startup_s=startup, total_s=0.0, speeds=[1.0, speed, speed], targets=1)

    found = ray_overhead.summary([leg("plain", 5.0, 1000.0), leg("ray", 15.0, 900.0)])
    assert found["overhead_share"] == pytest.approx(0.1)
    assert (found["plain_startup_s"], found["startup_s"]) == (5.0, 15.0)
    assert found["run_of_180_s_share"] == pytest.approx((15 + 200) / 185 - 1)


def run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)


def last_line(text: str) -> dict:
    return json.loads(text.splitlines()[-1])


PARTS = ("gpu_correctness", "step_profile", "train_step", "end_to_end", "seconds_to_quality")
"""Of the GPU script, beside the environment."""


def gpu_script(out: Path, corpus: Path, python: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """benchmarks/gpu.sh with tiny sizes, as far as it comes."""
    tiny = {"OUT": str(out), "CORPUS": str(corpus), "PYTHON": python, "TINY": "1"}
    return subprocess.run(
        ["bash", "benchmarks/gpu.sh"],
        cwd=ROOT,
        env=os.environ | tiny | settings,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.xdist_group("gpu-script")
def test_the_gpu_script_runs_with_tiny_sizes_where_there_is_no_gpu(tmp_path, tiny_corpus):
    done = gpu_script(tmp_path / "out", tiny_corpus, sys.executable)
    assert done.returncode == 0, done.stdout[-3_000:] + done.stderr[-1_000:]
    assert "all Python modules found: numpy pyarrow" in done.stdout
    found = {name: json.loads((tmp_path / "out" / f"{name}.json").read_text()) for name in ("environment", *PARTS)}
    assert found["environment"]["machine"]
    assert all(found[name]["complete"] for name in PARTS)
    assert "wrong" not in found["gpu_correctness"]
    assert [mode["mode"] for mode in found["step_profile"]["modes"]] == ["eager", "graph"]
    assert all(mode["groups_ms"]["matrix products"] > 0 for mode in found["step_profile"]["modes"])
    keys = {"targets_per_s", "flops_per_target", "share_of_matmul_peak", "config", "objective", "backend", "graph"}
    assert all(keys <= set(case) and case["targets_per_s"] > 0 for case in found["train_step"]["cases"])
    assert found["end_to_end"]["parquet"]["wall_targets_per_s"] > 0
    assert found["end_to_end"]["parquet"]["validations"] > 0
    assert {"seconds", "targets_seen", "change_acc"} <= set(found["seconds_to_quality"]["curve"][0])


def test_a_part_that_is_cut_off_has_told_what_it_found(tmp_path):
    results = results_file.ResultsFile(tmp_path / "part.json", config="x")
    results.append("cases", 1)
    found = json.loads((tmp_path / "part.json").read_text())
    assert (found["cases"], found["complete"]) == ([1], False)


def test_a_case_that_fails_is_reported_and_the_next_ones_are_measured(tmp_path, monkeypatch, capsys):
    cases = ["mamba2-medium:triton:eager:8", "mamba2-medium:torch:eager:8"]  # the first needs a GPU
    monkeypatch.setattr(sys, "argv", ["train_step.py", "--tiny", "--json", str(tmp_path / "x.json"), "--cases", *cases])
    train_step.main()
    found = json.loads((tmp_path / "x.json").read_text())
    assert [case["backend"] for case in found["cases"]] == ["torch"]
    assert "needs CUDA" in found["failed"][0]["reason"]


def test_a_case_that_takes_too_long_is_cut_off():
    with pytest.raises(TimeoutError, match=r"more than 0\.05 s"), step_cases.time_limit(0.05):
        while True:
            pass


def test_the_gpu_script_goes_on_after_a_part_that_fails_and_tells_of_it(tmp_path):
    broken = tmp_path / "python"
    broken.write_text('#!/bin/sh\n[ "$1" = -c ] && echo tyro yaml && exit 0\necho no such corpus >&2\nexit 3\n')
    broken.chmod(0o755)
    done = gpu_script(tmp_path / "out", tmp_path, str(broken))
    assert done.returncode == 1
    assert "!! missing Python modules: tyro yaml" in done.stdout
    assert "!! seconds_to_quality failed with exit code 3" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("!! failed: environment gpu_correctness step_profile")


@pytest.mark.slow
def test_time_to_quality_trains_and_judges_both_recipes():
    done = run([sys.executable, "benchmarks/time_to_quality.py", "--tiny"], dict(os.environ))
    assert done.returncode == 0, done.stderr[-3_000:]
    found = last_line(done.stdout)
    names = {"seconds", "targets", "change_acc", "pos_mae", "val_loss"}
    assert names | {f"reference_{name}" for name in names} <= set(found)
    assert found["mlp_targets_per_s"] > 0 and found["reference_mlp_targets_per_s"] > 0
    assert found["runs"][0]["curve"]


@pytest.mark.slow
def test_dreams_are_timed_carried_compiled_and_in_a_window():
    options = ["--batch", "2", "--steps", "3"]
    done = run([sys.executable, "benchmarks/rollout.py", *options], dict(os.environ))
    assert done.returncode == 0, done.stderr
    rows = last_line(done.stdout)["frames_per_s"]
    assert [(row["games"], row["threads"]) for row in rows] == [(1, 1), (2, 2)]
    names = ("carried", "compiled", "window", "by_multiplications", "by_state_traffic")
    assert all(row[name] > 0 for row in rows for name in names)
    assert all(row["carried"] < min(row["by_multiplications"], row["by_state_traffic"]) for row in rows)


def ablation_row(variant: str, seed: int, loss: float) -> dict:
    metrics = dict.fromkeys(["val_loss", "change_acc", "action_acc", "pos_mae", *COHERENCE], 1.0) | {"val_loss": loss}
    return {"variant": variant, "seed": seed, "metrics": metrics, "train_s": 1.0}


def test_variants_are_compared_over_the_seeds_that_both_have():
    rows = [ablation_row("a", 1, 0.4), ablation_row("a", 2, 0.8), ablation_row("b", 2, 0.5)]
    found = ablation.summary(rows, "a")
    assert found["a"]["mean"]["val_loss"] == pytest.approx(0.6)
    assert found["a"]["deviation"]["val_loss"] == pytest.approx(0.2 * 2**0.5)
    assert found["b"]["difference"]["val_loss"] == pytest.approx(-0.3)
    assert found["b"]["deviation"]["val_loss"] is None


def test_a_file_of_variants_that_is_none_is_refused_in_one_line(tmp_path):
    path = tmp_path / "variants.yaml"
    path.write_text("[a, b]")
    with pytest.raises(UserError, match="expected a mapping of names to changes"):
        ablation.read_variants(path)


@pytest.mark.parametrize("others", [None, "other/corpus"])
def test_an_ablation_is_judged_on_games_that_it_does_not_train_on(tmp_path, others):
    cell = Cell(
        variant="a", seed=1, changes={}, config="mamba2-medium", train_corpus="corpus", eval_corpus=others,
        total_targets=1_000, num_targets=10, num_starts=10, further=(),
    )  # fmt: skip
    config = config_of(cell, tmp_path)
    splits = config.train_split, config.eval.split, config.eval_corpus
    assert splits == (("train", "validation", None) if others is None else ("all", "all", Path(others).resolve()))


@pytest.mark.slow
def test_an_ablation_continues_after_what_is_done(tmp_path, tiny_corpus, monkeypatch, capsys):
    command = ["ablation.py", str(tiny_corpus), "--tiny", "--out", str(tmp_path), "--seeds"]
    monkeypatch.setattr(sys, "argv", [*command, "1", "--only", "encoding-3"])
    ablation.main()
    assert "1 of 1: encoding-3, seed 1" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*command, "1", "--only", "encoding-3", "all-flags"])
    ablation.main()
    text = capsys.readouterr().out
    assert "encoding-3, seed 1" not in text and "2 of 2: all-flags, seed 1" in text
    found = last_line(text)
    assert found["missing"] == 0
    assert found["variants"]["all-flags"]["mean"]["coherence_60"] > 0
    assert 0 <= found["variants"]["all-flags"]["mean"]["state_age_right_20"] <= 1
