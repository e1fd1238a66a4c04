"""Frames per second of dreams: one game on one core, a batch on two, each eager and compiled (`wm rollout --compile`),
and a window that is run again for each frame.

    python benchmarks/rollout.py [--config mamba2-medium] [--window 10] [--batch 64] [--profile]

The network has random weights and sees random frames of players who live, since death and respawn take further steps.
The first frame of each repeat runs in eager mode, as in every dream. Times are elapsed; on a busy machine `--cpu-time`
takes CPU time per thread instead, which is too fast where one thread waits for the other. The floor is what no
implementation of these steps in float32 can beat whose states do not fit into the caches: multiplications at the speed
of a large matrix product, and the recurrent state read and written once at the speed of a large copy, both measured
here; the second follows the first.

Aims for mamba2-medium: 450 frames/s for one game on one core, 25,000 frames/s in a batch on two.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from datasets.loading.frames import CODE_COLUMNS, FLOAT_COLUMNS, GAME_COLUMNS
from datasets.runtime.process.host_memory import raise_malloc_thresholds
from wm.config.run_config import RunConfig
from wm.config.shipped import SHIPPED_CONFIGS, shipped_names
from wm.config.typed_yaml import load_yaml
from wm.model.dynamics.deaths import NUM_SCRIPTED
from wm.model.dynamics.imagination import Imagination, ImaginationState, controller_columns
from wm.model.dynamics.next_frame import GameRules
from wm.model.encoding import Frames
from wm.model.world_model import WorldModel, build_model, num_parameters

REPEATS = 5
"""The fastest repeat counts."""
AIMS = {1: 450.0, 2: 25_000.0}
"""Threads -> frames/s of mamba2-medium."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is measured."""

    name: str
    games: int
    threads: int
    window: int | None
    compiled: bool = False


def random_frames(games: int, num_frames: int) -> Frames:
    """Frames of the right types."""
    torch.manual_seed(0)
    shape = (games, num_frames, 2)
    codes = torch.randint(0, 4, (*shape, len(CODE_COLUMNS)), dtype=torch.int16)
    codes[..., CODE_COLUMNS.index("action")] += NUM_SCRIPTED
    return Frames(
        floats=torch.randn(*shape, len(FLOAT_COLUMNS)),
        codes=codes,
        game=torch.ones(games, len(GAME_COLUMNS), dtype=torch.int16),
    )


def seconds_of(work: Callable[[], object], threads: int, cpu_time: bool) -> float:
    """Seconds of the fastest repeat, elapsed or of the CPU per thread."""
    clock = time.process_time if cpu_time else time.perf_counter
    work()
    best = float("inf")
    for _ in range(REPEATS):
        started = clock()
        work()
        best = min(best, clock() - started)
    return best / threads if cpu_time else best


def prepared(model: WorldModel, case: Case, context: int) -> tuple[Imagination, ImaginationState, torch.Tensor]:
    """A dream that is about to go on."""
    imagination = Imagination(model, GameRules(), window=case.window, compiled=case.compiled)
    frames = random_frames(case.games, context)
    return imagination, imagination.observe(None, frames), controller_columns(frames)[:, :1]


def measure(model: WorldModel, case: Case, context: int, steps: int, cpu_time: bool) -> float:
    """Frames per second over all games."""
    torch.set_num_threads(case.threads)
    imagination, state, controllers = prepared(model, case, context)
    seconds = seconds_of(
        lambda: imagination.imagine(state, controllers.expand(-1, steps, -1, -1)), case.threads, cpu_time
    )
    return case.games * steps / seconds


def floor(model: WorldModel, threads: int, cpu_time: bool) -> tuple[float, float]:
    """Frames per second that the multiplications, and the traffic of the states, alone would allow."""
    torch.set_num_threads(threads)
    size, floats = 1024, 1 << 24
    square, source, copy = torch.randn(size, size), torch.randn(floats), torch.empty(floats)
    flops = 2 * size**3 / seconds_of(lambda: square @ square, threads, cpu_time)
    bytes_per_s = 8 * floats / seconds_of(lambda: copy.copy_(source), threads, cpu_time)
    with torch.inference_mode():
        _, state, _ = prepared(model, Case(name="", games=1, threads=1, window=None), 4)
    assert state.recurrent is not None
    num_floats = sum(block.ssm.numel() + block.conv.numel() for block in state.recurrent.blocks)
    return flops / (4 * num_parameters(model)), bytes_per_s / (8 * num_floats)


def profile(model: WorldModel, case: Case, context: int) -> str:
    """The operations that take the most time."""
    torch.set_num_threads(case.threads)
    imagination, state, controllers = prepared(model, case, context)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        imagination.imagine(state, controllers.expand(-1, 20, -1, -1))
    return found.key_averages().table(sort_by="self_cpu_time_total", row_limit=15, max_name_column_width=32)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", default="mamba2-medium", choices=[n for n in shipped_names() if "mamba2" in n])
    parser.add_argument("--window", type=int, default=10, help="K of the older way")
    parser.add_argument("--batch", type=int, default=64, help="games at once")
    parser.add_argument("--steps", type=int, default=60, help="frames of a repeat")
    parser.add_argument("--threads", type=int, default=2, help="of the batch")
    parser.add_argument("--cpu-time", action="store_true", help="CPU time per thread instead of elapsed time")
    parser.add_argument("--profile", action="store_true", help="print the slowest operations of both cases")
    arguments = parser.parse_args()
    raise_malloc_thresholds()
    config = load_yaml(SHIPPED_CONFIGS / f"{arguments.config}.yaml", RunConfig)
    model = build_model(config.model, config.objective.context_frames).eval()
    one = Case(name="one game, one core", games=1, threads=1, window=None)
    many = Case(name="batch", games=arguments.batch, threads=arguments.threads, window=None)
    print(f"{arguments.config}: {num_parameters(model):,} parameters, float32; {arguments.batch} games in a batch")
    names = ("carried", "compiled", f"window {arguments.window}")
    print(f"{'':<22}{'threads':>9}" + "".join(f"{name:>12}" for name in names) + f"{'ratio':>8}{'aim':>10}")
    rows = []
    with torch.inference_mode():
        for case in (one, many):
            carried = measure(model, case, arguments.window, arguments.steps, arguments.cpu_time)
            others = (replace(case, compiled=True), replace(case, window=arguments.window))
            compiled, window = (
                measure(model, other, arguments.window, arguments.steps, arguments.cpu_time) for other in others
            )
            aim = AIMS.get(case.threads, 0.0)
            cells = f"{carried:>12,.0f}{compiled:>12,.0f}{window:>12,.0f}{carried / window:>8.1f}{aim:>10,.0f}"
            print(f"{case.name:<22}{case.threads:>9}{cells}", flush=True)
            multiplying, moving = floor(model, case.threads, arguments.cpu_time)
            speeds = {"carried": carried, "compiled": compiled, "window": window}
            both = 1 / (1 / multiplying + 1 / moving)
            floors = {"by_multiplications": multiplying, "by_state_traffic": moving, "by_both": both}
            rows.append({"case": case.name, "games": case.games, "threads": case.threads} | speeds | floors)
            print(f"{'  at most':<22}{both:>21,.0f}; {multiplying:,.0f} by products, {moving:,.0f} by state traffic")
        if arguments.profile:
            for case in (one, many):
                print(f"\n{case.name}\n{profile(model, case, arguments.window)}")
    print(json.dumps({"config": arguments.config, "frames_per_s": rows}))


if __name__ == "__main__":
    main()
