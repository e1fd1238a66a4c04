"""The device of a worker, and its share of the machine's cores."""

from __future__ import annotations

import torch

from datasets.runtime.errors import UserError
from datasets.runtime.hardware import num_cores
from wm.config.run_config import RunConfig
from wm.model.scan_backend import ScanChoice, choose_scan_backend
from wm.runs.environment import processor_name
from wm.training import distributed


def select_device(config: RunConfig) -> torch.device:
    """The GPU that Ray assigned to this worker, or the CPU.

    Raises:
        UserError: the config asks for a GPU and there is none.
    """
    if not config.use_gpu:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("use_gpu is set, but there is no CUDA device; set use_gpu: false, or install a CUDA torch")
    torch.backends.cuda.matmul.allow_tf32 = True
    return torch.device("cuda", torch.cuda.current_device())


def device_name(device: torch.device) -> str:
    """The model of a GPU, or of this machine's processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()


def agreed_scan_backend(config: RunConfig, device: torch.device) -> ScanChoice:
    """The scan that runs on every rank: the kernels if they work on all; every rank must call.

    Raises:
        UserError: on every rank: the config asks for triton, and on some rank the kernels do not work.
    """
    mine: ScanChoice | UserError
    try:
        mine = choose_scan_backend(config.model, device, config.precision, config.objective.example_frames - 1)
    except UserError as error:
        mine = error
    choices: list[ScanChoice] = []
    for choice in distributed.all_gather_object(mine):
        if isinstance(choice, UserError):
            raise choice
        choices.append(choice)
    return next((choice for choice in choices if choice.backend == "torch"), choices[0])


def set_num_threads(config: RunConfig, num_processes: int) -> None:
    """Set torch's threads to `num_threads`, or to this process' share of the cores; Ray would leave it one thread.

    Args:
        num_processes: that share the machine's cores.
    """
    if not config.use_gpu:
        share = max(1, num_cores() // num_processes)
        torch.set_num_threads(share if config.num_threads == "auto" else config.num_threads)
