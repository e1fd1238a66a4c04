"""What `train_step.py` and `step_profile.py` measure: configs, scans, modes and batch sizes."""

from __future__ import annotations

import argparse
import itertools
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from wm.config.rollout_config import RolloutConfig
from wm.config.run_config import RunConfig
from wm.config.shipped import SHIPPED_CONFIGS
from wm.config.typed_yaml import load_yaml

SHIPPED = ("mlp", "mamba2-medium", "mamba2-medium-k60", "mamba2-large", "mamba2-xl")
MOST_EXAMPLES_ON_CPU = {"mamba2-large": 8, "mamba2-xl": 8}
AUTO_BATCH = {"cuda": 512, "cpu": 16}
"""What `batch_size: auto` is measured with."""
Case = tuple[str, str, RunConfig, int | None]
"""Name of the config, backend, config, sequences in a batch."""
MODES = ("eager", "graph", "compiled", "compiled-graph")
"""How an update runs: kernel by kernel, as a CUDA graph, with the network compiled, both."""


def config_of_mode(config: RunConfig, backend: str, mode: str) -> RunConfig:
    """A config with another scan, in one of MODES; graphs exist on CUDA alone."""
    model = replace(config.model, scan_backend=backend)  # pyrefly: ignore[bad-argument-type]
    compiles = "always" if mode.startswith("compiled") else "never"
    return replace(config, model=model, compile=compiles, cuda_graph=mode.endswith("graph"))


def plain_config(name: str) -> RunConfig:
    """A shipped config without training against drift, which windows and CUDA graphs exclude: an update sees a batch
    once."""
    config = load_yaml(SHIPPED_CONFIGS / f"{name}.yaml", RunConfig)
    return replace(config, objective=replace(config.objective, rollout=RolloutConfig()))


def cases(arguments: argparse.Namespace, backends: list[str], modes: list[str]) -> Iterator[Case]:
    """Everything that is to be measured."""
    for text in arguments.cases or ():
        name, backend, mode, batch = text.split(":")
        config = config_of_mode(plain_config(name), backend, mode)
        yield name, backend, smaller(config) if arguments.tiny else config, 4 if arguments.tiny else int(batch)
    for name in () if arguments.cases else arguments.configs:
        shipped = plain_config(name)
        is_mlp = shipped.model.kind == "mlp"
        for objective in ["window"] if is_mlp else arguments.objectives:
            for backend, mode in itertools.product(
                ["torch"] if is_mlp else backends, modes if objective == "sequence" else ["eager"]
            ):
                config = replace(shipped, objective=replace(shipped.objective, kind=objective))  # pyrefly: ignore[bad-argument-type]
                config = config_of_mode(config, backend, mode)
                yield name, backend, smaller(config) if arguments.tiny else config, arguments.batch


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise TimeoutError in this thread after some seconds."""

    def expired(*_: object) -> None:
        raise TimeoutError(f"took more than {seconds} s")

    if seconds is None:
        yield
        return
    previous = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def smaller(config: RunConfig) -> RunConfig:
    """The same with a tiny model and tiny batches: for tests."""
    model = replace(config.model, d_model=32, num_layers=1, d_state=8, headdim=16, hidden_sizes=(32, 16))
    objective = replace(config.objective, context_frames=4, sequence_frames=8)
    optimizer = replace(config.optimizer, batch_size=4)
    return replace(config, model=model, objective=objective, optimizer=optimizer)


def batch_of(name: str, config: RunConfig, device: torch.device, asked: int | None) -> int:
    """Examples of a batch; `asked` counts sequences, and the config's too, but for the MLP's windows."""
    size = config.optimizer.batch_size if asked is None else asked
    if size == "auto":
        size = AUTO_BATCH[device.type]
    if device.type == "cpu" and asked is None:
        size = min(size, MOST_EXAMPLES_ON_CPU.get(name, size))
    objective = config.objective
    if objective.kind == "window" and (config.model.kind != "mlp" or asked is not None):
        size = max(1, size * objective.sequence_frames // (objective.example_frames - 1))
    return size
