"""What one frame costs while a network plays, on one core of this machine: measured once, and kept in the sweep."""

from __future__ import annotations

import contextlib
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import torch

from datasets.runtime.errors import UserError
from tune.search.cost import carries_state, play_flops, play_frames
from wm.config.run_config import Context, RunConfig
from wm.config.run_identity import short_hash
from wm.config.typed_yaml import to_plain
from wm.data.synthetic_batch import synthetic_batch
from wm.model.encoding import controllers
from wm.model.world_model import Mamba2WorldModel, WorldState, build_model
from wm.runs.environment import machine
from wm.runs.run_files import RunFiles

COSTS_FILE = "play_costs.json"
NUM_WARM_UP, NUM_FRAMES = 3, 30
MAX_SECONDS = 1.0
"""Of a measurement, after its first three frames."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlayCost:
    """The cost of one frame of play."""

    ms_per_frame: float
    """Median milliseconds on one core of the CPU, without batching."""
    flops_per_frame: float
    """Matrix multiplications, FLOPs."""
    state_bytes: int
    """Of the recurrent state of one game; 0 without one."""
    carries_state: bool
    """Whether the cost is the same for every K."""


class PlayCosts:
    """Costs by network and context, measured when they are first asked for."""

    def __init__(self, files: RunFiles) -> None:
        """
        Args:
            files: of the sweep. Costs of the same kind of CPU are read from COSTS_FILE there, and new ones written, if
                something can be written there.
        """
        self._files = files
        try:
            content = json.loads(files.read(COSTS_FILE))
            self._known = {str(key): PlayCost(**value) for key, value in content.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            self._known = {}

    def of(self, config: RunConfig, context: Context) -> PlayCost:
        """The cost of a frame of a run's network at a context."""
        frames = play_frames(config, context)
        identity = {"model": to_plain(config.model), "frames": frames, "kind": config.objective.kind}
        key = short_hash(identity | {"cpu": machine()["cpu"], "torch": torch.__version__})
        if key not in self._known:
            self._known[key] = measure(config, context)
            with contextlib.suppress(OSError, UserError):
                self._files.write_json(COSTS_FILE, {name: asdict(cost) for name, cost in self._known.items()})
        return self._known[key]


def measure(config: RunConfig, context: Context) -> PlayCost:
    """Measure the cost of a frame; the values of weights and frames do not matter."""
    carries, frames = carries_state(config) or context == "stream", play_frames(config, context)
    model = build_model(replace(config.model, scan_backend="torch"), config.objective.context_frames).eval()
    objective = replace(config.objective, kind="window", context_frames=frames - 1, num_windows=1)
    window = synthetic_batch(replace(config, objective=objective), 1, torch.device("cpu")).frames
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            state_bytes = 0
            if carries:
                assert isinstance(model, Mamba2WorldModel)
                frame, inputs = window.slice(0, 1), controllers(window.slice(1, 2))
                _, state = model.step(None, frame, inputs)
                state_bytes = _num_bytes(state)
                seconds = _median_s(lambda: model.step(state, frame, inputs))
            else:
                seconds = _median_s(lambda: model(window, last_only=True))
    finally:
        torch.set_num_threads(num_threads)
    return PlayCost(
        ms_per_frame=1e3 * seconds,
        flops_per_frame=play_flops(config, context),
        state_bytes=state_bytes,
        carries_state=carries,
    )


def _median_s(frame: Callable[[], object]) -> float:
    for _ in range(NUM_WARM_UP):
        frame()
    seconds: list[float] = []
    while len(seconds) < NUM_FRAMES and sum(seconds) < MAX_SECONDS:
        start = time.perf_counter()
        frame()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _num_bytes(state: WorldState) -> int:
    tensors = [state.position, *(tensor for block in state.blocks for tensor in (block.conv, block.ssm))]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
