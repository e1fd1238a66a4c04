"""One self-contained HTML page of dreams: data, styles and modules are inlined, nothing is fetched.

The modules of static/ are plain JavaScript with types in JSDoc (`make viewer-types` checks them). They are joined into
one `<script type="module">` without a bundler: imported modules first, the lines of import and export taken out. So
each top-level name exists once in all of them (`tests/viewer/test_page.py`).
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from wm.viewer.data import ViewedDream, page_data

FIRST_MODULE = "page/main.js"
_IMPORT = re.compile(r"^import \{[^}]*\} from \"(?P<path>[^\"]+)\";\n", re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:class|const|function|async function) )", re.MULTILINE)
_TYPES_ONLY = re.compile(r"^export \{\};\n", re.MULTILINE)


def render_viewer(dreams: Sequence[ViewedDream], *, title: str, subtitle: str, about: str) -> str:
    """The page as text.

    Args:
        dreams: at least one, of games whose frames hold the same columns.
        title: heading of the page.
        subtitle: below it.
        about: at the end of the page. All text is escaped.
    """
    environment = Environment(
        loader=PackageLoader("wm.viewer"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    assert environment.loader is not None
    css, _, _ = environment.loader.get_source(environment, "viewer.css")
    script = joined_modules()
    return environment.get_template("viewer.html").render(
        title=title,
        subtitle=subtitle,
        about=about,
        css=Markup(css),
        script=Markup(script),
        script_hash=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
        data=_json(page_data(dreams)),
    )


@cache
def joined_modules() -> str:
    """All modules that the page needs as one."""
    parts: dict[str, str] = {}
    _collect(FIRST_MODULE, parts)
    return "\n" + "\n".join(parts.values())


def _collect(path: str, parts: dict[str, str]) -> None:
    """Add a module after those that it imports."""
    source = _read(path)
    for found in _IMPORT.finditer(source):
        needed = _resolved(path, found["path"])
        if needed not in parts:
            _collect(needed, parts)
    body = _TYPES_ONLY.sub("", _EXPORT.sub("", _IMPORT.sub("", source)))
    left = re.search(r"^(import|export)\b.*", body, re.MULTILINE)
    assert left is None, f"{path}: {left and left[0]}: write imports and exports as page.py reads them"
    parts[path] = body


def _resolved(path: str, relative: str) -> str:
    """A module's path from the one that imports it."""
    parts = path.split("/")[:-1]
    for part in relative.split("/"):
        if part == "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def _read(path: str) -> str:
    return files("wm.viewer").joinpath("static", *path.split("/")).read_text(encoding="utf-8")


def _json(data: dict[str, Any]) -> Markup:
    """JSON that is safe within a `<script>` element, without spaces."""
    return htmlsafe_json_dumps(data, separators=(",", ":"), ensure_ascii=True)
