"""The page of `wm rollout --html`: one dream, or the most interesting ones by what happens in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from datasets.loading.frames import GameIndex
from datasets.runtime.durable_files import replace_file
from datasets.runtime.errors import UserError
from wm.checkpoints.store import Checkpoint
from wm.model.dynamics.imagination import Imagination
from wm.rollout.dreams import Dreams, dream
from wm.rollout.starts import has_room, random_starts
from wm.viewer.choice import MAX_SHOWN_FRAMES, interesting_dreams
from wm.viewer.data import ViewedDream, viewed_dream
from wm.viewer.page import render_viewer

ABOUT = (
    "The model sees the true frames before the start, then only its own frames and the controllers of the replay. "
    "The position error is the mean of the horizontal and the vertical distance between truth and dream over both "
    "players, in game units (fighters are 8 to 19 units tall). Figures are drawn from the recorded and the imagined "
    "state; nothing is the game's own art. This page is one file and loads nothing from the network."
)


def one_viewed(index: GameIndex, found: Dreams) -> ViewedDream:
    """The first of some dreams, for a page of its own."""
    return viewed_dream(index, found, 0, "dream")


def viewed_by_event(
    imagination: Imagination,
    index: GameIndex,
    device: torch.device,
    *,
    num_starts: int,
    num_frames: int | None,
    num_context: int,
    seed: int,
) -> list[ViewedDream]:
    """Dreams for a page, chosen from random starts.

    Args:
        num_frames: of each dream; by default MAX_SHOWN_FRAMES, or a fifth where no game has so many.
    Raises:
        UserError: no game is long enough.
    """
    length = num_frames or MAX_SHOWN_FRAMES
    if num_frames is None and not has_room(index, num_context=num_context, num_frames=length):
        length //= 5
    starts = random_starts(index, num_starts, num_context=num_context, num_frames=length, seed=seed)
    return interesting_dreams(index, dream(imagination, index, starts, device))


def _subtitle(checkpoint: Checkpoint) -> str:
    """What dreams, in one line."""
    model = checkpoint.config.model
    shape = (
        f"a Mamba-2 of width {model.d_model} with {model.num_layers} layers"
        if model.kind == "mamba2"
        else f"an MLP of widths {', '.join(map(str, model.hidden_sizes))}"
    )
    return (
        f"The truth beside {shape}, after {checkpoint.meta.get('targets_seen', 0):,} training frames, repeats counted"
    )


def write_dream_page(path: Path, checkpoint: Checkpoint, dreams: Sequence[ViewedDream]) -> dict[str, Any]:
    """Write a page, print what is on it, and return the same as JSON data.

    Raises:
        UserError: the file cannot be written.
    """
    page = render_viewer(
        dreams,
        title="The game as a model dreams it",
        subtitle=_subtitle(checkpoint),
        about=ABOUT,
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, page.encode())
    except OSError as error:
        raise UserError(f"--html {path} cannot be written ({error.strerror}); name another file") from error
    rows = [
        {
            "label": viewed.label,
            "game_id": viewed.game_id,
            "first_frame": viewed.first_frame,
            "num_frames": viewed.imagined.num_frames,
            "position_error": float(viewed.position_error.mean()),
        }
        for viewed in dreams
    ]
    for row in rows:
        print(
            f"{row['label']:<18} game {row['game_id'][:8]}, frame {row['first_frame']:>6}, {row['num_frames']} frames: "
            f"{row['position_error']:.2f} units apart on average"
        )
    print(f"{path}: {len(page) / 1e6:.1f} MB, for any browser")
    return {"checkpoint": checkpoint.location, "dreams": rows}
