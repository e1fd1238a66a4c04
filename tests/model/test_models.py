"""The world models: a sequence, a window and a step say the same, and nobody sees the future."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from datasets.loading.frames import CODE_COLUMNS, FLOAT_COLUMNS, GameIndex, read_games
from datasets.loading.sequences import take_rows
from datasets.loading.targets import COUNTDOWN_FRAMES
from tune.config import SIZES
from wm.data.augment import swap_players
from wm.model.encoding import Frames, controllers, to_frames
from wm.model.heads import Prediction, displacement_prior
from wm.model.mamba2 import Mamba2Mixer
from wm.model.ops import ssd
from wm.model.world_model import (
    Mamba2WorldModel,
    MLPWorldModel,
    ModelConfig,
    WorldModel,
    build_model,
    num_parameters,
)

TINY = ModelConfig(d_model=32, num_layers=2, d_state=8, headdim=16, scan_backend="torch")
STATE_PARTS = ("hitstun", "animation", "flags")
NUM_FRAMES = 140
"""Frames of a test sequence: more than two chunks of the scan."""
CONTROLLER_COLUMNS = ("main_x", "main_y", "c_x", "c_y", "trigger", "buttons")
MAMBA_SSM_NAMES = {
    "dt_bias", "A_log", "D", "in_proj.weight", "conv1d.weight", "conv1d.bias", "norm.weight", "out_proj.weight",
}  # fmt: skip


@pytest.fixture(scope="module")
def frames(index: GameIndex) -> Frames:
    """The same stretch of four games; of real ones two lack velocities."""
    games = np.argsort(index.facts[:, 1], kind="stable")[[0, 1, -2, -1]]
    arrays = read_games(index, games)
    starts = np.cumsum(index.num_frames[games]) - index.num_frames[games] + COUNTDOWN_FRAMES + 400
    return to_frames(take_rows(arrays, index.facts[games], starts[:, None] + np.arange(NUM_FRAMES)))


@pytest.fixture(
    scope="module",
    params=[{"encoding": 2}, {"encoding": 3}, {"encoding": 4}, {"physics": True}],
    ids=["encoding 2", "encoding 3", "encoding 4", "physics"],
)
def model(request: pytest.FixtureRequest) -> Mamba2WorldModel:
    """A small network with no zero weights."""
    built = lively(replace(TINY, **request.param))
    assert isinstance(built, Mamba2WorldModel)
    return built


def lively(config: ModelConfig) -> WorldModel:
    """A model whose weights are moved away from their start, at which numbers are the prior alone."""
    torch.manual_seed(3)
    model = build_model(config, 10)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def parts_of(prediction: Prediction) -> dict[str, Tensor]:
    return (
        {
            "deltas": prediction.deltas,
            "velocities": prediction.velocities,
            "dynamics": prediction.dynamics,
            "binaries": prediction.binaries,
        }
        | {name: part for name in STATE_PARTS if (part := getattr(prediction, name)) is not None}
        | prediction.categories
    )


def assert_same(first: Prediction, second: Prediction, at: slice | int = slice(None)) -> None:
    """Equal predictions; `at` picks positions of the first."""
    positions = slice(at, at + 1) if isinstance(at, int) else at
    others = parts_of(second)
    for name, part in parts_of(first).items():
        torch.testing.assert_close(part[:, positions], others[name], rtol=1e-4, atol=1e-4, msg=lambda m, n=name: n + m)


def join(predictions: list[Prediction]) -> Prediction:
    """Predictions one after another in time."""
    parts = [parts_of(prediction) for prediction in predictions]
    joined = {name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]}
    names = ("deltas", "velocities", "dynamics", "binaries", *STATE_PARTS)
    numbers = {name: joined.pop(name) for name in names if name in joined}
    return Prediction(**numbers, categories=joined)


@pytest.mark.parametrize(
    ("config", "context_frames", "millions"),
    [
        (ModelConfig(kind="mlp", encoding=2), 10, 1.43),
        (ModelConfig(kind="mlp", encoding=2), 60, 6.45),
        (ModelConfig(d_model=384, num_layers=4, encoding=2), 10, 4.3),
        *(
            (ModelConfig(**{path.removeprefix("model."): value for path, value in SIZES[name].items()}), 10, millions)
            for name, millions in (("medium", 2.09), ("large", 6.17), ("xl", 7.27))
        ),
    ],
    ids=["older mlp K=10", "older mlp K=60", "older medium", "medium", "large", "xl"],
)
def test_the_networks_have_the_sizes_that_the_design_names(config, context_frames, millions):
    with torch.device("meta"):
        assert num_parameters(build_model(config, context_frames)) / 1e6 == pytest.approx(millions, rel=0.02)


@torch.no_grad()
@pytest.mark.parametrize("encoding", [3, 4])
@pytest.mark.parametrize("kind", ["mamba2", "mlp"])
def test_exchanging_the_players_exchanges_the_predictions_of_shared_weights(frames, kind, encoding):
    network = lively(replace(TINY, kind=kind, encoding=encoding, hidden_sizes=(32, 16)))
    window = frames.slice(0, 21)
    last_only = kind == "mlp"
    predicted, exchanged = (parts_of(network(f, last_only=last_only)) for f in (window, swap_players(window)))
    for name, part in predicted.items():
        torch.testing.assert_close(part, exchanged[name].flip(2), rtol=1e-4, atol=1e-4, msg=lambda m, n=name: n + m)
        assert not torch.allclose(part, part.flip(2), atol=1e-3)  # the two players differ


@torch.no_grad()
def test_a_sequences_prediction_at_a_frame_is_the_windows_over_the_same_frames(frames, model):
    whole = model(frames)
    assert whole.deltas.shape == (4, NUM_FRAMES - 1, 2, 4)
    for position in (0, 1, 2, 9, 62, 63, 64, 65, 127, 128, NUM_FRAMES - 2):
        assert_same(whole, model(frames.slice(0, position + 2), last_only=True), position)


@torch.no_grad()
def test_a_window_from_the_middle_knows_nothing_of_what_came_before(frames, model):
    start, context = 50, 10
    window = frames.slice(start, start + context + 1)
    alone = model(window, last_only=True)
    assert_same(model(frames.slice(start, NUM_FRAMES)), alone, context - 1)
    with_past = parts_of(model(frames))["action"][:, start + context - 1]
    assert (with_past - alone.categories["action"][:, 0]).abs().max() > 1e-3


@torch.no_grad()
def test_stepping_frame_by_frame_equals_the_sequence(frames, model):
    all_controllers = controllers(frames)
    state, steps = None, []
    for number in range(NUM_FRAMES - 1):
        frame, next_controllers = frames.slice(number, number + 1), all_controllers[:, number + 1 : number + 2]
        prediction, state = model.step(state, frame, next_controllers)
        steps.append(prediction)
    assert_same(model(frames), join(steps))


@torch.no_grad()
@pytest.mark.parametrize("sizes", [(1, 138), (7,) * 20, (63, 64, 12), (64, 75), (65, 74), (2, 1, 130, 3, 3), (100, 39)])
def test_observing_in_chunks_of_any_size_equals_one_pass(frames, model, sizes):
    all_controllers = controllers(frames)
    state, parts, start = None, [], 0
    for size in sizes:
        end = min(start + size, NUM_FRAMES - 1)
        context, next_controllers = frames.slice(start, end), all_controllers[:, start + 1 : end + 1]
        prediction, state = model.observe(context, next_controllers, state, return_state=True)
        parts.append(prediction)
        start = end
    assert start == NUM_FRAMES - 1
    assert_same(model(frames), join(parts))


@torch.no_grad()
def test_observing_without_a_state_asked_for_says_the_same_and_gives_none(frames, model):
    all_controllers = controllers(frames)
    context = frames.slice(0, NUM_FRAMES - 1)
    with_state, after = model.observe(context, all_controllers[:, 1:], return_state=True)
    without, none = model.observe(context, all_controllers[:, 1:])
    assert none is None
    assert after is not None
    assert_same(with_state, without)
    last, _ = model.observe(context, all_controllers[:, 1:], last_only=True)
    assert_same(with_state, last, NUM_FRAMES - 2)


def changed_at(frames: Frames, number: int, *, state: bool, controls: bool) -> Frames:
    """The same frames with one of them another: what its players are, or what their controllers say."""
    held = [CODE_COLUMNS.index(name) for name in CONTROLLER_COLUMNS]
    is_control = torch.tensor([column in held for column in range(len(CODE_COLUMNS))])
    floats, codes = frames.floats.clone(), frames.codes.clone()
    if state:
        floats[:, number] += 3
        codes[:, number] = torch.where(is_control, codes[:, number], codes[:, number] + 1)
    if controls:
        codes[:, number] = torch.where(is_control, codes[:, number] ^ 0x0155, codes[:, number])
    return replace(frames, floats=floats, codes=codes)


def differing_positions(first: Prediction, second: Prediction) -> set[int]:
    """Positions at which any part of two predictions differs."""
    others = parts_of(second)
    apart = torch.stack(
        [(part - others[name]).abs().flatten(2).amax(dim=(0, 2)) for name, part in parts_of(first).items()]
    ).amax(dim=0)
    return set(torch.nonzero(apart > 1e-5).flatten().tolist())


@torch.no_grad()
@pytest.mark.parametrize("number", [1, 30, 63, 64, 65, 130])
def test_what_a_frame_is_changes_only_predictions_of_later_frames(frames, model, number):
    # Position i predicts frame i + 1 from frames 0 .. i.
    other = changed_at(frames, number, state=True, controls=False)
    differing = differing_positions(model(frames), model(other))
    assert min(differing) == number
    assert number + 1 in differing


@torch.no_grad()
@pytest.mark.parametrize("number", [1, 30, 64, 65, 139])
def test_a_frames_controllers_change_its_own_prediction_and_no_earlier_one(frames, model, number):
    other = changed_at(frames, number, state=False, controls=True)
    differing = differing_positions(model(frames), model(other))
    assert min(differing) == number - 1


@torch.no_grad()
def test_of_the_last_frame_only_the_controllers_are_seen(frames, model):
    mlp = lively(ModelConfig(kind="mlp", hidden_sizes=(32, 16)))
    window = frames.slice(0, 11)
    for network in (model, mlp):
        predicted = network(window, last_only=True)
        hidden_state = network(changed_at(window, 10, state=True, controls=False), last_only=True)
        other_controls = network(changed_at(window, 10, state=False, controls=True), last_only=True)
        assert not differing_positions(predicted, hidden_state)
        assert differing_positions(predicted, other_controls)


@torch.no_grad()
def test_the_mlp_reads_every_one_of_its_frames(frames):
    mlp = lively(ModelConfig(kind="mlp", hidden_sizes=(32, 16)))
    assert isinstance(mlp, MLPWorldModel)
    window = frames.slice(0, 11)
    predicted = mlp(window)
    assert predicted.deltas.shape == (4, 1, 2, 4)
    for number in range(10):
        assert differing_positions(predicted, mlp(changed_at(window, number, state=True, controls=False)))


@torch.no_grad()
def test_the_mlp_says_of_windows_that_share_frames_what_it_says_of_each(frames):
    mlp = lively(ModelConfig(kind="mlp", hidden_sizes=(32, 16)))
    together = mlp(frames.slice(3, 3 + 10 + 5))
    assert together.deltas.shape[:2] == (4, 5)
    for window in range(5):
        assert_same(together, mlp(frames.slice(3 + window, 3 + window + 11)), window)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["mamba2", "mlp"])
def test_an_untrained_network_predicts_the_displacement_prior(frames, kind):
    network = build_model(replace(TINY, kind=kind, physics=False), 10).eval()
    prediction = network(frames.slice(0, 11), last_only=True)
    for row in range(4):
        x, y = slow_prior(frames, row, 9)
        torch.testing.assert_close(prediction.deltas[row, 0, :, 1], x)
        torch.testing.assert_close(prediction.deltas[row, 0, :, 2], y)
    assert not prediction.deltas[..., [0, 3]].any()
    assert not prediction.velocities.any()


def slow_prior(frames: Frames, row: int, number: int) -> tuple[Tensor, Tensor]:
    """Own velocity (of air or ground) plus knockback; the last displacement where a game has no velocities."""

    def column(name: str, at: int) -> Tensor:
        return frames.floats[row, at, :, FLOAT_COLUMNS.index(name)]

    if not frames.game[row, 1]:
        return tuple(column(name, number) - column(name, number - 1) for name in ("x", "y"))
    airborne = frames.codes[row, number, :, CODE_COLUMNS.index("airborne")]
    own_x = [column("self_air_x" if airborne[p] else "self_ground_x", number)[p] for p in (0, 1)]
    x = torch.stack(own_x) + column("attack_x", number)
    return x, column("self_y", number) + column("attack_y", number)


def test_the_prior_of_a_games_first_frame_is_0_without_velocities_and_goes_on_from_a_state(frames):
    without = replace(frames, game=torch.zeros_like(frames.game))
    assert not displacement_prior(without)[:, 0].any()
    whole = displacement_prior(without)
    before = torch.stack([frames.float_column("x"), frames.float_column("y")], dim=-1)[:, 9:10]
    assert torch.equal(displacement_prior(without.slice(10, 20), before), whole[:, 10:20])


def slow_scan(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t and y_t = C_t h_t, frame by frame and head by head."""
    num_examples, num_frames, num_heads, width = x.shape
    examples = []
    for example in range(num_examples):
        heads = []
        for head in range(num_heads):
            h = x.new_zeros(width, b.shape[-1]) if state is None else state[example, head]
            outputs = []
            for t in range(num_frames):
                step = dt[example, t, head]
                h = torch.exp(step * a[head]) * h + step * torch.outer(x[example, t, head], b[example, t])
                outputs.append(h @ c[example, t])
            heads.append((torch.stack(outputs), h))
        examples.append((torch.stack([y for y, _ in heads], dim=1), torch.stack([h for _, h in heads])))
    return torch.stack([y for y, _ in examples]), torch.stack([h for _, h in examples])


def scan_inputs(num_frames: int, with_state: bool) -> dict[str, Tensor | None]:
    generator = torch.Generator().manual_seed(num_frames)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "x": normal(2, num_frames, 3, 4),
        "dt": torch.nn.functional.softplus(normal(2, num_frames, 3) - 2),
        "a": -torch.exp(normal(3)),
        "b": normal(2, num_frames, 5),
        "c": normal(2, num_frames, 5),
        "state": normal(2, 3, 4, 5) if with_state else None,
    }


@pytest.mark.parametrize("with_state", [False, True], ids=["from zero", "from a state"])
@pytest.mark.parametrize("num_frames", [1, 10, 64, 65, 130])
def test_the_scan_and_its_gradients_equal_the_recurrence_written_out(num_frames, with_state):
    inputs = scan_inputs(num_frames, with_state)
    fast = {n: None if t is None else t.clone().requires_grad_() for n, t in inputs.items()}
    slow = {n: None if t is None else t.double().requires_grad_() for n, t in inputs.items()}
    y, state = ssd.scan(*fast.values(), return_state=True)
    slow_y, slow_state = slow_scan(*slow.values())
    assert state is not None
    torch.testing.assert_close(y.double(), slow_y, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state.double(), slow_state, rtol=1e-4, atol=1e-5)
    weight_y, weight_state = torch.randn_like(slow_y), torch.randn_like(slow_state)
    ((y * weight_y).sum() + (state * weight_state).sum()).backward()
    ((slow_y * weight_y).sum() + (slow_state * weight_state).sum()).backward()
    for name, tensor in fast.items():
        if tensor is not None:
            torch.testing.assert_close(
                tensor.grad.double(), slow[name].grad, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
            )


def test_the_scan_gives_the_same_with_and_without_a_state_asked_for():
    inputs = scan_inputs(70, True)
    assert torch.equal(ssd.scan(*inputs.values())[0], ssd.scan(*inputs.values(), return_state=True)[0])


def test_a_mixers_parameters_are_named_as_in_mamba_ssm():
    with torch.device("meta"):
        mixer = Mamba2Mixer(384, d_state=64, headdim=64, expand=2, d_conv=4, scan_backend="torch")
    assert set(mixer.state_dict()) == MAMBA_SSM_NAMES
    assert num_parameters(mixer) == 943_780


def test_a_mixer_starts_with_steps_and_decays_in_mamba_ssms_ranges():
    torch.manual_seed(0)
    mixer = Mamba2Mixer(512, d_state=8, headdim=4, expand=2, d_conv=4, scan_backend="torch")
    steps = torch.nn.functional.softplus(mixer.dt_bias)
    assert 1e-3 * 0.99 < steps.min() < 2e-3
    assert 0.05 < steps.max() < 0.1 * 1.01
    decays = mixer.A_log.exp()
    assert 0.99 < decays.min() < 2
    assert 15 < decays.max() < 16.01
