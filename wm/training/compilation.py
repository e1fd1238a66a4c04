"""torch.compile, which fuses the element-wise operations between a network's matrix products, and CUDA graphs, with
which the host launches an update as a whole instead of its thousand kernels one by one.

On two CPU cores a compiled step is 1.15 times as fast, and compiling takes most of a minute (ten seconds from the
cache); on CUDA it has not been measured. Only training batches are compiled, which have one shape: those of the
evaluation are too few to be worth a minute per shape. CUDA graphs have not been measured yet.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import torch
from torch import Tensor

from wm.config.run_config import RunConfig
from wm.model.world_model import Mamba2WorldModel, WorldModel, num_parameters
from wm.training import distributed

MIN_FLOPS = 7e13
"""Of a worker's whole schedule, at 6 per parameter and pass over a frame, for `auto`: about eight minutes of two CPU
cores."""
WARM_UP_UPDATES = 3
"""Updates before the capture, which allocate the optimizer's state, compile kernels and choose algorithms."""

Update = Callable[..., None]
Capture = Callable[[Callable[[], None]], Callable[[], None]]
"""Takes work on the device, and returns what repeats it with the same tensors."""


def should_compile(model: WorldModel, config: RunConfig, device: torch.device) -> bool:
    """Whether to compile a run's network; `auto`: on a CPU with a C++ compiler, if the schedule is long enough."""
    if not isinstance(model, Mamba2WorldModel) or config.compile == "never":
        return False
    num_passes = config.model.passes_per_frame * config.optimizer.total_targets / distributed.world_size()
    flops = 6 * num_parameters(model) * num_passes
    has_compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
    pays = device.type == "cpu" and has_compiler is not None and flops >= MIN_FLOPS
    return config.compile == "always" or pays


def is_compiled(model: WorldModel) -> bool:
    """Whether batches of the shape that `compile_during` compiled for run compiled."""
    return model._compiled_call_impl is not None


def compile_during(model: WorldModel, update: Callable[[], None]) -> str | None:
    """Make an update with the network compiled for its batch; other shapes run in eager mode from then on.

    Returns:
        None, or why compilation failed: then the update has not been made, and the network runs in eager mode.
    """
    from torch._dynamo.exc import TorchDynamoException  # takes seconds to import

    model.compile(dynamic=False)
    try:
        update()
    except TorchDynamoException as error:
        restore_eager(model)
        return str(error).splitlines()[0]
    torch.compiler.set_stance("eager_on_recompile")
    return None


def restore_eager(model: WorldModel) -> None:
    """Undo `compile_during`."""
    if is_compiled(model):
        model._compiled_call_impl = None
        torch.compiler.set_stance("default")


class GraphedUpdate:
    """Makes updates as they are at first, then by replaying a graph of one that was captured.

    A graph reads its inputs at fixed addresses, so each batch is copied there. Batches of another shape than the first
    one are not replayed.
    """

    def __init__(self, update: Update, on_problem: Callable[[str], None], capture: Capture | None = None) -> None:
        """
        Args:
            update: of tensors on the device; it must not make the host wait.
            on_problem: receives one line if the capture fails; all updates are made as they are then.
        """
        self._update, self._on_problem = update, on_problem
        self._capture = capture or capture_cuda_graph
        self._shapes: list[torch.Size] | None = None
        self._num_left = WARM_UP_UPDATES
        self._inputs: tuple[Tensor, ...] = ()
        self._replay: Callable[[], None] | None = None
        self._has_failed = False

    @property
    def is_captured(self) -> bool:
        """Whether updates of the usual shape are replayed."""
        return self._replay is not None

    def __call__(self, *inputs: Tensor) -> None:
        """Make one update."""
        shapes = [tensor.shape for tensor in inputs]
        self._shapes = self._shapes or shapes
        if self._has_failed or shapes != self._shapes:
            self._update(*inputs)
        elif self._num_left:
            self._num_left -= 1
            self._update(*inputs)
        elif self._replay is None:
            self._capture_first(inputs)
        else:
            for static, tensor in zip(self._inputs, inputs, strict=True):
                static.copy_(tensor)
            self._replay()

    def _capture_first(self, inputs: tuple[Tensor, ...]) -> None:
        """Capture, which makes no update, and replay."""
        self._inputs = tuple(tensor.clone() for tensor in inputs)
        try:
            self._replay = self._capture(lambda: self._update(*self._inputs))
        except Exception as error:
            self._has_failed, self._inputs = True, ()
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            self._on_problem(f"the update cannot be captured as a CUDA graph; continuing without one ({reason})")
            self._update(*inputs)
        else:
            self._replay()


def capture_cuda_graph(work: Callable[[], None]) -> Callable[[], None]:
    """Record what `work` does on the current device, without doing it."""
    graph = torch.cuda.CUDAGraph()
    # Other threads may allocate meanwhile: they prefetch frames and write checkpoints.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        work()
    return graph.replay
