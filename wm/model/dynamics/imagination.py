"""A world model in use: `observe` true frames, then `imagine` what follows given the controllers.

Two ways to see the past. Carried: the recurrent state of a Mamba-2 passes from frame to frame, at a constant cost.
A window: the network runs again over the last K frames for each frame, which is what an MLP needs and what the K of an
evaluation means. The first imagined frame is the same either way if exactly K frames were observed.

Shape legend: B = batch, T = frames, P = players (2), C = columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wm.model.animation import age_table
from wm.model.dynamics.clocks import clock_of_last
from wm.model.dynamics.next_frame import NUM_CONTROLLER_COLUMNS, ActionClock, FeedBack
from wm.model.encoding import Frames, controllers
from wm.model.heads import Prediction
from wm.model.world_model import Mamba2WorldModel, WorldModel, WorldState

OBSERVED_AT_ONCE = 64
"""Frames of one pass while observing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImaginationState:
    """Everything that the next frame depends on, but the controllers."""

    last: Frames
    """The newest frame, T = 1; the network has not read it, since the controllers of the next frame belong to it."""
    clock: ActionClock
    recurrent: WorldState | None
    """After all frames before `last`; None in a window, and after a single frame."""
    window: Frames | None
    """The last K frames or fewer, with `last`; None if the state is carried."""


class Imagination:
    """A model with a way to feed its predictions back."""

    def __init__(
        self, model: WorldModel, feed_back: FeedBack, *, window: int | None = None, compiled: bool = False
    ) -> None:
        """
        Args:
            window: K, frames that the network sees again for each frame; None carries the state.
            compiled: compile what `imagine` does for each frame, for the number of games that it is first called with;
                other numbers, the first frame after others were observed, and a window run in eager mode.
        """
        if isinstance(model, Mamba2WorldModel):
            self.carried: Mamba2WorldModel | None = model if window is None else None
        else:
            self.carried, window = None, model.context_frames
        self.model, self.feed_back, self.window = model, feed_back, window
        self._compiled = torch.compile(self.step, dynamic=False) if compiled and self.carried is not None else None
        self._compiled_games: int | None = None

    def observe(
        self, state: ImaginationState | None, frames: Frames, earlier: Frames | None = None
    ) -> ImaginationState:
        """Read true frames.

        Args:
            state: before the first frame; None: nothing was seen before.
            frames: T frames that follow.
            earlier: without a state, true frames before the first one. The network does not read them; they tell since
                when the actions of the first one last (`HISTORY` of `wm.model.dynamics.clocks`).
        """
        assert state is None or earlier is None
        known = frames if state is None else concatenate([state.last, frames])
        last = known.last
        recurrent, window = None if state is None else state.recurrent, None
        if self.window is not None:
            seen = known if state is None or state.window is None else concatenate([state.window, frames])
            window = seen.slice(max(0, seen.num_frames - self.window), seen.num_frames)
        elif self.carried is not None:
            for start in range(0, known.num_frames - 1, OBSERVED_AT_ONCE):
                end = min(start + OBSERVED_AT_ONCE, known.num_frames - 1)
                following = controllers(known.slice(start + 1, end + 1))
                context = known.slice(start, end)
                _, recurrent = self.carried.observe(context, following, recurrent, return_state=True, last_only=True)
        timed = known if earlier is None else concatenate([earlier, known])
        ages = age_table().to(known.floats.device)
        before = None if state is None else state.clock
        clock = clock_of_last(timed, ages, before, keeps_speed=self.model.fields.animation)
        return ImaginationState(last=last, clock=clock, recurrent=recurrent, window=window)

    def predict(self, state: ImaginationState, controllers_BTPC: Tensor) -> tuple[Prediction, WorldState | None]:
        """Predict the next frame.

        Args:
            controllers_BTPC: int16 (B, 1, P, 6), of the next frame.
        Returns:
            The prediction (T = 1), and the recurrent state after the newest frame if it is carried.
        """
        if self.carried is not None:
            return self.carried.step(
                state.recurrent, state.last, controllers(_with_controllers(state, controllers_BTPC))
            )
        assert state.window is not None
        if not isinstance(self.model, Mamba2WorldModel) and state.window.num_frames < self.model.context_frames:
            raise ValueError(f"{state.window.num_frames} frames were observed; this MLP reads {self.window}")
        frames = concatenate([state.window, _with_controllers(state, controllers_BTPC)])
        return self.model(frames, last_only=True), None

    def step(self, state: ImaginationState, controllers_BTPC: Tensor) -> tuple[Prediction, ImaginationState]:
        """Imagine one frame: the prediction, and the state whose newest frame was made of it."""
        prediction, recurrent = self.predict(state, controllers_BTPC)
        frame, clock = self.feed_back(state.last, state.clock, prediction, controllers_BTPC)
        window = None
        if state.window is not None:
            assert self.window is not None
            window = concatenate([state.window, frame])
            window = window.slice(max(0, window.num_frames - self.window), window.num_frames)
        return prediction, ImaginationState(last=frame, clock=clock, recurrent=recurrent, window=window)

    def imagine(self, state: ImaginationState, controllers_BTPC: Tensor) -> tuple[Frames, ImaginationState]:
        """Imagine T frames.

        Args:
            controllers_BTPC: int16 (B, T, P, 6), CONTROLLER_COLUMNS of these frames.
        Returns:
            The imagined frames, and the state after them.
        """
        controllers_BTPC = controllers_BTPC.long()
        state = _while_imagining(state, torch.int64, is_scratch=False)
        step, frames = self.step, []
        for t in range(controllers_BTPC.shape[1]):
            _, state = step(state, controllers_BTPC[:, t : t + 1].contiguous())
            frames.append(state.last)
            if t == 0:  # nobody else sees the recurrent state from now on
                state = _while_imagining(state, torch.int64, is_scratch=True)
                step = self._step_for(len(controllers_BTPC))
        imagined = concatenate(frames)
        return _with_codes(imagined, torch.int16), _while_imagining(state, torch.int16, is_scratch=False)

    @property
    def is_compiled(self) -> bool:
        """Whether `imagine` compiles its steps."""
        return self._compiled is not None

    def _step_for(self, num_games: int) -> Callable[[ImaginationState, Tensor], tuple[Prediction, ImaginationState]]:
        """The compiled `step` if it is there for so many games."""
        if self._compiled is None or self._compiled_games not in (None, num_games):
            return self.step
        self._compiled_games = num_games
        return self._compiled


def _while_imagining(state: ImaginationState, codes: torch.dtype, *, is_scratch: bool) -> ImaginationState:
    """With codes of a type: int64 saves a conversion for each column that a step reads, a sixth of its operations."""
    window = None if state.window is None else _with_codes(state.window, codes)
    recurrent = state.recurrent
    if recurrent is not None:
        blocks = tuple(replace(block, is_scratch=is_scratch) for block in recurrent.blocks)
        recurrent = replace(recurrent, blocks=blocks)
    return replace(state, last=_with_codes(state.last, codes), window=window, recurrent=recurrent)


def _with_codes(frames: Frames, codes: torch.dtype) -> Frames:
    return replace(frames, codes=frames.codes.to(codes))


def controller_columns(frames: Frames) -> Tensor:
    """CONTROLLER_COLUMNS of frames: int16 (B, T, P, 6)."""
    return frames.codes[..., -NUM_CONTROLLER_COLUMNS:]


def _with_controllers(state: ImaginationState, controllers_BTPC: Tensor) -> Frames:
    """The newest frame with other controllers: what is known of the next one."""
    codes = torch.cat([state.last.codes[..., :-NUM_CONTROLLER_COLUMNS], controllers_BTPC], dim=-1)
    return replace(state.last, codes=codes)


def concatenate(parts: list[Frames]) -> Frames:
    """Frames that follow each other."""
    floats, codes = (torch.cat([getattr(part, name) for part in parts], dim=1) for name in ("floats", "codes"))
    return Frames(floats=floats, codes=codes, game=parts[0].game)
