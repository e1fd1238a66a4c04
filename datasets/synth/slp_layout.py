"""The binary layout of Slippi files, by version.

Source: Slippi SPEC.md (project-slippi/slippi-wiki). Events are big-endian and packed; versions only append fields to an
event. Payload sizes were compared with real files of 2.0, 2.2, 3.7, 3.9 and 3.12 to 3.16.
"""

from dataclasses import dataclass

import numpy as np

EVENT_PAYLOADS, GAME_START, PRE_FRAME, POST_FRAME = 0x35, 0x36, 0x37, 0x38
GAME_END, FRAME_START, FRAME_BOOKEND = 0x39, 0x3A, 0x3C

_FRAME_START = (
    ((2, 2), "random_seed", ">u4"),
    ((3, 10), "scene_frame_counter", ">u4"),
)
_PRE = (
    ((2, 0), "random_seed", ">u4"),
    ((2, 0), "state", ">u2"),
    ((2, 0), "x", ">f4"),
    ((2, 0), "y", ">f4"),
    ((2, 0), "direction", ">f4"),
    ((2, 0), "joystick_x", ">f4"),
    ((2, 0), "joystick_y", ">f4"),
    ((2, 0), "cstick_x", ">f4"),
    ((2, 0), "cstick_y", ">f4"),
    ((2, 0), "triggers", ">f4"),
    ((2, 0), "buttons", ">u4"),
    ((2, 0), "buttons_physical", ">u2"),
    ((2, 0), "trigger_l", ">f4"),
    ((2, 0), "trigger_r", ">f4"),
    ((2, 0), "raw_analog_x", "i1"),
    ((2, 0), "percent", ">f4"),
    ((3, 15), "raw_analog_y", "i1"),
)
_POST = (
    ((2, 0), "character", "u1"),
    ((2, 0), "state", ">u2"),
    ((2, 0), "x", ">f4"),
    ((2, 0), "y", ">f4"),
    ((2, 0), "direction", ">f4"),
    ((2, 0), "percent", ">f4"),
    ((2, 0), "shield", ">f4"),
    ((2, 0), "last_attack_landed", "u1"),
    ((2, 0), "combo_count", "u1"),
    ((2, 0), "last_hit_by", "u1"),
    ((2, 0), "stocks", "u1"),
    ((2, 0), "state_age", ">f4"),
    ((2, 0), "state_flags", ("u1", (5,))),
    ((2, 0), "misc_as", ">f4"),
    ((2, 0), "airborne", "u1"),
    ((2, 0), "ground", ">u2"),
    ((2, 0), "jumps", "u1"),
    ((2, 0), "l_cancel", "u1"),
    ((2, 1), "hurtbox_state", "u1"),
    ((3, 5), "self_x_air", ">f4"),
    ((3, 5), "self_y", ">f4"),
    ((3, 5), "knockback_x", ">f4"),
    ((3, 5), "knockback_y", ">f4"),
    ((3, 5), "self_x_ground", ">f4"),
    ((3, 8), "hitlag", ">f4"),
    ((3, 11), "animation_index", ">u4"),
    ((3, 16), "instance_hit_by", ">u2"),
    ((3, 16), "instance_id", ">u2"),
)
_BOOKEND = (((3, 7), "latest_finalized_frame", ">i4"),)
_START_BYTES = (((2, 0), 0x1A3), ((3, 7), 0x1A5), ((3, 9), 0x249), ((3, 11), 0x2BD), ((3, 12), 0x2BE), ((3, 14), 0x2F9))
_END_BYTES = (((2, 0), 3), ((3, 13), 7))


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Version:
    """A Slippi version that `slp_writer` supports."""

    major: int
    minor: int
    patch: int

    @classmethod
    def parse(cls, text: str) -> "Version":
        """Parse "3.16.0" or "3.16".

        Raises:
            ValueError: not a version, or an unsupported one.
        """
        parts = text.split(".")
        if not 2 <= len(parts) <= 3 or not all(part.isascii() and part.isdigit() for part in parts):
            raise ValueError(f"version={text!r}: expected a version such as 3.16.0")
        major, minor, patch = (int(part) for part in (*parts, "0")[:3])
        if not ((2, 0) <= (major, minor) <= (2, 2) or (3, 7) <= (major, minor) <= (3, 16)) or patch > 255:
            raise ValueError(f"version={text!r}: expected 2.0 to 2.2 or 3.7 to 3.16")
        return cls(major=major, minor=minor, patch=patch)

    def has(self, since: tuple[int, int]) -> bool:
        """Whether fields added in version `since` (major, minor) exist."""
        return (self.major, self.minor) >= since


def _event(version: Version, prefix: list, columns: tuple) -> np.dtype:
    head = [("command", "u1"), ("frame", ">i4"), *prefix]
    return np.dtype(head + [(name, kind) for since, name, kind in columns if version.has(since)])


def _length(version: Version, steps: tuple) -> int:
    return max(size for since, size in steps if version.has(since))


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """The event layouts of one version, including the command byte."""

    version: Version
    pre: np.dtype
    post: np.dtype
    frame_start: np.dtype | None
    """None before 2.2."""
    bookend: np.dtype | None
    """None before 3.0."""
    start_bytes: int
    end_bytes: int

    @classmethod
    def of(cls, version: Version) -> "Layout":
        """The layout of a version."""
        idx = [("port", "u1"), ("is_follower", "u1")]
        return cls(
            version=version,
            pre=_event(version, idx, _PRE),
            post=_event(version, idx, _POST),
            frame_start=_event(version, [], _FRAME_START) if version.has((2, 2)) else None,
            bookend=_event(version, [], _BOOKEND) if version.has((3, 0)) else None,
            start_bytes=_length(version, _START_BYTES),
            end_bytes=_length(version, _END_BYTES),
        )

    def row(self) -> np.dtype:
        """All events of a frame in file order: start, both pre-frame events, both post-frame events, bookend."""
        parts: list = [("pre", self.pre, (2,)), ("post", self.post, (2,))]
        if self.frame_start is not None:
            parts.insert(0, ("start", self.frame_start))
        if self.bookend is not None:
            parts.append(("bookend", self.bookend))
        return np.dtype(parts)

    def payload_sizes(self) -> dict[int, int]:
        """Command byte -> payload size without the command byte, as in Event Payloads."""
        sizes = {
            GAME_START: self.start_bytes - 1,
            PRE_FRAME: self.pre.itemsize - 1,
            POST_FRAME: self.post.itemsize - 1,
            GAME_END: self.end_bytes - 1,
        }
        if self.frame_start is not None:
            sizes[FRAME_START] = self.frame_start.itemsize - 1
        if self.bookend is not None:
            sizes[FRAME_BOOKEND] = self.bookend.itemsize - 1
        return sizes
