"""What the benchmarks of reading replays read where no sources are named."""

from __future__ import annotations

import os
from pathlib import Path


def default_sources(scratch: Path) -> list[Path]:
    """The real dev games where they are, else synthetic games."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "replays"
    real = Path(os.environ.get("WM_REPLAYS", beside)) / "dev.zip"
    if real.exists():
        return [real]
    from datasets.synth import SynthOptions, synthesize

    synthesize(scratch / "synthetic", SynthOptions(num_games=42, seed=1))
    return [scratch / "synthetic"]
