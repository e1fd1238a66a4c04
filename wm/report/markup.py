"""HTML and SVG elements as escaped text: what is not `Markup` is escaped, so nothing can slip through."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import TypeAlias

VOID_ELEMENTS = frozenset({"br", "hr", "img", "input", "link", "meta"})


class Markup(str):
    """Text that is HTML already and is not escaped again."""

    __slots__ = ()


Child: TypeAlias = "str | int | float | Iterable[Child] | None"
"""What an element can hold: text, numbers, Markup, nothing, or several of these."""


def join(*children: Child) -> Markup:
    """Children one after the other; plain text is escaped, None is left out."""
    parts = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, Markup):
            parts.append(str(child))
        elif isinstance(child, (str, int, float)):
            parts.append(html.escape(str(child)))
        else:
            parts.append(str(join(*child)))
    return Markup("".join(parts))


def tag(name: str, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """One element.

    Args:
        attributes: `class_` is written class, `stroke_width` stroke-width; None and False are left out, True has
            no value, floats are rounded to hundredths (they are coordinates).
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in VOID_ELEMENTS:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(*children)}</{name}>")


def _attribute(key: str, value: str | float | bool | None) -> str:
    name = key.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    if value is True:
        return f" {name}"
    if isinstance(value, float):
        value = f"{value:.2f}".rstrip("0").rstrip(".")
    return f' {name}="{html.escape(str(value), quote=True)}"'
