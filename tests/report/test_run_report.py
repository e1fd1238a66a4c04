"""The report of a run: well formed, self-contained, escaped, and true to the numbers it was given."""

from __future__ import annotations

import copy
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from plotly.offline import get_plotlyjs
from report_inputs import MISSING, estimate, hostile_inputs, report_inputs

from wm.evaluation import metrics
from wm.report.numbers import NO_VALUE
from wm.report.results import METRICS, POS_MAE, best_baseline, headline_model, read_results
from wm.report.run_charts import points_of
from wm.report.run_report import render_report, write_report

VOID_ELEMENTS = frozenset({"br", "hr", "img", "input", "link", "meta"})


class Page(HTMLParser):
    """A parsed page: fails on tags that do not match, and collects what the tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.numbers: list[tuple[float, str]] = []
        self.words = ""
        self.figures: dict[str, dict] = {}
        self._attributes: dict[str, str | None] = {}
        self.feed(text.replace(get_plotlyjs(), ""))
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self._attributes = dict(attrs)
        self.tags.append((tag, self._attributes))
        if tag not in VOID_ELEMENTS:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "data":
            self.numbers.append((float(self._attributes["value"] or "nan"), data))
        if self.open and self.open[-1] == "script":
            if (self._attributes.get("id") or "").endswith("-figure"):
                self.figures[str(self._attributes["id"])] = json.loads(data, parse_constant=pytest.fail)
        elif self.open and self.open[-1] != "style":
            self.words += data

    def attributes(self, name: str) -> list[str]:
        return [value for _, attributes in self.tags if (value := attributes.get(name)) is not None]


@pytest.fixture
def inputs() -> dict:
    return report_inputs()


@pytest.fixture(scope="module")
def text() -> str:
    return render_report(**report_inputs())


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_the_page_is_well_formed_and_has_each_section(page):
    ids = set(page.attributes("id"))
    sections = {"summary", "learning", "comparison", "context", "breakdown", "confusions", "corpus", "reproduce"}
    assert sections | {"glossary"} <= ids


def test_ids_are_unique_and_every_link_and_label_has_its_target(page):
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    links = {href.removeprefix("#") for href in page.attributes("href")}
    assert links | set(page.attributes("aria-labelledby")) <= set(ids)


def test_every_table_has_a_caption_and_scopes_and_every_chart_a_description(page):
    count = {name: sum(tag == name for tag, _ in page.tags) for name in ("table", "caption")}
    assert count["table"] == count["caption"] == 4
    assert all("scope" in attributes for tag, attributes in page.tags if tag == "th")
    charts = [attributes for _, attributes in page.tags if attributes.get("class") == "chart"]
    assert len(charts) == len(page.figures) == 19
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in charts)
    labels = [chart["aria-label"] for chart in charts]
    assert any("model: 71.2%, 95% interval 70.2% to 72.2%" in str(label) for label in labels)


def test_the_numbers_of_the_page_are_the_numbers_given(inputs, page):
    given = {
        end
        for result in inputs["evaluation"]["results"]
        for metric in result["metrics"].values()
        for end in (metric or MISSING).values()
        if end is not None
    }
    assert given <= {value for value, _ in page.numbers}
    for value, text in page.numbers:
        number = float(text[:-1]) / 100 if text.endswith("%") else float(text)
        assert abs(number - value) <= 0.0005 + 1e-9
    assert (0.7123, "71.2%") in page.numbers
    assert (0.1234, "0.123") in page.numbers


def test_the_charts_hold_the_numbers_given(page):
    figures = page.figures
    raw, line = figures["chart-loss-figure"]["data"]
    assert len(raw["y"]) == len(line["y"]) == 40 and raw["y"][0] == 4.0
    headline = figures["chart-headline-change_acc-figure"]["data"][0]
    assert headline["x"] == [0.7123, 0.0, None]
    assert headline["error_x"]["array"] == [pytest.approx(0.01), 0.0, None]
    context = figures["chart-context-change_acc-figure"]
    assert context["data"][0]["y"] == [0.7123, 0.69]
    assert context["layout"]["xaxis"]["ticktext"] == ["10", "whole game"]


def test_the_log_and_the_corpus_are_shown(page):
    for text in ("40,000", "2,400 targets/s", "2,000,000", "16.3", "32.6 MB", "too short", "1.5% of all"):
        assert text in page.words
    stages = page.figures["chart-games-by-stage-figure"]
    assert stages["data"][0]["x"] == [120, 80]
    assert [note["text"] for note in stages["layout"]["annotations"]] == ["120 (60%)", "80 (40%)"]


def test_the_page_says_which_checkpoint_was_evaluated_and_which_validation_was_best(inputs):
    best = {"metric": "change_acc", "context": 10, "value": 0.7123, "num_targets": 2_000, "targets_seen": 30_000}
    inputs["evaluation"] |= {"training": {"state": "trained", "targets_seen": 40_000, "best": best}}
    words = Page(render_report(**inputs)).words
    assert "40,000 targets, trained" in words
    assert "change_acc 0.712 at K = 10 on 2,000 frames, after 30,000 targets" in words


def test_the_page_tells_how_to_reproduce_the_run(page):
    words = page.words
    assert words.count("wm train a.yaml") == 1
    assert "wm eval runs/a/step-40 corpora/a --split validation --num-targets 20000 --context 10 stream" in words
    for text in ("0123456789ab with local changes", "3.12.1", "EPYC, 2 cores", "25.0 GB", "2 x H100", "seed: 7"):
        assert text in words


def test_the_page_shows_neither_the_home_folder_nor_credentials(inputs):
    inputs["evaluation"] |= {"checkpoint": f"{Path.home()}/runs/a", "corpus": "s3://key:secret@bucket/corpus"}
    words = Page(render_report(**inputs)).words
    assert "wm eval ~/runs/a s3://bucket/corpus" in words.replace("'", "")
    assert "secret" not in words


def test_a_missing_value_is_an_en_dash(text):
    assert re.search(rf"<td>\s*{NO_VALUE}\s*</td>", text)


def test_the_best_of_each_column_is_marked_in_words_too(page):
    words = re.sub(r"\s+", " ", page.words)
    assert words.count("★ 71.2% (best)") == 1
    assert "★ 0.700" not in words


def test_the_summary_compares_the_best_context_with_the_best_baseline(inputs):
    results = read_results(inputs["evaluation"])
    model, baseline = headline_model(results), best_baseline(results, POS_MAE)
    assert model is not None and model.context == 10
    assert baseline is not None and baseline.name == "last velocities"
    assert "better than “last velocities” (0.239)" in Page(render_report(**inputs)).words


@pytest.mark.parametrize(("error", "verdict"), [(0.5, "worse than"), (0.24, "no clear difference from")])
def test_the_summary_says_when_a_model_does_not_beat_the_baseline(inputs, error, verdict):
    for result in inputs["evaluation"]["results"][:2]:
        result["metrics"]["pos_mae"] = estimate(error)
    assert f"{verdict} “last velocities” (0.239)" in Page(render_report(**inputs)).words


def test_a_difference_without_an_interval_is_no_verdict(inputs):
    for result in inputs["evaluation"]["results"][:2]:
        result["metrics"]["pos_mae"] = {"value": 0.001, "low": None, "high": None}
    words = Page(render_report(**inputs)).words
    assert "too few games to compare with “last velocities” (0.239)" in words


def test_groups_below_the_baseline_are_marked_in_the_chart_and_in_words(inputs):
    inputs["evaluation"]["results"][3]["slices"] = {
        "action": {"hit": {"count": 123, "metrics": {"pos_mae": estimate(0.1)}}}
    }
    page = Page(render_report(**inputs))
    assert any("baseline 0.100, better" in str(label) for label in page.attributes("aria-label"))
    chart = page.figures["chart-breakdown-0-pos_mae-figure"]["data"]
    assert chart[0]["marker"]["pattern"]["shape"] == ["/", ""]
    assert chart[1]["x"] == [0.1, None]


def test_hostile_names_are_escaped_everywhere():
    text = render_report(**hostile_inputs())
    own_scripts = text.count("<script") - get_plotlyjs().count("<script")
    assert own_scripts == len(Page(text).figures) + 3  # the colors, plotly.js, and the page's own
    assert "alert(" in text
    assert Page(text).words.count("<script>") > 8


def test_nothing_is_loaded_from_the_network(text, page):
    assert not re.search(r"https?:|url\(|@import", text.replace(get_plotlyjs(), ""))
    assert not {"link", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert not page.attributes("src")
    assert all(href.startswith("#") for href in page.attributes("href"))


def test_the_page_allows_no_script_but_its_own_and_no_request(page):
    policy = next(content for content in page.attributes("content") if "default" in content)
    scripts = policy.split("script-src")[1]
    assert policy.startswith("default-src 'none'")
    assert scripts.count("'sha256-") == 2 and "unsafe" not in scripts


@pytest.mark.parametrize("missing", ["log_rows", "evaluation", "corpus", "environment", "config", "all"])
def test_empty_inputs_give_a_page_that_says_so(inputs, missing):
    empty = {"log_rows": [], "evaluation": {}, "corpus": None, "environment": {}, "config": ""}
    page = Page(render_report(**inputs | (empty if missing == "all" else {missing: empty[missing]})))
    assert page.words.count("A run") >= 2
    expected = {"log_rows": "The log has no training steps yet", "evaluation": "has not been evaluated yet"}
    assert expected.get(missing, "") in page.words


def test_a_run_that_has_just_started_has_a_page(inputs):
    inputs["log_rows"] = inputs["log_rows"][:1]
    inputs["evaluation"]["results"] = []
    inputs["corpus"] = replace(inputs["corpus"], rejects_by_reason={})
    words = Page(render_report(**inputs)).words
    assert "The log has no validation yet" in words
    assert "every replay was accepted" in words


def test_missing_and_invalid_numbers_do_not_break_the_page(inputs):
    inputs["log_rows"] += [{"kind": "train", "loss": float("nan"), "targets_seen": 5}, {"kind": "eval"}, {}]
    inputs["evaluation"]["results"][0]["metrics"] = {"change_acc": MISSING, "pos_mae": estimate(float("inf"))}
    inputs["evaluation"]["results"][2] |= {"metrics": {}, "slices": None, "confusions": None}
    page = Page(render_report(**inputs))
    assert all(math.isfinite(value) for value, _ in page.numbers)
    assert "not finite" not in page.words


def test_the_inputs_stay_unchanged_and_the_page_is_reproducible(inputs):
    before = copy.deepcopy(inputs)
    assert render_report(**inputs) == render_report(**inputs)
    assert inputs == before


def test_a_report_of_a_run_folder_reads_its_log_environment_and_config(inputs, tmp_path: Path):
    run, out = tmp_path / "run", tmp_path / "a folder" / "report.html"
    run.mkdir()
    (run / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in inputs["log_rows"]))
    (run / "environment.json").write_text(json.dumps(inputs["environment"]))
    (run / "config.yaml").write_text(inputs["config"])
    arguments = {name: inputs[name] for name in ("title", "evaluation", "corpus")}
    assert write_report(out, run, **arguments) == out
    assert out.read_text(encoding="utf-8") == render_report(**inputs)
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]
    assert out.stat().st_size < 6e6


def test_a_report_of_an_empty_run_folder_says_what_is_missing(tmp_path: Path):
    out = write_report(tmp_path / "report.html", tmp_path, title="A run", evaluation={}, corpus=None)
    assert "This run has not been evaluated yet" in Page(out.read_text(encoding="utf-8")).words


def test_the_report_describes_every_metric_of_an_evaluation_in_the_same_order():
    assert [metric.key for metric in METRICS] == list(metrics.METRICS)


def test_rows_after_a_resume_replace_those_they_repeat():
    rows = [{"targets_seen": seen, "loss": loss} for seen, loss in ((1, 5.0), (2, 4.0), (3, 3.0), (2, 4.1), (3, 3.1))]
    assert points_of(rows, "loss") == [(1, 5.0), (2, 4.1), (3, 3.1)]
