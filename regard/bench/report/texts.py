"""Charts over the text: loss by position, needles by depth, and the endless stream."""

from math import exp, log
from typing import Any

import altair as alt

from regard.bench.report import drawing as draw
from regard.bench.report.drawing import Drawing, Points
from regard.bench.report.judge import BREAK
from regard.bench.report.reading import (
    COLOURS,
    INK,
    MUTED,
    Result,
    Row,
    dense,
    figure,
    names,
    number,
    rows,
    stream_names,
    streams,
    styles,
)

_CROSS = "M-.7,-.5L-.5,-.7L0,-.2L.5,-.7L.7,-.5L.2,0L.7,.5L.5,.7L0,.2L-.5,.7L-.7,.5L-.2,0Z"
_TOLD = {
    "found": (COLOURS[0], "circle"),
    "found in some texts": (COLOURS[5], "diamond"),
    "missed": (COLOURS[1], _CROSS),
}
_CLOSE = 0.03  # of the text; needles nearer than that would lie on each other
_POINTS = 160  # at most in one line; neighbours are averaged beyond


def loss(result: Result, width: float) -> Drawing | None:
    """Mean loss by position in the text, and below it what each method adds to dense's."""
    looks = styles(result)
    base = dense(result)
    its = {} if base is None else {(start, stop): value for start, stop, value in base.get("loss_by_position") or ()}
    points: Points = []
    for name, row in zip(names(result), rows(result), strict=True):
        for start, stop, value in row.get("loss_by_position") or ():
            own, other = number(value), number(its.get((start, stop)))
            if own is not None:
                more = None if other is None or row is base else own - other
                points.append({draw.NAME: name, "at": (start + stop) / 2, "loss": own, "more": more})
    if not points:
        return None
    labels = list(dict.fromkeys(point[draw.NAME] for point in points))
    plot, under = draw.inner(width), draw.legend(labels, width, lines=True)
    end = max(point["at"] for point in points)

    def panel(key: str, title: str, height: int, scale: alt.Scale, *, last: bool) -> alt.Chart:
        across = draw.axis("position in the text, tokens" if last else None, ",d")
        return (
            alt.Chart(draw.data([point for point in points if point[key] is not None]))
            .mark_line(strokeWidth=1.8, clip=True)
            .encode(
                x=alt.X("at:Q", scale=alt.Scale(domain=[0, end], nice=False), axis=across),
                y=alt.Y(f"{key}:Q", scale=scale, axis=draw.axis(title, "~g", count=5)),
                color=draw.by_colour(looks, labels, under),
                strokeDash=draw.by_dash(looks, labels, under),
            )
            .properties(width=plot, height=height)
        )

    ends = _reach(points)
    if ends is None:
        return panel("loss", "mean loss, nats", 260, alt.Scale(zero=False), last=True)
    both = (
        panel("loss", "mean loss, nats", 170, alt.Scale(zero=False), last=False),
        panel("more", "more than dense, nats", 170, alt.Scale(domain=ends, nice=False), last=True),
    )
    return alt.vconcat(*both, spacing=14).resolve_scale(color="shared", strokeDash="shared")


def _reach(points: Points) -> list[float] | None:
    """What the lower panel spans: all methods but those that break, which would press the others flat."""
    more: dict[str, list[float]] = {}
    for point in points:
        if point["more"] is not None:
            more.setdefault(point[draw.NAME], []).append(point["more"])
    if not more:
        return None
    whole = [line for line in more.values() if sum(line) / len(line) < log(BREAK)] or list(more.values())
    low, high = min(map(min, whole)), max(map(max, whole))
    margin = (high - low) * 0.08 or 0.01
    return [low - margin, high + margin]


def needles(result: Result, width: float) -> Drawing | None:
    """Which method told the fact that was hidden at which depth."""
    places = _places([needle["depth"] for row in rows(result) for needle in row.get("needles") or ()])
    points: Points = []
    for name, row in zip(names(result), rows(result), strict=True):
        at: dict[float, list[bool]] = {}
        for needle in row.get("needles") or ():
            at.setdefault(places[needle["depth"]], []).append(bool(needle["correct"]))
        points += [{draw.NAME: name, "depth": depth, "found": _told(right)} for depth, right in at.items()]
    if not points:
        return None
    labels = list(dict.fromkeys(point[draw.NAME] for point in points))
    present = [kind for kind in _TOLD if any(point["found"] == kind for point in points)]
    colours, shapes = zip(*(_TOLD[kind] for kind in present), strict=True)
    under = alt.Legend(orient="bottom", title=None, direction="horizontal")
    side = min(max(map(len, labels)) * 7, 170)
    return (
        alt.Chart(draw.data(points))
        .mark_point(filled=True, size=150, opacity=1)
        .encode(
            x=alt.X("depth:Q", scale=alt.Scale(domain=[0, 1]), axis=draw.axis("depth in the text", ".0%", count=5)),
            y=alt.Y(
                f"{draw.NAME}:N", sort=labels, axis=alt.Axis(title=None, labelColor=INK, labelLimit=side, ticks=False)
            ),
            color=alt.Color("found:N", scale=alt.Scale(domain=present, range=list(colours)), legend=under),
            shape=alt.Shape("found:N", scale=alt.Scale(domain=present, range=list(shapes)), legend=under),
        )
        .properties(width=width - side - 50, height=alt.Step(30))
    )


def stream(result: Result, width: float) -> Drawing | None:
    """Perplexity, resident bytes and time a token while one endless text goes by."""
    looks = styles(result)
    points: Points = []
    for name, row in zip(stream_names(result), streams(result), strict=True):
        points += [{draw.NAME: name, **point} for point in _thinned(row)]
    if not points:
        return None
    labels = list(dict.fromkeys(point[draw.NAME] for point in points))
    plot, under = draw.inner(width), draw.legend(labels, width, lines=True)
    trained = number((result.get("model") or {}).get("trained_context"))
    end = max(point["tokens"] for point in points)
    panels: list[Any] = []
    wanted = [
        ("perplexity", "perplexity", ",~r", 170),
        ("kv_bytes", "cache, bytes", "~s", 110),
        ("ms_per_token", "ms a token", ",~r", 110),
    ]
    wanted = [one for one in wanted if any(point[one[0]] is not None for point in points)]
    for key, title, shape, height in wanted:
        across = draw.axis("tokens read" if key == wanted[-1][0] else None, ",d")
        scale, ticks = draw.axis_scale((point[key] for point in points if point[key] is not None), wide=8, ticks=5)
        x = alt.X("tokens:Q", scale=alt.Scale(domain=[0, end], nice=False), axis=across)
        lines = (
            alt.Chart(draw.data(points))
            .mark_line(strokeWidth=1.8, invalid="break-paths-show-path-domains")
            .encode(
                x=x,
                y=alt.Y(f"{key}:Q", scale=scale, axis=draw.axis(title, shape, ticks=ticks, count=4)),
                color=draw.by_colour(looks, labels, under),
                strokeDash=draw.by_dash(looks, labels, under),
            )
        )
        layers: list[Any] = [lines]
        if trained is not None and trained < end:
            rule = alt.Chart(draw.data([{"tokens": trained}])).mark_rule(
                color=MUTED, strokeDash=[2, 3], strokeWidth=1.5
            )
            layers.insert(0, rule.encode(x=x))
        panels.append(alt.layer(*layers).properties(width=plot, height=height))
    return alt.vconcat(*panels, spacing=14).resolve_scale(color="shared", strokeDash="shared")


def _places(depths: list[float]) -> dict[float, float]:
    """Where each depth is drawn: those too close to be told apart share a place in their middle."""
    groups: list[list[float]] = []
    for depth in sorted(set(depths)):
        if groups and depth - groups[-1][0] < _CLOSE:
            groups[-1].append(depth)
        else:
            groups.append([depth])
    return {depth: sum(group) / len(group) for group in groups for depth in group}


def _told(right: list[bool]) -> str:
    return "found" if all(right) else "found in some texts" if any(right) else "missed"


def _thinned(row: Row) -> Points:
    """The points of a stream, neighbours averaged where there are more than a line can show."""
    points: Points = list(row.get("points") or ())
    step = -(-len(points) // _POINTS) or 1
    groups = [points[at : at + step] for at in range(0, len(points), step)]
    return [
        {
            "tokens": group[-1]["tokens"],
            "perplexity": _mean(group, "perplexity", geometric=True),
            "kv_bytes": figure(group[-1], "kv_bytes"),
            "ms_per_token": _mean(group, "ms_per_token", geometric=False),
        }
        for group in groups
    ]


def _mean(group: Points, key: str, *, geometric: bool) -> float | None:
    found = [value for point in group if (value := figure(point, key)) is not None]
    if not found:
        return None
    return exp(sum(map(log, found)) / len(found)) if geometric else sum(found) / len(found)
