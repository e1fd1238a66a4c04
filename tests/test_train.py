"""Training: it learns, it resumes with the very next batch and update, and ranks together are one run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import wm.train
from datasets.errors import UserError
from datasets.sequences import Batch, Cursor, SequenceStream
from datasets.splits import SplitConfig
from wm.checkpoint import latest_checkpoint, list_checkpoints, load_resume, open_checkpoint
from wm.config import EvalConfig, ObjectiveConfig, OptimiserConfig, RunConfig, to_plain
from wm.encoding import to_frames
from wm.model import ModelConfig
from wm.optimiser import learning_rate
from wm.run_folder import checkpoints_of, claim, held, read_log
from wm.train import (
    NonFiniteLossError,
    Row,
    TrainResult,
    check_same_games,
    digest_of_games,
    open_data,
    swap_half,
    train,
)

BATCH, S = 8, 16
STEP = BATCH * S
"""Targets of one update, about: the last batches of a pool may be one example larger or smaller."""


@pytest.fixture
def config(tiny_corpus: Path, tmp_path: Path) -> RunConfig:
    """A run of ten updates of a tiny network, with a checkpoint after each."""
    return RunConfig(
        train_corpus=tiny_corpus,
        out=tmp_path / "run",
        precision="fp32",
        split=SplitConfig(test_share=0.0, validation_share=0.4),
        log_every_s=0.0,
        checkpoint_every_s=0.0,
        keep_checkpoints=1_000,
        model=ModelConfig(d_model=32, headdim=32, d_state=16, num_layers=1, core="torch"),
        objective=ObjectiveConfig(sequence_frames=S),
        optimiser=OptimiserConfig(total_targets=10 * STEP, batch_size=BATCH, learning_rate=3e-3, warmup_targets=STEP),
        eval=EvalConfig(contexts=(5,), num_targets=60, progress_targets=20, every_targets=4 * STEP),
    )


def run(config: RunConfig, resume: Path | None = None, rows: list[Row] | None = None) -> TrainResult:
    """Train in this process."""
    claim(config)
    reported = [] if rows is None else rows
    return train(config, open_data(config), reported.extend, resume)


def weights(checkpoint: Path | None) -> dict[str, Tensor]:
    assert checkpoint is not None
    return load_file(checkpoint / "model.safetensors")


def checkpoints(config: RunConfig) -> list[Path]:
    return list_checkpoints(checkpoints_of(config.out))


def assert_same_weights(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), f"{name}: {(tensor - second[name]).abs().max()}"


def losses(config: RunConfig) -> list[float]:
    return [row["loss"] for row in read_log(config.out) if row["kind"] == "train"]


def unclipped(config: RunConfig) -> RunConfig:
    """Adam does not see the gradient's scale, nor does its clipped norm: only without clipping do its moments."""
    return replace(config, optimiser=replace(config.optimiser, clip_norm=1e9))


def with_targets(config: RunConfig, num_updates: int) -> RunConfig:
    return replace(config, optimiser=replace(config.optimiser, total_targets=num_updates * STEP))


@pytest.fixture
def built(monkeypatch) -> list[torch.nn.Module]:
    """The networks that training builds, so that a test can look at them."""
    models: list[torch.nn.Module] = []
    build = wm.train.build_model

    def build_and_keep(*args):
        models.append(build(*args))
        return models[-1]

    monkeypatch.setattr(wm.train, "build_model", build_and_keep)
    return models


@pytest.mark.parametrize("kind", ["sequence", "window", "mlp"])
def test_the_loss_falls(config, kind):
    config = replace(with_targets(config, 60), keep_checkpoints=1, checkpoint_every_s=600.0)
    if kind != "sequence":
        objective = ObjectiveConfig(kind="window", context_frames=6)
        optimiser = replace(config.optimiser, total_targets=60 * 64, batch_size=64, warmup_targets=64)
        config = replace(config, objective=objective, optimiser=optimiser)
    if kind == "mlp":
        config = replace(config, model=ModelConfig(kind="mlp", hidden=(32, 16)))
    rows: list[Row] = []
    result = run(config, rows=rows)
    falling = losses(config)
    assert len(falling) >= 55
    assert np.mean(falling[-10:]) < 0.8 * np.mean(falling[:5])
    assert result.rows == rows[-1:]
    assert result.rows[0]["context"] == (6 if kind == "mlp" else 5)
    assert result.rows[0]["num_targets"] == 60
    assert result.targets_seen >= config.optimiser.total_targets


def test_a_run_reports_a_row_for_each_context_at_each_validation(config):
    contexts = (1, 5)
    rows: list[Row] = []
    run(replace(config, eval=replace(config.eval, contexts=contexts)), rows=rows)
    assert [row["context"] for row in rows] == [1, 5] * 3
    assert [row["num_targets"] for row in rows] == [20] * 4 + [60] * 2
    assert all(row["kind"] == "eval" for row in rows)
    assert all(np.isfinite([row["action_acc"], row["pos_mae"], row["val_loss"]]).all() for row in rows)
    assert [row for row in read_log(config.out) if row["kind"] == "eval"] == rows


def test_a_run_resumed_half_way_has_the_next_batch_and_the_next_update_of_one_that_never_stopped(config, tmp_path):
    run(config)
    straight = checkpoints(config)
    assert len(straight) == 10
    half = straight[4]
    again = replace(config, out=tmp_path / "again")
    run(again, resume=half)
    resumed = checkpoints(again)
    assert [path.name for path in resumed] == [path.name for path in straight[5:]]
    for first, second in zip(straight[5:], resumed, strict=True):
        assert_same_weights(weights(first), weights(second))
        first_state, second_state = load_resume(first), load_resume(second)
        assert first_state["cursors"] == second_state["cursors"]
        for number, moments in first_state["optimiser"]["state"].items():
            for name, tensor in moments.items():
                assert torch.equal(tensor, second_state["optimiser"]["state"][number][name])
    assert not all(torch.equal(t, weights(half)[n]) for n, t in weights(straight[5]).items())


def test_the_batch_after_a_checkpoint_is_the_one_that_was_next(config, monkeypatch):
    taken: list[Batch] = []
    monkeypatch.setattr(wm.train, "to_frames", lambda batch, device: (taken.append(batch), to_frames(batch, device))[1])
    run(config)
    data = open_data(config)
    for number, checkpoint in enumerate(checkpoints(config)[:-1]):
        (cursor,) = load_resume(checkpoint)["cursors"]
        stream = SequenceStream(
            data.train, sequence_frames=S + 1, stride=S, batch_size=BATCH, seed=0, cursor=Cursor(**cursor)
        )
        found = next(iter(stream))
        assert np.array_equal(found.floats, taken[number + 1].floats)
        assert np.array_equal(found.codes, taken[number + 1].codes)
        assert np.array_equal(found.game, taken[number + 1].game)


@pytest.mark.parametrize("swap_players", [False, True])
def test_two_runs_of_one_seed_are_equal_and_of_another_seed_not(config, tmp_path, swap_players):
    config = with_targets(replace(config, objective=replace(config.objective, swap_players=swap_players)), 3)
    outcomes = []
    for number, seed in enumerate((1, 1, 2)):
        once = replace(config, seed=seed, out=tmp_path / str(number))
        run(once)
        outcomes.append(weights(checkpoints(once)[-1]))
    assert_same_weights(outcomes[0], outcomes[1])
    assert not torch.equal(outcomes[0]["heads.linear.weight"], outcomes[2]["heads.linear.weight"])


def test_a_run_with_swapped_players_resumes_with_the_same_swaps(config, tmp_path):
    config = with_targets(replace(config, objective=replace(config.objective, swap_players=True)), 4)
    run(config)
    again = replace(config, out=tmp_path / "again")
    run(again, resume=checkpoints(config)[1])
    assert_same_weights(weights(checkpoints(config)[-1]), weights(checkpoints(again)[-1]))


def test_swapping_players_exchanges_both_wholly_in_about_half_of_the_examples(config):
    data = open_data(config)
    batch = next(iter(SequenceStream(data.train, sequence_frames=5, stride=4, batch_size=400, seed=0)))
    frames = to_frames(batch)
    swapped = swap_half(frames, np.random.default_rng(0))
    num_swapped = 0
    for row in range(len(batch.floats)):
        exchanged = torch.equal(swapped.floats[row], frames.floats[row][:, [1, 0]])
        assert exchanged != torch.equal(swapped.floats[row], frames.floats[row])
        assert torch.equal(swapped.codes[row], frames.codes[row][:, [1, 0]] if exchanged else frames.codes[row])
        num_swapped += exchanged
    assert torch.equal(swapped.game, frames.game)
    assert 0.4 < num_swapped / len(batch.floats) < 0.6


def test_a_run_stopped_by_the_clock_goes_on_where_it_was(config, tmp_path):
    config = with_targets(config, 4)
    run(config)
    timed = replace(config, out=tmp_path / "timed", max_seconds=1e-9)
    stopped = run(timed)
    assert stopped.targets_seen < 3 * STEP
    assert stopped.rows[0]["num_targets"] == 60
    result = run(replace(timed, max_seconds=None), resume=checkpoints(timed)[-1])
    assert result.targets_seen >= 4 * STEP
    assert_same_weights(weights(checkpoints(config)[-1]), weights(checkpoints(timed)[-1]))


def test_training_a_finished_run_again_changes_nothing_but_judges_it(config):
    config = with_targets(config, 2)
    first = run(config)
    before = weights(checkpoints(config)[-1])
    second = run(config, resume=checkpoints(config)[-1])
    assert second.targets_seen == first.targets_seen
    assert_same_weights(before, weights(checkpoints(config)[-1]))
    for name in ("change_acc", "action_acc", "pos_mae", "val_loss"):
        assert second.rows[0][name] == first.rows[0][name]


KILLED = """
import json, os, signal, sys
import torch
torch.set_num_threads(1)
from wm.config import RunConfig, from_plain
from wm.run_folder import claim
from wm.train import open_data, train

config = from_plain(json.loads(sys.argv[1]), RunConfig, "test")
claim(config)
train(config, open_data(config), lambda rows: os.kill(os.getpid(), signal.SIGKILL), None)
"""


def test_a_killed_run_resumes_from_its_last_checkpoint_and_forgets_what_it_logged_after_it(config, tmp_path):
    killed = replace(config, out=tmp_path / "killed")
    script = [sys.executable, "-c", KILLED, json.dumps(to_plain(killed))]
    done = subprocess.run(script, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2_000:]
    newest = latest_checkpoint(checkpoints_of(killed.out))
    assert newest is not None
    seen = open_checkpoint(newest).meta["targets_seen"]
    assert max(row["targets_seen"] for row in read_log(killed.out)) > seen
    with (killed.out / "log.jsonl").open("a") as log:
        log.write('{"kind": "train", "targets_se')
    run(killed, resume=newest)
    run(config)
    assert_same_weights(weights(checkpoints(config)[-1]), weights(checkpoints(killed)[-1]))
    said = [
        [(row["kind"], row["targets_seen"]) for row in read_log(c.out) if row["kind"] in ("train", "eval")]
        for c in (config, killed)
    ]
    assert said[0] == said[1]
    assert losses(config) == losses(killed)


def test_a_learning_rate_too_high_stops_the_run_before_the_update_that_would_spoil_it(config, built):
    config = replace(config, optimiser=replace(config.optimiser, learning_rate=1e30))
    with pytest.raises(NonFiniteLossError, match="lower optimiser"):
        run(config)
    kept = checkpoints(config)
    assert len(kept) < 10
    assert_same_weights(weights(kept[-1]), dict(built[-1].state_dict()))


def test_a_poisoned_weight_stops_the_run_before_any_update(config, tmp_path, built):
    run(with_targets(config, 2))
    poisoned = checkpoints(config)[0]
    tensors = weights(poisoned)
    tensors["heads.linear.bias"][0] = float("nan")
    save_file(tensors, poisoned / "model.safetensors")
    again = replace(config, out=tmp_path / "again")
    with pytest.raises(NonFiniteLossError, match="not finite"):
        run(again, resume=poisoned)
    assert not checkpoints(again)
    for name, tensor in built[-1].state_dict().items():
        assert torch.equal(tensor.nan_to_num(nan=123.0), tensors[name].nan_to_num(nan=123.0)), name


def test_the_learning_rate_rises_linearly_and_falls_as_a_cosine(config):
    optimiser = OptimiserConfig(
        total_targets=1_000, batch_size=10, learning_rate=2.0, warmup_targets=100, final_share=0.1
    )
    config = replace(config, optimiser=optimiser)
    assert learning_rate(config, 0) == pytest.approx(2.0 * 0.1)
    assert learning_rate(config, 40) == pytest.approx(2.0 * 0.5 * cosine(0.04))
    assert learning_rate(config, 500) == pytest.approx(2.0 * cosine(0.5)) == pytest.approx(2.0 * 0.55)
    assert learning_rate(config, 1_000) == pytest.approx(2.0 * 0.1) == pytest.approx(learning_rate(config, 5_000))


def cosine(progress: float) -> float:
    return 0.1 + 0.9 * (1 + float(np.cos(np.pi * progress))) / 2


def test_examples_longer_than_any_game_are_refused_before_training(config):
    with pytest.raises(UserError, match="an example needs 100001"):
        open_data(replace(config, objective=ObjectiveConfig(sequence_frames=100_000)))


RANK = """
import json, sys
from dataclasses import replace
from pathlib import Path
import torch
import torch.distributed as dist
torch.set_num_threads(1)
import wm.train
from wm.checkpoint import list_checkpoints
from wm.config import RunConfig, from_plain
from wm.train import NonFiniteLossError, open_data, train

rank, meeting, plain = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
config = from_plain(plain, RunConfig, "test")
models, build, to_frames = [], wm.train.build_model, wm.train.to_frames
wm.train.build_model = lambda *args: (models.append(build(*args)), models[-1])[1]
rows = []
train(config, open_data(config), rows.extend, None)
torch.save(models[-1].state_dict(), config.out / f"straight-{rank}.pt")
dist.barrier()
half = list_checkpoints(config.out / "checkpoints")[2]
again = replace(config, out=config.out / "again")
again.out.mkdir(exist_ok=True)
train(again, open_data(again), rows.extend, half)
torch.save(models[-1].state_dict(), config.out / f"resumed-{rank}.pt")

def poisoned(batch, device):
    frames = to_frames(batch, device)
    if rank == 1:
        frames.floats[..., 0] = float("nan")
    return frames

wm.train.to_frames = poisoned
broken = replace(config, out=config.out / "broken")
broken.out.mkdir(exist_ok=True)
try:
    train(broken, open_data(broken), rows.extend, None)
except NonFiniteLossError as error:
    (config.out / f"stopped-{rank}").write_text(str(error))
(config.out / f"rows-{rank}.json").write_text(json.dumps(rows))
dist.destroy_process_group()
"""


class BothRanks:
    """The batches of two ranks as one: what a single rank would have to see to make the same updates."""

    def __init__(self, index, *, batch_size: int, rank: int, world_size: int, cursor: Cursor | None, **options) -> None:
        assert (rank, world_size, cursor) == (0, 1, None)
        self._ranks = [
            SequenceStream(index, batch_size=batch_size // 2, rank=r, world_size=2, **options) for r in (0, 1)
        ]

    def __iter__(self) -> Iterator[Batch]:
        for first, second in zip(*self._ranks, strict=True):
            yield Batch(
                floats=np.concatenate([first.floats, second.floats]),
                codes=np.concatenate([first.codes, second.codes]),
                game=np.concatenate([first.game, second.game]),
            )

    def state(self) -> dict[str, int]:
        return self._ranks[0].state()


@pytest.fixture
def two_ranks(config, tmp_path) -> RunConfig:
    """Two processes that trained together over gloo: straight, resumed, and with one rank's data broken."""
    config = unclipped(with_targets(replace(config, num_workers=2, out=tmp_path / "two"), 6))
    config.out.mkdir()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), str(tmp_path / "meeting"), json.dumps(to_plain(config))],
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
    return config


def test_two_ranks_make_the_updates_of_one_rank_that_sees_both_batches(two_ranks, config, monkeypatch):
    straight, resumed = (
        [torch.load(two_ranks.out / f"{name}-{rank}.pt") for rank in (0, 1)] for name in ("straight", "resumed")
    )
    assert_same_weights(straight[0], straight[1])
    assert_same_weights(straight[0], weights(checkpoints(two_ranks)[-1]))
    # Resumed from the third checkpoint, in which each rank has its own place.
    assert_same_weights(resumed[0], resumed[1])
    assert_same_weights(straight[0], resumed[0])
    # Broken data on one rank stops both before the update.
    for rank in (0, 1):
        assert "not finite" in (two_ranks.out / f"stopped-{rank}").read_text()
    assert not list_checkpoints(two_ranks.out / "broken" / "checkpoints")
    rows = [json.loads((two_ranks.out / f"rows-{rank}.json").read_text()) for rank in (0, 1)]
    metrics = ("targets_seen", "context", "num_targets", "change_acc", "action_acc", "pos_mae", "val_loss")
    assert [[row[m] for m in metrics] for row in rows[0]] == [[row[m] for m in metrics] for row in rows[1]]

    alone = unclipped(with_targets(config, 6))
    with monkeypatch.context() as patch:
        patch.setattr(wm.train, "SequenceStream", BothRanks)
        run(alone)
    assert [path.name for path in checkpoints(alone)] == [path.name for path in checkpoints(two_ranks)]
    for name, tensor in weights(checkpoints(alone)[-1]).items():
        torch.testing.assert_close(straight[0][name], tensor, rtol=1e-4, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert losses(two_ranks) == pytest.approx(losses(alone), rel=1e-5)
    moments = [load_resume(checkpoints(c)[0])["optimiser"]["state"] for c in (alone, two_ranks)]
    for number, expected in moments[0].items():
        mean, size = expected["exp_avg"], float(expected["exp_avg"].abs().max())
        torch.testing.assert_close(moments[1][number]["exp_avg"], mean, rtol=1e-3, atol=1e-4 * size + 1e-9)

    fewer = replace(config, out=config.out.parent / "fewer", optimiser=alone.optimiser)
    assert run(fewer, resume=checkpoints(two_ranks)[2]).targets_seen >= 6 * STEP


def test_a_run_on_ray_ends_resumes_and_refuses_what_is_not_its_own(config, ray_session, capfd, tmp_path):
    from wm.train_on_ray import train_on_ray

    config = replace(with_targets(config, 4), num_workers=2)
    result = train_on_ray(config)
    assert result.targets_seen >= 4 * STEP
    assert [row["context"] for row in result.rows] == [5]
    assert {row["kind"] for row in read_log(config.out)} >= {"train", "eval"}
    before = {path: path.stat().st_mtime_ns for path in config.out.rglob("*") if path.is_file()}

    capfd.readouterr()
    again = train_on_ray(config)
    assert "is finished at" in capfd.readouterr().out
    assert again == result
    assert {path: path.stat().st_mtime_ns for path in config.out.rglob("*") if path.is_file()} == before

    with pytest.raises(UserError, match=r"optimiser.learning_rate is 0.003 there, 0.1 here"):
        train_on_ray(replace(config, optimiser=replace(config.optimiser, learning_rate=0.1)))

    stranger = tmp_path / "letters"
    stranger.mkdir()
    (stranger / "letter.txt").write_text("dear Ray")
    with pytest.raises(UserError, match="is no run"):
        train_on_ray(replace(config, out=stranger))
    assert [path.name for path in stranger.iterdir()] == ["letter.txt"]


def test_a_run_on_ray_that_cannot_learn_is_a_users_error_and_is_not_restarted(config, ray_session):
    from wm.train_on_ray import train_on_ray

    hopeless = replace(config, optimiser=replace(config.optimiser, learning_rate=1e30))
    with pytest.raises(UserError, match="the loss is not finite"):
        train_on_ray(hopeless)
    assert len({row["targets_seen"] for row in read_log(hopeless.out)}) < 10


def test_a_run_whose_corpus_has_changed_is_not_resumed(config):
    data = open_data(config)
    fewer = replace(data, judged=data.train)
    meta = {"games": digest_of_games(data)}
    check_same_games(meta, data)
    with pytest.raises(UserError, match="have changed since its last checkpoint"):
        check_same_games(meta, fewer)


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    holder = (
        "import sys, time; from pathlib import Path; from wm.run_folder import held\n"
        "with held(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", holder, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == "held\n"
            with pytest.raises(UserError, match="another process is training"), held(tmp_path):
                pass
        finally:
            other.kill()
