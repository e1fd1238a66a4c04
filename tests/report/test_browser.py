"""The report in a real browser without a network: charts appear, colors follow the theme, nothing is reported."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from choice_reports import a_report
from chromium import BROWSER, Browser, Page
from report_inputs import hostile_inputs, report_inputs

from tune.report.choice_page import render_choice
from wm.report.charts import PALETTE
from wm.report.page import write_page
from wm.report.run_report import render_report

pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome on the PATH")

NUM_CHARTS = 19
NUM_CHOICE_CHARTS = 9
DRAWN = "[...document.querySelectorAll('.chart')].every(chart => !chart.clientWidth || chart.querySelector('svg'))"
PATIENCE_S = 60


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as started:
        yield started


def dom_of(page: Page, is_ready: Callable[[str], bool] = lambda dom: True) -> str:
    """The page's DOM once its charts are drawn and it is ready, or after some patience.

    Fails if the console has any message.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        page.evaluate("new Promise(done => setTimeout(done, 50))")
        is_drawn, dom = page.evaluate(DRAWN), page.evaluate("document.documentElement.outerHTML")
        if (is_drawn and is_ready(dom)) or time.monotonic() > deadline:
            assert page.messages == []
            return dom


def charts_of(dom: str) -> list[str]:
    """The page's charts, each with what follows it."""
    return dom.split('<div class="chart js-plotly-plot')[1:]


def chart_colors(dom: str) -> set[str]:
    """Colors of all lines and areas within the charts, as `#rrggbb`."""
    charts = "".join(re.findall(r"<svg class=\"main-svg\".*?</svg>", dom, re.DOTALL))
    found = re.findall(r"(?:stroke|fill): rgb\((\d+), (\d+), (\d+)\)", charts)
    return {"#" + "".join(f"{int(channel):02x}" for channel in color) for color in found}


def in_theme(theme: str) -> Callable[[str], bool]:
    """Whether a page's charts have the colors of a theme, and none of the other one."""
    light, dark = PALETTE["model"]
    return lambda dom: (light in chart_colors(dom), dark in chart_colors(dom)) == (theme == "light", theme == "dark")


def turn_dark(page: Page) -> None:
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])


def begin_to_print(page: Page) -> None:
    page.evaluate('dispatchEvent(new Event("beforeprint"))')


@pytest.mark.parametrize(
    ("theme", "change", "shown"), [("light", turn_dark, "dark"), ("dark", begin_to_print, "light")]
)
def test_every_chart_appears_in_the_colors_of_the_theme_follows_its_change_and_is_printed_in_light_ones(
    browser, theme, change, shown, tmp_path: Path
):
    page = browser.open(write_page(tmp_path / "report.html", render_report(**report_inputs())), theme=theme)
    dom = dom_of(page)
    assert len(charts_of(dom)) == NUM_CHARTS
    assert all("<svg" in chart for chart in charts_of(dom))
    assert in_theme(theme)(dom)
    change(page)
    dom = dom_of(page, in_theme(shown))
    assert len(charts_of(dom)) == NUM_CHARTS
    assert in_theme(shown)(dom)


def test_every_chart_of_a_choice_of_k_appears_in_the_dark_with_the_verdict_first(browser, tmp_path: Path):
    report = a_report()
    page = browser.open(write_page(tmp_path / "choice.html", render_choice(report)), theme="dark")
    dom = dom_of(page)
    assert len(charts_of(dom)) == NUM_CHOICE_CHARTS
    assert all("<svg" in chart for chart in charts_of(dom))
    assert in_theme("dark")(dom)
    assert dom.index(report.headline) < dom.index("<svg")
    assert "with a long &lt;b&gt;name" in dom


def test_hostile_names_run_no_script_and_are_shown_as_text(browser, tmp_path: Path):
    page = browser.open(write_page(tmp_path / "report.html", render_report(**hostile_inputs())))
    dom = dom_of(page)
    title = re.search(r"<title>(.*?)</title>", dom, re.DOTALL)
    assert title is not None and title[1].startswith("&lt;script&gt;alert")
    assert "<img" not in dom
    assert dom.count('<svg class="main-svg"') > 0


def test_a_page_without_data_opens(browser, tmp_path: Path):
    page = render_report(title="A run", log_rows=[], evaluation={}, corpus=None)
    opened = browser.open(write_page(tmp_path / "report.html", page))
    assert "This run has not been evaluated yet" in dom_of(opened)
