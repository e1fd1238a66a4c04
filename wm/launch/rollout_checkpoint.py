"""`wm rollout`: dreams of a checkpoint: one as a `.slp` or JSON, some as a page, or hundreds and their coherence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets.corpus.reader import open_corpus
from datasets.loading.frames import CODE_COLUMNS, FLOAT_COLUMNS, GameIndex, index_games, read_ranges
from datasets.loading.targets import COUNTDOWN_FRAMES
from datasets.runtime.durable_files import replace_file, write_result
from datasets.runtime.errors import UserError
from datasets.runtime.process.host_memory import raise_malloc_thresholds
from datasets.runtime.storage.file_cache import FileCache
from datasets.schema.splits import Split
from wm.checkpoints.reader import load_model, open_checkpoint
from wm.launch.dream_page import one_viewed, viewed_by_event, write_dream_page
from wm.launch.evaluate_checkpoint import games_to_search, say_if_not_searched
from wm.model.dynamics.imagination import Imagination
from wm.model.dynamics.next_frame import GameRules
from wm.model.dynamics.sampling import SAMPLED_FIELDS, Sampling
from wm.model.encoding import Frames
from wm.model.world_model import Mamba2WorldModel
from wm.rollout.dreams import Dreams, dream
from wm.rollout.judge import NUM_FRAMES, NUM_STARTS, SEED, Rule, check_window, judge, num_context_of, table
from wm.rollout.slp_file import dream_as_slp
from wm.rollout.starts import one_start

FRAMES_OF_ONE_DREAM = 600


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
    _check_options(is_one=is_one, start=start, num_starts=num_starts, num_context=num_context, window=window)
    for option, path in (("--slp", slp), ("--json", json), ("--html", html)):
        if path is not None and (not path.name or path.is_dir()):
            raise UserError(f"{option} {path}: a folder; name a file")
    opened = open_checkpoint(checkpoint)
    model = load_model(opened)
    if use_gpu and not torch.cuda.is_available():
        raise UserError("--use-gpu is set, but there is no CUDA device; leave it out, or install a CUDA torch")
    device = torch.device("cuda" if use_gpu else "cpu")
    if device.type == "cpu":
        raise_malloc_thresholds()
    try:
        window = check_window(model, window)
    except ValueError as error:
        raise UserError(str(error)) from error
    if compiled and (window is not None or not isinstance(model, Mamba2WorldModel)):
        raise UserError("--compile is for a carried state, which an MLP and --window do not have; leave it out")
    if num_context is not None and not isinstance(model, Mamba2WorldModel):
        raise UserError(f"--context {num_context}: this MLP reads {model.context_frames} frames; leave --context out")
    index = index_games(open_corpus(corpus, cache), split, opened.config.split, for_evaluation=True)
    num_starts = num_starts or NUM_STARTS
    observed = num_context_of(model, num_context, window)
    if html is not None and not is_one:
        if any(temperatures.values()) or rule == "theirs":
            raise UserError(
                "--html shows the most probable values, fed back by our rule; for --temperature name a --game"
            )
        imagination = Imagination(model, GameRules().to(device), window=window, compiled=compiled)
        viewed = viewed_by_event(
            imagination, index, device, num_starts=num_starts, num_frames=num_frames, num_context=observed, seed=seed
        )
        result = write_dream_page(html, opened, viewed)
    elif not is_one:
        if any(temperatures.values()):
            raise UserError("--temperature: coherence is measured with the most probable values; name a --game")
        train = games_to_search(opened.config, cache)
        result = judge(
            model,
            index,
            device,
            num_starts=num_starts,
            num_frames=num_frames or NUM_FRAMES,
            num_context=observed,
            window=window,
            rule=rule,
            compiled=compiled,
            seed=seed,
            train=train,
        )
        say_if_not_searched(train, result)
        result = {"checkpoint": opened.location, "corpus": str(corpus), "split": split} | result
        print(table(result))
    else:
        if rule == "theirs":
            raise UserError("--rule theirs: only coherence is measured by it; leave out --game and --slp")
        number = find_game(index, game or "0")
        first = (start or 0) + COUNTDOWN_FRAMES
        frames = num_frames or max(1, min(FRAMES_OF_ONE_DREAM, int(index.num_frames[number]) - first))
        starts = one_start(index, number, first, num_context=observed, num_frames=frames)
        rules = GameRules(Sampling(temperatures=temperatures, generator=torch.Generator(device).manual_seed(seed))).to(
            device
        )
        (found,) = dream(Imagination(model, rules, window=window, compiled=compiled), index, starts, device)
        result = {"checkpoint": opened.location} | dream_as_json(index, number, found)
        print(one_dream_text(result))
        if slp is not None:
            before = read_ranges(index, np.array([number]), np.array([0]), np.array([first]))
            slp.parent.mkdir(parents=True, exist_ok=True)
            replace_file(slp, dream_as_slp(index, number, before, found.imagined))
            print(f"{slp}: {first:,} true frames, then {frames:,} imagined ones")
        if html is not None:
            write_dream_page(html, opened, [one_viewed(index, found)])
    if json is not None:
        write_result(json, result)
    return result


def _check_options(
    *, is_one: bool, start: int | None, num_starts: int | None, num_context: int | None, window: int | None
) -> None:
    """Refuse options that would have no effect.

    Raises:
        UserError: there is one.
    """
    if start is not None and not is_one:
        raise UserError(f"--start {start} is the place of one dream; name its --game, or leave it out")
    if num_starts is not None and is_one:
        raise UserError(f"--num-starts {num_starts}: --game and --slp are for one dream; leave it out")
    if num_context is not None and window is not None:
        raise UserError(f"--context {num_context}: with --window the network sees {window} frames alone; leave it out")


def find_game(index: GameIndex, name: str) -> int:
    """Position of a game in the index.

    Args:
        name: its id or the beginning of it, or its number.
    Raises:
        UserError: there is none, or several.
    """
    if name.isdecimal() and int(name) < len(index):
        return int(name)
    found = [number for number, game_id in enumerate(index.game_ids) if str(game_id).startswith(name.lower())]
    if len(found) != 1:
        raise UserError(
            f"--game {name}: {len(found)} games of this split have an id that begins so; give an id of the corpus, or "
            f"a number from 0 to {len(index) - 1} (other games: --split all)"
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
    error = (found.imagined.floats[..., :2] - found.truth.floats[..., :2]).abs().mean((0, 2, 3))
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
