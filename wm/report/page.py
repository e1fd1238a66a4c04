"""One self-contained HTML page from a template: plotly.js, styles and data are inlined, nothing is fetched.

A page takes about 5 MB, nearly all of it plotly.js (1.5 MB when compressed).
"""

from __future__ import annotations

import base64
import hashlib
import html
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from datasets.runtime.durable_files import replace_file
from wm.report.charts import FONT, PALETTE
from wm.report.numbers import format_count


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """A figure with the words around it."""

    key: str
    """Unique on its page; letters, digits, hyphens and underscores."""
    title: str
    note: str = ""
    """After the title."""
    figure: go.Figure

    @property
    def description(self) -> str:
        """The values in words, for screen readers."""
        parts = [f"{self.title}."]
        traces: Any = self.figure.data
        for trace in traces:
            texts = [text.replace("<br>", ", ") for text in (() if trace.customdata is None else trace.customdata)]
            parts += [f"{trace.name}: {texts[0]} to {texts[-1]}."] if trace.name and texts else [f"{t}." for t in texts]
        return html.unescape(" ".join(parts))

    @property
    def json(self) -> Markup:
        """The figure as JSON that is safe within a `<script>` element."""
        return htmlsafe_json_dumps(self.figure, dumps=lambda figure: figure.to_json())


def render_page(template: str, *, title: str, package: str = "wm.report", **context: Any) -> str:
    """A page as text.

    Args:
        template: a file of `templates/` in the package that extends `base.html`.
        package: whose templates; `base.html`, `macros.html` and the styles are those of `wm.report`.
        context: the template's variables. All text is escaped.
    """
    loader = ChoiceLoader([PackageLoader("wm.report"), PackageLoader(package)])
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["count"] = format_count
    css, page_js = (loader.get_source(environment, name)[0] for name in ("page.css", "page.js"))
    scripts = [get_plotlyjs(), page_js]
    return environment.get_template(template).render(
        title=title,
        palette=PALETTE,
        font=Markup(FONT),
        css=Markup(css),
        scripts=[(Markup(script), _content_hash(script)) for script in scripts],
        **context,
    )


def write_page(path: Path, page: str) -> Path:
    """Write a page atomically, so that a reader sees the old file or the new one; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, page.encode())
    return path


def _content_hash(script: str) -> str:
    """The source expression of a Content-Security-Policy that allows this script and no other."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"
