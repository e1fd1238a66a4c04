"""Configs: what is wrong in one is named by file, dotted path, value found and value expected."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from datasets.runtime.errors import UserError
from datasets.schema.splits import SplitConfig
from wm.config.run_config import (
    NOT_PART_OF_A_RUN,
    EvalConfig,
    ObjectiveConfig,
    OptimiserConfig,
    RunConfig,
    identity,
    short_hash,
)
from wm.config.shipped import SHIPPED_CONFIGS
from wm.config.typed_yaml import from_plain, load_yaml, to_plain, with_overrides
from wm.model.world_model import ModelConfig
from wm.runs.run_folder import claim

RUN_CONFIGS = [path for path in sorted(SHIPPED_CONFIGS.glob("*.yaml")) if path.stem != "context-length"]


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
        optimiser: {learning_rate: 1e-3, total_targets: 2_000_000}
        eval: {contexts: [1, 10]}
        split: {test_share: 0.1}
        """,
    )
    assert config == RunConfig(
        train_corpus=Path("corpora/mine"),
        model=ModelConfig(d_model=512, num_layers=6),
        objective=ObjectiveConfig(kind="window", context_frames=30),
        optimiser=OptimiserConfig(learning_rate=0.001, total_targets=2_000_000),
        eval=EvalConfig(contexts=(1, 10)),
        split=SplitConfig(test_share=0.1),
    )


def test_an_empty_file_is_the_defaults(tmp_path):
    assert load(tmp_path, "") == RunConfig()
    assert load(tmp_path, "# nothing\n") == RunConfig()


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.0e-3", "0.001", ".001"])
def test_a_learning_rate_is_a_number_however_it_is_written(tmp_path, text):
    found = load(tmp_path, f"optimiser: {{learning_rate: {text}}}").optimiser.learning_rate
    assert found == 1e-3
    assert isinstance(found, float)


def test_yaml_itself_reads_1e_minus_3_as_text():
    assert yaml.safe_load("1e-3") == "1e-3"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optimiser: {learnin_rate: 1e-3}", ["unknown key optimiser.learnin_rate", "did you mean learning_rate?"]),
        ("modle: {d_model: 3}", ["unknown key modle", "did you mean model?"]),
        ("model: {quux: 3}", ["unknown key model.quux", "expected one of kind, d_model"]),
        ("split: {tests: 0.1}", ["unknown key split.tests", "did you mean test_share?"]),
        ("optimiser: {batch_size: many}", ["optimiser.batch_size", "'many'", "integer"]),
        ("optimiser: {batch_size: 3.5}", ["optimiser.batch_size", "3.5", "integer"]),
        ("optimiser: {learning_rate: fast}", ["optimiser.learning_rate", "'fast'", "number"]),
        ("objective: {kind: sequences}", ["objective.kind", "'sequences'", "'sequence' or 'window'"]),
        ("model: 12", ["model", "12"]),
        ("eval: {contexts: 10}", ["eval.contexts", "10", "tuple"]),
        ("eval: {split: testing}", ["eval.split", "'testing'", "'validation'"]),
        ("objective: {context_frames: 124}", ["objective", "context_frames=124", "1 .. 123"]),
        ("objective: {context_frames: 0}", ["objective", "context_frames=0", "1 .. 123"]),
        ("objective: {sequence_frames: 0}", ["objective", "sequence_frames=0"]),
        ("objective: {windows: 0}", ["objective", "windows=0"]),
        ("objective: {windows: 2, context_frames: 1}", ["objective", "windows=2", "expected 1"]),
        ("objective: {kind: window, windows: 2}", ["objective.windows=2", "objective.kind: sequence"]),
        ("eval: {contexts: [10, 200]}", ["eval", "contexts=(10, 200)", "1 .. 123"]),
        ("eval: {contexts: []}", ["eval", "contexts=()"]),
        ("optimiser: {learning_rate: -1}", ["optimiser", "learning_rate", "positive"]),
        ("optimiser: {final_share: 2}", ["optimiser", "final_share=2", "between 0 and 1"]),
        ("optimiser: {total_targets: 0}", ["optimiser", "total_targets"]),
        ("model: {kind: mlp}", ["model.kind mlp", "set objective.kind: window"]),
        ("num_workers: 0", ["num_workers=0"]),
        ("num_threads: 0", ["num_threads=0", "expected auto"]),
        ("num_threads: true", ["num_threads: found True, expected a number"]),
        ("num_threads: many", [": num_threads: found 'many'", "integer", "or 'auto'"]),
        ("optimiser: {batch_size: 1.5}", [": optimiser.batch_size: found 1.5", "integer", "or 'auto'"]),
        ("checkpoint: {every_s: soon}", [": checkpoint.every_s: found 'soon'", "number"]),
        ("max_seconds: soon", [": max_seconds: found 'soon'", "number"]),
        ("eval: {contexts: [soon]}", [": eval.contexts.0: found 'soon'", "integer"]),
        ("num_workers: 17", ["batch_size=32", "num_workers=17"]),
        ("model: {d_model: 100}", ["model", "headdim=64", "200"]),
        ("model: {num_layers: 0}", ["model", "positive"]),
        ("model: {kind: mlp, hidden: []}", ["model", "hidden=()"]),
        ("split: {test_share: 0.6, validation_share: 0.6}", ["split", "0.6"]),
        ("- a\n- b", ["found list", "expected names with values"]),
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


def test_a_run_is_the_same_run_on_more_workers_and_with_more_time_but_not_with_another_seed():
    config = RunConfig()
    assert identity(replace(config, num_workers=4, max_seconds=60.0, out=Path("else"))) == identity(config)
    for other in (
        replace(config, seed=1),
        replace(config, train_corpus=Path("else")),
        replace(config, model=replace(config.model, d_model=512)),
        replace(config, optimiser=replace(config.optimiser, batch_size=64)),
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
    for kind in (RunConfig, ModelConfig, ObjectiveConfig, OptimiserConfig, EvalConfig, SplitConfig):
        for field in dataclasses.fields(kind):
            uses = sum(text.count(f".{field.name}") for text in sources.values())
            assert uses, f"{kind.__name__}.{field.name} is read nowhere"


def test_an_example_holds_its_predictions_and_the_frames_before_them():
    sequence = ObjectiveConfig(kind="sequence", sequence_frames=64, context_frames=10)
    window = ObjectiveConfig(kind="window", sequence_frames=64, context_frames=10)
    windows = ObjectiveConfig(kind="window", context_frames=10, windows=8)
    assert (sequence.predictions, sequence.example_frames) == (64, 65)
    assert (window.predictions, window.example_frames) == (1, 11)
    assert (windows.predictions, windows.example_frames) == (8, 18)


def test_an_mlp_is_judged_at_its_own_context_alone():
    objective = ObjectiveConfig(kind="window", context_frames=7)
    assert RunConfig(model=ModelConfig(kind="mlp"), objective=objective).contexts == (7,)
    assert RunConfig().contexts == (1, 5, 10, 30, 60, 120)


def test_a_folder_is_a_runs_own_or_empty_or_refused(tmp_path):
    config = RunConfig(out=tmp_path / "run")
    claim(config)
    claim(config)
    claim(replace(config, num_workers=2, max_seconds=3.0))
    with pytest.raises(UserError, match=r"other options \(model.d_model is 384 there, 512 here\)"):
        claim(replace(config, model=replace(config.model, d_model=512)))
    (tmp_path / "run" / "run.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        claim(config)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    for name in ("file", "full"):
        with pytest.raises(UserError, match="is no run"):
            claim(replace(config, out=tmp_path / name))
    assert (tmp_path / "file").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    claim(replace(config, out=tmp_path / "empty"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--seed", "3", "--use-gpu"], {"seed": 3, "use_gpu": True}),
        (["--no-use-gpu"], {"use_gpu": False}),
        (["--optimiser.learning-rate=3e-4"], {"optimiser": {"learning_rate": "3e-4"}}),
        (["--eval.contexts", "10"], {"eval": {"contexts": [10]}}),
        (["--eval.contexts", "10", "60"], {"eval": {"contexts": [10, 60]}}),
        (["--out", "2024"], {"out": "2024"}),
    ],
)
def test_words_of_the_command_line_go_where_their_names_say(words, expected):
    assert with_overrides({}, RunConfig, words) == expected


@pytest.mark.parametrize("words", [["--seed"], ["--max-seconds"], ["--eval.contexts", "[1,5"], ["7"]])
def test_words_of_the_command_line_that_mean_nothing_are_refused(words):
    with pytest.raises(UserError):
        with_overrides({}, RunConfig, words)


def test_yes_is_no_number(tmp_path):
    with pytest.raises(UserError, match=r"optimiser\.total_targets: found True, expected a number"):
        from_plain({"optimiser": {"total_targets": True}}, RunConfig, "run.yaml")
