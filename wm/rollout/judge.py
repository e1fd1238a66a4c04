"""Dreams of a model and of the baselines from the same starts -> coherence, as JSON data and as a table."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch

from datasets.loading.frames import GameIndex
from wm.model.dynamics.imagination import Imagination
from wm.model.dynamics.next_frame import FeedBack, GameRules
from wm.model.encoding import Frames, category, position_errors
from wm.model.world_model import Mamba2WorldModel, MLPWorldModel, WorldModel
from wm.rollout.baselines import BASELINES
from wm.rollout.coherence import HORIZONS, DreamErrors, by_game, join, summary
from wm.rollout.dreams import dream
from wm.rollout.events import event_of, first_impossible
from wm.rollout.older_rule import older_feed_back
from wm.rollout.retrieval import retrieve
from wm.rollout.starts import Starts, random_starts

Rule = Literal["ours", "theirs"]
NEAREST_SITUATION = "nearest situation"
"""Name of the baseline that needs training games (`wm.rollout.retrieval`)."""
NUM_STARTS, NUM_FRAMES, SEED, NUM_CONTEXT = 300, 20, 42, 60
"""Of the published definition; the context is ours (they see 30 frames, again for each frame)."""


def feed_back_of(rule: Rule) -> FeedBack:
    """How predictions are fed back by a rule."""
    return GameRules() if rule == "ours" else older_feed_back


def num_context_of(model: WorldModel, num_context: int | None, window: int | None) -> int:
    """True frames that a dream begins with: the window if there is one, else as asked for."""
    if isinstance(model, MLPWorldModel):
        return model.context_frames
    return window or num_context or NUM_CONTEXT


def judge(
    model: WorldModel,
    index: GameIndex,
    device: torch.device,
    *,
    num_starts: int = NUM_STARTS,
    num_frames: int = NUM_FRAMES,
    num_context: int | None = None,
    window: int | None = None,
    rule: Rule = "ours",
    compiled: bool = False,
    seed: int = SEED,
    train: GameIndex | None = None,
) -> dict[str, Any]:
    """Measure the coherence of a model, and of the baselines from the same starts. Deterministic on a CPU.

    Args:
        num_context: true frames before each dream; by default NUM_CONTEXT, an MLP's own K, or the window.
        window: K, frames that a Mamba-2 sees again for each frame; None carries its state.
        compiled: compile the steps of the dreams (`Imagination`).
        train: games in which NEAREST_SITUATION searches; None, or none but those of the index: without this baseline.
    Returns:
        JSON data: the facts of the measurement, the model's `summary` and sums `by_game`, and `baselines` with their
        summaries.
    Raises:
        UserError: no game is long enough, or the model predicts numbers that are not finite.
    """
    observed = num_context_of(model, num_context, window)
    starts = random_starts(index, num_starts, num_context=observed, num_frames=num_frames, seed=seed)
    imagination = Imagination(model, _on(feed_back_of(rule), device), window=window, compiled=compiled)
    retrieval = None if train is None else retrieve(train, index, starts, seed=seed)
    parts: dict[str, list[DreamErrors]] = {}
    num_done = 0
    for dreams in dream(imagination, index, starts, device):
        imagined = {"model": dreams.imagined}
        imagined |= {name: baseline(dreams.context, dreams.truth) for name, baseline in BASELINES.items()}
        if retrieval is not None:
            imagined[NEAREST_SITUATION] = retrieval.imagine(num_done, dreams.context, dreams.truth)
        num_done += len(dreams.starts)
        for name, frames in imagined.items():
            parts.setdefault(name, []).append(errors_of(dreams.starts, dreams.context, dreams.truth, frames))
    errors = {name: join(found) for name, found in parts.items()}
    summaries = {name: summary(found) for name, found in errors.items()}
    facts = {
        "num_starts": len(starts),
        "num_games": len(np.unique(starts.games)),
        "num_frames": num_frames,
        "num_context": observed,
        "state": "carried" if imagination.carried is not None else f"window of {imagination.window}",
        "rule": rule,
        "seed": seed,
    }
    sums = {"by_game": by_game(errors["model"], index.game_ids)}
    return facts | summaries.pop("model") | sums | {"baselines": summaries}


def errors_of(starts: Starts, context: Frames, truth: Frames, imagined: Frames) -> DreamErrors:
    """Errors of some dreams."""
    position = position_errors(imagined, truth)
    right = category(imagined, "action") == category(truth, "action")
    percent = (imagined.float_column("percent") - truth.float_column("percent")).abs().mean(-1)
    last = context.last
    return DreamErrors(
        games=starts.games,
        events=event_of(context, truth),
        position=position.double().numpy(),
        action_right=right.double().mean(-1).numpy(),
        percent=percent.double().numpy(),
        lost_stocks=_lost_stocks(last, truth),
        imagined_losses=_lost_stocks(last, imagined),
        possible_frames=first_impossible(last, imagined),
    )


def _lost_stocks(last: Frames, frames: Frames) -> np.ndarray:
    """Stocks that each player loses from a frame to the last of those that follow: int64 (S, P)."""
    return (last.code_column("stocks")[:, 0] - frames.code_column("stocks")[:, -1]).numpy()


def table(result: dict[str, Any]) -> str:
    """Coherence as a table for the terminal."""
    columns = [horizon for horizon in HORIZONS if horizon <= result["num_frames"] and horizon >= 5] or [1]
    predictors = {"model": result, **result["baselines"]}
    lines = [
        f"dreams from {result['num_starts']} frames of {result['num_games']} games, {result['num_context']} true "
        f"frames before, state {result['state']}, rule: {result['rule']}; 95 % intervals over games",
        "",
        f"{'position error over frames':<28}" + "".join(f"{f'1-{n}':>24}" for n in columns),
    ]
    for name, found in predictors.items():
        cells = (f"coherence_{n}" for n in columns)
        lines.append(f"  {name:<26}" + "".join(f"{_cell(found, cell):>24}" for cell in cells))
    longest = columns[-1]
    lines += ["", f"{f'at frame {longest}':<28}{'position':>12}{'action':>12}{'percent 1-n':>14}{'possible':>12}"]
    for name, found in predictors.items():
        values = (found[f"{key}_{longest}"] for key in ("position", "action_acc", "percent", "possible"))
        position, action, percent, possible = values
        lines.append(f"  {name:<26}{position:>12.2f}{action:>12.3f}{percent:>14.2f}{possible:>12.3f}")
    right, phantom = result["deaths_right"], result["phantom_deaths"]
    if right is not None:
        lines.append(f"  of the players who lose stocks {right:.2f} lose as many in the model's dream")
    if phantom is not None:
        lines.append(f"  of the players who lose none {phantom:.3f} lose one in the model's dream")
    last = result["num_frames"]
    lines += ["", f"{'the model by event':<28}{'dreams':>12}{'of error':>12}{'action 1-n':>12}{f'1-{last}':>24}"]
    for name, row in result["events"].items():
        lines.append(
            f"  {name:<26}{row['num_starts']:>12}{row['share_of_error']:>12.2f}"
            f"{row[f'action_acc_to_{last}']:>12.3f}{_cell(row, f'coherence_{last}'):>24}"
        )
    return "\n".join(lines)


def _cell(found: dict[str, Any], name: str) -> str:
    low, high = found["intervals"][name]
    return f"{found[name]:.2f}" if low is None or high is None else f"{found[name]:.2f} [{low:.2f}, {high:.2f}]"


def _on(feed_back: FeedBack, device: torch.device) -> FeedBack:
    return feed_back.to(device) if isinstance(feed_back, torch.nn.Module) else feed_back


def check_window(model: WorldModel, window: int | None) -> int | None:
    """A window that the model can use.

    Raises:
        ValueError: an MLP is asked for another than its own.
    """
    if isinstance(model, Mamba2WorldModel) or window in (None, model.context_frames):
        return window
    raise ValueError(f"this MLP reads exactly {model.context_frames} frames; leave --window out")
