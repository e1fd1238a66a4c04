"""Data-parallel ranks: two make the updates of one, from the same batches, also if their number changes."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from one_rank import RESUMED_FROM, run_job
from snapshots import list_checkpoints
from tiny_runs import assert_same_weights, checkpoints, losses, optimizer_tensors, tiny_run, weights, with_targets
from torch import Tensor

from wm.checkpoints.reader import open_checkpoint
from wm.config.run_config import RunConfig
from wm.config.typed_yaml import to_plain

UPDATES, CHANGE_AT = 6, RESUMED_FROM + 1
ONE_RANK = Path(__file__).parents[1] / "support" / "one_rank.py"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a job wrote, by rank."""

    weights: list[dict[str, Tensor]]
    taken: list[list[list[tuple[str, bool]]]]
    """By rank, update, example."""
    rows: list[list[dict[str, Any]]]
    errors: list[str]


def job(
    config: RunConfig, name: str, resume: str | None = None, nan_rank: int | None = None, init_from: str | None = None
) -> dict[str, Any]:
    """A run in its own folder, for `one_rank.py`; `resume` and `init_from` name other runs."""
    own = replace(config, out=config.out / name, init_from=init_from and str(config.out / init_from))
    return {
        "name": name,
        "config": to_plain(own),
        "resume": None if resume is None else str(config.out / resume),
        "nan_rank": nan_rank,
    }


def run_on_two_ranks(config: RunConfig, jobs: list[dict[str, Any]]) -> dict[str, Outcome]:
    """Run jobs on two ranks."""
    plan = config.out / "jobs.json"
    plan.write_text(json.dumps(jobs))
    processes = [
        subprocess.Popen(
            [sys.executable, str(ONE_RANK), str(rank), "2", str(config.out / "store"), str(plan)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"GLOO_SOCKET_IFNAME": "lo"},
        )
        for rank in (0, 1)
    ]
    try:
        errors = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(text[-2_000:] for text in errors)
    return {one["name"]: outcome(config.out, one["name"], 2) for one in jobs}


def run_on_one_rank(config: RunConfig, one: dict[str, Any]) -> dict[str, Outcome]:
    """Run a job on a single rank."""
    run_job(one, 0)
    return {one["name"]: outcome(config.out, one["name"], 1)}


def outcome(folder: Path, name: str, world: int) -> Outcome:
    """What the ranks wrote about a job."""
    written = [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in range(world)]
    return Outcome(
        weights=[torch.load(folder / f"{name}-{rank}.pt") for rank in range(world)],
        taken=[[[(example, has) for example, has in update] for update in one["taken"]] for one in written],
        rows=[one["rows"] for one in written],
        errors=[one["error"] for one in written],
    )


@pytest.fixture(scope="module")
def mixed_corpus(tmp_path_factory) -> Path:
    """Synthetic games, half of them of a Slippi version without velocities and more."""
    from datasets.corpus.chunk import EncodeOptions
    from datasets.pipeline.encode import encode, encode_in_process
    from datasets.synth import SynthOptions, simulate, write_slp

    folder = tmp_path_factory.mktemp("mixed")
    (folder / "replays").mkdir()
    for game in simulate(SynthOptions(num_games=12, seed=1, max_frames=2_400)):
        content = write_slp(game, version="2.0.0" if game.index % 2 else "3.16.0")
        (folder / "replays" / f"{game.index:02}.slp").write_bytes(content)
    encode([folder / "replays"], folder / "corpus", EncodeOptions(), encode_in_process)
    return folder / "corpus"


def unclipped(config: RunConfig) -> RunConfig:
    """Without clipping, which would hide the gradient's scale from Adam's moments."""
    return replace(config, optimizer=replace(config.optimizer, max_grad_norm=1e9))


@pytest.fixture(scope="module", params=["adamw", "muon"])
def together(mixed_corpus, tmp_path_factory, request) -> tuple[RunConfig, dict[str, Outcome]]:
    """Runs of one and two ranks: uninterrupted, resumed with as many, more and fewer, and with broken data."""
    config = unclipped(with_targets(tiny_run(mixed_corpus, tmp_path_factory.mktemp("ranks") / "runs"), UPDATES))
    config = replace(config, optimizer=replace(config.optimizer, kind=request.param))
    config.out.mkdir()
    outcomes = run_on_one_rank(config, job(config, "one"))
    jobs = [job(config, "two"), job(config, "more", "one"), job(config, "again", "two")]
    jobs.append(job(config, "tuned", init_from="one"))
    outcomes |= run_on_two_ranks(config, [*jobs, job(config, "broken", nan_rank=1)])
    return config, outcomes | run_on_one_rank(config, job(config, "fewer", "two"))


def assert_equal_to_rounding(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Up to float32 rounding."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_two_ranks_make_the_updates_of_one(together):
    config, outcomes = together
    one, two = outcomes["one"], outcomes["two"]
    assert_same_weights(two.weights[0], two.weights[1])
    assert_equal_to_rounding(two.weights[0], one.weights[0])
    alone, both = (replace(config, out=config.out / name) for name in ("one", "two"))
    assert_same_weights(two.weights[0], weights(checkpoints(both)[-1]))
    assert losses(both) == pytest.approx(losses(alone), rel=1e-5)
    moments, expected = (optimizer_tensors(checkpoints(c)[0]) for c in (both, alone))
    for name, tensor in expected.items():
        scale = float(tensor.abs().max())
        torch.testing.assert_close(moments[name], tensor, rtol=1e-3, atol=1e-4 * scale + 1e-9)


def test_ranks_divide_the_same_batches_and_no_example_is_used_twice(together):
    _, outcomes = together
    straight = [sorted(update) for update in outcomes["one"].taken[0]]
    assert len(straight) == UPDATES
    assert [sorted(first + second) for first, second in zip(*outcomes["two"].taken, strict=True)] == straight


def test_ranks_may_have_different_numbers_of_games_with_missing_fields(together):
    _, outcomes = together
    lacking = [[sum(not has for _, has in update) for update in rank] for rank in outcomes["two"].taken]
    assert any(first != second for first, second in zip(*lacking, strict=True))


@pytest.mark.parametrize("name", ["more", "fewer", "again"])
def test_a_run_resumed_mid_epoch_with_more_or_fewer_ranks_takes_the_remaining_examples_and_ends_the_same(
    together, name
):
    _, outcomes = together
    straight = [sorted(update) for update in outcomes["one"].taken[0]]
    rest = [sorted(itertools.chain(*updates)) for updates in zip(*outcomes[name].taken, strict=True)]
    assert rest == straight[CHANGE_AT:]
    for found in outcomes[name].weights:
        assert_equal_to_rounding(found, outcomes["one"].weights[0])


def test_two_resumed_ranks_equal_two_uninterrupted_ranks_bit_for_bit(together):
    _, outcomes = together
    assert_same_weights(outcomes["again"].weights[0], outcomes["two"].weights[0])


def test_every_rank_begins_with_the_weights_of_another_run(together):
    config, outcomes = together
    assert_same_weights(outcomes["tuned"].weights[0], outcomes["tuned"].weights[1])
    ended, first = (checkpoints(replace(config, out=config.out / name))[at] for name, at in (("one", -1), ("tuned", 0)))
    change = max(float((tensor - weights(ended)[name]).abs().max()) for name, tensor in weights(first).items())
    assert 0 < change < 2 * config.optimizer.learning_rate  # one update


def test_broken_data_on_one_rank_stops_both_before_the_update(together):
    config, outcomes = together
    assert all("not finite" in error for error in outcomes["broken"].errors)
    assert not list_checkpoints(config.out / "broken" / "checkpoints")


def test_every_rank_reports_the_same_metrics(together):
    _, outcomes = together
    metrics = ("targets_seen", "context", "num_targets", "change_acc", "action_acc", "pos_mae", "val_loss")
    first, second = ([[row[m] for m in metrics] for row in rows] for rows in outcomes["two"].rows)
    assert first == second
    assert first


def test_the_change_of_ranks_is_in_the_middle_of_an_epoch(together):
    config, _ = together
    cursor = open_checkpoint(checkpoints(replace(config, out=config.out / "two"))[CHANGE_AT - 1]).meta["cursor"]
    assert cursor["epoch"] == 0
    assert cursor["batch"] == CHANGE_AT
