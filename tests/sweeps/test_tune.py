"""Sweeps: axes expand into trials, results into a choice of K, and one sweep runs on Ray."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from snapshots import list_checkpoints

from datasets.runtime.errors import UserError
from tune.config import SweepConfig
from tune.report.choose_k import choose, choose_from, compare, describe
from tune.results.sweep_folder import ResultRow
from tune.results.trial_status import State
from tune.search.cost import cost_of
from tune.search.trials import trials_of
from wm.config.typed_yaml import from_plain
from wm.model.world_model import build_model, num_parameters

ROOT = Path(__file__).resolve().parents[2]


def a_sweep(**content: Any) -> SweepConfig:
    return from_plain(content, SweepConfig, "sweep.yaml")


def a_row(context: int, change_acc: float | None, **changes: Any) -> ResultRow:
    facts: dict[str, Any] = {
        "trial": "medium", "state": "finished", "axes": {"size": "medium"}, "context": context, "targets_seen": 1000,
        "seconds": 10.0, "num_parameters": 4_000_000, "train_flops": 1e12, "window_flops": 1e6 * context,
        "num_judged": 500, "change_acc": change_acc, "action_acc": 0.9, "pos_mae": 0.2, "val_loss": 0.5,
    }  # fmt: skip
    return ResultRow(**(facts | changes))


def choice_of(rows: list[ResultRow], tolerance: float = 0.01, **states: int):
    counted: dict[State, int] = {**Counter({row.trial: row.state for row in rows}.values()), **states}
    return choose_from(rows, tolerance, counted)


# -- the choice


def test_the_shortest_k_within_the_tolerance_of_the_best_is_recommended():
    rows = [a_row(1, 0.30), a_row(10, 0.395), a_row(30, 0.40), a_row(60, 0.399)]
    choice = choice_of(rows)
    assert choice.context == 10
    assert "0.395" in choice.reason and "K = 30" in choice.reason and "0.33 times" in choice.reason


def test_without_a_tolerance_the_best_k_itself_is_recommended():
    choice = choice_of([a_row(10, 0.395), a_row(30, 0.40), a_row(60, 0.399)], tolerance=0.0)
    assert choice.context == 30
    assert "is the best, and no shorter K" in choice.reason


def test_seeds_are_averaged_and_their_standard_error_widens_the_tolerance():
    rows = []
    for seed, (short, long) in enumerate([(0.36, 0.36), (0.36, 0.40), (0.36, 0.44)]):
        axes = {"size": "medium", "seed": seed}
        rows += [a_row(5, short, trial=f"s{seed}", axes=axes), a_row(60, long, trial=f"s{seed}", axes=axes)]
    results = {result.context: result for result in compare(rows)}
    assert results[60].change_acc == pytest.approx(0.40)
    assert results[60].standard_error == pytest.approx(0.04 / 3**0.5)
    assert (results[60].num_seeds, results[60].setting) == (3, "medium")
    assert choice_of(rows).context == 60
    rows = [r for r in rows if r.context == 60] + [a_row(5, 0.38, trial="s0", axes={"size": "medium", "seed": 0})]
    assert choice_of(rows).context == 5


def test_each_k_is_represented_by_its_best_setting():
    rows = [a_row(1, 0.2), a_row(10, 0.3)]
    rows += [a_row(k, v, trial="large", axes={"size": "large"}) for k, v in ((1, 0.1), (10, 0.35))]
    choice = choice_of(rows)
    assert [result.setting for result in choice.best_by_context] == ["medium", "large"]
    assert len(choice.results) == 4


def test_a_trial_counts_with_its_last_row_and_a_stopped_trial_does_not():
    rows = [a_row(10, 0.9, targets_seen=500), a_row(10, 0.3), a_row(60, 0.31)]
    rows += [a_row(60, 0.95, trial="stopped", state="stopped", axes={"size": "xl"}, targets_seen=500)]
    choice = choice_of(rows)
    assert choice.context == 10
    assert {result.change_acc for result in choice.results} == {0.3, 0.31}
    assert (choice.fewest_targets, choice.most_targets) == (1000, 1000)


def test_the_notes_list_the_limitations_of_a_choice():
    rows = [a_row(10, 0.3), a_row(60, 0.4), a_row(120, 0.2, trial="t", state="stopped", axes={"size": "xl"})]
    notes = " ".join(choice_of(rows, pending=2, failed=1).notes)
    for expected in ("not ended yet: 2", "K = 120", "failed: 1", "longest K that was compared", "one seed"):
        assert expected in notes
    assert "no trial predicts" in " ".join(choice_of([a_row(1, 0.0), a_row(5, 0.001)]).notes)
    seeds = [a_row(10, 0.3, trial=f"s{seed}", axes={"seed": seed}) for seed in (0, 1)]
    seeds.append(a_row(10, 0.1, trial="s2", axes={"seed": 2}, state="stopped", targets_seen=500))
    assert "biased upwards" in " ".join(choice_of(seeds).notes)


def test_the_description_shows_change_acc_and_cost_by_k_and_the_choice():
    text = describe(choice_of([a_row(1, 0.301), a_row(60, 0.4)]))
    for expected in ("0.301", "1.0 MFLOP", "60.0 MFLOP", "1.0 TFLOP", "Recommended: K = 60", "> 60"):
        assert expected in text


def test_without_a_finished_trial_there_is_nothing_to_choose():
    with pytest.raises(UserError, match="no trial of the sweep has finished yet"):
        choice_of([a_row(1, 0.3, state="interrupted")])
    with pytest.raises(UserError, match=r"sweep\.json is missing"):
        choose(ROOT / "docs")


# -- cost


def test_the_cost_of_a_context_grows_with_it_and_counts_the_network_itself():
    trial = trials_of(a_sweep(axes={"size": ["small"]}, base={"eval": {"contexts": [1, 10, 20]}}))[0]
    cost = cost_of(trial.config)
    assert cost.num_parameters == num_parameters(build_model(trial.config.model, 10))
    assert cost.window_flops[1] > 2 * 0.8 * cost.num_parameters
    assert 5 < cost.window_flops[10] / cost.window_flops[1] < 10  # the heads run once
    window = a_sweep(base={"objective": {"kind": "window", "context_frames": 10}}, axes={"size": ["small"]})
    assert 5 < cost_of(trials_of(window)[0].config).train_flops_per_target / cost.train_flops_per_target < 10


# -- a real sweep

TINY = {
    "model": {"d_model": 32, "headdim": 32, "d_state": 16, "num_layers": 1},
    "objective": {"sequence_frames": 16},
    "optimizer": {"total_targets": 512, "batch_size": 4, "warmup_targets": 64},
    "eval": {"contexts": [1, 5], "num_targets": 60, "validation_targets": 30, "every_targets": 128},
    "checkpoint": {"every_s": 0.001},
}


def read_results(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def without_seconds(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "seconds"}


def test_a_sweep_stops_the_weak_trial_writes_a_row_for_each_trial_k_and_targets_and_resumes(
    ray_session: None, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    from tune.running.sweep import run_sweep

    out = tmp_path / "sweep"
    sweep = a_sweep(
        out=str(out),
        axes={"optimizer.learning_rate": [1e-2, 1e-9]},
        asha={"grace": 256, "reduction_factor": 2, "metric": "val_loss", "context": 5},
        max_concurrent=1,
        base=TINY | {"train_corpus": str(tiny_corpus)},
    )
    run_sweep(sweep)
    rows = read_results(out)
    strong, weak = (trial.name for trial in trials_of(sweep))
    assert Counter((row["trial"], row["context"], row["targets_seen"]) for row in rows) == Counter(
        [(strong, k, t) for t in (128, 256, 384, 512) for k in (1, 5)]
        + [(weak, k, t) for t in (128, 256) for k in (1, 5)]
    )
    assert {(row["trial"], row["state"]) for row in rows} == {(strong, "finished"), (weak, "stopped")}
    assert "Recommended: K = " in capsys.readouterr().out

    # As after a killed command: the strong trial resumes from its last checkpoint, the weak one stays stopped.
    checkpoints = list_checkpoints(out / "trials" / strong / "checkpoints")
    shutil.rmtree(checkpoints[-1])
    run_sweep(sweep)
    printed = capsys.readouterr().out
    assert "1 of them ended before" in printed
    assert list(map(without_seconds, read_results(out))) == list(map(without_seconds, rows))
    assert list_checkpoints(out / "trials" / strong / "checkpoints")[-1].name == checkpoints[-1].name

    run_sweep(sweep)
    assert "2 of them ended before" in capsys.readouterr().out

    with pytest.raises(UserError, match="contains a sweep with other options"):
        run_sweep(
            a_sweep(
                out=str(out),
                axes={"seed": [1]},
                asha={"enabled": False},
                base=TINY | {"train_corpus": str(tiny_corpus)},
            )
        )
    with pytest.raises(UserError, match="exists and is not a sweep"):
        run_sweep(
            a_sweep(
                out=str(tiny_corpus),
                axes={"seed": [1]},
                asha={"enabled": False},
                base=TINY | {"train_corpus": str(tiny_corpus)},
            )
        )
