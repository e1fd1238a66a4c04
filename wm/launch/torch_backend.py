"""Ray Train's torch backend, whose workers save when they get SIGTERM and before Ray resizes their group.

Ray runs the training function in a thread, where Python cannot handle signals, and changes the number of workers by
killing them (Ray 2.60: `WorkerGroup.shutdown`, without notice to the training function). A backend is the extension
point for both: Ray calls it before training starts and before it shuts workers down, and functions that it executes on
the workers run in their main threads.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError
from ray.train.backend import Backend
from ray.train.torch import TorchConfig

from wm.launch.train_worker import is_training, stop_and_wait
from wm.runs.stop_request import request_stop_on_sigterm

ANSWER_TIMEOUT_S = 5.0
SAVE_TIMEOUT_S = 60.0
"""How long a healthy group may take to save before Ray shuts it down."""


class SavingTorchBackend(Backend):
    """Ray's torch backend with the two hooks."""

    share_cuda_visible_devices = TorchConfig().backend_cls.share_cuda_visible_devices

    def __init__(self) -> None:
        self._torch: Backend = TorchConfig().backend_cls()

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Set up torch.distributed."""
        self._torch.on_start(worker_group, backend_config)

    def on_training_start(self, worker_group: Any, backend_config: Any) -> None:
        """Make SIGTERM a stop request of each worker."""
        self._torch.on_training_start(worker_group, backend_config)
        worker_group.execute(request_stop_on_sigterm)

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        """Let workers save that Ray shuts down while they train: their number changes, or their node is drained.

        After a failure some worker is dead or has raised. The others may wait for it for ever, and are not asked.
        """
        with contextlib.suppress(GetTimeoutError):
            if all(ray.get(worker_group.execute_async(is_training), timeout=ANSWER_TIMEOUT_S)):
                saved = worker_group.execute_async(stop_and_wait, SAVE_TIMEOUT_S)
                ray.get(saved, timeout=SAVE_TIMEOUT_S + ANSWER_TIMEOUT_S)
        self._torch.on_shutdown(worker_group, backend_config)


@dataclass
class SavingTorchConfig(TorchConfig):
    """Ray's torch configuration with this backend."""

    @property
    def backend_cls(self) -> Any:
        """The backend's class."""
        return SavingTorchBackend
