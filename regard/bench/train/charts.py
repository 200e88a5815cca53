"""The charts of a training benchmark: learning curves, and the metric by length."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from regard.bench.report.format import clean
from regard.bench.report.reading import COLOURS, DASHES, SHAPES, Style

if TYPE_CHECKING:
    from regard.bench.report.drawing import Drawing

Result = Mapping[str, Any]
WIDE, NARROW = 1000, 350


@dataclass(frozen=True)
class Figure:
    """One chart: its name, its title, how it is read, and its SVG for wide and narrow screens."""

    name: str
    title: str
    caption: str
    svgs: tuple[str, str]


def figures(result: Result) -> list[Figure]:
    """The charts that this result has figures for."""
    metric = result["task"]["metric"]
    wanted: list[tuple[str, str, str, Callable[[Result, float], Drawing | None]]] = [
        (
            "curves", "Learning",
            f"Held-out {metric} by step: the line is the mean over seeds, the band reaches from the worst seed to the "
            "best, and the dotted line is the target.",
            _curves,
        ),
        (
            "lengths", "Longer and shorter sequences",
            f"The {metric} of the trained models on other lengths; the dotted line is the length of the training.",
            _lengths,
        ),
    ]  # fmt: skip
    found = []
    for name, title, caption, draw in wanted:
        drawn = [_svg(draw(result, width)) for width in (WIDE, NARROW)]
        if all(drawn):
            found.append(Figure(name, title, caption, (drawn[0], drawn[1])))
    return found


def looks(result: Result) -> dict[str, Style]:
    """One look for each mechanism, by its name as it is shown."""
    return {
        clean(label): Style(COLOURS[at % len(COLOURS)], SHAPES[at % len(SHAPES)], DASHES[at % len(DASHES)])
        for at, label in enumerate(result["mechanisms"])
    }


def _svg(chart: Drawing | None) -> str:
    from regard.bench.report.drawing import finish

    if chart is None:
        return ""
    text = io.StringIO()
    finish(chart).save(text, format="svg")
    return text.getvalue()


def _curves(result: Result, width: float) -> Drawing | None:
    import altair as alt

    from regard.bench.report import drawing as draw
    from regard.bench.report.reading import MUTED

    style = looks(result)
    points: dict[tuple[str, int], list[float]] = {}
    for run in result["runs"]:
        name = clean(run["mechanism"])
        if name in style:
            for step, _, value in run["curve"]:
                if value is not None:
                    points.setdefault((name, step), []).append(value)
    if not points:
        return None
    data = [
        {draw.NAME: label, "step": step, "mean": sum(values) / len(values), "low": min(values), "high": max(values)}
        for (label, step), values in points.items()
    ]
    labels = [label for label in style if any(point[draw.NAME] == label for point in data)]
    plot, under = draw.inner(width), draw.legend(labels, width, lines=True)
    under["symbolOpacity"] = 1  # else the legend would be as pale as the bands
    x = alt.X("step:Q", axis=draw.axis("step", ",d"), scale=alt.Scale(domain=[0, result["settings"]["steps"]]))
    y, shape = _side(result)
    base = alt.Chart(draw.data(data)).encode(x=x, color=draw.by_colour(style, labels, under))
    band = base.mark_area(opacity=0.15).encode(y=alt.Y("low:Q", axis=shape, scale=y), y2="high:Q")
    line = base.mark_line(strokeWidth=2).encode(
        y=alt.Y("mean:Q", axis=shape, scale=y), strokeDash=draw.by_dash(style, labels, under)
    )
    rule = (
        alt.Chart(draw.data([{"target": result["task"]["target"]}]))
        .mark_rule(color=MUTED, strokeDash=[2, 3], strokeWidth=1.5)
        .encode(y=alt.Y("target:Q", axis=shape, scale=y))
    )
    return alt.layer(rule, band, line).properties(width=plot, height=280)


def _lengths(result: Result, width: float) -> Drawing | None:
    import altair as alt

    from regard.bench.report import drawing as draw
    from regard.bench.report.reading import MUTED

    style = looks(result)
    data = [
        {draw.NAME: clean(row["mechanism"]), "length": int(length), "value": value}
        for row in result["rows"]
        for length, value in row["lengths"].items()
        if value is not None
    ]
    if not data:
        return None
    labels = [label for label in style if any(point[draw.NAME] == label for point in data)]
    plot, under = draw.inner(width), draw.legend(labels, width)
    ticks = sorted({point["length"] for point in data})
    across = alt.Scale(type="log", domain=[ticks[0] / 1.08, ticks[-1] * 1.08], nice=False)
    x = alt.X("length:Q", scale=across, axis=draw.axis("tokens", ",d", ticks=draw.fitting(ticks, plot)))
    y, shape = _side(result)
    base = alt.Chart(draw.data(data)).encode(
        x=x, y=alt.Y("value:Q", axis=shape, scale=y), color=draw.by_colour(style, labels, under)
    )
    line = base.mark_line(strokeWidth=2).encode(strokeDash=draw.by_dash(style, labels, None))
    marks = base.mark_point(filled=True, size=46, opacity=1).encode(shape=draw.by_shape(style, labels, under))
    rule = (
        alt.Chart(draw.data([{"length": result["settings"]["length"]}]))
        .mark_rule(color=MUTED, strokeDash=[2, 3], strokeWidth=1.5)
        .encode(x=x)
    )
    return alt.layer(rule, line, marks).properties(width=plot, height=280)


def _side(result: Result) -> tuple[Any, Any]:
    """The scale and the axis of the metric."""
    import altair as alt

    from regard.bench.report import drawing as draw

    if result["task"]["metric"] == "accuracy":
        return alt.Scale(domain=[0, 1]), draw.axis("accuracy", ".0%", count=5)
    return alt.Scale(zero=False), draw.axis("loss, nats", "~g", count=5)
