"""`wm choose-k`: what it reads from a sweep, and what it prints, writes as JSON and shows as a page."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from choice_reports import a_report, a_scaling_report, a_slice_report
from tiny_runs import STEP, run, tiny_run

from datasets.runtime.errors import UserError
from tune.analysis.choice import MoreEvidence
from tune.cli import choose_k, choose_size
from tune.config import ChoiceConfig, SweepConfig
from tune.report.cells import front
from tune.report.choice_json import choice_json
from tune.report.choice_page import render_choice
from tune.report.choice_text import describe
from tune.report.choose_k import choose, learning_curves, rules_of, with_options
from tune.report.scaling_text import describe_scaling
from tune.report.slices import with_rule_of_three
from tune.results.evidence import load_evidence
from tune.results.play_cost import COSTS_FILE, PlayCosts
from tune.results.sweep_folder import SWEEP_FILE, SweepManifest, open_sweep, write_manifest
from tune.results.trial_status import Failure, mark_failed
from tune.search.cost import cost_of
from tune.search.trials import trials_of
from wm.config.run_config import EvalConfig, ModelConfig, ObjectiveConfig, RunConfig
from wm.runs.run_files import open_run_files
from wm.runs.run_log import read_log

CONTEXTS = (1, 5, "stream")
NUM_JUDGED = 1_500


@pytest.fixture(scope="module")
def finished(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> SweepManifest:
    """A sweep of two widths and two seeds that has run, and a trial that was never started."""
    out = tmp_path_factory.mktemp("choose") / "sweep"
    base = tiny_run(tiny_corpus, RunConfig().out)
    evaluation = replace(
        base.eval, every_targets=STEP, contexts=CONTEXTS, num_targets=NUM_JUDGED, validation_contexts=(5,)
    )
    base = replace(base, eval=evaluation, optimizer=replace(base.optimizer, total_targets=4 * STEP))
    axes = {"model.d_model": (32, 64), "seed": (0, 1, 2)}
    sweep = SweepConfig(out=out, base=base, axes=axes, asha=replace(SweepConfig().asha, enabled=False))
    trials = trials_of(sweep)
    out.mkdir()
    manifest = write_manifest(sweep, trials, [cost_of(trial.config) for trial in trials])
    for trial in trials:
        if trial.config.seed < 2:
            run(trial.config)
    return manifest


@pytest.fixture
def copied(finished: SweepManifest, tmp_path: Path) -> SweepManifest:
    """A copy of the sweep that a test may damage."""
    return open_sweep(Path(shutil.copytree(finished.out, tmp_path / "copied")))


# -- what is read


def test_the_evidence_of_a_sweep_is_that_of_its_finished_trials_and_the_others_have_reasons(finished):
    sweep = load_evidence(finished)
    assert len(sweep.trials) == 4
    assert set(sweep.left_out.values()) == {"it has not started"} and len(sweep.left_out) == 2
    for trial in sweep.trials:
        assert tuple(trial.evidence.sums) == CONTEXTS
        assert trial.evidence.setting == f"d_model={trial.config.model.d_model}"
        assert trial.evidence.trained_context == trial.config.objective.sequence_frames
        assert trial.train_flops > 0 and trial.train_s > 0 and trial.device == "cpu"
        for sums in trial.evidence.sums.values():
            assert sums.num_frames.sum() == NUM_JUDGED
            assert set(sums.slices) == {"action", "character", "since hit"}
            assert sum(part.num_pairs.sum() for part in sums.slices["action"].values()) == sums.num_pairs.sum()


def test_the_learning_curves_are_those_of_the_validations_that_every_seed_of_the_best_setting_has(finished):
    sweep = load_evidence(finished)
    report = choose(finished.out)
    curves = learning_curves(sweep, report.choice.results[0])
    assert list(curves) == [5], "K = 5 alone is evaluated in validations"
    [row] = [row for row in report.choice.results[0].rows if row.context == 5]
    logs = [
        [entry for entry in read_log(finished.folder(trial.trial)) if entry["kind"] == "eval"][:-3]
        for trial in (trial.evidence for trial in sweep.trials)
        if trial.setting == row.setting
    ]
    assert curves[5].targets.tolist() == [entry["targets_seen"] for entry in logs[0]]
    expected = [sum(entry["change_acc"] for entry in entries) / 2 for entries in zip(*logs, strict=True)]
    assert curves[5].values.tolist() == pytest.approx(expected)


def test_damaged_or_failed_trials_are_left_out_with_a_reason_and_the_others_still_answer(copied):
    first, second, *_ = (name for name in copied.trials if copied.status(name).state == "finished")
    [stored] = [path for path in (copied.folder(first) / "evaluations").iterdir() if str(4 * STEP) in path.name]
    stored.write_bytes(b"damaged")
    shutil.rmtree(copied.folder(second) / "checkpoints")
    mark_failed(copied.run(second).files, Failure(kind="diverged", reason="the loss is not finite"))
    report = choose(copied.out)
    text = describe(report)
    assert report.num_trials == 2
    assert "4 of 6 trials are left out" in text
    assert "the sums by game of its final evaluation are missing or damaged" in " ".join(text.split())
    assert "it failed (diverged: the loss is not finite)" in " ".join(text.split())


def test_a_sweep_without_a_finished_trial_is_one_clear_line(copied):
    shutil.rmtree(copied.out / "trials")
    with pytest.raises(UserError, match=r"no trial of .* has finished \(6 x it has not started\); run the same"):
        choose(copied.out)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"format_version": 1}', b'{"format_version": 2}', b"\xff"])
def test_a_damaged_or_older_manifest_is_one_clear_line(copied, content):
    (copied.out / SWEEP_FILE).write_bytes(content)
    with pytest.raises(UserError, match=r"is damaged|has format 1, expected"):
        choose(copied.out)


# -- the command


def test_the_command_prints_a_verdict_that_fits_100_columns_and_writes_json_and_a_page(finished, tmp_path, capsys):
    json_file, page = tmp_path / "new" / "choice.json", tmp_path / "choice.html"
    words = [str(finished.out), "--reference", "stream", "--also", "pos_mae=3%", "--threshold", "0.1"]
    assert choose_k([*words, "--json", str(json_file), "--html", str(page)]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 100
    content = json.loads(json_file.read_text())
    assert content["verdict"] in ("enough", "needed", "undecided")
    assert content["threshold"] == 0.1 and content["reference"] == "stream"
    assert [row["K"] for row in content["rows"]] == [row["context"] for row in content["rows"]] == list(CONTEXTS)
    numbers = ("change_acc", "low", "high", "num_judged", "num_events", "num_games", "num_seeds", "ms_per_frame")
    for row in content["rows"]:
        assert all(isinstance(row[name], (int, float)) for name in (*numbers, "flops_per_frame", "train_flops"))
        assert row["num_judged"] == NUM_JUDGED and row["num_seeds"] == 2
    assert content["also"][0]["metric"] == "pos_mae" and content["also"][0]["threshold"] == 0.03
    assert content["slices"]["metric"] == "change_acc"
    assert content["scaling"]["reason"]
    assert content["reason"] in " ".join(printed.split())
    assert 100_000 < page.stat().st_size < 5_000_000


def test_the_size_of_a_model_is_no_statement_where_the_sweep_does_not_tell(finished, tmp_path, capsys):
    file = tmp_path / "size.json"
    assert choose_size([str(finished.out), "--gpu-hours", "2", "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("No statement: ")
    assert json.loads(file.read_text())["reason"]
    with pytest.raises(UserError, match="exclude each other"):
        choose_size([str(finished.out), "--gpu-hours", "2", "--flops", "1e15"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--threshold", "2"], "--threshold: found 2.0, expected a number less than 1"),
        (["--also", "pos_mae"], "--also: found 'pos_mae', expected a metric (change_acc"),
        (["--also", "speed=3%"], "--also: found 'speed=3%'"),
        (["--reference", "longest"], "reference: found 'longest'"),
        (["--reference", "30"], "30"),
    ],
)
def test_impossible_options_are_one_clear_line(finished, words, message):
    with pytest.raises(UserError) as caught:
        choose_k([str(finished.out), *words])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_of_the_command_replace_those_of_the_sweep():
    config = ChoiceConfig(threshold=0.02, also={"pos_mae": 0.05})
    assert with_options(config) == config
    changed = with_options(config, metric="pos_mae", also=["action_acc=0.5%"], reference="60")
    assert (changed.metric, changed.threshold, changed.also, changed.reference) == (
        "pos_mae", 0.02, {"action_acc": 0.005}, 60,
    )  # fmt: skip
    assert with_options(config, metric="pos_mae").also == {}
    assert [(rule.metric, rule.threshold, rule.relative) for rule in rules_of(config)] == [
        ("change_acc", 0.02, False),
        ("pos_mae", 0.05, True),
    ]


# -- what is shown


@pytest.mark.parametrize("verdict", ["enough", "needed", "undecided"])
def test_each_verdict_fits_100_columns_and_is_named_first_on_the_page(verdict):
    report = a_report(verdict)
    text = describe(report)
    assert max(map(len, text.splitlines())) <= 100
    assert ("> the choice" in text) == (verdict != "undecided")
    assert (
        "About 120 more games judged, or about 2,000,000 more training targets would decide" in " ".join(text.split())
    ) == (verdict == "undecided")
    page = render_choice(report)
    headline = {"enough": "K = 10 is enough", "needed": "K = 10 is needed", "undecided": "Not decided"}[verdict]
    [shown] = re.findall(r'<p class="big \w+">([^<]*)</p>', page)
    assert shown == headline
    assert page.index(shown) < page.index("Curves by K</h2>")


def test_the_widest_rows_fit_100_columns_too():
    report = a_report()
    main = report.choice.results[0]
    worst = {"value": 6.7, "low": 6.5, "high": 6.9, "loss": -0.02, "loss_low": -0.03, "loss_high": -0.01}
    counts = {"num_judged": 12_345_678, "num_events": 99_999, "num_games": 9_999, "num_seeds": 100}
    row = replace(main.rows[-1], beyond_training=True, status="non-inferior", **worst, **counts)
    choice = replace(report.choice, results=(replace(main, rows=(*main.rows[:-1], row)),))
    assert max(map(len, describe(replace(report, choice=choice)).splitlines())) <= 100


def test_a_sweep_that_more_games_and_seeds_would_not_decide_says_so():
    report = a_report("undecided")
    choice = replace(report.choice, more=MoreEvidence(games=None, seeds=None, targets=None))
    assert "Neither more games nor more seeds would decide" in describe(replace(report, choice=choice))


def test_names_are_shown_literally_and_numbers_that_are_not_finite_are_null():
    report = a_report()
    cells = tuple(replace(cell, low=float("nan"), high=float("inf"), peak_gb=None) for cell in report.cells)
    odd = replace(report, cells=cells, sweep=Path("<script>alert(1)</script>"), notes=("<b>note</b>",))
    page = render_choice(odd)
    assert "<script>alert" not in page and "<b>note" not in page
    content = choice_json(odd)
    assert content["cells"][0]["low"] is None and content["cells"][0]["high"] is None
    json.dumps(content, allow_nan=False)


def test_the_coherence_of_each_setting_is_in_the_text_the_page_and_the_json_the_best_first():
    report = a_report()
    text, page, content = describe(report), render_choice(report), choice_json(report)
    table = text[text.index("Dreams: coherence of each setting") :]
    assert table.index("2.70") < table.index("3.40")
    section = page[page.index('<section id="dreams"') :]
    assert section.index(">2.70<") < section.index(">3.40<")
    assert {cell["coherence_20"] for cell in content["cells"]} == {2.7, 3.4}
    assert content["rows"][0]["coherence_20"] in (2.7, 3.4)
    without = replace(report, cells=tuple(replace(cell, coherence_20=None) for cell in report.cells))
    assert "Dreams" not in describe(without) and 'id="dreams"' not in render_choice(without)
    assert choice_json(without)["cells"][0]["coherence_20"] is None


def test_the_table_marks_contexts_beyond_training_and_tells_the_evidence_of_each_row():
    lines = describe(a_report()).splitlines()
    [longest] = [line for line in lines if line.startswith("    120*")][:1]
    assert all(text in longest for text in ("20,000", "3,480", "42"))
    assert "* longer than any context seen in training" in "\n".join(lines)


def test_a_scaling_fit_that_may_not_be_used_gives_its_reason_and_no_numbers_for_a_budget():
    text = describe_scaling(a_scaling_report("The exponents are too uncertain."))
    assert text.startswith("No statement: the exponents are too uncertain.")
    assert "For a budget" not in text
    sound = describe_scaling(a_scaling_report())
    assert "For a budget of 1.0 PFLOP (6.9 h of one CPU process at the measured speed) train 2 M" in " ".join(
        sound.split()
    )
    assert max(map(len, sound.splitlines())) <= 100


def test_no_different_prediction_among_a_few_events_is_no_certain_equality():
    plain = next(iter(a_slice_report().differences["action"].values()))
    same = replace(plain, difference=0.0, low=0.0, high=0.0, num_events=100)
    widened = with_rule_of_three(same, 0.95)
    assert (widened.low, widened.high) == pytest.approx((-0.03, 0.03), abs=1e-4)
    assert with_rule_of_three(plain, 0.95) == plain


# -- costs


def test_the_pareto_front_has_what_nothing_cheaper_equals():
    assert front([3.0, 1.0, 2.0, 2.0, 4.0], [0.9, 0.5, 0.8, 0.7, 0.9]) == {0, 1, 2}
    assert front([], []) == set()


def test_a_carried_state_costs_the_same_for_every_k_and_a_window_costs_more_when_longer(tmp_path):
    model = ModelConfig(d_model=32, headdim=32, d_state=16, num_layers=1)
    sequence = RunConfig(model=model)
    costs = PlayCosts(open_run_files(tmp_path))
    carried = costs.of(sequence, 60)
    assert carried.carries_state and carried.state_bytes > 0
    assert costs.of(sequence, 1) == costs.of(sequence, "stream") == carried
    windows = [_windows(model, k) for k in (1, 60)]
    short, long = (costs.of(config, config.objective.context_frames) for config in windows)
    assert not long.carries_state and long.state_bytes == 0
    assert long.flops_per_frame > 30 * short.flops_per_frame  # the heads see one frame of either
    assert PlayCosts(open_run_files(tmp_path)).of(sequence, 10) == carried, "a second command measures nothing"
    (tmp_path / COSTS_FILE).write_text("damaged")
    assert PlayCosts(open_run_files(tmp_path)).of(sequence, 10).flops_per_frame == carried.flops_per_frame


def _windows(model: ModelConfig, context: int) -> RunConfig:
    objective = ObjectiveConfig(kind="window", context_frames=context)
    return RunConfig(model=model, objective=objective, eval=EvalConfig(contexts=(context,)))
