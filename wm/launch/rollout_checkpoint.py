"""`wm rollout`: dreams of a checkpoint: one as a `.slp` or JSON, some as a page, or hundreds and their coherence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets.corpus.reader import open_corpus
from datasets.loading.frames import CODE_COLUMNS, FLOAT_COLUMNS, GameIndex, index_games, read_ranges
from datasets.loading.targets import COUNTDOWN_FRAMES
from datasets.runtime.durable_files import check_can_write, replace_file, write_result
from datasets.runtime.errors import UserError
from datasets.runtime.process.host_memory import raise_malloc_thresholds
from datasets.runtime.storage.file_cache import FileCache
from datasets.schema.splits import Split
from wm.checkpoints.reader import load_model, open_checkpoint
from wm.checkpoints.store import Checkpoint
from wm.launch.dream_page import one_viewed, viewed_by_event, write_dream_page
from wm.launch.evaluate_checkpoint import games_to_search, say_if_not_searched
from wm.model.dynamics.imagination import Imagination
from wm.model.dynamics.next_frame import GameRules
from wm.model.dynamics.sampling import MOST_PROBABLE, SAMPLED_FIELDS, Sampling
from wm.model.encoding import Frames, position_errors
from wm.model.world_model import Mamba2WorldModel, WorldModel
from wm.rollout.dreams import Dreams, dream
from wm.rollout.judge import NUM_FRAMES, NUM_STARTS, SEED, Rule, check_window, judge, num_context_of, table
from wm.rollout.slp_file import dream_as_slp
from wm.rollout.starts import one_start

FRAMES_OF_ONE_DREAM = 600


@dataclass(frozen=True, kw_only=True, slots=True)
class _Dreamer:
    """A model with the games that it dreams of."""

    opened: Checkpoint
    model: WorldModel
    index: GameIndex
    device: torch.device
    num_context: int
    window: int | None
    compiled: bool
    seed: int

    def imagination(self, sampling: Sampling = MOST_PROBABLE) -> Imagination:
        """The model, fed by the rules of the game."""
        return Imagination(self.model, GameRules(sampling).to(self.device), window=self.window, compiled=self.compiled)


def rollout_checkpoint(
    checkpoint: str | Path,
    corpus: str | Path,
    *,
    game: str | None = None,
    start: int | None = None,
    num_frames: int | None = None,
    num_starts: int | None = None,
    num_context: int | None = None,
    window: int | None = None,
    rule: Rule = "ours",
    temperature: Sequence[str] = (),
    seed: int = SEED,
    split: Split = "validation",
    use_gpu: bool = False,
    compiled: bool = False,
    slp: Path | None = None,
    json: Path | None = None,
    html: Path | None = None,
    cache: FileCache | None = None,
) -> dict[str, Any]:
    """Dream, print the result and write what is asked for.

    Args:
        checkpoint: folder or URI of a checkpoint, of a run (its newest one), or RUN/best.
        game: id of a game or its beginning, or its number in the split: one dream. None: one of the first game if
            `slp` is given, otherwise `num_starts` dreams: a page of some of them with `html`, or their coherence.
        temperature: for all fields, or FIELD=VALUE for one; later ones count. Empty: the most probable values.
        start: Slippi frame id of the first imagined frame of one dream; by default 0.
        num_frames: imagined frames; by default NUM_FRAMES, for one dream FRAMES_OF_ONE_DREAM if the game has them, for
            a page of several MAX_SHOWN_FRAMES.
        num_starts: dreams, if there are several; by default NUM_STARTS.
        compiled: compile the steps of the dreams (`Imagination`).
    Returns:
        The JSON data.
    Raises:
        UserError: the checkpoint, the corpus, the game or the place does not fit, options contradict each other, or a
            file cannot be written.
    """
    temperatures = parse_temperatures(temperature)
    is_one = game is not None or slp is not None
    if start is not None and not is_one:
        raise UserError(f"--start {start} is the place of one dream; name its --game, or leave it out")
    if num_starts is not None and is_one:
        raise UserError(f"--num-starts {num_starts}: --game and --slp are for one dream; leave it out")
    if num_context is not None and window is not None:
        raise UserError(f"--context {num_context}: with --window the network sees {window} frames alone; leave it out")
    if any(temperatures.values()) and not is_one:
        raise UserError("--temperature: several dreams are made of the most probable values; name a --game")
    if rule == "theirs" and (is_one or html is not None):
        raise UserError("--rule theirs: only coherence is measured by it; leave out --game, --slp and --html")
    for option, path in (("--slp", slp), ("--json", json), ("--html", html)):
        if path is not None:
            check_can_write(option, path)
    opened = open_checkpoint(checkpoint)
    model = load_model(opened)
    if use_gpu and not torch.cuda.is_available():
        raise UserError("--use-gpu is set, but there is no CUDA device; leave it out, or install a CUDA torch")
    try:
        window = check_window(model, window)
    except ValueError as error:
        raise UserError(str(error)) from error
    if compiled and (window is not None or not isinstance(model, Mamba2WorldModel)):
        raise UserError("--compile is for a carried state, which an MLP and --window do not have; leave it out")
    if num_context is not None and not isinstance(model, Mamba2WorldModel):
        raise UserError(f"--context {num_context}: this MLP reads {model.context_frames} frames; leave --context out")
    if temperatures.keys() == {"flags"} and not model.fields.num_flags:
        raise UserError("--temperature flags: this network predicts no flags; leave it out")
    if not use_gpu:
        raise_malloc_thresholds()
    dreamer = _Dreamer(
        opened=opened,
        model=model,
        index=index_games(open_corpus(corpus, cache), split, opened.config.split, for_evaluation=True),
        device=torch.device("cuda" if use_gpu else "cpu"),
        num_context=num_context_of(model, num_context, window),
        window=window,
        compiled=compiled,
        seed=seed,
    )
    if is_one:
        result = _one_dream(
            dreamer,
            "0" if game is None else game,
            start=start,
            num_frames=num_frames,
            temperatures=temperatures,
            slp=slp,
            html=html,
        )
    elif html is not None:
        viewed = viewed_by_event(
            dreamer.imagination(),
            dreamer.index,
            dreamer.device,
            num_starts=num_starts or NUM_STARTS,
            num_frames=num_frames,
            num_context=dreamer.num_context,
            seed=seed,
        )
        result = write_dream_page(html, opened, viewed)
    else:
        train = games_to_search(opened.config, cache)
        result = judge(
            model,
            dreamer.index,
            dreamer.device,
            num_starts=num_starts or NUM_STARTS,
            num_frames=num_frames or NUM_FRAMES,
            num_context=dreamer.num_context,
            window=window,
            rule=rule,
            compiled=compiled,
            seed=seed,
            train=train,
        )
        say_if_not_searched(train, result)
        result = {"checkpoint": opened.location, "corpus": str(corpus), "split": split} | result
        print(table(result))
    if json is not None:
        write_result(json, result)
    return result


def _one_dream(
    dreamer: _Dreamer,
    game: str,
    *,
    start: int | None,
    num_frames: int | None,
    temperatures: dict[str, float],
    slp: Path | None,
    html: Path | None,
) -> dict[str, Any]:
    """Dream once, print a line, write the replay and the page, and return the dream as JSON data."""
    index = dreamer.index
    number = find_game(index, game)
    first = (start or 0) + COUNTDOWN_FRAMES
    frames = num_frames or max(1, min(FRAMES_OF_ONE_DREAM, int(index.num_frames[number]) - first))
    starts = one_start(index, number, first, num_context=dreamer.num_context, num_frames=frames)
    sampling = Sampling(temperatures=temperatures, generator=torch.Generator(dreamer.device).manual_seed(dreamer.seed))
    (found,) = dream(dreamer.imagination(sampling), index, starts, dreamer.device)
    result = {"checkpoint": dreamer.opened.location} | dream_as_json(index, number, found)
    print(one_dream_text(result))
    if slp is not None:
        before = read_ranges(index, np.array([number]), np.array([0]), np.array([first]))
        slp.parent.mkdir(parents=True, exist_ok=True)
        replace_file(slp, dream_as_slp(index, number, before, found.imagined))
        print(f"{slp}: {first:,} true frames, then {frames:,} imagined ones")
    if html is not None:
        write_dream_page(html, dreamer.opened, [one_viewed(index, found)])
    return result


def find_game(index: GameIndex, name: str) -> int:
    """Position of a game in the index.

    Args:
        name: its id or the beginning of it, or its number.
    Raises:
        UserError: there is none, or several.
    """
    if name.isdecimal() and int(name) < len(index):
        return int(name)
    prefix = name.lower()
    found = [number for number, game_id in enumerate(index.game_ids) if prefix and str(game_id).startswith(prefix)]
    if len(found) != 1:
        raise UserError(
            f"--game {name!r}: {len(found)} games of this split have an id that begins so; give an id of the corpus, "
            f"or a number from 0 to {len(index) - 1} (other games: --split all)"
        )
    return found[0]


def parse_temperatures(texts: Sequence[str]) -> dict[str, float]:
    """Temperatures from the command line.

    Args:
        texts: `VALUE` for all fields, or `FIELD=VALUE`.
    Raises:
        UserError: not a number of 0 or more, or an unknown field.
    """
    temperatures: dict[str, float] = {}
    for text in texts:
        name, _, value = text.rpartition("=")
        try:
            number = float(value)
        except ValueError:
            number = np.nan
        if not (np.isfinite(number) and number >= 0) or (name and name not in SAMPLED_FIELDS):
            raise UserError(
                f"--temperature {text}: expected a number of 0 or more, or FIELD=NUMBER with one of "
                f"{', '.join(SAMPLED_FIELDS)}"
            )
        temperatures |= {name: number} if name else dict.fromkeys(SAMPLED_FIELDS, number)
    return temperatures


def dream_as_json(index: GameIndex, game: int, found: Dreams) -> dict[str, Any]:
    """One dream beside the truth, as columns of a value for each frame and player."""
    error = position_errors(found.imagined, found.truth)[0]
    action = CODE_COLUMNS.index("action")
    right = (found.imagined.codes[..., action] == found.truth.codes[..., action]).float().mean((0, 2))
    return {
        "game_id": str(index.game_ids[game]),
        "stage": int(index.facts[game, 0]),
        "characters": index.characters[game].tolist(),
        "first_frame": int(found.starts.frames[0]) - COUNTDOWN_FRAMES,
        "num_context": found.starts.num_context,
        "num_frames": found.starts.num_frames,
        "position_error": [round(value, 4) for value in error.tolist()],
        "action_right": right.tolist(),
        "context": _columns(found.context),
        "truth": _columns(found.truth),
        "imagined": _columns(found.imagined),
    }


def one_dream_text(result: dict[str, Any]) -> str:
    """A dream in one line."""
    error = result["position_error"]
    return (
        f"game {result['game_id']}, frames {result['first_frame']} to {result['first_frame'] + len(error) - 1}: mean "
        f"position error {np.mean(error):.2f} game units, {error[-1]:.2f} at the end; "
        f"actions right {np.mean(result['action_right']):.3f}"
    )


def _columns(frames: Frames) -> dict[str, list[list[float]]]:
    floats = {name: np.round(frames.float_column(name)[0].double().numpy(), 4).tolist() for name in FLOAT_COLUMNS}
    return floats | {name: frames.code_column(name)[0].tolist() for name in CODE_COLUMNS}
