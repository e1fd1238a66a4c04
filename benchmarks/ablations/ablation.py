"""Variants of a config, trained on equal numbers of targets with several seeds and judged on other games.

    PYTHONPATH=.:benchmarks python benchmarks/ablations/ablation.py TRAIN_CORPUS [EVAL_CORPUS] \
        --variants benchmarks/ablations/encoding.yaml --total-targets 500000 --seeds 1 2 3 --num-threads 1

The file of variants maps names to changes, dotted names of config fields and their values; the first variant is what
the others are compared with. Further `--dotted.name value` options apply to every variant. Each variant is evaluated
per frame at K = 10, and by 60 frames of dreams from the same starts (docs/rollout.md).

A row is added to OUT/results.jsonl as soon as it is known, all variants with the first seed before the second seed. The
same command continues: it skips what has a row, and resumes a run that was cut off. A cell counts as done if variant,
changes, seed, corpora, targets and options are the same; the code may be newer (`commit` in the row). Several commands
may use one folder. `--print` shows the rows that there are.

Prints a table, the mean over seeds and their standard deviation, and the difference to the first variant over the seeds
that both have; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from inputs.synthetic_corpus import synthetic_corpus
from measures.ablation_runs import COHERENCE, FIELD_METRICS, Cell, config_of, run_cell
from measures.in_process import TINY_NETWORK

from datasets.runtime.errors import UserError
from wm.evaluation.metrics import METRICS

RESULTS_FILE = "results.jsonl"
COLUMNS = ("val_loss", "change_acc", "pos_mae", "coherence_5", "coherence_10", "coherence_20", "coherence_60",
           "action_acc_20",
           "state_age_right_20")  # fmt: skip
"""Metrics of the table; the JSON has all."""
Row = dict[str, Any]


def read_variants(path: Path) -> dict[str, dict[str, Any]]:
    """Name -> changes.

    Raises:
        UserError: the file is no mapping of names to mappings.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"--variants {path}: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict) or not all(isinstance(changes, dict | None) for changes in content.values()):
        raise UserError(f"--variants {path}: expected a mapping of names to changes, `name: {{model.d_model: 320}}`")
    return {str(name): changes or {} for name, changes in content.items()}


def read_rows(path: Path) -> list[Row]:
    """The rows of earlier commands; a line that a kill cut off is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def row_of(rows: Sequence[Row], cell: Cell) -> Row | None:
    """The newest row of a cell."""
    wanted = json.loads(json.dumps(cell.plain()))
    return next((row for row in reversed(rows) if all(row.get(key) == value for key, value in wanted.items())), None)


def summary(rows: Sequence[Row], first: str) -> dict[str, Any]:
    """Variant -> number of seeds; mean and standard deviation of each metric; mean difference to the first variant."""
    of_first = {row["seed"]: row["metrics"] for row in rows if row["variant"] == first}
    found = {}
    for name in dict.fromkeys(row["variant"] for row in rows):
        metrics = {row["seed"]: row["metrics"] for row in rows if row["variant"] == name}
        common = [seed for seed in metrics if seed in of_first]
        entry: dict[str, Any] = {"seeds": sorted(metrics), "mean": {}, "deviation": {}, "difference": {}}
        for key in (*METRICS, *COHERENCE, *FIELD_METRICS):
            values = [one[key] for one in metrics.values() if one.get(key) is not None]
            pairs = [(metrics[seed].get(key), of_first[seed].get(key)) for seed in common]
            differences = [value - other for value, other in pairs if None not in (value, other)]
            entry["mean"][key] = statistics.fmean(values) if values else None
            entry["deviation"][key] = statistics.stdev(values) if len(values) > 1 else None
            entry["difference"][key] = statistics.fmean(differences) if differences else None
        found[name] = entry | {"train_s": statistics.fmean(r["train_s"] for r in rows if r["variant"] == name)}
    return found


def table(rows: Sequence[Row], first: str) -> str:
    """A line for each variant, then the differences to the first, then the baselines."""
    found = summary(rows, first)
    width = max([20, *(len(name) + 2 for name in found)])
    lines = [f"{'mean (deviation)':<{width}}{'seeds':>6}{'train s':>9}" + "".join(f"{name:>19}" for name in COLUMNS)]
    for name, entry in found.items():
        cells = (_cell(entry["mean"][key], entry["deviation"][key]) for key in COLUMNS)
        lines.append(f"{name:<{width}}{len(entry['seeds']):>6}{entry['train_s']:>9.0f}" + "".join(cells))
    lines += ["", f"difference to {first}, over common seeds"]
    for name, entry in found.items():
        if name != first:
            cells = (_signed(entry["difference"][key]) for key in COLUMNS)
            lines.append(f"{name:<{width}}{'':>15}" + "".join(cells))
    lines += ["", "baselines"]
    for name, values in (rows[0]["baselines"] if rows else {}).items():
        lines.append(f"{name:<{width}}{'':>15}" + "".join(_cell(values.get(key), None) for key in COLUMNS))
    return "\n".join(lines)


def _cell(mean: float | None, deviation: float | None) -> str:
    text = "-" if mean is None else f"{mean:.3f}"
    return f"{text if deviation is None else f'{text} ({deviation:.3f})':>19}"


def _signed(value: float | None) -> str:
    return f"{'-' if value is None else f'{value:+.3f}':>19}"


def parsed() -> argparse.Namespace:
    """The command line; `further` holds the options of every variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train_corpus", nargs="?", type=Path)
    parser.add_argument("eval_corpus", nargs="?", type=Path)
    parser.add_argument("--variants", type=Path, default=Path(__file__).parent / "encoding.yaml")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some of the variants")
    parser.add_argument("--config", default="mamba2-medium", help="name of a shipped config")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--total-targets", type=int, default=500_000)
    parser.add_argument("--num-targets", type=int, default=6_000, help="frames of the evaluation per frame")
    parser.add_argument("--num-starts", type=int, default=1_000, help="dreams")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--print", action="store_true", help="train nothing; show the rows that there are")
    parser.add_argument("--tiny", action="store_true", help="a small network on synthetic games, for tests")
    options, options.further = parser.parse_known_args()
    if options.tiny:
        options.further = [*TINY_NETWORK, *options.further]
        options.total_targets, options.num_targets, options.num_starts = 256, 20, 4
    elif options.train_corpus is None:
        parser.error("name a training corpus")
    return options


def cells_of(options: argparse.Namespace, variants: dict[str, dict[str, Any]]) -> list[Cell]:
    """All cells, in the order in which they are trained.

    Raises:
        UserError: `--only` names no variant, or a change is none of the config.
    """
    names = options.only or list(variants)
    if unknown := [name for name in names if name not in variants]:
        raise UserError(f"--only {unknown[0]}: expected one of {', '.join(variants)}")
    cells = [
        Cell(
            variant=name, seed=seed, changes=variants[name], config=options.config,
            train_corpus=str(options.train_corpus),
            eval_corpus=None if options.eval_corpus is None else str(options.eval_corpus),
            total_targets=options.total_targets, num_targets=options.num_targets, num_starts=options.num_starts,
            further=tuple(options.further),
        )
        for seed in options.seeds
        for name in names
    ]  # fmt: skip
    for cell in cells:
        config_of(cell, options.out)  # a mistake in the last variant shows before the first is trained
    return cells


def measure(options: argparse.Namespace) -> None:
    """Train what has no row yet, and print the results."""
    variants = read_variants(options.variants)
    cells = cells_of(options, variants)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / RESULTS_FILE
    for number, cell in enumerate(cells, 1):
        if options.print or row_of(read_rows(path), cell) is not None:
            continue
        print(f"{number} of {len(cells)}: {cell.variant}, seed {cell.seed}", flush=True)
        row = run_cell(cell, options.out / cell.folder_name)
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
    known = read_rows(path)
    rows = [row for cell in cells if (row := row_of(known, cell)) is not None]
    print("\n" + table(rows, next(iter(variants))))
    facts = {"config": options.config, "total_targets": options.total_targets, "further": options.further}
    print(json.dumps(facts | {"missing": len(cells) - len(rows), "variants": summary(rows, next(iter(variants)))}))


def main() -> None:
    """Measure; --tiny uses synthetic games unless corpora are named."""
    options = parsed()
    try:
        if options.tiny and options.train_corpus is None:
            with tempfile.TemporaryDirectory() as folder:
                options.train_corpus = options.eval_corpus = synthetic_corpus(Path(folder), 4, 2_000)
                measure(options)
        else:
            measure(options)
    except UserError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
