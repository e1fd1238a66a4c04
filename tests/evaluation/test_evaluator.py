"""Evaluation: batched windows and streams against one target at a time, and fixed evaluation frames."""

from __future__ import annotations

import shutil
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from datasets.corpus.chunk import EncodeOptions
from datasets.corpus.reader import open_corpus
from datasets.loading.frames import FrameArrays, GameIndex, index_games, read_games
from datasets.loading.sequences import take_rows
from datasets.loading.targets import COUNTDOWN_FRAMES, Targets, evaluation_targets
from datasets.pipeline.encode import encode, encode_in_process
from datasets.runtime.errors import UserError
from datasets.schema.splits import SplitConfig
from wm.config.model_config import ModelConfig
from wm.evaluation import target_frames
from wm.evaluation.baselines import BASELINES
from wm.evaluation.evaluator import evaluate_stream, evaluate_windows
from wm.evaluation.metrics import EvalRecords, compute_metrics
from wm.evaluation.summary import evaluate, table
from wm.evaluation.target_frames import read_targets
from wm.model.encoding import category, controllers, to_frames
from wm.model.heads import Prediction
from wm.model.world_model import Mamba2WorldModel, build_model
from wm.objective.losses import ground_truth, val_loss_parts
from wm.objective.weights import VAL_LOSS_WEIGHTS

CPU = torch.device("cpu")
NUM_TARGETS = 60


@pytest.fixture(scope="module")
def model() -> Mamba2WorldModel:
    """A small network with perturbed weights."""
    torch.manual_seed(4)
    built = build_model(ModelConfig(d_model=32, num_layers=2, d_state=8, headdim=16, scan_backend="torch"), 10)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    assert isinstance(built, Mamba2WorldModel)
    return built


@torch.no_grad()
def records_one_by_one(
    model: Mamba2WorldModel, index: GameIndex, games: list[FrameArrays], targets: Targets, context: int | None
) -> EvalRecords:
    """One target after another, from `context` frames, or from all before it."""
    columns: dict[str, list] = {name: [] for name in ("previous", "true", "predicted", "error")}
    totals: dict[str, list[float]] = {name: [] for name in VAL_LOSS_WEIGHTS}
    counts: dict[str, list[float]] = {name: [] for name in VAL_LOSS_WEIGHTS}
    for game, frame in zip(targets.games.tolist(), targets.frames.tolist(), strict=True):
        start = 0 if context is None else frame - context
        rows = np.arange(start, frame + 1)[None]
        frames = to_frames(take_rows(games[game], index.facts[[game]], rows))
        last = frames.num_frames - 1
        prediction = model(frames, last_only=True)
        before, after = frames.slice(last - 1, last), frames.slice(last, last + 1)
        moved = ground_truth(before, after).deltas[0, 0, :, 1:3]
        columns["error"].append((prediction.deltas[0, 0, :, 1:3] - moved).abs().mean(-1).tolist())
        columns["previous"].append(category(before, "action")[0, 0].tolist())
        columns["true"].append(category(after, "action")[0, 0].tolist())
        columns["predicted"].append(prediction.categories["action"][0, 0].argmax(-1).tolist())
        for name, part in val_loss_parts(prediction, before, after).items():
            totals[name].append(float(part.total))
            counts[name].append(float(part.count))
    return EvalRecords(
        games=targets.games,
        previous_action=np.array(columns["previous"]),
        true_action=np.array(columns["true"]),
        predicted_action=np.array(columns["predicted"]),
        position_error=np.array(columns["error"]),
        loss_totals={name: np.array(values) for name, values in totals.items()},
        loss_counts={name: np.array(values) for name, values in counts.items()},
    )


def assert_same(fast: EvalRecords, slow: EvalRecords) -> None:
    for name in ("games", "previous_action", "true_action", "predicted_action"):
        assert np.array_equal(getattr(fast, name), getattr(slow, name)), name
    np.testing.assert_allclose(fast.position_error, slow.position_error, rtol=1e-3, atol=1e-4)
    for name in VAL_LOSS_WEIGHTS:
        np.testing.assert_allclose(fast.loss_totals[name], slow.loss_totals[name], rtol=1e-3, atol=1e-3, err_msg=name)
        assert np.array_equal(fast.loss_counts[name], slow.loss_counts[name]), name


@pytest.mark.parametrize("context", [1, 10, 70, COUNTDOWN_FRAMES])
def test_windows_of_frames_kept_for_the_longest_context_equal_one_target_after_another(
    index, whole_games, model, context
):
    targets = evaluation_targets(index, NUM_TARGETS)
    fast = evaluate_windows(model, read_targets(index, targets, COUNTDOWN_FRAMES), context, CPU, "fp32")
    assert_same(fast, records_one_by_one(model, index, whole_games, targets, context))


def some_short_games(index: GameIndex) -> np.ndarray:
    """Three short games of different lengths."""
    return np.argsort(index.num_frames, kind="stable")[:3]


def test_judging_a_stream_equals_observing_each_whole_game_at_once(index, model):
    all_targets = evaluation_targets(index, None)
    chosen = np.flatnonzero(np.isin(all_targets.games, some_short_games(index)))[::37]
    targets = Targets(games=all_targets.games[chosen], frames=all_targets.frames[chosen])
    fast = evaluate_stream(model, read_targets(index, targets, "stream"), CPU, "fp32")
    assert len(fast) == len(targets) > 100
    assert_same(fast, whole_game_records(model, index, targets))


@torch.no_grad()
def whole_game_records(model: Mamba2WorldModel, index: GameIndex, targets: Targets) -> EvalRecords:
    """Each game observed from its first to its last frame in one pass, its targets picked out of it."""
    parts = []
    for game in np.unique(targets.games):
        length = int(index.num_frames[game])
        frames = to_frames(take_rows(read_games(index, [game]), index.facts[[game]], np.arange(length)[None]))
        before, after = frames.slice(0, length - 1), frames.slice(1, length)
        prediction, _ = model.observe(before, controllers(after))
        for frame in targets.frames[targets.games == game]:
            at = slice(int(frame) - 1, int(frame))
            one = Prediction(
                deltas=prediction.deltas[:, at],
                velocities=prediction.velocities[:, at],
                dynamics=prediction.dynamics[:, at],
                binaries=prediction.binaries[:, at],
                categories={name: logits[:, at] for name, logits in prediction.categories.items()},
            )
            parts.append((game, one, before.slice(at.start, at.stop), after.slice(at.start, at.stop)))
    losses = [val_loss_parts(predicted, before, after) for _, predicted, before, after in parts]
    errors = [
        (predicted.deltas - ground_truth(b, a).deltas)[0, 0, :, 1:3].abs().mean(-1) for _, predicted, b, a in parts
    ]
    return EvalRecords(
        games=np.array([game for game, *_ in parts]),
        previous_action=np.array([category(before, "action")[0, 0].tolist() for _, _, before, _ in parts]),
        true_action=np.array([category(after, "action")[0, 0].tolist() for *_, after in parts]),
        predicted_action=np.array(
            [predicted.categories["action"][0, 0].argmax(-1).tolist() for _, predicted, _, _ in parts]
        ),
        position_error=torch.stack(errors).double().numpy(),
        loss_totals={name: np.array([float(loss[name].total) for loss in losses]) for name in VAL_LOSS_WEIGHTS},
        loss_counts={name: np.array([float(loss[name].count) for loss in losses]) for name in VAL_LOSS_WEIGHTS},
    )


def test_a_stream_sees_more_than_a_window(index, model):
    games = some_short_games(index)[:1]
    targets = Targets(games=np.repeat(games, 20), frames=np.arange(500, 520))
    frames = read_targets(index, targets, "stream")
    streamed = evaluate_stream(model, frames, CPU, "fp32")
    windowed = evaluate_windows(model, frames, 2, CPU, "fp32")
    assert np.array_equal(streamed.true_action, windowed.true_action)
    assert np.abs(streamed.position_error - windowed.position_error).max() > 1e-3


def test_judging_leaves_the_model_as_it_was(index, model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    frames = read_targets(index, evaluation_targets(index, 5), 3)
    for training in (True, False):
        model.train(training)
        evaluate_windows(model, frames, 3, CPU, "fp32")
        assert model.training == training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not torch.is_inference_mode_enabled()


def test_the_evaluation_frames_are_the_same_for_every_context_and_never_before_frame_0(index, model):
    targets = evaluation_targets(index, NUM_TARGETS)
    assert len(targets) == NUM_TARGETS
    assert targets.frames.min() >= COUNTDOWN_FRAMES
    assert (targets.frames < index.num_frames[targets.games]).all()
    frames = read_targets(index, targets, 123)
    truths = [evaluate_windows(model, frames, k, CPU, "fp32").true_action for k in (1, 10, 123)]
    assert all(np.array_equal(truths[0], truth) for truth in truths)


def test_evaluation_frames_are_spread_over_games_by_their_length(index):
    targets = evaluation_targets(index, 20_000)
    expected = (index.num_frames - COUNTDOWN_FRAMES) / (index.num_frames - COUNTDOWN_FRAMES).sum()
    found = np.bincount(targets.games, minlength=len(index)) / len(targets)
    assert np.abs(found - expected).max() < 0.01
    order = np.lexsort((targets.frames, targets.games))
    assert np.array_equal(order, np.arange(len(targets)))
    assert len(set(zip(targets.games.tolist(), targets.frames.tolist(), strict=True))) == len(targets)


def test_fewer_targets_are_the_first_of_more(index):
    assert named(index, evaluation_targets(index, 100)) < named(index, evaluation_targets(index, 1_000))


def named(index: GameIndex, targets: Targets) -> set[tuple[str, int]]:
    """Targets by their games' ids."""
    return {(str(index.game_ids[game]), int(frame)) for game, frame in zip(targets.games, targets.frames, strict=True)}


def test_evaluation_frames_depend_on_the_games_and_not_on_the_order_in_which_a_corpus_grew(synthetic_replays, tmp_path):
    files = sorted(synthetic_replays.rglob("*.slp"))
    halves = {"first": files[: len(files) // 2], "second": files[len(files) // 2 :]}
    for name, members in halves.items():
        (tmp_path / name).mkdir()
        for file in members:
            shutil.copy(file, tmp_path / name)
    for out, order in (("grown", ("first", "second")), ("backwards", ("second", "first"))):
        for name in order:
            encode([tmp_path / name], tmp_path / out, EncodeOptions(), encode_in_process)
    grown, backwards = (
        index_games(open_corpus(tmp_path / out), "all", SplitConfig()) for out in ("grown", "backwards")
    )
    assert grown.game_ids.tolist() != backwards.game_ids.tolist()
    for number in (50, 500):
        assert named(grown, evaluation_targets(grown, number)) == named(
            backwards, evaluation_targets(backwards, number)
        )


def only(index: GameIndex, games: np.ndarray) -> GameIndex:
    """The index with some of its games alone."""
    arrays = {field.name: getattr(index, field.name) for field in fields(index) if field.name != "corpus"}
    return replace(index, **{name: array[games] for name, array in arrays.items()})


def test_a_model_and_the_baselines_are_evaluated_on_the_same_frames(index, model):
    index = only(index, some_short_games(index))
    result = evaluate(model, index, contexts=(3, "stream"), num_targets=NUM_TARGETS, device=CPU, precision="fp32")
    names = [(row["predictor"], row["context"]) for row in result["results"]]
    assert names == [("model", 3), ("model", "stream")] + [(name, None) for name in BASELINES]
    targets = evaluation_targets(index, NUM_TARGETS)
    expected = compute_metrics(evaluate_windows(model, read_targets(index, targets, 3), 3, CPU, "fp32"))
    assert result["results"][0]["metrics"] == {name: metric.plain() for name, metric in expected.items()}
    for row in result["results"]:
        for slices in row["slices"].values():
            assert sum(part["count"] for part in slices.values()) == 2 * NUM_TARGETS
    text = table(result)
    assert all(name in text for name in BASELINES)


def test_an_evaluation_in_groups_of_games_equals_that_of_all_games_at_once(index, model, monkeypatch):
    index = only(index, some_short_games(index))
    options = {"contexts": (3, "stream"), "num_targets": NUM_TARGETS, "device": CPU, "precision": "fp32"}
    at_once = evaluate(model, index, **options)
    monkeypatch.setattr(target_frames, "KEPT_FRAMES", 0)
    monkeypatch.setattr(target_frames, "GROUP_FRAMES", 1_000)
    in_groups = evaluate(model, index, **options)
    assert in_groups["num_games"] == at_once["num_games"] == 3
    for one, other in zip(in_groups["results"], at_once["results"], strict=True):
        assert (one["predictor"], one["context"]) == (other["predictor"], other["context"])
        for name, metric in one["metrics"].items():
            expected = [other["metrics"][name][end] for end in ("value", "low", "high")]
            assert [metric[end] for end in ("value", "low", "high")] == pytest.approx(expected, rel=1e-4), name


def test_an_impossible_context_is_a_user_error(index, model):
    mlp = build_model(ModelConfig(kind="mlp", hidden_sizes=(8,)), 10)
    for network, context, words in (
        (model, COUNTDOWN_FRAMES + 1, "expected 1 .. 123"),
        (model, 0, "expected 1 .. 123"),
        (mlp, 20, "reads exactly 10 frames"),
        (mlp, "stream", "reads exactly 10 frames"),
    ):
        with pytest.raises(UserError, match=words):
            evaluate(network, index, contexts=(context,), num_targets=5, device=CPU)


def test_games_that_end_in_their_countdown_have_no_evaluation_frame(index, model):
    short = replace(index, num_frames=np.full(len(index), COUNTDOWN_FRAMES))
    assert not len(evaluation_targets(short, None))
    with pytest.raises(UserError, match="countdown"):
        evaluate(model, short, contexts=(10,), num_targets=5, device=CPU)
