"""The controllers of a frame: sticks, triggers, buttons, and values derived from earlier frames.

Shape legend: see state.py.
"""

from dataclasses import dataclass, field

import numpy as np

STICK_STEPS, TRIGGER_STEPS = 80, 140
"""Resolution: sticks have steps of 1/80, triggers of 1/140."""
DEAD_ZONE = 23
"""Stick values of fewer steps are read as 0."""


class Button:
    """Bits of the physical buttons (SPEC.md, Physical Buttons)."""

    D_UP, Z, R, L, A, B, X, Y = 0x0008, 0x0010, 0x0020, 0x0040, 0x0100, 0x0200, 0x0400, 0x0800


@dataclass(slots=True)
class Controllers:
    """The controllers of one frame; every array (F,).

    `stick_x` to `c_y`: float32 in [-1, 1]. `*_steps`: int8, the same in steps of 1/80. `trigger_steps`: uint8 in 1/140.
    `buttons`, `pressed`: uint16, held in this frame, and newly pressed in it. The others are derived: bool, or int16
    frames since the stick left the dead zone in its direction, or since L or R was pressed.
    """

    num_games: int
    stick_x_steps: np.ndarray = field(init=False)
    stick_y_steps: np.ndarray = field(init=False)
    c_x_steps: np.ndarray = field(init=False)
    c_y_steps: np.ndarray = field(init=False)
    trigger_steps: np.ndarray = field(init=False)
    buttons: np.ndarray = field(init=False)
    pressed: np.ndarray = field(init=False)
    stick_x: np.ndarray = field(init=False)
    stick_y: np.ndarray = field(init=False)
    c_x: np.ndarray = field(init=False)
    c_y: np.ndarray = field(init=False)
    c_held: np.ndarray = field(init=False)
    c_pushed: np.ndarray = field(init=False)
    attack_pressed: np.ndarray = field(init=False)
    jump_pressed: np.ndarray = field(init=False)
    jump_held: np.ndarray = field(init=False)
    shield_held: np.ndarray = field(init=False)
    tilt_frames_x: np.ndarray = field(init=False)
    tilt_frames_y: np.ndarray = field(init=False)
    shield_press_frames: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        count = 2 * self.num_games
        for name in ("stick_x_steps", "stick_y_steps", "c_x_steps", "c_y_steps"):
            setattr(self, name, np.zeros(count, np.int8))
        self.trigger_steps = np.zeros(count, np.uint8)
        self.buttons = np.zeros(count, np.uint16)
        self.c_held = np.zeros(count, np.bool_)
        self.tilt_frames_x = np.zeros(count, np.int16)
        self.tilt_frames_y = np.zeros(count, np.int16)
        self.shield_press_frames = np.full(count, 99, np.int16)
        self.set(*(np.zeros(count, np.int64) for _ in range(6)))

    def set(
        self, stick_x: np.ndarray, stick_y: np.ndarray, c_x: np.ndarray, c_y: np.ndarray, trigger: np.ndarray,
        buttons: np.ndarray,
    ) -> None:  # fmt: skip
        """Set the controllers of the next frame: int64 (F,) each, in steps, and bits of `Button`."""
        before_x, before_y = self.stick_x_steps, self.stick_y_steps
        self.stick_x_steps = stick_x.astype(np.int8)
        self.stick_y_steps = stick_y.astype(np.int8)
        self.c_x_steps, self.c_y_steps = c_x.astype(np.int8), c_y.astype(np.int8)
        self.trigger_steps = trigger.astype(np.uint8)
        steps = np.float32(STICK_STEPS)
        self.stick_x, self.stick_y = self.stick_x_steps / steps, self.stick_y_steps / steps
        self.c_x, self.c_y = self.c_x_steps / steps, self.c_y_steps / steps
        buttons = buttons.astype(np.uint16)
        self.pressed = buttons & ~self.buttons
        self.buttons = buttons
        c_now = (np.abs(self.c_x) >= 0.66) | (np.abs(self.c_y) >= 0.66)
        self.c_pushed, self.c_held = c_now & ~self.c_held, c_now
        self.tilt_frames_x = _frames_tilted(self.tilt_frames_x, before_x, self.stick_x_steps)
        self.tilt_frames_y = _frames_tilted(self.tilt_frames_y, before_y, self.stick_y_steps)
        pulled = (self.pressed & (Button.L | Button.R)) != 0
        self.shield_press_frames = np.where(pulled, 0, np.minimum(self.shield_press_frames + 1, 99))
        self.attack_pressed = self.c_pushed | ((self.pressed & (Button.A | Button.Z)) != 0)
        pushed_up = self.stick_y >= 0.66
        self.jump_held = pushed_up | ((buttons & (Button.X | Button.Y)) != 0)
        tapped = pushed_up & (self.tilt_frames_y <= 2)
        self.jump_pressed = ((self.pressed & (Button.X | Button.Y)) != 0) | tapped
        self.shield_held = (self.trigger_steps >= 43) | ((buttons & (Button.L | Button.R)) != 0)


def _frames_tilted(frames: np.ndarray, before: np.ndarray, now: np.ndarray) -> np.ndarray:
    kept = (before.astype(np.int16) * now) > 0
    return np.where(now == 0, 0, np.where(kept, np.minimum(frames + 1, 99), 1))
