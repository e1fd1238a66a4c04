"""`wm eval`: evaluates a checkpoint on a corpus; prints a table and writes JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from datasets.corpus.reader import open_corpus
from datasets.loading.frames import GameIndex, index_games
from datasets.runtime.durable_files import check_can_write, write_json_atomically
from datasets.runtime.errors import UserError
from datasets.runtime.process.host_memory import raise_malloc_thresholds
from datasets.runtime.storage.file_cache import FileCache
from datasets.runtime.uris import is_remote, without_credentials
from datasets.schema.splits import Split
from wm.checkpoints.reader import load_model, open_checkpoint
from wm.checkpoints.retention import best_text
from wm.checkpoints.store import RUN_SUBFOLDER, Checkpoint
from wm.config.run_config import RunConfig
from wm.data.training_data import open_train_games
from wm.evaluation.metrics import Context
from wm.evaluation.summary import default_contexts, evaluate, table
from wm.model.world_model import WorldModel
from wm.rollout import judge
from wm.rollout.starts import has_room

EVAL_FILE = "eval.json"


def evaluate_checkpoint(
    checkpoint: str | Path,
    corpus: str | Path,
    contexts: Sequence[str] = (),
    *,
    split: Split = "validation",
    num_targets: int | None = 20_000,
    num_dreams: int = judge.NUM_STARTS,
    use_gpu: bool = False,
    out: Path | None = None,
    cache: FileCache | None = None,
) -> dict:
    """Evaluate a checkpoint, print the table and write the JSON.

    Args:
        checkpoint: folder or URI of a checkpoint, of a run (its newest one), or RUN/best.
        contexts: numbers of frames or `stream`; empty for the model's defaults.
        num_targets: evaluated frames; None for all.
        num_dreams: dreams by which the coherence is measured; 0 for none.
        cache: for copies of a corpus in object storage.
        out: path of the JSON; by default `eval.json` in the run's folder, or in the working directory for a URI.
    """
    if out is not None:
        check_can_write("--out", out)
    opened = open_checkpoint(checkpoint)
    model = load_model(opened)
    device = torch.device("cuda" if use_gpu else "cpu")
    if device.type == "cpu":
        raise_malloc_thresholds()
    if use_gpu and not torch.cuda.is_available():
        raise UserError("--use-gpu is set, but there is no CUDA device; leave it out, or install a CUDA torch")
    data = open_corpus(corpus, cache)
    index = index_games(data, split, opened.config.split, for_evaluation=True)
    chosen = parse_contexts(contexts) or default_contexts(model)
    result = evaluate(model.to(device), index, contexts=chosen, num_targets=num_targets, device=device)
    coherence = None
    if num_dreams and has_room_for_dreams(model, index):
        train = games_to_search(opened.config, cache)
        coherence = judge.judge(model, index, device, num_starts=num_dreams, train=train)
        say_if_not_searched(train, coherence)
    if coherence is not None:
        result["coherence"] = coherence
    training = {"state": opened.state, "targets_seen": opened.meta["targets_seen"], "best": opened.meta.get("best", {})}
    result = {
        "checkpoint": opened.location,
        "training": training,
        "corpus": data.location if is_remote(str(corpus)) else str(corpus),
        "split": split,
    } | result
    out = out or _folder_of(opened) / EVAL_FILE
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomically(out, result)
    print(table(result))
    if coherence is not None:
        print(f"\n{judge.table(coherence)}")
    print(f"\n{opened.location}: after {training['targets_seen']:,} targets, {training['state']}")
    if best := best_text(training["best"]):
        print(f"best validation until then: {best}; `wm eval RUN/best CORPUS` evaluates the run's best checkpoint")
    trained_on_all = opened.config.train_split == "all" or opened.config.eval_corpus is not None
    if trained_on_all and data.location == without_credentials(str(opened.config.train_corpus)):
        print("\nthis model was trained on all games of this corpus: it is evaluated on its training data")
    print(f"\n{out}")
    return result


def games_to_search(config: RunConfig, cache: FileCache | None) -> GameIndex | None:
    """The training games, for the baseline of the nearest real situation; None, with a line, if they are not here."""
    try:
        return open_train_games(config, cache)
    except UserError as error:
        print(f"without the baseline of the nearest situation, which needs the training games: {error}")
        return None


def say_if_not_searched(train: GameIndex | None, coherence: Mapping[str, Any]) -> None:
    """Print a line if there are training games, but none of them could be searched."""
    if train is not None and judge.NEAREST_SITUATION not in coherence["baselines"]:
        print("without the baseline of the nearest situation: all training games are evaluated, or too short")


def has_room_for_dreams(model: WorldModel, index: GameIndex) -> bool:
    """Whether a game is long enough for a dream; if not, this is printed."""
    found = has_room(index, num_context=judge.num_context_of(model, None, None), num_frames=judge.NUM_FRAMES)
    if not found:
        print("no coherence: no game is long enough for a dream")
    return found


def _folder_of(checkpoint: Checkpoint) -> Path:
    """Default folder for a checkpoint's evaluation."""
    if checkpoint.location != str(checkpoint.path):
        return Path()
    folder = checkpoint.path.parent
    return folder.parent if folder.name == RUN_SUBFOLDER else checkpoint.path


def parse_contexts(texts: Sequence[str]) -> tuple[Context, ...]:
    """Contexts from the command line.

    Raises:
        UserError: neither a number nor `stream`.
    """
    contexts: list[Context] = []
    for text in texts:
        if text != "stream" and not text.isdecimal():
            raise UserError(f"context {text!r}: expected a number of frames, or stream")
        contexts.append("stream" if text == "stream" else int(text))
    return tuple(contexts)
