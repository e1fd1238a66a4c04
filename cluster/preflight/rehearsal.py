"""A worker of the run for a minute: an all-reduce, one real update at full size, a checkpoint written and read back.

Every rank calls each function, as in a run. Nothing of the run's folder is read or written but the checkpoint's place.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from datasets.runtime.errors import UserError
from datasets.runtime.storage.folder import open_folder
from datasets.runtime.uris import child_location
from wm.checkpoints.files import CheckpointName, serialize
from wm.checkpoints.reader import open_store
from wm.checkpoints.store import CheckpointStore
from wm.config.run_config import RunConfig
from wm.data.training_data import TrainingData, open_data
from wm.model.world_model import build_model, num_parameters
from wm.training import distributed
from wm.training.device import agreed_scan_backend, select_device, set_num_threads
from wm.training.open_batches import open_batches
from wm.training.optimizer import Optimizer
from wm.training.throughput import peak_gb
from wm.training.train_step import TrainStep

TIMEOUT = timedelta(minutes=3)
ALL_REDUCE_BYTES = {"cuda": 256_000_000, "cpu": 16_000_000}
NUM_ALL_REDUCES = 3
MATRIX_SIZE = {"cuda": 4096, "cpu": 512}


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceFacts:
    """The device of a worker."""

    name: str
    free_bytes: int
    total_bytes: int
    """0 for a CPU."""
    is_right: bool
    """Whether a product of two matrices of whole numbers was exact."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateFacts:
    """One update of the run."""

    num_parameters: int
    batch_size: int
    """Over all workers."""
    first_s: float
    """Seconds until the first update ended, compilation and the download of its frames included."""
    update_s: float
    """Seconds of another one."""
    loss: float
    memory_gb: dict[str, float]
    """`peak_gb` of the process, `device_peak_gb` of a GPU's tensors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointFacts:
    """A checkpoint that was written, read back, and deleted."""

    location: str
    num_bytes: int
    write_s: float
    read_s: float


@contextmanager
def process_group(config: RunConfig, address: str, rank: int, num_ranks: int, num_local: int) -> Iterator[torch.device]:
    """Join the other ranks as a run does; gives the rank's device.

    Args:
        address: HOST:PORT of rank 0.
        num_local: ranks on this machine.
    """
    os.environ["LOCAL_WORLD_SIZE"] = str(num_local)
    set_num_threads(config, num_local)
    if config.use_gpu and torch.cuda.is_available():
        torch.cuda.set_device(0)  # Ray shows a worker its own GPUs alone
    device = select_device(config)
    if num_ranks > 1:
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(
            backend, init_method=f"tcp://{address}", rank=rank, world_size=num_ranks, timeout=TIMEOUT
        )
    try:
        yield device
    finally:
        if num_ranks > 1:
            dist.destroy_process_group()


def check_device(device: torch.device) -> DeviceFacts:
    """Multiply two matrices of small whole numbers, whose product is exact in fp32 in any order."""
    random = torch.Generator().manual_seed(0)
    size = MATRIX_SIZE[device.type]
    left, right = (torch.randint(-4, 5, (size, size), generator=random).float() for _ in range(2))
    found = (left.to(device) @ right.to(device)).cpu()
    vector = torch.randint(-4, 5, (size,), generator=random).double()
    is_right = torch.equal(found.double() @ vector, left.double() @ (right.double() @ vector))
    if device.type != "cuda":
        return DeviceFacts(name="CPU", free_bytes=0, total_bytes=0, is_right=is_right)
    free, total = torch.cuda.mem_get_info(device)
    name = torch.cuda.get_device_name(device)
    return DeviceFacts(name=name, free_bytes=free, total_bytes=total, is_right=is_right)


def all_reduce_gb_per_s(device: torch.device) -> float | None:
    """Bus bandwidth of an all-reduce as NCCL's tests define it, 2 (n - 1) / n bytes a byte; None for one rank.

    Raises:
        UserError: the sum is wrong.
    """
    ranks = distributed.world_size()
    if ranks == 1:
        return None
    num_bytes, seconds = ALL_REDUCE_BYTES[device.type], []
    for _ in range(NUM_ALL_REDUCES + 1):
        values = torch.full((num_bytes // 4,), float(distributed.rank() + 1), device=device)
        dist.barrier()
        began = time.monotonic()
        dist.all_reduce(values)
        is_right = bool((values == ranks * (ranks + 1) / 2).all())  # waits for the device
        seconds.append(time.monotonic() - began)
        if not is_right:
            raise UserError("an all-reduce gave a wrong sum; the network or a GPU of this node is broken")
    return 2 * (ranks - 1) / ranks * num_bytes / 1e9 / min(seconds[1:])


class Rehearsed:
    """Network and optimizer of the run, at their beginning."""

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        scan = agreed_scan_backend(config, device)
        network = replace(config.model, scan_backend=scan.backend)
        self.config, self.device = config, device
        self.model = build_model(network, config.objective.context_frames).to(device)
        self.optimizer = Optimizer(self.model, config)

    def update(self) -> UpdateFacts:
        """Check the memory as a run does, then make two updates of real frames.

        Raises:
            UserError: the corpus cannot be used, or an update does not fit in memory.
        """
        data = _open_on_all_ranks(self.config)
        step = TrainStep(self.model, self.optimizer, self.config, self.device)
        with ExitStack() as closing:
            batches = open_batches(step, data, {}, lambda line: None, closing)
            seconds, stats = [], None
            feed = iter(batches.loader)
            for number in range(2):
                began = time.monotonic()
                step(next(feed), self.config.optimizer.learning_rate, number)
                stats = step.synchronize({})
                seconds.append(time.monotonic() - began)
            assert stats is not None
            return UpdateFacts(
                num_parameters=num_parameters(self.model),
                batch_size=batches.batch_size,
                first_s=seconds[0],
                update_s=seconds[1],
                loss=stats.loss,
                memory_gb=peak_gb(self.device),
            )

    def checkpoint(self, location: str, name: str) -> CheckpointFacts | None:
        """On rank 0: write a checkpoint where the run writes, read it back with its checksums, and delete it.

        Args:
            location: path or URI of the run, or of its checkpoints.
            name: of the folder there.
        Raises:
            UserError: it cannot be written, or is damaged when it is read.
        """
        if distributed.rank() != 0:
            return None
        store = open_store(child_location(location, name))
        moments: dict[str, Any] = self.optimizer.state_dict()
        files = serialize(self.model.state_dict(), self.config, {"targets_seen": 0}, {"optimizer": moments})
        try:
            return _written_and_read(store, list(files))
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{store.location}: {type(error).__name__}: {error}") from error
        finally:
            with suppress(OSError, UserError):
                open_folder(location).delete_below(name)


def _written_and_read(store: CheckpointStore, files: list[tuple[str, bytes]]) -> CheckpointFacts:
    name = CheckpointName(0)
    began = time.monotonic()
    store.prepare()
    store.commit(name, files)
    written = time.monotonic()
    try:
        num_bytes = sum(len(content) for _, content in store.verified_files(name))
        read = time.monotonic()
    finally:
        store.remove(name)
    return CheckpointFacts(location=store.location, num_bytes=num_bytes, write_s=written - began, read_s=read - written)


def _open_on_all_ranks(config: RunConfig) -> TrainingData:
    data, problem = None, None
    try:
        data = open_data(config)
    except UserError as error:
        problem = str(error)
    problems = [one for one in distributed.all_gather_object(problem) if one is not None]
    if data is None or problems:
        raise UserError(problems[0])
    return data
