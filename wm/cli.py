"""The `wm` command: the front door, and the only place that knows all four rooms. Nothing imports it.

Each verb loads what it needs when it runs, so that `wm --help` answers at once.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import tyro

import datasets

if getattr(datasets, "ROOM", None) != "melee-world-model":
    print(
        f"wm: the package `datasets` found at {getattr(datasets, '__path__', ['?'])[0]} is not this project's; "
        "Hugging Face `datasets` cannot share an environment with it: use a fresh one (`make test` makes .venv)",
        file=sys.stderr,
    )
    sys.exit(2)

from cluster.errors import ClusterError
from datasets.runtime.errors import UserError

USAGE_ERROR = 2
NOT_SOUND = 1
Positional = tyro.conf.Positional


def synth(args: Sequence[str]) -> int:
    """write synthetic replays: .slp files of a small platform fighter, for trying things out"""
    from datasets.synth import SynthOptions, synthesise

    def command(out: Path, options: tyro.conf.OmitArgPrefixes[SynthOptions]) -> None:
        """Write synthetic replays.

        Args:
            out: new folder for them.
        """
        summary = synthesise(out, options)
        print(summary_line(summary))

    tyro.cli(command, prog="wm synth", args=args)
    return 0


def encode(args: Sequence[str]) -> int:
    """replays (folders, .slp, zip, 7z, tar, local or s3://) into a corpus; run again to resume or to add"""
    from functools import partial

    from datasets.checks.filters import FilterConfig
    from datasets.corpus.chunk import EncodeOptions
    from datasets.pipeline.encode import encode as run
    from datasets.pipeline.memory_budget import parse_bytes, plan_memory
    from datasets.pipeline.progress import EncodeProgress
    from datasets.pipeline.ray_encode import encode_on_ray
    from datasets.runtime.hardware import num_cores
    from datasets.runtime.ray_cluster import uses_cluster
    from datasets.sources.source_lists import resolve

    def command(
        places: Positional[tuple[str, ...]],
        out: Path,
        sources: tuple[str, ...] = (),
        memory: str | None = None,
        filters: tyro.conf.OmitArgPrefixes[FilterConfig] = FilterConfig(),  # noqa: B008
        repair_old: bool = False,
        keep_paths: bool = False,
    ) -> None:
        """Encode replays into a corpus.

        Args:
            places: folders, .slp, .slp.gz, .zip, .7z, .tar(.gz, .zst) and parsed sets, as paths or s3://, gs:// URIs.
            out: the corpus' folder: new, or one to resume or add to.
            sources: the same, and names of files in datasets/sources/, such as `slippi`.
            memory: limit for all processes on this machine, such as 6GB; by default a quarter of it.
            repair_old: read Slippi 3.0 to 3.6 too, which the parser cannot read as they are.
            keep_paths: store file paths, which may hold players' connect codes.
        """
        if not (named := resolve((*places, *sources))):
            raise UserError("no source given; name folders, replays, archives, URIs, or a source file by --sources")
        limit = None if memory is None else parse_bytes(memory)
        plan = None if limit is None and uses_cluster() else plan_memory(limit, num_cores())
        options = EncodeOptions(filters=filters, repair_old=repair_old, keep_paths=keep_paths)
        with EncodeProgress(out) as progress:
            summary = run(named, out, options, partial(encode_on_ray, plan=plan), on_commit=progress.update)
        print(encode_summary(summary, out))

    tyro.cli(command, prog="wm encode", args=args)
    return 0


def encode_summary(summary: Any, out: Path) -> str:
    """What an encode did, for a person: what was added, and a line for each reason of a reject."""
    from datasets.schema.reject_reasons import REJECT_REASONS

    lines = [
        f"{summary.num_games:,} games and {summary.num_frames:,} frames added to {out} in {summary.seconds:.0f} s; "
        f"{summary.num_already_done:,} of {summary.num_inputs:,} inputs were there already; "
        f"{summary.num_replaced:,} games replaced by their .slp; {summary.num_ignored_files:,} other files ignored; "
        f"{summary.rejects.total():,} rejects" + (":" if summary.rejects else "")
    ]
    if summary.num_unreachable:
        lines.append(
            f"{summary.num_unreachable:8,}  inputs could not be reached; run the same command again to take them"
        )
    lines += [f"{count:8,}  {code:<18} {REJECT_REASONS[code]}" for code, count in summary.rejects.most_common()]
    return "\n".join(lines)


def corpus(args: Sequence[str]) -> int:
    """`wm corpus info|verify|repair CORPUS`: what a corpus holds, why inputs were rejected, whether it is sound"""
    from datasets.corpus.info import corpus_info, describe
    from datasets.corpus.reader import open_corpus
    from datasets.corpus.verify import repair, verify

    def command(
        verb: Positional[Literal["info", "verify", "repair"]], path: Positional[Path], rejects: bool = False
    ) -> int:
        """Show what a corpus holds, prove that it is sound, or drop what is not.

        Args:
            verb: info, verify or repair.
            path: the corpus.
            rejects: with info, name every rejected input too.
        """
        if verb == "info":
            print(describe(corpus_info(open_corpus(path)), show_rejects=rejects))
            return 0
        report = verify(path) if verb == "verify" else repair(path)
        print(report.text)
        return 0 if report.is_sound else NOT_SOUND

    return tyro.cli(command, prog="wm corpus", args=args)


def train(args: Sequence[str]) -> int:
    """train a world model as a config says (`wm train demo --train-corpus C --out R`)"""
    from wm.config.run_config import RunConfig

    config = config_of(args, RunConfig, "wm train")
    from wm.launch.ray_train import train_on_ray

    result = train_on_ray(config)
    print(f"{result.targets_seen:,} targets in {result.seconds:.0f} s; judge it with: wm eval {config.out} CORPUS")
    return 0


def evaluate(args: Sequence[str]) -> int:
    """judge a checkpoint on a corpus, beside baselines: `wm eval RUN CORPUS`"""

    def command(
        checkpoint: Positional[str],
        corpus: Positional[Path],
        context: tuple[str, ...] = (),
        split: Literal["train", "validation", "test", "all"] = "validation",
        num_targets: int = 20_000,
        all: bool = False,
        use_gpu: bool = False,
        out: Path | None = None,
    ) -> None:
        """Judge a checkpoint.

        Args:
            checkpoint: a run's folder, a checkpoint in it, or the URI of one.
            corpus: corpus with the games to judge on.
            context: frames of context, or `stream` for the whole game before (default: 10 60 stream).
            split: which of the corpus' games; `all` for a corpus that was not trained on.
            num_targets: judged frames, chosen by hash: the same for every model.
            all: judge every frame.
            use_gpu: run on the GPU.
            out: where the JSON goes (default: eval.json in the checkpoint's run folder, or here for a URI).
        """
        from wm.launch.evaluate_checkpoint import evaluate_checkpoint

        evaluate_checkpoint(
            checkpoint, corpus, context, split=split, num_targets=None if all else num_targets, use_gpu=use_gpu, out=out
        )

    tyro.cli(command, prog="wm eval", args=args)
    return 0


def sweep(args: Sequence[str]) -> int:
    """train many models over K and size, stopping the weak early: `wm sweep context-length`"""
    from tune.config import SweepConfig

    config = config_of(args, SweepConfig, "wm sweep")
    from tune.sweep import run_sweep

    run_sweep(config)
    return 0


def choose_k(args: Sequence[str]) -> int:
    """read a sweep's results: change_acc by K, its cost, and the K to take"""
    from tune.choose_k import choose, describe

    def command(sweep: Positional[Path]) -> None:
        """Choose the context length K from a sweep.

        Args:
            sweep: the sweep's folder.
        """
        print(describe(choose(sweep)))

    tyro.cli(command, prog="wm choose-k", args=args)
    return 0


def submit(args: Sequence[str]) -> int:
    """run `wm train` as a job on a Ray cluster: `wm submit mamba2-medium`"""
    from cluster.submit import SubmitRequest, submit_and_follow
    from wm.config.run_config import RunConfig
    from wm.config.typed_yaml import load_yaml

    head, overrides = _split_overrides(args)

    def command(
        config: Positional[Path],
        address: str | None = None,
        working_dir: Path = Path(),
        follow: bool = True,
        name: str | None = None,
    ) -> int:
        """Submit a training run to a Ray cluster. What stands behind `--` goes to `wm train`.

        Args:
            config: the run's YAML, inside working_dir.
            address: of the cluster's Jobs API (default: RAY_ADDRESS, else http://127.0.0.1:8265).
            working_dir: the checkout to upload.
            follow: show the job's log until it ends.
            name: readable part of the job's id (default: the config's file name).
        """
        load_yaml(config, RunConfig, overrides)  # a typo is found here, not on the cluster
        return submit_and_follow(
            SubmitRequest(
                config=config,
                overrides=overrides,
                address=address,
                working_dir=working_dir,
                follow=follow,
                name=name,
            )
        )

    return tyro.cli(command, prog="wm submit", args=head)


def demo(args: Sequence[str]) -> int:
    """all of it in minutes: replays -> corpus -> model -> judgement -> a page to look at"""

    def command(out: Path = Path("runs/demo"), replays: Path | None = None) -> None:
        """Everything once, on this machine.

        Args:
            out: folder for the demo.
            replays: a folder or zip of your own replays (default: 60 synthetic games).
        """
        from wm.demo import run_demo

        run_demo(out, replays)

    tyro.cli(command, prog="wm demo", args=args)
    return 0


VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "demo": demo,
    "synth": synth,
    "encode": encode,
    "corpus": corpus,
    "train": train,
    "eval": evaluate,
    "sweep": sweep,
    "choose-k": choose_k,
    "submit": submit,
}


def config_of(args: Sequence[str], config_type: type, prog: str) -> Any:
    """A YAML file's config with `--dotted.overrides` over it.

    Raises:
        UserError: no config is named, or it is wrong.
    """
    from wm.config.shipped import shipped_config
    from wm.config.typed_yaml import load_yaml

    if "--help" in args or "-h" in args:
        tyro.cli(config_type, prog=f"{prog} CONFIG.yaml", default=config_type(), args=["--help"])
    if not args or args[0].startswith("-"):
        raise UserError(f"no config given; expected {prog} CONFIG, for example {prog} demo")
    path = Path(args[0])
    return load_yaml(path if path.exists() else shipped_config(args[0]) or path, config_type, args[1:])


def _split_overrides(args: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Arguments before and behind `--`."""
    rest = list(args)
    if "--" not in rest:
        return rest, ()
    at = rest.index("--")
    return rest[:at], tuple(rest[at + 1 :])


def summary_line(summary: Any) -> str:
    """A small dataclass of numbers as one line."""
    parts = [
        f"{value:,.1f} {field.name}" if isinstance(value, float) else f"{value:,} {field.name}"
        for field in dataclasses.fields(summary)
        if isinstance(value := getattr(summary, field.name), int | float)
    ]
    return ", ".join(parts)


def help_text() -> str:
    """What `wm --help` shows."""
    lines = ["wm: Melee replays into a world model", ""]
    lines += [f"  wm {name:<10} {(verb.__doc__ or '').strip()}" for name, verb in VERBS.items()]
    return "\n".join([*lines, "", "`wm VERB --help` says more of each. Start with: wm demo"])


def main() -> None:
    """Entry point of `wm`: exit code 0, or 2 for a user's mistake."""
    args = sys.argv[1:]
    if not args or args[0] in ("-h", "--help", "help"):
        print(help_text())
        sys.exit(0 if args else USAGE_ERROR)
    verb = VERBS.get(args[0])
    if verb is None:
        print(f"wm: unknown verb {args[0]}; expected one of {', '.join(VERBS)}", file=sys.stderr)
        sys.exit(USAGE_ERROR)
    try:
        sys.exit(verb(args[1:]))
    except (UserError, ClusterError) as error:
        print(f"wm {args[0]}: {error}", file=sys.stderr)
        sys.exit(USAGE_ERROR)
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        print(f"wm {args[0]}: {reason}: {error.filename or 'a file'}; check the path and its rights", file=sys.stderr)
        sys.exit(USAGE_ERROR)
    except KeyboardInterrupt:
        print(f"wm {args[0]}: interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
