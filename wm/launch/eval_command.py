"""The command line of `wm eval`, which `wm submit eval` checks before the job starts. Imports no torch."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from datasets.runtime.process.command import parse_and_run


def parse_eval(args: Sequence[str], call: Callable[..., Any]) -> int:
    """Read the arguments of `wm eval`.

    Args:
        call: gets checkpoint, corpus and contexts, and as keywords split, num_targets (None for all), num_dreams,
            use_gpu, out, and the FileCache as `cache`.
    """
    from pydantic import NonNegativeInt, PositiveInt
    from tyro.conf import Positional

    from wm.config.typed_yaml import checked

    def command(
        checkpoint: Positional[str],
        corpus: Positional[str],
        context: tuple[str, ...] = (),
        split: Literal["train", "validation", "test", "all"] = "validation",
        num_targets: PositiveInt = 20_000,
        num_dreams: NonNegativeInt = 300,
        all: bool = False,
        use_gpu: bool = False,
        out: Path | None = None,
        disk_cache: Path | None = None,
        disk_cache_size: str | None = None,
    ) -> None:
        """Evaluate a checkpoint.

        Args:
            checkpoint: a run's folder, a checkpoint in it, or the URI of one.
            corpus: corpus with the games to evaluate on: its folder or URI.
            context: frames of context, or `stream` for the whole game before (default: 10 60 stream).
            split: which of the corpus' games; `all` for a corpus that was not trained on.
            num_targets: evaluated frames, chosen by hash: the same for every model.
            num_dreams: dreams of 20 frames by which coherence is measured, as `wm rollout` does; 0 for none.
            all: evaluate every frame.
            use_gpu: run on the GPU.
            out: path of the JSON (default: eval.json in the checkpoint's run folder, or here for a URI).
            disk_cache: folder for copies of a corpus in object storage (default: in the user's cache folder).
            disk_cache_size: bytes of all copies, such as 200GB (default: half of what the disk has left).
        """
        from datasets.pipeline.memory_budget import parse_bytes
        from datasets.runtime.storage.file_cache import FileCache

        call(
            checkpoint,
            corpus,
            context,
            split=split,
            num_targets=None if all else num_targets,
            num_dreams=num_dreams,
            use_gpu=use_gpu,
            out=out,
            cache=FileCache(disk_cache, parse_bytes(disk_cache_size, "--disk-cache-size")),
        )

    return parse_and_run(checked(command), "eval", args)
