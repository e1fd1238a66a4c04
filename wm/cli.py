"""The `wm` command line: starts the verbs of all four packages. Nothing imports it.

Each verb imports what it needs when it runs, so that `wm --help` is fast.
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import datasets

if getattr(datasets, "PROJECT", None) != "melee-world-model":
    print(
        f"wm: the package `datasets` at {getattr(datasets, '__path__', ['?'])[0]} is not this project's; Hugging Face "
        "`datasets` and this project need separate environments: create a new one (`make test` creates .venv)",
        file=sys.stderr,
    )
    sys.exit(2)

from cluster import cli as cluster_cli
from datasets.cli import corpus, encode, synth
from datasets.runtime.errors import UserError
from datasets.runtime.process.command import USAGE_ERROR, parse_and_run, run_command
from datasets.runtime.uris import without_key
from tune import cli as tune_cli

RESUMABLE = ("demo", "encode", "train", "sweep")
"""Verbs that resume when the same command runs again."""


def train(args: Sequence[str]) -> int:
    """train a world model from a config (`wm train demo --train-corpus C --out R`)"""
    from datasets.runtime.process.age import process_started_at
    from wm.config.command_line import config_of
    from wm.config.run_config import RunConfig

    config = config_of(args, RunConfig, "train")
    from wm.launch.ray_train import train_on_ray

    result = train_on_ray(config, process_started_at())
    location = without_key(str(config.out))
    print(f"{result.targets_seen:,} targets in {result.seconds:.0f} s; evaluate: wm eval {location} CORPUS")
    return 0


def evaluate(args: Sequence[str]) -> int:
    """evaluate a checkpoint on a corpus, next to baselines: `wm eval RUN CORPUS`"""
    from wm.launch.eval_command import parse_eval

    def evaluate_now(*places: Any, **options: Any) -> None:
        from wm.launch.evaluate_checkpoint import evaluate_checkpoint

        evaluate_checkpoint(*places, **options)

    return parse_eval(args, evaluate_now)


def rollout(args: Sequence[str]) -> int:
    """let a checkpoint dream on from real frames: `wm rollout RUN CORPUS`"""
    from pydantic import Field
    from tyro.conf import Positional

    from wm.config.typed_yaml import checked

    Count = Annotated[int, Field(ge=1, le=1_000_000)]

    def command(
        checkpoint: Positional[str],
        corpus: Positional[str],
        game: str | None = None,
        start: int | None = None,
        num_frames: Count | None = None,
        num_starts: Count | None = None,
        context: Count | None = None,
        window: Count | None = None,
        rule: Literal["ours", "theirs"] = "ours",
        temperature: tuple[str, ...] = (),
        seed: Annotated[int, Field(ge=0, lt=2**63)] = 42,
        split: Literal["train", "validation", "test", "all"] = "validation",
        use_gpu: bool = False,
        compile: bool = False,
        slp: Path | None = None,
        json: Path | None = None,
        html: Path | None = None,
        disk_cache: Path | None = None,
        disk_cache_size: str | None = None,
    ) -> None:
        """Dream on from real frames with the controllers of the replay.

        With --game or --slp: one dream. With --html alone: a page of the most interesting ones. Otherwise many dreams,
        and how far they drift from the truth.

        Args:
            checkpoint: a run's folder, a checkpoint in it, or the URI of one.
            corpus: corpus with the games to begin in: its folder or URI.
            game: id of a game, or its beginning, or its number in the split.
            start: first imagined frame of one dream, as Slippi counts: players can move from frame 0 on (default: 0).
            num_frames: imagined frames (default: 20; one dream: 600, or what the game has; a page of several: 180).
            num_starts: dreams, if there are many (default: 300).
            context: true frames before each dream, for a carried state (default: 60).
            window: frames that the network sees again for each frame (default: its state is carried).
            rule: how predictions are fed back: by the rules of the game, or as the published evaluation does.
            temperature: of one dream: a number for all fields, or FIELD=NUMBER (default: the most probable values).
            seed: of the choice of starts, and of sampling.
            split: which of the corpus' games; `all` for a corpus that was not trained on.
            use_gpu: run on the GPU.
            compile: compile the network and the rules: half a minute once, then one dream is three times as fast.
            slp: write one dream as a replay.
            json: write the result as JSON.
            html: write a page that plays the dream beside the truth; without --game, of dreams by what happens in them.
            disk_cache: folder for copies of a corpus in object storage (default: in the user's cache folder).
            disk_cache_size: bytes of all copies, such as 200GB (default: half of what the disk has left).
        """
        from datasets.pipeline.memory_budget import parse_bytes
        from datasets.runtime.storage.file_cache import FileCache
        from wm.launch.rollout_checkpoint import rollout_checkpoint

        rollout_checkpoint(
            checkpoint,
            corpus,
            game=game,
            start=start,
            num_frames=num_frames,
            num_starts=num_starts,
            num_context=context,
            window=window,
            rule=rule,
            temperature=temperature,
            seed=seed,
            split=split,
            use_gpu=use_gpu,
            compiled=compile,
            slp=slp,
            json=json,
            html=html,
            cache=FileCache(disk_cache, parse_bytes(disk_cache_size, "--disk-cache-size")),
        )

    return parse_and_run(checked(command), "rollout", args)


def demo(args: Sequence[str]) -> int:
    """everything in minutes: replays -> corpus -> model -> evaluation -> a report to open in a browser"""

    def command(out: Path = Path("runs/demo"), replays: Path | None = None) -> None:
        """Run everything once, on this machine.

        Args:
            out: folder of the demo.
            replays: a folder or zip of your own replays (default: 60 synthetic games).
        """
        from datasets.runtime.process.native_stderr import filter_native_stderr
        from wm.demo import run_demo

        filter_native_stderr()
        run_demo(out, replays)

    return parse_and_run(command, "demo", args)


VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "demo": demo,
    "synth": synth,
    "encode": encode,
    "corpus": corpus,
    "train": train,
    "eval": evaluate,
    "rollout": rollout,
    **tune_cli.VERBS,
    **cluster_cli.VERBS,
}


def main() -> None:
    """Entry point of `wm`; exit codes are those of `run_command`."""
    args = sys.argv[1:]
    name = args[0] if args else "--help"
    if name in VERBS:
        command = partial(VERBS[name], args[1:])
        run_command(f"wm {name}", command, UserError, resumes=name in RESUMABLE)
    run_command("wm", partial(run_without_verb, name, USAGE_ERROR if not args else 0), UserError)


def run_without_verb(name: str, exit_code: int) -> int:
    """Print the help.

    Raises:
        UserError: something else than help is asked for.
    """
    if name not in ("-h", "--help", "help"):
        raise UserError(f"unknown verb {name}; expected one of {', '.join(VERBS)}")
    lines = ["wm: from Melee replays to a world model", ""]
    lines += [f"  wm {name:<11} {(verb.__doc__ or '').strip()}" for name, verb in VERBS.items()]
    print("\n".join([*lines, "", "`wm VERB --help` shows the options of a verb. Start with: wm demo"]))
    return exit_code


if __name__ == "__main__":
    main()
