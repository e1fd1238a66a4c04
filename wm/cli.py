"""The `wm` command line. The only module that imports all four packages; nothing imports it.

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

from cluster.errors import ClusterError
from datasets.cli import corpus, encode, synth
from datasets.runtime.errors import UserError
from datasets.runtime.process.command import USAGE_ERROR, parse_and_run, run_command
from datasets.runtime.uris import without_key

RESUMABLE = ("demo", "encode", "train", "sweep")
"""Verbs that resume when the same command runs again."""
RETRY_FAILED = "--retry-failed"
"""Option of `wm sweep`: run trials again that failed before."""
SUBMITTED = ("train", "sweep", "encode")
"""Verbs that `wm submit` runs on a cluster."""


def train(args: Sequence[str]) -> int:
    """train a world model from a config (`wm train demo --train-corpus C --out R`)"""
    from wm.config.run_config import RunConfig

    config = config_of(args, RunConfig, "train")
    from wm.launch.ray_train import train_on_ray

    result = train_on_ray(config)
    location = without_key(str(config.out))
    print(f"{result.targets_seen:,} targets in {result.seconds:.0f} s; evaluate: wm eval {location} CORPUS")
    return 0


def evaluate(args: Sequence[str]) -> int:
    """evaluate a checkpoint on a corpus, next to baselines: `wm eval RUN CORPUS`"""
    from pydantic import PositiveInt
    from tyro.conf import Positional

    from wm.config.typed_yaml import checked

    def command(
        checkpoint: Positional[str],
        corpus: Positional[str],
        context: tuple[str, ...] = (),
        split: Literal["train", "validation", "test", "all"] = "validation",
        num_targets: PositiveInt = 20_000,
        all: bool = False,
        use_gpu: bool = False,
        out: Path | None = None,
        disk_cache: Path | None = None,
        disk_cache_size: str | None = None,
    ) -> None:
        """Evaluate a checkpoint.

        Args:
            checkpoint: a run's folder, a checkpoint in it, or the URI of one.
            corpus: corpus with the games to evaluate on: its folder or URI.
            context: frames of context, or `stream` for the whole game before (default: 10 60 stream).
            split: which of the corpus' games; `all` for a corpus that was not trained on.
            num_targets: evaluated frames, chosen by hash: the same for every model.
            all: evaluate every frame.
            use_gpu: run on the GPU.
            out: path of the JSON (default: eval.json in the checkpoint's run folder, or here for a URI).
            disk_cache: folder for copies of a corpus in object storage (default: in the user's cache folder).
            disk_cache_size: bytes of all copies, such as 200GB (default: half of what the disk has left).
        """
        from datasets.pipeline.memory_budget import parse_bytes
        from datasets.runtime.storage.file_cache import FileCache
        from wm.launch.evaluate_checkpoint import evaluate_checkpoint

        evaluate_checkpoint(
            checkpoint,
            corpus,
            context,
            split=split,
            num_targets=None if all else num_targets,
            use_gpu=use_gpu,
            out=out,
            cache=FileCache(disk_cache, None if disk_cache_size is None else parse_bytes(disk_cache_size)),
        )

    return parse_and_run(checked(command), "eval", args)


def sweep(args: Sequence[str]) -> int:
    """train many models over K and size, stopping the weak early: `wm sweep context`"""
    from tune.config import SweepConfig

    config = config_of(without_retry(args), SweepConfig, "sweep")
    from tune.running.sweep import run_sweep

    run_sweep(config, retry_failed=RETRY_FAILED in args)
    return 0


def choose_k(args: Sequence[str]) -> int:
    """which context length K is enough? verdict, evidence and costs of a sweep"""
    from pydantic import Field
    from tyro.conf import Positional

    from tune.report.choice_json import choice_json
    from tune.report.choice_page import write_choice_page
    from tune.report.choice_text import describe
    from tune.report.choose_k import choose, with_options
    from tune.results.sweep_folder import open_sweep
    from wm.config.run_config import MetricName
    from wm.config.typed_yaml import checked

    def command(
        sweep: Positional[Path],
        metric: MetricName | None = None,
        threshold: Annotated[float, Field(gt=0, lt=1)] | None = None,
        reference: str | None = None,
        also: tuple[str, ...] = (),
        json: Path | None = None,
        html: Path | None = None,
    ) -> None:
        """Choose the context length K from a sweep, which may still run.

        Args:
            sweep: the sweep's folder.
            metric: that decides (default: `choice.metric` of the sweep, change_acc).
            threshold: largest acceptable loss: a difference of accuracies, a fraction of pos_mae and val_loss (default:
                `choice.threshold` of the sweep, 0.05).
            reference: K that the others are compared with: best, stream or frames (default: that of the sweep, best).
            also: further rules, such as `pos_mae=3%`.
            json: write the evidence as JSON.
            html: write a page to open in a browser.
        """
        config = open_sweep(sweep).choice
        report = choose(sweep, with_options(config, metric=metric, threshold=threshold, reference=reference, also=also))
        print(describe(report))
        if json is not None:
            write_json(json, choice_json(report))
        if html is not None:
            print(f"\n{write_choice_page(html, report)}")

    return parse_and_run(checked(command), "choose-k", args)


def choose_size(args: Sequence[str]) -> int:
    """how large a model, on how many targets, for a budget? the scaling fit of a sweep"""
    from pydantic import Field
    from tyro.conf import Positional

    from tune.report.choice_json import scaling_json
    from tune.report.scaling import scaling_report
    from tune.report.scaling_text import describe_scaling
    from tune.results.evidence import load_evidence
    from tune.results.sweep_folder import open_sweep
    from wm.config.typed_yaml import checked

    Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

    def command(
        sweep: Positional[Path],
        flops: Positive | None = None,
        gpu_hours: Positive | None = None,
        json: Path | None = None,
    ) -> None:
        """Choose the size of the model and the number of targets from a sweep over both.

        Args:
            sweep: the sweep's folder.
            flops: budget of training, FLOPs (default: 1, 3 and 10 times that of the largest run).
            gpu_hours: budget in hours of one device like that of the sweep, at its measured speed.
            json: write the fit as JSON.
        """
        if flops is not None and gpu_hours is not None:
            raise UserError("--flops and --gpu-hours exclude each other; give one budget")
        report = scaling_report(load_evidence(open_sweep(sweep)), flops=flops, device_hours=gpu_hours)
        print(describe_scaling(report))
        if json is not None:
            write_json(json, scaling_json(report))

    return parse_and_run(checked(command), "choose-size", args)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a result as a JSON file and name it."""
    from datasets.runtime.durable_files import write_json_atomically

    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomically(path, content)
    print(f"\n{path}")


def submit(args: Sequence[str]) -> int:
    """run `wm train`, `wm sweep` or `wm encode` as a job on a Ray cluster: `wm submit mamba2-medium`"""
    from tyro.conf import Positional

    from cluster.submit import SubmitRequest, submit_and_follow
    from wm.config.shipped import config_file

    own_args, overrides = split_at_dashes(args)
    verb = own_args.pop(0) if own_args and own_args[0] in SUBMITTED else "train"
    if verb == "encode":
        return submit_encode(own_args, overrides)

    def command(
        config: Positional[str],
        address: str | None = None,
        working_dir: Path = Path(),
        follow: bool = True,
        name: str | None = None,
    ) -> int:
        """Submit a training run to a Ray cluster, a sweep (`wm submit sweep CONFIG`), or an encode (`wm submit encode
        SOURCES -- --out OUT`). Arguments after `--` go to `wm train`, `wm sweep` or `wm encode`.

        Args:
            config: the YAML of a run or a sweep, inside working_dir, or the name of a shipped config.
            address: URL of the cluster's Jobs API (default: RAY_ADDRESS, else http://127.0.0.1:8265).
            working_dir: the checkout to upload.
            follow: print the job's log until it ends.
            name: readable part of the job's id (default: the config's file name).
        """
        file = config_file(config, verb)
        check_submitted(verb, file, overrides)
        return submit_and_follow(
            SubmitRequest(
                command=(verb,),
                config=file,
                is_shipped=not Path(config).is_file(),
                overrides=overrides,
                address=address,
                working_dir=working_dir,
                follow=follow,
                name=name,
            )
        )

    return parse_and_run(command, "submit", own_args)


def submit_encode(own_args: Sequence[str], arguments: Sequence[str]) -> int:
    """Submit `wm encode`, whose arguments are the sources and what follows `--`."""
    from tyro.conf import Positional

    from cluster.submit import SubmitRequest, submit_and_follow
    from datasets.cli import check_submitted_encode

    def command(
        sources: Positional[tuple[str, ...]] = (),
        address: str | None = None,
        working_dir: Path = Path(),
        follow: bool = True,
        name: str | None = None,
    ) -> int:
        """Submit an encode to a Ray cluster: `wm submit encode s3://BUCKET/replays -- --out /shared/corpus`. Arguments
        after `--` go to `wm encode`.

        Args:
            sources: folders, replays and archives on paths that every node sees, or URIs.
            address: URL of the cluster's Jobs API (default: RAY_ADDRESS, else http://127.0.0.1:8265).
            working_dir: the checkout to upload.
            follow: print the job's log until it ends.
            name: readable part of the job's id.
        """
        check_submitted_encode([*sources, *arguments])
        return submit_and_follow(
            SubmitRequest(
                command=("encode",),
                overrides=(*sources, *arguments),
                address=address,
                working_dir=working_dir,
                follow=follow,
                name=name,
            )
        )

    return parse_and_run(command, "submit encode", own_args)


def check_submitted(verb: str, file: Path, overrides: Sequence[str]) -> None:
    """Report a mistake in a config here, and not on the cluster.

    Raises:
        UserError: the verb would refuse the config.
    """
    from wm.config.run_config import RunConfig
    from wm.config.typed_yaml import load_yaml

    if verb == "train":
        load_yaml(file, RunConfig, overrides)
        return
    from tune.config import SweepConfig
    from tune.search.trials import trials_of

    trials_of(load_yaml(file, SweepConfig, without_retry(overrides)))


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
    "sweep": sweep,
    "choose-k": choose_k,
    "choose-size": choose_size,
    "submit": submit,
}


def config_of(args: Sequence[str], config_type: type, verb: str) -> Any:
    """The config that a command names, with its `--dotted.name value` overrides.

    Raises:
        UserError: no config is named, or the config or an override is invalid.
    """
    from wm.config.shipped import config_file
    from wm.config.typed_yaml import load_yaml

    if "--help" in args or "-h" in args:
        import tyro

        tyro.cli(config_type, prog=f"wm {verb} CONFIG", default=config_type(), args=["--help"])
    if not args or args[0].startswith("-"):
        raise UserError(f"no config given; expected wm {verb} CONFIG, for example wm {verb} demo")
    return load_yaml(config_file(args[0], verb), config_type, args[1:])


def without_retry(args: Sequence[str]) -> list[str]:
    """The arguments of `wm sweep` without its own option."""
    return [argument for argument in args if argument != RETRY_FAILED]


def split_at_dashes(args: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Arguments before and after `--`."""
    at = list(args).index("--") if "--" in args else len(args)
    return list(args[:at]), tuple(args[at + 1 :])


def main() -> None:
    """Entry point of `wm`; exit codes are those of `run_command`."""
    args = sys.argv[1:]
    name = args[0] if args else "--help"
    if name in VERBS:
        command = partial(VERBS[name], args[1:])
        run_command(f"wm {name}", command, UserError, ClusterError, resumes=name in RESUMABLE)
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
