"""Configs: what is wrong in one is named by file, dotted path, value found and value expected."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import pytest
import yaml
from pydantic import Field, PositiveInt

from datasets.runtime.errors import UserError
from datasets.schema.splits import SplitConfig
from wm.config.model_config import ModelConfig
from wm.config.run_config import (
    CheckpointConfig,
    DataConfig,
    DivergenceConfig,
    EvalConfig,
    ObjectiveConfig,
    OptimizerConfig,
    RunConfig,
)
from wm.config.run_identity import CHANGEABLE, NOT_PART_OF_A_RUN, changed_options, check_same_run, identity, short_hash
from wm.config.shipped import SHIPPED_CONFIGS
from wm.config.typed_yaml import (
    checked,
    from_plain,
    from_stored,
    load_yaml,
    renamed_path,
    to_plain,
    with_overrides,
)
from wm.runs.run import Run

RUN_CONFIGS = sorted(SHIPPED_CONFIGS.glob("*.yaml"))


def load(folder: Path, text: str) -> RunConfig:
    """The config of a YAML text."""
    path = folder / "run.yaml"
    path.write_text(text)
    return load_yaml(path, RunConfig)


@pytest.mark.parametrize("path", RUN_CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_loads_and_says_nothing_that_is_the_default_anyway(path):
    config = load_yaml(path, RunConfig)
    assert identity(config) != identity(RunConfig())
    assert from_plain(to_plain(config), RunConfig, "again") == config


def test_there_are_shipped_configs():
    assert {"demo", "mamba2-medium"} <= {path.stem for path in RUN_CONFIGS}


def test_a_config_is_what_the_file_says_and_defaults_elsewhere(tmp_path):
    config = load(
        tmp_path,
        """
        train_corpus: corpora/mine
        model: {d_model: 512, num_layers: 6}
        objective: {kind: window, context_frames: 30}
        optimizer: {learning_rate: 1e-3, total_targets: 2_000_000}
        eval: {contexts: [1, 10]}
        split: {test_fraction: 0.1}
        """,
    )
    assert config == RunConfig(
        train_corpus=Path("corpora/mine"),
        model=ModelConfig(d_model=512, num_layers=6),
        objective=ObjectiveConfig(kind="window", context_frames=30),
        optimizer=OptimizerConfig(learning_rate=0.001, total_targets=2_000_000),
        eval=EvalConfig(contexts=(1, 10)),
        split=SplitConfig(test_fraction=0.1),
    )


def test_an_empty_file_is_the_defaults(tmp_path):
    assert load(tmp_path, "") == RunConfig()
    assert load(tmp_path, "# nothing\n") == RunConfig()


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.0e-3", "0.001", ".001"])
def test_a_learning_rate_is_a_number_however_it_is_written(tmp_path, text):
    found = load(tmp_path, f"optimizer: {{learning_rate: {text}}}").optimizer.learning_rate
    assert found == 1e-3
    assert isinstance(found, float)


def test_yaml_itself_reads_1e_minus_3_as_text():
    assert yaml.safe_load("1e-3") == "1e-3"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optimizer: {learnin_rate: 1e-3}", ["unknown key optimizer.learnin_rate", "did you mean learning_rate?"]),
        ("modle: {d_model: 3}", ["unknown key modle", "did you mean model?"]),
        ("model: {quux: 3}", ["unknown key model.quux", "expected one of kind, encoding, fields, physics"]),
        ("split: {test_fractions: 0.1}", ["unknown key split.test_fractions", "did you mean test_fraction?"]),
        ("optimizer: {batch_size: many}", ["optimizer.batch_size", "'many'", "integer"]),
        ("optimizer: {batch_size: 3.5}", ["optimizer.batch_size", "3.5", "integer"]),
        ("optimizer: {learning_rate: fast}", ["optimizer.learning_rate", "'fast'", "number"]),
        ("objective: {kind: sequences}", ["objective.kind", "'sequences'", "'sequence' or 'window'"]),
        ("model: 12", ["model", "12"]),
        ("eval: {contexts: 10}", ["eval.contexts", "10", "tuple"]),
        ("eval: {split: testing}", ["eval.split", "'testing'", "'validation'"]),
        ("objective: {context_frames: 124}", ["objective.context_frames: found 124", "less than or equal to 123"]),
        ("objective: {context_frames: 0}", ["objective.context_frames: found 0", "greater than or equal to 1"]),
        ("objective: {sequence_frames: 0}", ["objective.sequence_frames: found 0, expected a number greater than 0"]),
        ("objective: {num_windows: 0}", ["objective.num_windows: found 0"]),
        ("objective: {num_windows: 2, context_frames: 1}", ["objective: num_windows=2", "expected 1"]),
        ("objective: {kind: window, num_windows: 2}", ["objective.num_windows=2", "objective.kind: sequence"]),
        ("eval: {contexts: [10, 200]}", ["eval.contexts.1: found 200", "123"]),
        ("eval: {contexts: []}", ["eval.contexts: found [], expected at least 1 item"]),
        ("optimizer: {learning_rate: -1}", ["optimizer.learning_rate: found -1, expected a number greater than 0"]),
        (
            "optimizer: {min_lr_ratio: 2}",
            ["optimizer.min_lr_ratio: found 2", "less than or equal to 1"],
        ),
        ("optimizer: {total_targets: 0}", ["optimizer.total_targets: found 0"]),
        ("optimizer: {learning_rate: .nan}", ["optimizer.learning_rate: found nan, expected a finite number"]),
        ("optimizer: {learning_rate: .inf}", ["optimizer.learning_rate: found inf, expected a finite number"]),
        ("optimizer: {min_lr_ratio: .nan}", ["optimizer.min_lr_ratio: found nan, expected a number"]),
        ("optimizer: {beta2: 1}", ["optimizer.beta2: found 1, expected a number less than 1"]),
        ("split: {test_fraction: .nan}", ["split: test_fraction=nan"]),
        ("data: {device_cache_fraction: 1}", ["data.device_cache_fraction: found 1", "less than or equal to 0.9"]),
        ("divergence: {spike_ratio: 1}", ["divergence.spike_ratio: found 1, expected a number greater than 1"]),
        ("checkpoint: {every_s: .nan}", ["checkpoint.every_s: found nan, expected a finite number"]),
        ("max_seconds: -1", ["max_seconds: found -1, expected a number greater than 0"]),
        ("max_seconds: .nan", ["max_seconds: found nan, expected a finite number"]),
        ("seed: -1", ["seed: found -1"]),
        ("seed: 9223372036854775808", ["seed: found 9223372036854775808, expected a number less than"]),
        ("model: {kind: mlp}", ["model.kind mlp", "set objective.kind: window"]),
        ("num_workers: 0", ["num_workers: found 0, expected a number greater than 0"]),
        ("num_threads: 0", ["num_threads: found 0, expected a number greater than 0 or 'auto'"]),
        ("num_threads: true", ["num_threads: found True, expected a number"]),
        ("num_threads: many", [": num_threads: found 'many'", "integer", "or 'auto'"]),
        ("optimizer: {batch_size: 1.5}", [": optimizer.batch_size: found 1.5", "integer", "or 'auto'"]),
        ("checkpoint: {every_s: soon}", [": checkpoint.every_s: found 'soon'", "number"]),
        ("max_seconds: soon", [": max_seconds: found 'soon'", "number"]),
        ("eval: {contexts: [soon]}", [": eval.contexts.0: found 'soon'", "integer", "stream"]),
        (
            "{model: {kind: mlp}, objective: {kind: window}, eval: {contexts: [10, stream]}}",
            ["eval.contexts=[10, 'stream']", "mlp carries no state", "leave stream out"],
        ),
        ("num_workers: 17", ["batch_size=32", "num_workers=17"]),
        ("num_workers: [1, 17]", ["batch_size=32", "num_workers=17"]),
        ("num_workers: [0, 4]", ["num_workers=[0, 4]: expected [min, max] with 1 <= min <= max"]),
        ("num_workers: [4, 1]", ["num_workers=[4, 1]: expected [min, max]"]),
        ("num_workers: [1, 2, 4]", ["num_workers: found [1, 2, 4]"]),
        ("{num_workers: [1, 4], optimizer: {batch_size: auto}}", ["batch_size=auto", "num_workers=[1, 4]"]),
        ("model: {d_model: 100}", ["model", "headdim=64", "200"]),
        ("model: {num_layers: 0}", ["model.num_layers: found 0"]),
        ("model: {kind: mlp, hidden_sizes: []}", ["model", "hidden_sizes=()"]),
        ("split: {test_fraction: 0.6, validation_fraction: 0.6}", ["split", "0.6"]),
        ("- a\n- b", ["found list", "expected a mapping of keys to values"]),
        ("a: [", ["is not YAML"]),
        ("just words", ["found str"]),
    ],
)
def test_a_mistake_is_one_line_that_names_its_file_and_place(tmp_path, text, expected):
    with pytest.raises(UserError) as caught:
        load(tmp_path, text)
    message = str(caught.value)
    assert "\n" not in message
    for words in [str(tmp_path / "run.yaml"), *expected]:
        assert words in message


def test_a_missing_file_and_a_binary_one_are_named(tmp_path):
    with pytest.raises(UserError, match=r"does not exist; shipped configs: .*demo, mamba2-large"):
        load_yaml(tmp_path / "none.yaml", RunConfig)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(UserError, match="is not YAML"):
        load_yaml(tmp_path / "binary.yaml", RunConfig)


def test_a_config_cannot_be_changed_after_it_is_made():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().seed = 3


@pytest.mark.parametrize("path", sorted(CHANGEABLE))
def test_what_does_not_change_the_updates_may_change_when_a_run_is_resumed(path):
    config = RunConfig()
    values = {
        "compile": "never", "divergence": {"action": "stop"}, "data.device_cache": "never", "precision": "fp32",
        "use_gpu": True, "model.scan_backend": "torch", "checkpoint": {"keep_last": 9}, "num_threads": 3,
        "eval": {"contexts": [10], "num_targets": 5_000}, "data.device_cache_fraction": 0.1, "cuda_graph": True,
        "optimizer.micro_batch_size": 4, "log_every_s": 1.0, "max_seconds": 9.0, "max_failures": 9, "num_workers": 4,
        "eval.best_metric": "val_loss", "eval.best_context": 30, "eval.validation_contexts": [5, 10],
        "data.disk_cache_size": "200GB",
    }  # fmt: skip
    plain = to_plain(config)
    *groups, name = path.split(".")
    owner = plain[groups[0]] if groups else plain
    owner[name] = values.get(path, "elsewhere")
    changed = from_plain(plain, RunConfig, "test")
    assert changed != config
    check_same_run(identity(config), changed, "run")
    assert (changed_options(config, changed) == "") == (path == "out")


def test_what_changes_is_said_in_one_line():
    config = RunConfig(train_corpus=Path("a"))
    now = replace(config, use_gpu=True, train_corpus=Path("b"), eval=replace(config.eval, num_targets=9))
    assert changed_options(config, config) == ""
    assert changed_options(config, now) == (
        "train_corpus b (was a), use_gpu true (was false), eval.num_targets 9 (was 20000)"
    )
    secret = replace(config, init_from="s3://KEY:SECRET@bucket/run")
    assert changed_options(config, secret) == "init_from s3://bucket/run (was null)"


@pytest.mark.parametrize("field", ["total_targets", "batch_size", "reference_batch_size", "warmup_targets"])
def test_another_schedule_is_refused_with_the_way_to_have_it(field):
    other = replace(RunConfig(), optimizer=replace(OptimizerConfig(), **{field: 7}))
    with pytest.raises(
        UserError, match=rf"optimizer.{field} is .* there, 7 here.*both --out NEW and --init-from runs/a"
    ):
        check_same_run(identity(RunConfig()), other, "runs/a")


def test_a_run_is_the_same_run_on_more_workers_and_with_more_time_but_not_with_another_seed():
    config = RunConfig()
    assert identity(replace(config, num_workers=4, max_seconds=60.0, out=Path("else"))) == identity(config)
    for other in (
        replace(config, seed=1),
        replace(config, train_corpus=Path("else")),
        replace(config, model=replace(config.model, d_model=512)),
        replace(config, optimizer=replace(config.optimizer, batch_size=64)),
        replace(config, objective=replace(config.objective, context_frames=11)),
    ):
        assert identity(other) != identity(config)
        assert short_hash(identity(other)) != short_hash(identity(config))
    plain = to_plain(RunConfig())
    for path in NOT_PART_OF_A_RUN:
        group, _, name = path.rpartition(".")
        assert name in (plain[group] if group else plain)


def test_every_field_of_a_config_says_what_it_is_and_is_read_somewhere():
    root = Path(__file__).parents[2]
    sources = {path: path.read_text() for room in ("wm", "tune", "datasets") for path in (root / room).rglob("*.py")}
    for kind in (RunConfig, ModelConfig, ObjectiveConfig, OptimizerConfig, EvalConfig, SplitConfig):
        for field in dataclasses.fields(kind):
            uses = sum(text.count(f".{field.name}") for text in sources.values())
            assert uses, f"{kind.__name__}.{field.name} is read nowhere"


def test_an_example_holds_its_predictions_and_the_frames_before_them():
    sequence = ObjectiveConfig(kind="sequence", sequence_frames=64, context_frames=10)
    window = ObjectiveConfig(kind="window", sequence_frames=64, context_frames=10)
    windows = ObjectiveConfig(kind="window", context_frames=10, num_windows=8)
    assert (sequence.predictions, sequence.example_frames) == (64, 65)
    assert (window.predictions, window.example_frames) == (1, 11)
    assert (windows.predictions, windows.example_frames) == (8, 18)


def test_an_mlp_is_evaluated_only_at_its_own_context():
    objective = ObjectiveConfig(kind="window", context_frames=7)
    assert RunConfig(model=ModelConfig(kind="mlp"), objective=objective).contexts == (7,)
    assert RunConfig().contexts == (1, 5, 10, 30, 60, 120)


def test_checkpoints_are_compared_at_10_frames_or_the_longest_in_frames_or_the_whole_game_if_there_is_no_other():
    found = [
        RunConfig(eval=EvalConfig(contexts=k)).best_context for k in ((1, 10, "stream"), (5, "stream"), ("stream",))
    ]
    assert found == [10, 5, "stream"]


def test_a_folder_is_a_runs_own_or_empty_or_refused(tmp_path):
    config = RunConfig(out=tmp_path / "run")
    Run(config).claim()
    Run(config).claim()
    Run(replace(config, num_workers=2, max_seconds=3.0)).claim()
    with pytest.raises(UserError, match=r"other options \(model.d_model is 256 there, 512 here\)"):
        Run(replace(config, model=replace(config.model, d_model=512))).claim()
    (tmp_path / "run" / "run.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        Run(config).claim()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    for name in ("file", "full"):
        with pytest.raises(UserError, match="is not a run"):
            Run(replace(config, out=tmp_path / name)).claim()
    assert (tmp_path / "file").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    Run(replace(config, out=tmp_path / "empty")).claim()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--seed", "3", "--use-gpu"], {"seed": 3, "use_gpu": True}),
        (["--no-use-gpu"], {"use_gpu": False}),
        (["--optimizer.learning-rate=3e-4"], {"optimizer": {"learning_rate": "3e-4"}}),
        (["--eval.contexts", "10"], {"eval": {"contexts": [10]}}),
        (["--eval.contexts", "10", "60"], {"eval": {"contexts": [10, 60]}}),
        (["--eval.contexts", "10", "stream"], {"eval": {"contexts": [10, "stream"]}}),
        (["--out", "2024"], {"out": "2024"}),
    ],
)
def test_words_of_the_command_line_go_where_their_names_say(words, expected):
    assert with_overrides({}, RunConfig, words) == expected


@pytest.mark.parametrize("words", [["--seed"], ["--max-seconds"], ["--eval.contexts", "[1,5"], ["7"]])
def test_words_of_the_command_line_that_mean_nothing_are_refused(words):
    with pytest.raises(UserError):
        with_overrides({}, RunConfig, words)


STORED_BY_0_1 = """
optimiser: {kind: muon, final_share: 0.1, clip_norm: 2.0, micro_batch: 4, learning_rate: 3e-4}
model: {core: kernels, hidden: [64, 32]}
objective: {windows: 1, swap_players: true}
eval: {progress_targets: 50}
data: {resident: never, resident_share: 0.2}
checkpoint: {to: "s3://bucket/run"}
divergence: {rate_factor: 0.5, explosion: 3.0}
split: {test_share: 0.2, validation_share: 0.3}
"""
"""Every key that has been renamed since version 0.1."""


@pytest.mark.parametrize(
    ("text", "old", "new"),
    [
        ("optimiser: {batch_size: 16}", "optimiser", "optimizer"),
        ("optimizer: {final_share: 0.1}", "optimizer.final_share", "optimizer.min_lr_ratio"),
        ("model: {hidden: [64]}", "model.hidden", "model.hidden_sizes"),
        ("split: {test_share: 0.1}", "split.test_share", "split.test_fraction"),
    ],
)
def test_a_renamed_key_is_refused_with_its_new_name(tmp_path, text, old, new):
    with pytest.raises(UserError, match=rf"run.yaml: {old} was renamed; use {new}$"):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("--optimiser.learning-rate", "--optimizer.learning_rate"),
        ("--optimiser.final-share", "--optimizer.min_lr_ratio"),
        ("--checkpoint.to=s3://bucket/run", "--checkpoint.storage_path"),
        ("--data.resident", "--data.device_cache"),
    ],
)
def test_a_renamed_key_on_the_command_line_is_refused_with_its_new_name(word, expected):
    with pytest.raises(UserError, match=f"^{word.split('=')[0]} was renamed; use {expected}$"):
        with_overrides({}, RunConfig, [word, "1"] if "=" not in word else [word])


def test_a_config_that_an_older_version_stored_is_translated(tmp_path):
    stored = yaml.safe_load(STORED_BY_0_1)
    expected = RunConfig(
        model=ModelConfig(scan_backend="triton", hidden_sizes=(64, 32), encoding=2, physics=False),
        objective=ObjectiveConfig(swap_players=True),
        optimizer=OptimizerConfig(
            kind="muon", min_lr_ratio=0.1, max_grad_norm=2.0, micro_batch_size=4, learning_rate=3e-4
        ),
        eval=EvalConfig(validation_targets=50),
        data=DataConfig(device_cache="never", device_cache_fraction=0.2),
        checkpoint=CheckpointConfig(storage_path="s3://bucket/run"),
        divergence=DivergenceConfig(lr_factor=0.5, spike_ratio=3.0),
        split=SplitConfig(test_fraction=0.2, validation_fraction=0.3),
    )
    assert from_stored(stored, RunConfig, "checkpoint") == expected
    (tmp_path / "config.yaml").write_text(STORED_BY_0_1)
    (tmp_path / "run.json").write_text("{}")
    assert load_yaml(tmp_path / "config.yaml", RunConfig) == expected
    assert from_stored(to_plain(expected), RunConfig, "checkpoint") == expected


def test_a_run_folder_of_an_older_version_is_still_the_same_run(tmp_path):
    optimizer = OptimizerConfig(min_lr_ratio=0.1)
    config = RunConfig(out=tmp_path / "run", optimizer=optimizer, model=ModelConfig(encoding=2))
    Run(config).claim()
    stored = identity(config)
    del stored["model"]["encoding"]
    stored["optimiser"] = stored.pop("optimizer")
    stored["optimiser"]["final_share"] = stored["optimiser"].pop("min_lr_ratio")
    stored["model"]["core"] = stored["model"].pop("scan_backend")
    (tmp_path / "run" / "run.json").write_text(json.dumps(stored))
    Run(config).claim()
    with pytest.raises(UserError, match=r"optimizer.min_lr_ratio is 0.1 there, 0.2 here"):
        Run(replace(config, optimizer=OptimizerConfig(min_lr_ratio=0.2))).claim()


def test_a_renamed_path_is_found_below_any_section():
    assert renamed_path("optimiser.final_share", RunConfig) == "optimizer.min_lr_ratio"
    assert renamed_path("base.optimiser.seed", RunConfig) is None
    assert renamed_path("optimizer.learning_rate", RunConfig) is None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Filters:
    """Options as a dataclass."""

    min_damage: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0


def command(num_targets: PositiveInt, limit: PositiveInt | None = None, filters: Filters = Filters()) -> int:
    """A command of the CLI.

    Args:
        num_targets: how many.
    """
    return num_targets


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"num_targets": 0}, "--num-targets: found 0, expected a number greater than 0"),
        ({"num_targets": -5}, "--num-targets: found -5, expected a number greater than 0"),
        ({"num_targets": 1, "limit": 0}, "--limit: found 0, expected a number greater than 0"),
        (
            {"num_targets": 1, "filters": Filters(min_damage=math.nan)},
            "--min-damage: found nan, expected a finite number",
        ),
    ],
)
def test_options_of_a_command_are_checked_before_it_runs(options, expected):
    with pytest.raises(UserError, match=f"^{re.escape(expected)}$"):
        checked(command)(**options)
    assert checked(command)(3, filters=Filters(min_damage=2.0)) == 3
    assert checked(command).__doc__ == command.__doc__


@pytest.mark.parametrize("module", ["wm.config.run_config", "wm.evaluation.metrics", "tune.config"])
def test_config_and_metrics_import_no_torch(module):
    script = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_the_help_of_wm_imports_nothing_that_is_slow():
    script = (
        "import sys\n"
        "sys.argv = ['wm', '--help']\n"
        "from wm.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "slow = {'torch', 'ray', 'pyarrow', 'pandas', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(f'imported {slow}' if slow else 0)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "wm train" in ended.stdout


def test_yes_is_no_number(tmp_path):
    with pytest.raises(UserError, match=r"optimizer\.total_targets: found True, expected a number"):
        from_plain({"optimizer": {"total_targets": True}}, RunConfig, "run.yaml")


def test_with_fewer_workers_an_elastic_run_makes_more_passes_not_larger_ones():
    elastic = RunConfig(num_workers=(1, 4), optimizer=OptimizerConfig(batch_size=30))
    assert elastic.micro_batch_size == 8
    assert replace(elastic, num_workers=4).micro_batch_size is None
    named = replace(elastic, optimizer=replace(elastic.optimizer, micro_batch_size=3))
    assert named.micro_batch_size == 3
