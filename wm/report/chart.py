"""Line charts over targets seen, and dots over contexts, as SVG that scales with the page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from wm.report.markup import Markup, join, tag
from wm.report.scale import Scale, count_scale, linear_scale, spread

WIDTH, HEIGHT = 460.0, 264.0
LEFT, TOP, BOTTOM = 54.0, 26.0, 218.0
RIGHT_PLAIN, RIGHT_LABELLED = 446.0, 386.0
LABEL_GAP = 15.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One line: points by x; a band of (x, low, high) around it; dots on the points if they are few."""

    name: str
    points: list[tuple[float, float]]
    band: list[tuple[float, float, float]] | None = None
    dots: bool = False
    opacity: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """A dashed line across the chart."""

    name: str
    value: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ChartText:
    """What a chart says in words."""

    key: str
    """Names the chart within its page."""
    title: str
    description: str
    y_unit: str
    x_unit: str
    show: Callable[[float], str]
    """A value as text, for whoever points at it."""


def line_chart(
    text: ChartText,
    series: list[Series],
    reference: Reference | None,
    y_scale: Callable[[list[float], float, float], Scale],
) -> Markup:
    """Lines over targets seen; with several of them each is named at its end."""
    xs = [x for line in series for x, _ in line.points]
    ys = [y for line in series for _, y in line.points]
    ys += [edge for line in series for _, *edges in line.band or [] for edge in edges]
    ys += [reference.value] if reference else []
    right = RIGHT_LABELLED if len(series) > 1 else RIGHT_PLAIN
    across, up = count_scale(xs, LEFT, right), y_scale(ys, BOTTOM, TOP)
    return _svg(
        text,
        _y_axis(up, right, text.y_unit, is_log=up.is_log),
        _x_axis([(across.place(value), label) for value, label in across.ticks], text.x_unit, right),
        _reference(reference, up, right, series, text.show),
        [_line(line, across, up, text) for line in series],
        _end_labels(series, across, up) if len(series) > 1 else None,
    )


def category_chart(
    text: ChartText,
    points: list[tuple[str, float, tuple[float, float] | None]],
    reference: Reference | None,
    *,
    is_share: bool,
) -> Markup:
    """Dots with intervals over named places, joined by a thin line."""
    ys = [y for _, y, interval in points for y in (y, *(interval or ()))] + ([reference.value] if reference else [])
    up = linear_scale(ys, BOTTOM, TOP, is_share=is_share)
    step = (RIGHT_PLAIN - LEFT) / max(1, len(points))
    places = [LEFT + step * (i + 0.5) for i in range(len(points))]
    line = [(x, up.place(y)) for x, (_, y, _) in zip(places, points, strict=True)]
    series = [Series(name="model", points=[(float(i), y) for i, (_, y, _) in enumerate(points)])]
    return _svg(
        text,
        _y_axis(up, RIGHT_PLAIN, text.y_unit, is_log=False),
        _x_axis([(x, name) for x, (name, _, _) in zip(places, points, strict=True)], text.x_unit, RIGHT_PLAIN),
        _reference(reference, up, RIGHT_PLAIN, series, text.show),
        tag("path", d=_path(line), class_="line thin"),
        [_whisker(x, up, interval) for x, (_, _, interval) in zip(places, points, strict=True)],
        [_dot(x, y, 4.5, f"{name}: {text.show(value)}") for (x, y), (name, value, _) in zip(line, points, strict=True)],
    )


def _svg(text: ChartText, *children: Markup | list[Markup] | None) -> Markup:
    title, description = f"{text.key}-title", f"{text.key}-desc"
    return tag(
        "svg",
        tag("title", text.title, id=title),
        tag("desc", text.description, id=description),
        *children,
        viewBox=f"0 0 {WIDTH:.0f} {HEIGHT:.0f}",
        role="img",
        aria_labelledby=title,
        aria_describedby=description,
        class_="chart",
    )


def _path(points: list[tuple[float, float]]) -> str:
    return "M" + " L".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _y_axis(scale: Scale, right: float, unit: str, *, is_log: bool) -> list[Markup]:
    marks = [tag("text", unit + (" (log scale)" if is_log else ""), x=0.0, y=11.0, class_="unit")]
    for value, label in scale.ticks:
        y = scale.place(value)
        marks.append(tag("line", x1=LEFT, x2=right, y1=y, y2=y, class_="grid"))
        marks.append(tag("text", label, x=LEFT - 8, y=y + 4.5, text_anchor="end", class_="tick"))
    return marks


def _x_axis(ticks: list[tuple[float, str]], unit: str, right: float) -> list[Markup]:
    marks = [tag("line", x1=LEFT, x2=right, y1=BOTTOM, y2=BOTTOM, class_="axis")]
    marks += [tag("text", label, x=x, y=BOTTOM + 18, text_anchor="middle", class_="tick") for x, label in ticks]
    middle = (LEFT + right) / 2
    marks.append(tag("text", unit, x=middle, y=HEIGHT - 6, text_anchor="middle", class_="unit"))
    return marks


def _line(line: Series, across: Scale, up: Scale, text: ChartText) -> Markup:
    points = [(across.place(x), up.place(y)) for x, y in line.points]
    band = None
    if line.band:
        upper = [(across.place(x), up.place(high)) for x, _, high in line.band]
        lower = [(across.place(x), up.place(low)) for x, low, _ in reversed(line.band)]
        band = tag("path", d=_path(upper + lower) + " Z", class_="band")
    dots = None
    if line.dots or len(points) == 1:
        dots = [
            _dot(place_x, place_y, 3.0, f"{line.name}: {text.show(y)} after {x:,.0f} targets")
            for (place_x, place_y), (x, y) in zip(points, line.points, strict=True)
        ]
    return tag("g", band, tag("path", d=_path(points), class_="line"), dots, opacity=line.opacity)


def _dot(x: float, y: float, radius: float, words: str) -> Markup:
    return tag("circle", tag("title", words), cx=x, cy=y, r=radius, class_="dot")


def _whisker(x: float, up: Scale, interval: tuple[float, float] | None) -> Markup:
    if interval is None:
        return Markup("")
    low, high = up.place(interval[0]), up.place(interval[1])
    ends = [tag("line", x1=x - 4, x2=x + 4, y1=y, y2=y, class_="whisker") for y in (low, high)]
    return join(tag("line", x1=x, x2=x, y1=low, y2=high, class_="whisker"), ends)


def _reference(
    reference: Reference | None, up: Scale, right: float, series: list[Series], show: Callable[[float], str]
) -> list[Markup]:
    """The dashed line, named at the side where it is farther from the first series."""
    if reference is None:
        return []
    y = up.place(reference.value)
    points = next((line.points for line in series if line.points), [(0.0, reference.value)])
    first, last = (abs(up.place(points[i][1]) - y) for i in (0, -1))
    at_right = last >= first
    return [
        tag("line", x1=LEFT, x2=right, y1=y, y2=y, class_="reference"),
        tag(
            "text",
            f"{reference.name}: {show(reference.value)}",
            x=right - 2 if at_right else LEFT + 6,
            y=y - 6 if y > TOP + 20 else y + 16,
            text_anchor="end" if at_right else "start",
            class_="reference-name",
        ),
    ]


def _end_labels(series: list[Series], across: Scale, up: Scale) -> list[Markup]:
    """Each line's name beside its last point, moved apart where they would touch."""
    named = [line for line in series if line.points]
    ends = [(across.place(line.points[-1][0]), up.place(line.points[-1][1])) for line in named]
    moved = spread([y for _, y in ends], LABEL_GAP, TOP, BOTTOM)
    marks = []
    for line, (x, y), label_y in zip(named, ends, moved, strict=True):
        marks.append(
            tag("path", d=_path([(x + 5, y), (RIGHT_LABELLED + 18, label_y)]), class_="leader", opacity=line.opacity)
        )
        marks.append(tag("text", line.name, x=RIGHT_LABELLED + 22, y=label_y + 4, class_="end-name"))
    return marks
