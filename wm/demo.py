"""`wm demo`: every room once. `wm eval` for files: a checkpoint and a corpus in, JSON and a table out."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from datasets.corpus import open_corpus, write_json_atomically
from datasets.distribute import encode_on_ray
from datasets.encode import EncodeOptions, encode
from datasets.errors import UserError
from datasets.frames import index_games
from datasets.info import corpus_info, describe
from datasets.splits import Split
from datasets.synth import SynthOptions, synthesise
from wm.checkpoint import load_model, open_checkpoint
from wm.config import RunConfig, load_yaml
from wm.evaluate import default_contexts, evaluate, table
from wm.judge import Context
from wm.report import write_report
from wm.run_folder import read_log
from wm.train_on_ray import train_on_ray

CONFIGS = Path(__file__).parent.parent / "configs"
NUM_SYNTHETIC_GAMES = 60
DEMO_TARGETS = 8_000
"""Judged frames of the demo."""
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
    index = index_games(open_corpus(corpus), split, opened.config.split)
    chosen = parse_contexts(contexts) or default_contexts(model)
    result = evaluate(model.to(device), index, contexts=chosen, num_targets=num_targets, device=device)
    result = {"checkpoint": str(opened.path), "corpus": str(corpus), "split": split} | result
    out = out or opened.path.parent.parent / EVAL_FILE
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomically(out, result)
    print(table(result))
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


def run_demo(out: Path, replays: Path | None) -> Path:
    """Replays -> corpus -> model -> judgement -> page. Running it again resumes what is unfinished.

    Args:
        replays: a folder or zip; None makes synthetic games.
    Returns:
        Path of the page, printed last.
    """
    started = time.monotonic()
    if replays is None:
        replays = out / "replays"
        if not (out / "replays.json").exists():
            shutil.rmtree(replays, ignore_errors=True)
            _say(started, f"1 of 5: {NUM_SYNTHETIC_GAMES} synthetic games")
            replays.parent.mkdir(parents=True, exist_ok=True)
            synthesise(replays, SynthOptions(num_games=NUM_SYNTHETIC_GAMES))
            write_json_atomically(out / "replays.json", {"num_games": NUM_SYNTHETIC_GAMES})
    _say(started, "2 of 5: replays into a corpus")
    encode([replays], out / "corpus", EncodeOptions(), encode_on_ray)
    info = corpus_info(open_corpus(out / "corpus"))
    print(describe(info, show_rejects=False))
    _say(started, "3 of 5: training a world model for about two minutes")
    config = load_yaml(CONFIGS / "demo.yaml", RunConfig)
    train_on_ray(dataclasses.replace(config, train_corpus=out / "corpus", out=out / "run"))
    _say(started, "4 of 5: judging it on games it has not seen")
    evaluation = evaluate_checkpoint(out / "run", out / "corpus", ("10", "stream"), num_targets=DEMO_TARGETS)
    _say(started, "5 of 5: the page")
    page = write_report(
        out / "report.html",
        title="Demo world model",
        log_rows=read_log(out / "run"),
        evaluation=evaluation,
        corpus={
            "games": info.num_games,
            "frames": info.num_frames,
            "bytes_per_frame": info.bytes_per_frame,
            "rejects": info.rejects_by_reason,
            "stages": info.games_by_stage,
            "characters": info.games_by_character,
        },
    )
    _say(started, "done; open this page:")
    print(page.resolve())
    return page


def _say(started: float, text: str) -> None:
    print(f"\n== {text}  [{time.monotonic() - started:.0f} s]", flush=True)
