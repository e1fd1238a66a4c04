"""Carried state, windows and sequences agree where they must, and a batch's games do not touch each other."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from datasets.loading.frames import CODE_COLUMNS, FLOAT_COLUMNS, GameIndex, read_games
from datasets.loading.sequences import take_rows
from datasets.loading.targets import COUNTDOWN_FRAMES
from wm.config.model_config import ModelConfig
from wm.model.animation import age_table
from wm.model.dynamics.clocks import clock_of_last
from wm.model.dynamics.imagination import Imagination, controller_columns
from wm.model.dynamics.next_frame import ActionClock, FeedBack, GameRules
from wm.model.encoding import Frames, to_frames
from wm.model.heads import Prediction
from wm.model.ops import ssd
from wm.model.world_model import WorldModel, build_model

K, NUM_IMAGINED = 12, 8


def lively(config: ModelConfig) -> WorldModel:
    """A model whose weights are moved away from their start, at which numbers are the prior alone."""
    torch.manual_seed(3)
    model = build_model(config, K)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module", params=["encoding 2", "encoding 3", "encoding 4", "physics", "mlp"])
def model(request: pytest.FixtureRequest) -> WorldModel:
    if request.param == "mlp":
        return lively(ModelConfig(kind="mlp", hidden_sizes=(32, 16)))
    config = ModelConfig(d_model=32, num_layers=2, d_state=8, headdim=16)
    if request.param == "physics":
        return lively(replace(config, physics=True))
    return lively(replace(config, encoding=int(request.param.removeprefix("encoding "))))


@pytest.fixture(scope="module")
def frames(index: GameIndex) -> Frames:
    """A stretch of three games, one of which lacks velocities if real replays are there."""
    games = np.argsort(index.facts[:, 1], kind="stable")[[0, -2, -1]]
    starts = np.cumsum(index.num_frames[games]) - index.num_frames[games] + COUNTDOWN_FRAMES + 400
    rows = starts[:, None] + np.arange(K + 100)
    return to_frames(take_rows(read_games(index, games), index.facts[games], rows))


class Truth:
    """Feeds the true frames back instead of the predictions."""

    def __init__(self, frames: Frames) -> None:
        self.frames, self.next = frames, 0

    def __call__(
        self, last: Frames, clock: ActionClock, prediction: Prediction, controllers_BTPC: Tensor
    ) -> tuple[Frames, ActionClock]:
        frame = self.frames.slice(self.next, self.next + 1)
        self.next += 1
        return frame, clock


def numbers(prediction: Prediction) -> Tensor:
    """All outputs of a prediction, in one vector for each player."""
    others = ("categories", "motion")
    plain = [getattr(prediction, field.name) for field in fields(prediction) if field.name not in others]
    if prediction.motion is not None:
        plain += [prediction.motion.logits.softmax(-1), prediction.motion.candidates]
    shape = prediction.deltas.shape[:3]
    given = [part.reshape(*shape, -1) for part in plain if part is not None]
    return torch.cat([*given, *prediction.categories.values()], dim=-1)


def test_a_carried_state_and_a_window_imagine_the_same_first_frame(model, frames):
    seen, following = frames.slice(0, K), controller_columns(frames.slice(K, K + 1))
    by_window = Imagination(model, GameRules(), window=K)
    carried = Imagination(model, GameRules())
    with torch.inference_mode():
        first, _ = by_window.step(by_window.observe(None, seen), following)
        second, _ = carried.step(carried.observe(None, seen), following)
        whole = model(frames.slice(0, K + 1), last_only=True)
    torch.testing.assert_close(numbers(first), numbers(whole))
    torch.testing.assert_close(numbers(second), numbers(whole), rtol=1e-4, atol=1e-4)


def test_fed_with_the_truth_a_carried_state_predicts_as_a_sequence_does(model, frames):
    if not hasattr(model, "observe"):
        pytest.skip("an MLP carries no state")
    frames = frames.slice(0, K + NUM_IMAGINED)
    imagination = Imagination(model, Truth(frames.slice(K, K + NUM_IMAGINED)))
    with torch.inference_mode():
        whole = numbers(model(frames))[:, -NUM_IMAGINED:]
        state = imagination.observe(None, frames.slice(0, K))
        for t in range(NUM_IMAGINED):
            prediction, state = imagination.step(state, controller_columns(frames.slice(K + t, K + t + 1)))
            torch.testing.assert_close(numbers(prediction)[:, 0], whole[:, t], rtol=1e-4, atol=1e-4)


def test_fed_with_the_truth_a_window_predicts_from_its_last_frames_alone(model, frames):
    imagination = Imagination(model, Truth(frames.slice(K, K + 3)), window=K)
    with torch.inference_mode():
        state = imagination.observe(None, frames.slice(0, K))
        for t in range(3):
            prediction, state = imagination.step(state, controller_columns(frames.slice(K + t, K + t + 1)))
            expected = model(frames.slice(t, K + t + 1), last_only=True)
            torch.testing.assert_close(numbers(prediction), numbers(expected))


@pytest.mark.parametrize("window", [None, K])
def test_frames_may_be_observed_at_once_or_in_parts(model, frames, window):
    imagination = Imagination(model, GameRules(), window=window)
    following = controller_columns(frames.slice(90, 92))
    with torch.inference_mode():
        at_once = imagination.observe(None, frames.slice(0, 90))
        state = None
        for start, end in ((0, 1), (1, 40), (40, 41), (41, 90)):
            state = imagination.observe(state, frames.slice(start, end))
        assert state is not None
        first, _ = imagination.step(at_once, following[:, :1])
        second, _ = imagination.step(state, following[:, :1])
    torch.testing.assert_close(numbers(first), numbers(second), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(at_once.clock.speed, state.clock.speed)
    assert torch.equal(at_once.clock.frames, state.clock.frames)


@pytest.mark.parametrize("window", [None, K])
def test_the_games_of_a_batch_do_not_touch_each_other(model, frames, window):
    imagination = Imagination(model, GameRules(), window=window)
    following = controller_columns(frames.slice(K, K + NUM_IMAGINED))
    with torch.inference_mode():
        all_games, _ = imagination.imagine(imagination.observe(None, frames.slice(0, K)), following)
        for row in (2, 0):
            one = frames.examples(row, row + 1).slice(0, K)
            alone, after = imagination.imagine(imagination.observe(None, one), following[row : row + 1])
            torch.testing.assert_close(alone.floats[0], all_games.floats[row], rtol=1e-4, atol=1e-3)
            assert torch.equal(alone.codes[0], all_games.codes[row])
            assert torch.equal(after.last.codes, alone.codes[:, -1:])


def test_the_controllers_of_imagined_frames_are_those_that_were_given(model, frames):
    imagination = Imagination(model, GameRules(), window=K)
    following = controller_columns(frames.slice(K, K + NUM_IMAGINED))
    with torch.inference_mode():
        dream, _ = imagination.imagine(imagination.observe(None, frames.slice(0, K)), following)
    assert torch.equal(controller_columns(dream), following)
    assert dream.num_frames == NUM_IMAGINED


@pytest.mark.parametrize("window", [None, K])
def test_imagining_twice_gives_the_same_frames(model, frames, window):
    imagination = Imagination(model, GameRules(), window=window)
    following = controller_columns(frames.slice(K, K + NUM_IMAGINED))
    with torch.inference_mode():
        state = imagination.observe(None, frames.slice(0, K))
        first, second = (imagination.imagine(state, following)[0] for _ in range(2))
    assert torch.equal(first.floats, second.floats)
    assert torch.equal(first.codes, second.codes)


@pytest.mark.parametrize("window", [None, K])
def test_frames_imagined_at_once_are_those_of_single_steps(model, frames, window):
    imagination = Imagination(model, GameRules(), window=window)
    following = controller_columns(frames.slice(K, K + NUM_IMAGINED))
    with torch.inference_mode():
        state = imagination.observe(None, frames.slice(0, K))
        at_once, after = imagination.imagine(state, following)
        for t in range(NUM_IMAGINED):
            _, state = imagination.step(state, following[:, t : t + 1])
            assert torch.equal(state.last.floats, at_once.floats[:, t : t + 1])
            assert torch.equal(state.last.codes, at_once.codes[:, t : t + 1])
        _, again = imagination.step(after, following[:, :1])
        _, branch = imagination.step(after, following[:, :1])  # the returned state is not overwritten by a step
    assert torch.equal(again.last.floats, branch.last.floats)


def test_a_gradient_flows_through_imagined_frames(model, frames):
    rules = GameRules()
    observed = replace(frames.slice(0, K), floats=frames.floats[:, :K].clone().requires_grad_())

    def of_the_second_place(feed_back: FeedBack) -> Tensor:
        """The gradient of the second imagined x with respect to the last observed one, by game and player."""
        imagination = Imagination(model, feed_back, window=None)
        observed.floats.grad = None
        state = imagination.observe(None, observed)
        dream, _ = imagination.imagine(state, controller_columns(frames.slice(K, K + 2)))
        dream.float_column("x")[:, -1].sum().backward()
        assert observed.floats.grad is not None
        return observed.floats.grad[frames.present("velocity") > 0, -1, :, FLOAT_COLUMNS.index("x")]

    model.zero_grad()
    through_predictions = of_the_second_place(rules)
    assert sum(float(p.grad.abs().sum()) for p in model.parameters() if p.grad is not None) > 0
    # A place follows from the one before it: whatever the network makes of x, this part of the gradient is 1.
    alone = of_the_second_place(lambda last, clock, made, given: rules(last, clock, made.map(Tensor.detach), given))
    torch.testing.assert_close(alone, torch.ones_like(alone))
    assert not torch.equal(through_predictions, alone)


@pytest.mark.slow
def test_a_compiled_step_imagines_the_same_frames_and_is_compiled_for_one_number_of_games(frames):
    model = lively(ModelConfig(d_model=32, num_layers=2, d_state=8, headdim=16))
    eager, compiled = Imagination(model, GameRules()), Imagination(model, GameRules(), compiled=True)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for rows in (slice(0, 3), slice(0, 3), slice(1, 3)):
        some = Frames(floats=frames.floats[rows], codes=frames.codes[rows], game=frames.game[rows])
        following = controller_columns(some.slice(K, K + NUM_IMAGINED))
        with torch.inference_mode():
            first, second = (
                imagination.imagine(imagination.observe(None, some.slice(0, K)), following)
                for imagination in (eager, compiled)
            )
        assert torch.equal(first[0].codes, second[0].codes)
        torch.testing.assert_close(first[0].floats, second[0].floats)
        assert first[1].last.codes.dtype == second[1].last.codes.dtype
    state = compiled.observe(None, frames.slice(0, K))
    following = controller_columns(frames.slice(K, K + NUM_IMAGINED))
    with torch.inference_mode():
        once, after = compiled.imagine(state, following)
        again, _ = compiled.imagine(state, following)  # a state is not changed by dreams from it
        further, _ = compiled.imagine(after, following)
        expected, _ = eager.imagine(after, following)
    assert torch.equal(once.floats, again.floats) and torch.equal(once.codes, again.codes)
    torch.testing.assert_close(further.floats, expected.floats)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_an_mlp_needs_its_whole_window(frames):
    mlp = lively(ModelConfig(kind="mlp", hidden_sizes=(32, 16)))
    imagination = Imagination(mlp, GameRules())
    state = imagination.observe(None, frames.slice(0, K - 1))
    with pytest.raises(ValueError, match=f"{K - 1} frames were observed"):
        imagination.step(state, controller_columns(frames.slice(K, K + 1)))


def test_the_clock_knows_how_long_an_action_lasts_and_how_fast_it_runs(frames):
    action = torch.tensor([[30, 30, 43, 43, 43]])
    age = torch.tensor([[5.0, 6.0, 0.0, 2.0, 4.0]])
    one = Frames(floats=frames.floats[:1, :5].clone(), codes=frames.codes[:1, :5].clone(), game=frames.game[:1])
    one.codes[..., 0] = action[..., None]
    one.floats[..., 9] = age[..., None]
    one.floats[..., 10] = 0.0
    clock = clock_of_last(one, age_table())
    assert clock.frames.flatten().tolist() == [2, 2]
    assert clock.speed.flatten().tolist() == [2.0, 2.0]
    longer = clock_of_last(one.slice(3, 5), age_table(), replace(clock, frames=clock.frames - 1))
    assert torch.equal(longer.frames, clock.frames)


@pytest.mark.parametrize(("keeps_speed", "speed"), [(False, 0.0), (True, 2.0)])
def test_an_action_that_stands_still_keeps_its_speed_if_the_network_says_when_it_goes_on(frames, keeps_speed, speed):
    one = frames.examples(0, 1).slice(0, 4)
    one = replace(one, floats=one.floats.clone(), codes=one.codes.clone())
    one.codes[..., CODE_COLUMNS.index("action")] = 65
    one.floats[..., FLOAT_COLUMNS.index("state_age")] = torch.tensor([1.0, 3.0, 5.0, 5.0])[:, None]
    one.floats[..., FLOAT_COLUMNS.index("hitlag")] = 0.0
    one.codes[..., CODE_COLUMNS.index("flags_1")] = 0
    clock = clock_of_last(one, age_table(), keeps_speed=keeps_speed)
    assert clock.speed.flatten().tolist() == [speed, speed]


@pytest.mark.parametrize("has_gradients", [False, True])
@pytest.mark.parametrize("in_place", [False, True])
def test_a_traced_step_of_the_scan_overwrites_a_state_only_where_it_may(in_place, has_gradients):
    generator = torch.Generator().manual_seed(0)
    x, dt, b, c = (torch.rand(*shape, generator=generator) for shape in ((3, 2, 4), (3, 2), (3, 5), (3, 5)))
    a, before = -torch.rand(2, generator=generator), torch.rand(3, 2, 4, 5, generator=generator)
    traced = torch.compile(ssd.step, backend="aot_eager", dynamic=False)
    given = before.clone()
    with torch.set_grad_enabled(has_gradients):
        y, updated = traced(x.requires_grad_(has_gradients), dt, a, b, c, given, in_place=in_place)
    expected_y, expected = ssd.step(x.detach(), dt, a, b, c, before)
    torch.testing.assert_close(y, expected_y)
    torch.testing.assert_close(updated, expected)
    is_overwritten = in_place and not has_gradients
    assert (updated.data_ptr() == given.data_ptr()) == is_overwritten
    torch.testing.assert_close(given, expected if is_overwritten else before)
    if has_gradients:
        y.sum().backward()
        assert x.grad is not None and x.grad.isfinite().all()


@pytest.mark.parametrize("block_bytes", [1, 10**9], ids=["row by row", "all rows at once"])
def test_a_single_step_of_the_scan_equals_the_scan(monkeypatch, block_bytes):
    monkeypatch.setattr(ssd, "STEP_BLOCK_BYTES", block_bytes)
    generator = torch.Generator().manual_seed(0)
    batch, heads, width, size = 3, 2, 4, 5

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    x, b, c = normal(batch, 1, heads, width), normal(batch, 1, size), normal(batch, 1, size)
    dt, a, state = normal(batch, 1, heads).exp(), -normal(heads).exp(), normal(batch, heads, width, size)
    before = state.clone()
    expected, after = ssd.scan(x, dt, a, b, c, state, return_state=True)
    for context in (torch.inference_mode(), torch.enable_grad()):
        with context:
            y, updated = ssd.step(x[:, 0], dt[:, 0], a, b[:, 0], c[:, 0], state)
        torch.testing.assert_close(y, expected[:, 0])
        torch.testing.assert_close(updated, after)
    assert torch.equal(state, before)
