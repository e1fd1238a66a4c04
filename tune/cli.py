"""The verbs of the `wm` command line for sweeps: run one, and choose by it.

Each verb imports what it needs when it runs, so that `wm --help` is fast.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from datasets.runtime.durable_files import write_result
from datasets.runtime.errors import UserError
from datasets.runtime.process.command import parse_and_run

RETRY_FAILED = "--retry-failed"
"""Option of `wm sweep`: run trials again that failed before."""


def sweep(args: Sequence[str]) -> int:
    """train many models over K and size, stopping the weak early: `wm sweep context`"""
    from tune.config import SweepConfig
    from wm.config.command_line import config_of

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
        sweep: Positional[str],
        metric: MetricName | None = None,
        threshold: Annotated[float, Field(gt=0, lt=1)] | None = None,
        reference: str | None = None,
        also: tuple[str, ...] = (),
        json: Path | None = None,
        html: Path | None = None,
    ) -> None:
        """Choose the context length K from a sweep, which may still run.

        Args:
            sweep: folder of the sweep, or its s3:// or gs:// URI.
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
            write_result(json, choice_json(report))
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
        sweep: Positional[str],
        flops: Positive | None = None,
        gpu_hours: Positive | None = None,
        json: Path | None = None,
    ) -> None:
        """Choose the size of the model and the number of targets from a sweep over both.

        Args:
            sweep: folder of the sweep, or its s3:// or gs:// URI.
            flops: budget of training, FLOPs (default: 1, 3 and 10 times that of the largest run).
            gpu_hours: budget in hours of one device like that of the sweep, at its measured speed.
            json: write the fit as JSON.
        """
        if flops is not None and gpu_hours is not None:
            raise UserError("--flops and --gpu-hours exclude each other; give one budget")
        report = scaling_report(load_evidence(open_sweep(sweep)), flops=flops, device_hours=gpu_hours)
        print(describe_scaling(report))
        if json is not None:
            write_result(json, scaling_json(report))

    return parse_and_run(checked(command), "choose-size", args)


def without_retry(args: Sequence[str]) -> list[str]:
    """The arguments of `wm sweep` without its own option."""
    return [argument for argument in args if argument != RETRY_FAILED]


VERBS: dict[str, Callable[[Sequence[str]], int]] = {"sweep": sweep, "choose-k": choose_k, "choose-size": choose_size}
