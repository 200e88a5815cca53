"""Charts of quality against cost, and of time against length."""

from statistics import median

import altair as alt

from regard.bench.report import drawing as draw
from regard.bench.report.drawing import Drawing, Points
from regard.bench.report.format import significant
from regard.bench.report.judge import BREAK
from regard.bench.report.reading import (
    INK,
    MUTED,
    Result,
    Row,
    dense,
    figure,
    interval,
    is_dense,
    names,
    number,
    rows,
    styles,
)


def quality_density(result: Result, width: float) -> Drawing | None:
    """Perplexity against the share of pairs that are looked at."""
    return _quality(result, width, "density", "density: share of pairs looked at", ".0%")


def quality_prefill(result: Result, width: float) -> Drawing | None:
    """Perplexity against the time to read the context."""
    return _quality(result, width, "prefill_seconds", "prefill, seconds", ",~r")


def pareto(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other beats in both coordinates, where less is better, by rising first coordinate."""
    front: list[tuple[float, float]] = []
    for cost, loss in sorted(points):
        if not front or loss < front[-1][1]:
            front.append((cost, loss))
    return front


def break_even(result: Result, width: float) -> Drawing | None:
    """Seconds of attention against the length, both logarithmic."""
    looks = styles(result)
    points: Points = []
    theirs: dict[float, list[float]] = {}
    for name, row in zip(names(result), rows(result), strict=True):
        for length, mine, other in row.get("break_even_times") or ():
            if number(mine) and not is_dense(row):
                points.append({draw.NAME: name, "tokens": length, "seconds": mine})
            if number(other):
                theirs.setdefault(length, []).append(other)
    if not points:
        return None
    base = next((name for name, row in zip(names(result), rows(result), strict=True) if is_dense(row)), None)
    if base is not None:
        # Dense was timed beside each method; the middle one stands for it here.
        points += [{draw.NAME: base, "tokens": at, "seconds": median(times)} for at, times in sorted(theirs.items())]
    shown = {point[draw.NAME] for point in points}
    labels = [name for name in looks if name in shown]
    plot = draw.inner(width)
    lengths = sorted({point["tokens"] for point in points})
    scale, ticks = draw.axis_scale((point["seconds"] for point in points), wide=1)
    under = draw.legend(labels, width)
    across = alt.X(
        "tokens:Q",
        scale=alt.Scale(type="log", domain=[lengths[0] / 1.08, lengths[-1] * 1.08], nice=False),
        axis=draw.axis("length, tokens", ",d", ticks=draw.fitting(lengths, plot)),
    )
    up = alt.Y("seconds:Q", scale=scale, axis=draw.axis("attention, seconds", ",~r", ticks=ticks))
    base_chart = alt.Chart(draw.data(points)).encode(x=across, y=up, color=draw.by_colour(looks, labels, under))
    lines = base_chart.mark_line(strokeWidth=2).encode(strokeDash=draw.by_dash(looks, labels, None))
    marks = base_chart.mark_point(filled=True, size=46, opacity=1).encode(shape=draw.by_shape(looks, labels, under))
    return alt.layer(lines, marks).properties(width=plot, height=280)


def _quality(result: Result, width: float, cost: str, title: str, shape: str) -> Drawing | None:
    looks, base = styles(result), dense(result)
    points: Points = []
    for name, row in zip(names(result), rows(result), strict=True):
        spent, loss, ends = figure(row, cost), figure(row, "perplexity"), interval(row)
        if spent is not None and loss is not None:
            low, high = ends or (loss, loss)
            points.append({draw.NAME: name, "cost": spent, "loss": loss, "low": low, "high": high})
    if len(points) < 2:
        return None
    labels = [point[draw.NAME] for point in points]
    plot, under = draw.inner(width), draw.legend(labels, width)
    off = _off_scale(points, base)
    on = [point for point in points if point not in off]
    scale, ticks = draw.axis_scale(value for point in on for value in (point["low"], point["high"]))
    if cost == "density":
        across, steps = alt.Scale(domain=[0, 1.04 * max(point["cost"] for point in points)], nice=False), None
    else:
        across, steps = draw.axis_scale((point["cost"] for point in points), wide=12)
    x = alt.X("cost:Q", scale=across, axis=draw.axis(title, shape, ticks=steps))
    side = draw.axis("perplexity (less is better)", ",~r", ticks=ticks)
    y, bars = alt.Y("loss:Q", scale=scale, axis=side), alt.Y("low:Q", scale=scale, axis=side)
    colour, sign = draw.by_colour(looks, labels, under), draw.by_shape(looks, labels, under)
    marks = alt.Chart(draw.data(on)).encode(color=colour)
    front = [{"cost": at, "loss": loss} for at, loss in pareto([(one["cost"], one["loss"]) for one in on])]
    layers = [
        alt.Chart(draw.data(front))
        .mark_line(interpolate="step-after", color=MUTED, strokeWidth=1.5, strokeDash=[4, 3])
        .encode(x=x, y=y),
        marks.mark_rule(strokeWidth=2, opacity=0.55).encode(x=x, y=bars, y2="high:Q"),
        marks.mark_point(filled=True, size=110, opacity=1).encode(x=x, y=y, shape=sign),
    ]
    if base is not None and (band := interval(base)):
        area = alt.Chart(draw.data([{"low": band[0], "high": band[1]}]))
        layers.insert(0, area.mark_rect(color=INK, opacity=0.07).encode(y=bars, y2="high:Q"))
    if off:
        edge = alt.Chart(draw.data(off)).mark_point(filled=True, size=110, opacity=1)
        layers.append(edge.encode(x=x, y=alt.value(0), color=colour, shape=sign))
    chart = alt.layer(*layers).properties(width=plot, height=280)
    if off:
        told = [f"off the top: {one[draw.NAME]} {significant(one['loss'])}" for one in off]
        chart = chart.properties(title=alt.TitleParams(told, anchor="start", offset=10, limit=plot))
    return chart


def _off_scale(points: Points, base: Row | None) -> Points:
    """The methods that break, which would press all others flat; none where too few would be left."""
    its = None if base is None else figure(base, "perplexity")
    off = [] if its is None else [point for point in points if point["loss"] >= BREAK * its]
    return off if len(off) <= len(points) - 2 else []
