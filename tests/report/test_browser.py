"""The report in a real browser without a network: charts appear, colors follow the theme, nothing is reported."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from choice_reports import a_report
from chromium import BROWSER, OFFLINE_FLAGS
from report_inputs import hostile_inputs, report_inputs

from tune.report.choice_page import render_choice
from wm.report.charts import PALETTE
from wm.report.page import write_page
from wm.report.run_report import render_report

pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome on the PATH")

FLAGS = (*OFFLINE_FLAGS, "--enable-logging=stderr", "--virtual-time-budget=20000")
NUM_CHARTS = 19
NUM_CHOICE_CHARTS = 9


def open_page(page: Path, *flags: str) -> str:
    """The page's DOM after its scripts have run; fails if the console has any message."""
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={page.parent / 'profile'}", *flags, "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout


def theme_flag(theme: str) -> str:
    """Tells the browser which color scheme the system prefers."""
    return f"--blink-settings=preferredColorScheme={int(theme == 'light')}"


def chart_colors(dom: str) -> set[str]:
    """Colors of all lines and areas within the charts, as `#rrggbb`."""
    charts = "".join(re.findall(r"<svg class=\"main-svg\".*?</svg>", dom, re.DOTALL))
    found = re.findall(r"(?:stroke|fill): rgb\((\d+), (\d+), (\d+)\)", charts)
    return {"#" + "".join(f"{int(channel):02x}" for channel in color) for color in found}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_chart_appears_in_the_colors_of_the_theme(theme: str, tmp_path: Path):
    page = write_page(tmp_path / "report.html", render_report(**report_inputs()))
    dom = open_page(page, theme_flag(theme))
    charts = dom.split('<div class="chart js-plotly-plot')[1:]
    assert len(charts) == NUM_CHARTS
    assert all("<svg" in chart for chart in charts)
    light, dark = PALETTE["model"]
    assert (light in chart_colors(dom), dark in chart_colors(dom)) == (theme == "light", theme == "dark")


def test_every_chart_of_a_choice_of_k_appears_in_the_dark_with_the_verdict_first(tmp_path: Path):
    report = a_report()
    dom = open_page(write_page(tmp_path / "choice.html", render_choice(report)), theme_flag("dark"))
    charts = dom.split('<div class="chart js-plotly-plot')[1:]
    assert len(charts) == NUM_CHOICE_CHARTS
    assert all("<svg" in chart for chart in charts)
    assert PALETTE["model"][1] in chart_colors(dom) and PALETTE["model"][0] not in chart_colors(dom)
    assert dom.index(report.headline) < dom.index("<svg")
    assert "with a long &lt;b&gt;name" in dom


def with_script(page: str, script: str) -> str:
    """The page without its content policy, and with a script that runs before its own."""
    return re.sub(r"<meta http-equiv=[^>]*>", f"<script>{script}</script>", page, count=1)


THEME_CHANGES = """
const theme = new EventTarget();
theme.matches = false;
window.matchMedia = () => theme;
addEventListener("load", () => setTimeout(() => { theme.matches = true; theme.dispatchEvent(new Event("change")); }));
"""
PRINTS = 'addEventListener("load", () => setTimeout(() => dispatchEvent(new Event("beforeprint"))));'


@pytest.mark.parametrize(
    ("script", "system_theme", "shown"), [(THEME_CHANGES, "light", "dark"), (PRINTS, "dark", "light")]
)
def test_an_open_page_follows_a_change_of_the_theme_and_prints_in_light_colors(
    script: str, system_theme: str, shown: str, tmp_path: Path
):
    page = write_page(tmp_path / "report.html", with_script(render_report(**report_inputs()), script))
    dom = open_page(page, theme_flag(system_theme))
    light, dark = PALETTE["model"]
    assert (light in chart_colors(dom), dark in chart_colors(dom)) == (shown == "light", shown == "dark")


def test_hostile_names_run_no_script_and_are_shown_as_text(tmp_path: Path):
    page = write_page(tmp_path / "report.html", render_report(**hostile_inputs()))
    dom = open_page(page)
    title = re.search(r"<title>(.*?)</title>", dom, re.DOTALL)
    assert title is not None and title[1].startswith("&lt;script&gt;alert")
    assert "<img" not in dom
    assert dom.count('<svg class="main-svg"') > 0


def test_a_page_without_data_opens(tmp_path: Path):
    page = render_report(title="A run", log_rows=[], evaluation={}, corpus=None)
    assert "This run has not been evaluated yet" in open_page(write_page(tmp_path / "report.html", page))
