"""`wm demo`: every room once, from replays to a page."""

from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path

from datasets.corpus.chunk import EncodeOptions
from datasets.corpus.info import corpus_info, describe
from datasets.corpus.reader import Corpus, open_corpus
from datasets.pipeline.encode import encode
from datasets.pipeline.ray_encode import encode_on_ray
from datasets.runtime.durable_files import write_json_atomically
from datasets.runtime.errors import UserError
from datasets.schema.splits import SplitConfig, in_split
from datasets.synth import SynthOptions, synthesise
from wm.config.run_config import RunConfig, short_hash
from wm.config.shipped import SHIPPED_CONFIGS
from wm.config.typed_yaml import load_yaml
from wm.launch.evaluate_checkpoint import evaluate_checkpoint
from wm.launch.ray_train import train_on_ray
from wm.report import write_report
from wm.runs.run_folder import read_log

NUM_SYNTHETIC_GAMES = 60
DEMO_TARGETS = 8_000
"""Judged frames of the demo."""


def run_demo(out: Path, replays: Path | None) -> Path:
    """Replays -> corpus -> model -> judgement -> page. Running it again resumes what is unfinished.

    Args:
        replays: a folder or zip; None makes synthetic games.
    Returns:
        Path of the page, printed last.
    """
    started = time.monotonic()
    if replays is not None:
        # Each source has a folder of its own, so that no model is judged on games it was not made from.
        out = out.with_name(f"{out.name}-{short_hash({'replays': str(replays.resolve())})}")
    else:
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
    config = load_yaml(SHIPPED_CONFIGS / "demo.yaml", RunConfig)
    split = _split_with_games(open_corpus(out / "corpus"))
    train_on_ray(dataclasses.replace(config, train_corpus=out / "corpus", out=out / "run", split=split))
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


def _split_with_games(corpus: Corpus) -> SplitConfig:
    """The usual shares, or a larger one for validation where a few games leave it empty.

    Raises:
        UserError: one game alone cannot both train and judge.
    """
    numbers = corpus.games["split_number"].to_numpy()
    flagged = corpus.games["may_hold_rollbacks"].to_numpy()
    for share in (SplitConfig().validation_share, 0.25, 0.5, 0.75):
        config = SplitConfig(validation_share=share)
        if all(in_split(numbers, split, config, flagged).any() for split in ("train", "validation")):
            return config
    raise UserError(f"{len(numbers)} games are too few to train on some and judge on others; add replays")


def _say(started: float, text: str) -> None:
    print(f"\n== {text}  [{time.monotonic() - started:.0f} s]", flush=True)
