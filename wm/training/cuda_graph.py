"""One update as a CUDA graph: the host launches it as a whole, instead of its thousand kernels one by one.

Not measured on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP_UPDATES = 3
"""Updates before the capture, which allocate the optimizer's state, compile kernels and choose algorithms."""

Update = Callable[..., None]
Capture = Callable[[Callable[[], None]], Callable[[], None]]
"""Takes work on the device, and returns what repeats it with the same tensors."""


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
