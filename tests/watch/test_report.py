"""`wm report`: the page of the morning, of real tiny runs on a disk and in a bucket."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from object_stores import s3_server
from tiny_runs import tiny_run

from cluster.card.limits import Limits
from cluster.card.run_card import RunCard
from cluster.report.comparison import compare
from cluster.report.history import MAX_MOMENTS, moments_of, shortened
from cluster.report.next_step import next_step
from cluster.report.run_page import as_json, morning_report, render
from cluster.report.stored_run import open_stored_run
from cluster.report.write import write_report
from datasets.runtime.errors import UserError
from wm.config.run_config import EvalConfig, RunConfig
from wm.data.training_data import open_data
from wm.report.morning import Moment
from wm.runs.crash_history import CrashHistory
from wm.runs.run import Run
from wm.training.trainer import train

BEGIN = datetime(2026, 1, 1, 22, tzinfo=UTC)


def trained(config: RunConfig, learning_rate: float = 3e-3) -> Run:
    """A run that has trained in this process to its end, with the files that its driver writes."""
    run = Run(replace(config, optimizer=replace(config.optimizer, learning_rate=learning_rate)))
    data = open_data(run.config)
    run.claim()
    run.describe(data, ["wm", "train", "config.yaml"])
    run.open_folder()
    CrashHistory(run.files, "command").record_start(0)
    train(run, data, lambda rows: None, None)
    run.files.close_folder()
    return run


def watched(run: Run, *, spent_usd: float = 11.5) -> None:
    """Add what a watch and `wm submit` leave in a run's folder."""
    limits = Limits(budget_usd=20.0)
    estimate = {"hours": 8.0, "usd": 10.0, "targets": 1_280, "machines": "1 x p4d"}
    card = RunCard(job="night", verb="train", why="<i>longer</i>", created=BEGIN, estimate=estimate, limits=limits)
    run.files.write("card.json", card.to_json())
    rows = [
        (0, "start", "wm train config.yaml", {}),
        (1, "stall", "stall 1, of which 3 lead to a restart", {}),
        (2, "restart", "no new targets; starting again in 5 s", {}),
        (9, "end", "finished: the command has finished", {"status": "finished", "spent_usd": spent_usd}),
    ]
    for hours, kind, message, facts in rows:
        at = (BEGIN + timedelta(hours=hours)).isoformat()
        row = json.dumps({"at": at, "kind": kind, "message": message} | facts) + "\n"
        run.files.append("watch.jsonl", row.encode())


@pytest.fixture(scope="module")
def runs(tiny_corpus, tmp_path_factory) -> Path:
    """A folder with two finished runs, and one evaluated on other frames."""
    folder = tmp_path_factory.mktemp("runs")
    base = tiny_run(tiny_corpus, folder / "before")
    trained(base, learning_rate=1e-9)
    other_frames = EvalConfig(contexts=(5,), num_targets=30, validation_targets=10, num_dreams=0)
    trained(replace(base, out=folder / "other-frames", eval=other_frames))
    watched(trained(replace(base, out=folder / "run")))
    (folder / "notes.txt").write_text("not a run")
    return folder


def test_the_page_tells_what_happened_what_it_cost_and_how_it_compares(runs, tmp_path, capsys):
    write_report(str(runs / "run"), None, tmp_path / "page.html", tmp_path / "report.json")
    printed = capsys.readouterr().out
    assert "Finished: trained on 1,280 targets" in printed and "beside before (the final evaluation)" in printed
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["finished"] and found["why"] == "<i>longer</i>"
    assert [row["kind"] for row in found["events"] if row["kind"] not in ("workers", "warning")] == [
        "start",
        "stall",
        "restart",
        "end",
    ]
    plan = {row["name"]: (row["planned"], row["actual"]) for row in found["plan"]}
    assert plan["Cost"] == ("10.00 USD, at most 20.00 USD", "11.50 USD")
    assert plan["Targets"] == ("1,280", "1,280")
    loss = next(row for row in found["comparison"]["metrics"] if row["metric"] == "val_loss")
    assert found["comparison"]["before"] == "before" and loss["verdict"] == "good"
    assert loss["difference"]["low"] > 0 and loss["mine"]["value"] < loss["before"]["value"]
    page = (tmp_path / "page.html").read_text()
    assert 'id="night"' in page and "✓ better" in page and "11.50 USD" in page
    assert "&lt;i&gt;longer&lt;/i&gt;" in page and "<i>longer" not in page


def test_dreams_from_the_same_starts_are_compared_game_by_game(tiny_corpus, tmp_path):
    base = tiny_run(tiny_corpus, tmp_path / "before")
    base = replace(base, eval=replace(base.eval, num_dreams=12))
    runs = [trained(base, learning_rate=1e-9), trained(replace(base, out=tmp_path / "run"))]
    stored = [run.evaluations.read_dreams(1_280) for run in runs]
    run, morning = morning_report(str(tmp_path / "run"))
    assert morning.comparison is not None
    rows = {row.metric.key: row for row in morning.comparison.rows}
    row = rows["coherence"]
    assert row.context_text == "frames 1 to 20"
    assert (row.before.value, row.mine.value) == pytest.approx([found["coherence_20"] for found in stored], abs=1e-5)
    assert row.difference.value == pytest.approx(row.before.value - row.mine.value)
    accuracies = rows["dream_action_acc"].before.value, rows["dream_action_acc"].mine.value
    assert accuracies == pytest.approx([found["action_acc_to_20"] for found in stored], abs=1e-5)
    page = render(run, morning)
    assert 'id="dreams"' in page and 'href="#term-coherence"' in page and 'id="term-coherence"' in page
    fewer = trained(replace(base, out=tmp_path / "fewer", eval=replace(base.eval, num_dreams=4)))
    other = compare(open_stored_run(str(tmp_path / "run")), open_stored_run(str(fewer.files.folder)))
    assert other is not None and {row.metric.key for row in other.rows}.isdisjoint({"coherence", "dream_action_acc"})


def test_the_run_before_can_be_named_and_must_have_the_same_frames(runs):
    _, morning = morning_report(str(runs / "before"), str(runs / "run"))
    assert morning.comparison is not None and morning.comparison.before == "run"
    assert next(row for row in morning.comparison.rows if row.metric.key == "val_loss").tone == "bad"
    with pytest.raises(UserError, match="have no evaluation on the same frames"):
        morning_report(str(runs / "run"), str(runs / "other-frames"))


def test_a_run_without_a_card_a_watch_or_a_run_before_has_a_page_too(runs):
    run, morning = morning_report(str(runs / "other-frames"))
    assert morning.comparison is None and "No finished run beside this one" in morning.comparison_note
    assert "started by hand" in morning.plan_note
    assert {moment.kind for moment in morning.moments} >= {"command", "workers"}
    assert 'id="night"' in render(run, morning)


def test_a_run_in_a_bucket_is_compared_with_the_one_beside_it(tiny_corpus):
    with s3_server() as server:
        base = tiny_run(tiny_corpus, server.uri("runs/before"))
        trained(base, learning_rate=1e-9)
        watched(trained(replace(base, out=server.uri("runs/run"))))
        run, morning = morning_report(server.uri("runs/run"))
        found = as_json(run, morning)
        page = render(run, morning)
    assert found["run"] == "s3://bucket/runs/run"
    assert morning.comparison is not None and morning.comparison.before == "before"
    assert "hidden@" not in page and "stall" in {row["kind"] for row in found["events"]}


def test_what_is_no_run_is_a_users_error(runs, tmp_path):
    for location in (runs, tmp_path / "gone"):
        with pytest.raises(UserError, match=r"is not a run \(run.json is missing\)"):
            morning_report(str(location))


def test_deaths_without_a_word_crashes_and_preemptions_are_told_apart(runs):
    run = open_stored_run(str(runs / "other-frames"))
    times = [(BEGIN + timedelta(minutes=number)).isoformat() for number in range(6)]
    run.__dict__["attempts"] = [
        {"command": "a", "when": times[0], "event": "start", "resumed_at": 0},
        {"command": "a", "when": times[1], "event": "start", "resumed_at": 128},
        {"command": "a", "when": times[2], "event": "crash", "rank": 1, "error": "RuntimeError: bug"},
        {"command": "a", "when": times[3], "event": "start", "resumed_at": 256},
        {"command": "a", "when": times[4], "event": "preempted"},
        {"command": "b", "when": times[5], "event": "start", "resumed_at": 384},
    ]
    run.__dict__["log"] = run.__dict__["watch_events"] = []
    run.__dict__["environment"] = {}
    found = [(moment.kind, moment.text) for moment in moments_of(run)]
    assert [kind for kind, _ in found] == ["workers", "death", "workers", "crash", "workers", "preemption", "workers"]
    assert ("crash", "worker 1: RuntimeError: bug") in found and ("workers", "began at 384 targets") in found


def test_a_long_night_is_shortened_and_keeps_what_went_wrong():
    moments = [
        Moment(at=BEGIN + timedelta(minutes=number), kind="x", text="", tone="bad" if number % 40 == 7 else "unclear")
        for number in range(500)
    ]
    kept, num_left_out = shortened(moments)
    assert len(kept) == MAX_MOMENTS and num_left_out == 500 - MAX_MOMENTS
    assert sum(moment.tone == "bad" for moment in kept) == sum(moment.tone == "bad" for moment in moments)
    assert kept[0] == moments[0] and kept[-1] == moments[-1]


@pytest.mark.parametrize(
    ("status", "part"),
    [
        ("deadline", "Run it again with a later limit"),
        ("killed", "Change what made it miss its threshold"),
        ("failed", "the stacks of the job"),
    ],
)
def test_the_next_step_of_an_unfinished_run_depends_on_how_it_ended(runs, status, part):
    stored = open_stored_run(str(runs / "run"))
    stored.__dict__["meta"] = None
    stored.__dict__["watch_events"] = [{"kind": "start"}, {"kind": "end", "status": status, "message": status}]
    assert part in next_step(stored, None)
