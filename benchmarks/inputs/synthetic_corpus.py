"""Encodes synthetic games, for training benchmarks without `--corpus`.

python benchmarks/inputs/synthetic_corpus.py FOLDER [--games 64] [--max-frames 9000]     writes FOLDER/corpus
"""

from __future__ import annotations

import argparse
from pathlib import Path


def synthetic_corpus(folder: Path, num_games: int, max_frames: int = 9_000) -> Path:
    """Encode `num_games` synthetic games of at most `max_frames` frames into `folder`/corpus."""
    # Here, because machines that are given a corpus need no parser.
    from datasets.corpus.chunk import EncodeOptions
    from datasets.pipeline.encode import encode, encode_in_process
    from datasets.synth import SynthOptions, synthesize

    print(f"no corpus given; encoding {num_games} synthetic games", flush=True)
    synthesize(folder / "replays", SynthOptions(num_games=num_games, seed=1, max_frames=max_frames))
    encode([folder / "replays"], folder / "corpus", EncodeOptions(), encode_in_process)
    return folder / "corpus"


def main() -> None:
    """Write a corpus that several benchmarks can share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--games", type=int, default=64)
    parser.add_argument("--max-frames", type=int, default=9_000)
    options = parser.parse_args()
    print(synthetic_corpus(options.folder, options.games, options.max_frames))


if __name__ == "__main__":
    main()
