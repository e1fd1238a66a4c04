"""What a job needs of its cluster, from its config: machines, places to read and to write, disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets.runtime.storage.file_cache import default_root
from datasets.runtime.uris import is_remote
from wm.config.run_config import RunConfig
from wm.config.run_paths import with_absolute_paths

BYTES_PER_PARAMETER = 12
"""Of a checkpoint: weights, and two moments of the optimizer, 4 bytes each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """What a job needs."""

    bundles: tuple[dict[str, float], ...]
    """Ray resources of each process that the job starts with."""
    corpora: tuple[str, ...] = ()
    """Paths or URIs."""
    sources: tuple[str, ...] = ()
    """Of an encode."""
    outputs: tuple[str, ...] = ()
    """Paths or URIs that are written to."""
    run: RunConfig | None = None
    """The run that is rehearsed; None for an encode."""

    @property
    def num_gpus(self) -> float:
        """GPUs of all processes."""
        return sum(bundle.get("GPU", 0) for bundle in self.bundles)


def needs_of_run(config: RunConfig, bundle: dict[str, float] | None = None) -> Needs:
    """What `wm train` needs: of an elastic run, with the least number of workers.

    Args:
        bundle: resources of the only process, if it is a trial of a sweep.
    """
    config = with_absolute_paths(config)
    worker = {"GPU": 1.0} if config.use_gpu else {"CPU": 1.0}
    return Needs(
        bundles=(bundle,) if bundle and config.max_workers == 1 else (worker,) * config.min_workers,
        corpora=tuple(str(place) for place in (config.train_corpus, config.eval_corpus) if place is not None),
        outputs=tuple(dict.fromkeys((str(config.out), *_checkpoint_storage(config)))),
        run=config,
    )


def needs_of_sweep(content: Path, overrides: Sequence[str]) -> Needs:
    """What the first trial of a sweep needs.

    Raises:
        UserError: the sweep's config is invalid.
    """
    from tune.cli import without_retry
    from tune.config import SweepConfig
    from tune.running.resources import with_workers
    from tune.search.trials import trials_of
    from wm.config.typed_yaml import load_yaml

    sweep = with_workers(load_yaml(content, SweepConfig, without_retry(overrides)))
    resources = {"CPU": float(sweep.cpus_per_trial), "GPU": float(sweep.gpus_per_trial)}
    return needs_of_run(trials_of(sweep)[0].config, {name: number for name, number in resources.items() if number})


def needs_of_encode(sources: Sequence[str], out: str) -> Needs:
    """What `wm encode` needs: one CPU to begin with."""
    return Needs(bundles=({"CPU": 1.0},), sources=tuple(sources), outputs=(out,))


def checkpoint_location(config: RunConfig) -> str:
    """Path or URI that holds a run's checkpoints."""
    return config.checkpoint.storage_path or str(config.out)


def checkpoint_bytes(config: RunConfig, num_parameters: int) -> int:
    """Bytes of the checkpoints that a run keeps at once: the newest, the best, and the one that is being written."""
    return BYTES_PER_PARAMETER * num_parameters * (config.checkpoint.keep_last + 2)


def cache_folder(config: RunConfig) -> Path | None:
    """Folder of each machine for copies of a remote corpus; None if no corpus is remote."""
    corpora = [config.train_corpus, *([] if config.eval_corpus is None else [config.eval_corpus])]
    if not any(is_remote(str(corpus)) for corpus in corpora):
        return None
    return config.data.disk_cache or default_root()


def _checkpoint_storage(config: RunConfig) -> list[str]:
    return [] if config.checkpoint.storage_path is None else [config.checkpoint.storage_path]
