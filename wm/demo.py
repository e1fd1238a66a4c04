"""`wm demo`: every step once, from replays to a report and a page of dreams."""

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
from datasets.runtime.uris import is_uri_as_path
from datasets.schema.splits import SplitConfig, in_split
from datasets.synth import SynthOptions, synthesize
from wm.config.run_config import RunConfig
from wm.config.run_identity import short_hash
from wm.config.shipped import SHIPPED_CONFIGS
from wm.config.typed_yaml import load_yaml
from wm.launch.evaluate_checkpoint import evaluate_checkpoint
from wm.launch.ray_train import train_on_ray
from wm.launch.rollout_checkpoint import rollout_checkpoint
from wm.report.run_report import write_report

NUM_SYNTHETIC_GAMES = 60
NUM_EVALUATION_TARGETS = 8_000
NUM_DREAMS = 60
"""Dreams that those of the page are chosen from."""


def run_demo(out: Path, replays: Path | None) -> Path:
    """Encode replays, train a model, evaluate it, and write the report and the page of its dreams.

    Running it again resumes what is unfinished.

    Args:
        out: folder of everything that the demo writes.
        replays: a folder or archive; None generates synthetic games.
    Returns:
        Path of the report; both paths are the last lines printed.
    """
    started = time.monotonic()
    if is_uri_as_path(out):
        raise UserError(f"--out {out} is a URI; the demo must be in a local folder")
    if replays is not None:
        # Each source has its own folder, so that a model is never evaluated on another source's games.
        out = out.with_name(f"{out.name}-{short_hash({'replays': str(replays.resolve())})}")
    else:
        replays = _synthetic_replays(out, started)
    corpus_folder, run_folder = out / "corpus", out / "run"
    _print_step(started, "2 of 6: encoding the replays into a corpus")
    encode([replays], corpus_folder, EncodeOptions(), encode_on_ray)
    corpus = open_corpus(corpus_folder)
    info = corpus_info(corpus)
    print(describe(info, show_rejects=False))
    _print_step(started, "3 of 6: training a world model, about two minutes")
    config = load_yaml(SHIPPED_CONFIGS / "demo.yaml", RunConfig)
    split = _split_with_validation_games(corpus)
    train_on_ray(dataclasses.replace(config, train_corpus=corpus_folder, out=run_folder, split=split))
    _print_step(started, "4 of 6: evaluating it on games that it was not trained on")
    contexts = ("10", "stream")
    evaluation = evaluate_checkpoint(run_folder, corpus_folder, contexts, num_targets=NUM_EVALUATION_TARGETS)
    _print_step(started, "5 of 6: letting it dream")
    dreams = out / "dreams.html"
    rollout_checkpoint(run_folder, corpus_folder, num_starts=NUM_DREAMS, html=dreams)
    _print_step(started, "6 of 6: writing the report")
    title = "Demo world model"
    report = write_report(out / "report.html", run_folder, title=title, evaluation=evaluation, corpus=info)
    _print_step(started, "done; open these pages in a browser: the dreams, and the report")
    print(dreams.resolve())
    print(report.resolve())
    return report


def _synthetic_replays(out: Path, started: float) -> Path:
    """Folder of synthetic replays, generated unless an earlier call has finished it."""
    replays, marker = out / "replays", out / "replays.json"
    if not marker.exists():
        shutil.rmtree(replays, ignore_errors=True)
        _print_step(started, f"1 of 6: generating {NUM_SYNTHETIC_GAMES} synthetic games")
        out.mkdir(parents=True, exist_ok=True)
        synthesize(replays, SynthOptions(num_games=NUM_SYNTHETIC_GAMES))
        write_json_atomically(marker, {"num_games": NUM_SYNTHETIC_GAMES})
    return replays


def _split_with_validation_games(corpus: Corpus) -> SplitConfig:
    """The default split, or a larger validation share where the default leaves it without games.

    Raises:
        UserError: there are too few games for two splits.
    """
    numbers = corpus.games["split_number"].to_numpy()
    flagged = corpus.games["may_hold_rollbacks"].to_numpy()
    for share in (SplitConfig().validation_fraction, 0.25, 0.5, 0.75):
        config = SplitConfig(validation_fraction=share)
        if all(in_split(numbers, split, config, flagged).any() for split in ("train", "validation")):
            return config
    raise UserError(f"{len(numbers)} games are too few to train on some and evaluate on others; add replays")


def _print_step(started: float, text: str) -> None:
    print(f"\n== {text}  [{time.monotonic() - started:.0f} s]", flush=True)
