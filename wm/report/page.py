"""The whole page: sections put into the template beside this file, and written to disk in one piece."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from wm.report.breakdown import breakdown_section, confusion_section
from wm.report.comparison import comparison_section, context_section
from wm.report.formats import count_text
from wm.report.headline import headline_section
from wm.report.learning import learning_section
from wm.report.markup import Markup, join, tag
from wm.report.material import corpus_section, glossary_section
from wm.report.results import read_results
from wm.report.section import Section

TEMPLATE = "page.html"


def write_report(
    out: Path, *, title: str, log_rows: list[dict[str, Any]], evaluation: dict[str, Any], corpus: dict[str, Any]
) -> Path:
    """Write the page that `render_report` makes; a reader never sees half of it.

    Args:
        out: the file to write; its folder is made if it is missing.
    Returns:
        `out`.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.{os.getpid()}")
    page = render_report(title=title, log_rows=log_rows, evaluation=evaluation, corpus=corpus)
    aside.write_text(page, encoding="utf-8")
    aside.replace(out)
    return out


def render_report(
    *, title: str, log_rows: list[dict[str, Any]], evaluation: dict[str, Any], corpus: dict[str, Any]
) -> str:
    """The page as text.

    Args:
        title: what the run is called.
        log_rows: the training log: rows of kind "train" and "eval", in order.
        evaluation: what `wm eval` writes: `results` of the model by context, and of the baselines.
        corpus: games, frames, bytes_per_frame, and counts of rejects, stages, characters.
    Returns:
        HTML that needs nothing but itself. Any of the inputs may be empty.
    """
    results = read_results(evaluation)
    sections = [
        headline_section(results),
        learning_section(log_rows, results),
        comparison_section(results),
        context_section(results),
        breakdown_section(results),
        confusion_section(results),
        corpus_section(corpus),
        glossary_section(),
    ]
    present = [section for section in sections if section is not None]
    template = Template(files("wm.report").joinpath(TEMPLATE).read_text(encoding="utf-8"))
    return template.substitute(
        title=join(title),
        subtitle=_subtitle(evaluation),
        contents=_contents(present),
        sections=join([section.render() for section in present]),
    )


def _contents(sections: list[Section]) -> Markup:
    return tag("ul", [tag("li", tag("a", section.heading, href=f"#{section.key}")) for section in sections])


def _subtitle(evaluation: dict[str, Any]) -> Markup:
    """What was judged on what."""
    if not evaluation:
        return join("This run has not been judged yet.")
    split = evaluation.get("split")
    frames, games = count_text(evaluation.get("num_targets")), count_text(evaluation.get("num_games"))
    return join(
        f"Judged on {frames} frames of {games} games",
        f" ({split} split)" if split else None,
        [" from ", tag("code", evaluation["corpus"])] if evaluation.get("corpus") else None,
        [", checkpoint ", tag("code", evaluation["checkpoint"])] if evaluation.get("checkpoint") else None,
        ".",
    )
