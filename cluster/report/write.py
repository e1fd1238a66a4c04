"""Writes the report of a run or a sweep."""

from __future__ import annotations

from pathlib import Path

from cluster.report.run_page import as_json, morning_report, render, text_of
from datasets.runtime.durable_files import write_result
from datasets.runtime.errors import UserError
from datasets.runtime.uris import is_remote, without_credentials
from tune.report.choice_json import choice_json
from tune.report.choice_page import write_choice_page
from tune.report.choice_text import describe
from tune.report.choose_k import choose
from tune.results.sweep_folder import is_sweep
from wm.report.page import write_page

REPORT_FILE = "report.html"


def write_report(location: str, before: str | None, html: Path | None, json: Path | None) -> None:
    """Print the report of a run, and write its page.

    Args:
        location: folder or URI of a run or of a sweep.
        before: see `morning_report`.
        html: path of the page; by default in the run's folder, or in the working directory for a URI.
        json: path of the JSON, if it is wanted.
    Raises:
        UserError: there is no run or sweep at the location, or the two runs cannot be compared.
    """
    page = html or (Path(REPORT_FILE) if is_remote(location) else Path(location, REPORT_FILE))
    if is_sweep(location):
        if before is not None:
            shown = without_credentials(location)
            raise UserError(f"{shown} is a sweep; --before is for runs: name one of its trials, {shown}/trials/...")
        choice = choose(location)
        print(describe(choice))
        if json is not None:
            write_result(json, choice_json(choice))
        print(f"\n{write_choice_page(page, choice)}")
        return
    run, morning = morning_report(location, before)
    print(text_of(run, morning))
    if json is not None:
        write_result(json, as_json(run, morning))
    print(f"\n{write_page(page, render(run, morning))}")
