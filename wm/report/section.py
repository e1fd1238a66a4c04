"""The pieces that sections of the page are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wm.report.markup import Child, Markup, join, tag
from wm.report.results import Metric


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """One part of the page: a heading, one plain sentence on how to read it, and what there is to see."""

    key: str
    heading: str
    sentence: str
    body: Markup

    def render(self) -> Markup:
        """The section as an element that the contents can point at."""
        return tag(
            "section",
            tag("h2", self.heading, id=f"{self.key}-heading"),
            tag("p", self.sentence, class_="lead"),
            self.body,
            id=self.key,
            aria_labelledby=f"{self.key}-heading",
        )


def nothing(why: str) -> Markup:
    """What stands where there is no data."""
    return tag("p", why, class_="nothing")


def term(metric: Metric) -> Markup:
    """A metric's name as a link to the glossary."""
    return tag("a", tag("code", metric.key), href=f"#term-{metric.key}")


def table(
    caption: Child, headings: Sequence[Child], rows: Sequence[Sequence[Child]], *, class_: str = "", label: str
) -> Markup:
    """A table that scrolls by itself where the screen is too narrow; the first cell of each row names it.

    Args:
        label: names the scrolling region for those who cannot see it.
    """
    head = tag("tr", [tag("th", heading, scope="col") for heading in headings])
    body = [tag("tr", tag("th", row[0], scope="row"), [tag("td", cell) for cell in row[1:]]) for row in rows]
    return tag(
        "div",
        tag(
            "table",
            tag("caption", caption),
            tag("thead", head),
            tag("tbody", body),
            class_=class_ or None,
        ),
        class_="scroll",
        role="region",
        aria_label=label,
        tabindex=0,
    )


def facts(pairs: list[tuple[str, Child]]) -> Markup:
    """Short facts side by side."""
    return tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs], class_="facts")


def hidden(text: str) -> Markup:
    """Text for those who do not see what it says."""
    return tag("span", text, class_="visually-hidden")


def small(*children: Child) -> Markup:
    """A line of less weight under another."""
    return tag("small", join(*children))
