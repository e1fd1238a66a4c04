"""`wm eval`: a checkpoint and a corpus in, a table and JSON out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from datasets.corpus import open_corpus, write_json_atomically
from datasets.errors import UserError
from datasets.frames import index_games
from datasets.splits import Split
from wm.checkpoint import load_model, open_checkpoint
from wm.evaluate import default_contexts, evaluate, table
from wm.judge import Context
from wm.run_folder import CHECKPOINTS

EVAL_FILE = "eval.json"


def evaluate_checkpoint(
    checkpoint: Path,
    corpus: Path,
    contexts: Sequence[str] = (),
    *,
    split: Split = "validation",
    num_targets: int | None = 20_000,
    use_gpu: bool = False,
    out: Path | None = None,
) -> dict:
    """Judge a checkpoint, print the table and write the JSON.

    Args:
        contexts: numbers of frames or `stream`; empty for the model's defaults.
        out: of the JSON; by default `eval.json` in the run's folder.
    """
    opened = open_checkpoint(checkpoint)
    model = load_model(opened)
    device = torch.device("cuda" if use_gpu else "cpu")
    if use_gpu and not torch.cuda.is_available():
        raise UserError("--use-gpu is set, but no CUDA device is to be seen")
    index = index_games(open_corpus(corpus), split, opened.config.split, to_judge=True)
    chosen = parse_contexts(contexts) or default_contexts(model)
    result = evaluate(model.to(device), index, contexts=chosen, num_targets=num_targets, device=device)
    result = {"checkpoint": str(opened.path), "corpus": str(corpus), "split": split} | result
    in_run = opened.path.parent.name == CHECKPOINTS
    out = out or (opened.path.parent.parent if in_run else opened.path) / EVAL_FILE
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomically(out, result)
    print(table(result))
    trained_on_all = opened.config.train_split == "all" or opened.config.eval_corpus is not None
    if trained_on_all and corpus.resolve() == opened.config.train_corpus:
        print("\nthis model was trained on all games of this corpus: it has seen what it is judged on here")
    print(f"\n{out}")
    return result


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
