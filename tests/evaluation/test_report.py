"""The one-page report: well formed, self-contained, escaped, and true to the numbers that it was given."""

from __future__ import annotations

import copy
import re
from html.parser import HTMLParser

import pytest

from wm.report import render_report, write_report
from wm.report.formats import NO_DATA, amount_text, compact_text, share_text
from wm.report.learning import MAX_POINTS, points_of, thinned
from wm.report.markup import VOID_ELEMENTS, Markup, join, tag
from wm.report.results import POS_MAE, best_baseline, headline_model, read_results
from wm.report.scale import Scale, amount_scale, count_scale, linear_scale, spread

HOSTILE = "<script>alert('x')</script>\"&$title"


class Page(HTMLParser):
    """What a browser would see: fails on tags that do not match, and collects what the tests ask about."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.numbers: list[tuple[float, str]] = []
        self.words = ""
        self._value: float | None = None
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID_ELEMENTS:
            self.open.append(tag)
        if tag == "data":
            self._value = float(dict(attrs)["value"] or "nan")

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag

    def handle_data(self, data):
        self.words += data
        if self._value is not None:
            self.numbers.append((self._value, data))
            self._value = None

    def attributes(self, name: str) -> list[str]:
        return [value for _, attributes in self.tags if (value := attributes.get(name)) is not None]


def estimate(value: float, width: float = 0.01) -> dict[str, float | None]:
    return {"value": value, "low": value - width, "high": value + width}


NOTHING = {"value": None, "low": None, "high": None}


def model_result(context: int | str, change_acc: float) -> dict:
    part = {"change_acc": estimate(0.61), "action_acc": estimate(0.95), "pos_mae": estimate(0.15)}
    return {
        "predictor": "model",
        "context": context,
        "metrics": {
            "change_acc": estimate(change_acc), "action_acc": estimate(0.9731), "pos_mae": estimate(0.1234),
            "val_loss": estimate(0.3217), "p0_change_acc": estimate(0.7011), "p0_action_acc": estimate(0.9622),
            "p0_pos_mae": estimate(0.1313),
        },
        "slices": {
            "action": {"hit": {"count": 123, "metrics": part}, "jump": {"count": 3, "metrics": {}}},
            "character": {f"character {i}": {"count": 100 + i, "metrics": part} for i in range(14)},
            "stage": {},
        },
        "confusions": [
            {"truth": "WAIT", "count": 120, "right": 30, "predicted": [{"action": "DASH", "count": 50}]},
            {"truth": 20, "count": 40, "right": 10, "predicted": [{"action": 14, "count": 30}]},
        ],
    }  # fmt: skip


@pytest.fixture
def inputs() -> dict:
    """As training, evaluation and the corpus give them, small."""
    train = {"kind": "train", "action_acc": 0.9, "change_acc": 0.4, "targets_per_s": 2400.0, "learning_rate": 1e-3}
    judged = {"kind": "eval", "action_acc": 0.95, "change_acc": 0.5, "pos_mae": 0.2, "val_loss": 0.4}
    log = [train | {"targets_seen": i * 1000, "seconds": float(i), "loss": 4 / i} for i in range(1, 41)]
    for seen in (20_000, 40_000):
        log += [judged | {"targets_seen": seen, "seconds": 20.0, "context": k} for k in (10, 60)]
    still = {
        "action_acc": estimate(0.914),
        "change_acc": estimate(0.0, 0.0),
        "pos_mae": estimate(0.7),
        "val_loss": None,
    }
    moving = {"action_acc": NOTHING, "pos_mae": estimate(0.239)}
    results = [
        model_result("stream", 0.69),
        model_result(10, 0.7123),
        {"predictor": "repeat last frame", "context": None, "metrics": still, "slices": {}, "confusions": []},
        {"predictor": "last velocities", "context": None, "metrics": moving},
    ]
    return {
        "title": "A run",
        "log_rows": log,
        "evaluation": {
            "checkpoint": "runs/a/step-40", "corpus": "corpora/a", "split": "validation", "num_targets": 20_000,
            "num_games": 184, "results": results,
        },
        "corpus": {
            "games": 200, "frames": 2_000_000, "bytes_per_frame": 16.3, "rejects": {"short": 2, "duplicate": 1},
            "stages": {"Battlefield": 120, "Final Destination": 80}, "characters": {"Fox": 150, "Marth": 90},
        },
    }  # fmt: skip


def test_the_page_is_well_formed_and_has_each_section(inputs):
    ids = set(Page(render_report(**inputs)).attributes("id"))
    assert {"headline", "learning", "comparison", "context", "breakdown", "confusion", "corpus", "glossary"} <= ids


def test_ids_are_unique_and_every_link_and_label_has_its_target(inputs):
    page = Page(render_report(**inputs))
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    links = {href.removeprefix("#") for href in page.attributes("href")}
    labels = {name for key in ("aria-labelledby", "aria-describedby") for name in page.attributes(key)}
    assert links | labels <= set(ids)


def test_every_table_has_a_caption_and_scopes_and_every_drawing_a_title(inputs):
    page = Page(render_report(**inputs))
    count = {name: sum(tag == name for tag, _ in page.tags) for name in ("table", "caption", "svg")}
    assert count["table"] == count["caption"] > 5
    assert all("scope" in attributes for tag, attributes in page.tags if tag == "th")
    for i, (name, attributes) in enumerate(page.tags):
        if name == "svg":
            assert attributes["role"] == "img"
            assert page.tags[i + 1][0] == "title"


def test_numbers_shown_are_the_numbers_given(inputs):
    page = Page(render_report(**inputs))
    given = {
        end
        for result in inputs["evaluation"]["results"]
        for metric in result["metrics"].values()
        for end in (metric or NOTHING).values()
        if end is not None
    }
    shown = {value for value, _ in page.numbers}
    assert given <= shown
    for value, text in page.numbers:  # the lower end of an interval in percent stands without its sign
        readings = [float(text[:-1]) / 100] if text.endswith("%") else [float(text), float(text) / 100]
        assert min(abs(reading - value) for reading in readings) <= 0.0005 + 1e-9
    assert (0.7123, "71.2%") in page.numbers
    assert (0.1234, "0.123") in page.numbers


def test_the_log_and_the_corpus_are_shown(inputs):
    words = Page(render_report(**inputs)).words
    for text in ("40,000", "2,400 targets/s", "2,000,000", "16.3", "32.6 MB", "150", "too short", "1.5% of all found"):
        assert text in words


def test_a_value_without_data_is_an_en_dash(inputs):
    assert f"<td>{NO_DATA}</td>" in render_report(**inputs)


def test_the_best_of_each_column_is_marked_in_words_too(inputs):
    page = Page(render_report(**inputs))
    assert page.words.count("★ 71.2% (best)") == 1
    assert "★ 0.700" not in page.words


def test_the_headline_takes_the_best_context_and_the_best_baseline(inputs):
    results = read_results(inputs["evaluation"])
    model, rival = headline_model(results), best_baseline(results, POS_MAE)
    assert model is not None and model.context == 10
    assert rival is not None and rival.predictor == "last velocities"
    assert "better than “last velocities” (0.239)" in Page(render_report(**inputs)).words


@pytest.mark.parametrize(("error", "verdict"), [(0.5, "worse than"), (0.24, "no clear difference from")])
def test_a_model_that_does_not_beat_the_baseline_is_told_so(inputs, error, verdict):
    for result in inputs["evaluation"]["results"][:2]:
        result["metrics"]["pos_mae"] = estimate(error)
    assert f"{verdict} “last velocities” (0.239)" in Page(render_report(**inputs)).words


def test_hostile_names_are_escaped_everywhere(inputs):
    evaluation, corpus = inputs["evaluation"], inputs["corpus"]
    evaluation |= {"checkpoint": HOSTILE, "corpus": HOSTILE, "split": HOSTILE}
    evaluation["results"].append({"predictor": HOSTILE, "context": HOSTILE, "metrics": {HOSTILE: NOTHING}})
    evaluation["results"][1]["slices"][HOSTILE] = {HOSTILE: {"count": 5, "metrics": {}}}
    evaluation["results"][1]["confusions"][0] |= {"truth": HOSTILE, "predicted": [{"action": HOSTILE, "count": 1}]}
    for part in ("rejects", "stages", "characters"):
        corpus[part] = {HOSTILE: 3}
    inputs["log_rows"].append({"kind": "eval", "targets_seen": 1, "context": HOSTILE, "pos_mae": 0.3})
    text = render_report(**inputs | {"title": HOSTILE})
    assert "<script" not in text
    assert "alert(" in text
    assert Page(text).words.count("<script>") > 8


def test_nothing_is_loaded_from_anywhere(inputs):
    text = render_report(**inputs)
    page = Page(text)
    assert not re.search(r"https?:|//[a-z]|url\(|@import", text)
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert all(href.startswith("#") for href in page.attributes("href"))
    assert "default-src 'none'" in text


@pytest.mark.parametrize("missing", ["log_rows", "evaluation", "corpus", "all"])
def test_empty_inputs_give_a_page_that_says_so(inputs, missing):
    empty = {"log_rows": [], "evaluation": {}, "corpus": {}}
    page = Page(render_report(**inputs | (empty if missing == "all" else {missing: empty[missing]})))
    assert page.words.count("A run") >= 2


def test_a_run_that_just_began_has_a_page(inputs):
    inputs["log_rows"] = inputs["log_rows"][:1]
    inputs["evaluation"]["results"] = []
    inputs["corpus"]["rejects"] = {}
    words = Page(render_report(**inputs)).words
    assert "No validation was logged" in words
    assert "every replay was taken" in words


def test_missing_and_broken_numbers_do_not_break_the_page(inputs):
    inputs["log_rows"] += [{"kind": "train", "loss": float("nan"), "targets_seen": 5}, {"kind": "eval"}, {}]
    inputs["evaluation"]["results"][0]["metrics"] = {"change_acc": NOTHING, "pos_mae": estimate(float("inf"))}
    inputs["evaluation"]["results"][2] |= {"metrics": {}, "slices": None, "confusions": None}
    assert "not finite" in Page(render_report(**inputs)).words


def test_the_inputs_are_left_as_they_were_and_the_page_is_the_same_again(inputs):
    before = copy.deepcopy(inputs)
    assert render_report(**inputs) == render_report(**inputs)
    assert inputs == before


def test_the_file_is_written_whole_and_alone(inputs, tmp_path):
    out = tmp_path / "a folder" / "report.html"
    assert write_report(out, **inputs) == out
    assert out.read_text(encoding="utf-8") == render_report(**inputs)
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]


def test_elements_escape_text_and_attributes_but_not_markup():
    assert tag("b", "<", Markup("<i></i>"), None, ["&", 1], class_='"') == '<b class="&quot;">&lt;<i></i>&amp;1</b>'
    assert tag("circle", cx=1.0, r=2.346, hidden=True, x=None) == '<circle cx="1" r="2.35" hidden></circle>'
    assert isinstance(join("a"), Markup)


def test_numbers_read_well():
    assert [share_text(v) for v in (0.7123, 1.0)] == ["71.2%", "100.0%"]
    assert [amount_text(v) for v in (0.0, 0.1234, 0.00045, 12345.6)] == ["0.000", "0.123", "0.00045", "12,346"]
    assert [compact_text(v) for v in (123, 1530, 2e6)] == ["123", "1.53K", "2M"]


def test_axes_have_round_ticks():
    def labels(scale: Scale) -> list[str]:
        return [label for _, label in scale.ticks]

    assert labels(linear_scale([0.912, 0.974], 0, 1, is_share=True)) == ["90%", "92%", "94%", "96%", "98%"]
    assert labels(count_scale([1.999e6], 0, 1)) == ["0", "0.5M", "1.0M", "1.5M", "2.0M"]
    scale = amount_scale([0.3, 4.0], 100, 0)
    assert scale.is_log and labels(scale) == ["0.2", "0.5", "1", "2", "5"]
    assert scale.place(0.2) == 100 and scale.place(5.0) == pytest.approx(0)


@pytest.mark.parametrize("values", [[], [0.0], [1.0], [0.5, 0.5], [-3.0, 1e9], [1e-9, 1e9]])
def test_axes_hold_whatever_values_come(values):
    for scale in (linear_scale(values, 0, 1), linear_scale(values, 0, 1, is_share=True), amount_scale(values, 0, 1)):
        assert len(scale.ticks) > 1
        assert all(scale.low <= value <= scale.high for value in values) or max(values) > 1
        assert all(-1e-9 <= scale.place(value) <= 1 + 1e-9 for value in values)


def test_labels_are_moved_apart_in_order_and_no_farther_than_needed():
    assert spread([50, 10, 52], 10, 0, 100) == [46, 10, 56]
    assert spread([99, 98, 97], 10, 0, 100) == [100, 90, 80]


def test_rows_of_a_resumed_run_replace_those_it_went_back_behind():
    rows = [{"targets_seen": seen, "loss": loss} for seen, loss in ((1, 5.0), (2, 4.0), (3, 3.0), (2, 4.1), (3, 3.1))]
    assert points_of(rows, "loss") == [(1, 5.0), (2, 4.1), (3, 3.1)]


def test_a_long_log_is_thinned_without_losing_its_extremes():
    points = [(float(i), float(i % 7)) for i in range(1000)]
    line = thinned(points, "loss")
    assert len(line.points) <= MAX_POINTS
    assert line.band is not None
    assert min(low for _, low, _ in line.band) == 0.0 and max(high for _, _, high in line.band) == 6.0
