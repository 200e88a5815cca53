"""What all charts share: one look for each method, quiet axes, ticks that read well, legends that fit."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import altair as alt

from regard.bench.report.reading import GRID, INK, MUTED, Style

Drawing: TypeAlias = alt.Chart | alt.LayerChart | alt.FacetChart | alt.ConcatChart | alt.VConcatChart
Points: TypeAlias = list[dict[str, Any]]

# The fonts that vl-convert measures with share their widths with these.
FONT = "Helvetica, Arial, 'Liberation Sans', sans-serif"
TEXT = 12
_LETTER = 6.6  # mean width of a letter at that size
_AXIS = 64  # what an axis with its labels and title takes
NAME = "name"


def data(points: Points) -> alt.Data:
    """The points as they are, without the limit on rows that a data frame would have."""
    return alt.Data(values=points)


def finish(chart: Drawing, *, background: str | None = None, title: str | None = None) -> Drawing:
    """The chart in the common look."""
    if title is not None:
        over = alt.TitleParams(title, anchor="start", fontSize=15, fontWeight=600, offset=12, subtitlePadding=6)
        own = chart.title  # a remark of the chart itself, kept under its title
        if isinstance(own, alt.TitleParams):
            over.subtitle = own.text
        chart = chart.properties(title=over)
    axis: dict[str, Any] = {
        "labelColor": MUTED, "titleColor": INK, "domainColor": MUTED, "tickColor": MUTED, "gridColor": GRID,
        "labelFontSize": TEXT, "titleFontSize": TEXT, "titleFontWeight": 500, "labelFont": FONT, "titleFont": FONT,
        "labelOverlap": "greedy", "labelSeparation": 6,
    }  # fmt: skip
    legend: dict[str, Any] = {
        "labelColor": INK, "titleColor": INK, "labelFontSize": TEXT, "titleFontSize": TEXT, "titleFontWeight": 500,
        "labelFont": FONT, "titleFont": FONT, "symbolStrokeWidth": 2, "symbolSize": 90,
        "orient": "bottom", "gradientLength": 180, "gradientDirection": "horizontal",
    }  # fmt: skip
    return chart.configure(
        background=background or "transparent", font=FONT, aria=False, padding=6,
        axis=axis, legend=legend, view={"stroke": None},
        title={
            "font": FONT, "color": INK, "fontSize": TEXT, "fontWeight": 500,
            "subtitleFont": FONT, "subtitleColor": MUTED, "subtitleFontSize": TEXT,
        },
    )  # fmt: skip


def legend(labels: Sequence[str], width: float, *, lines: bool = False) -> alt.Legend:
    """A legend under the chart, in as many columns as fit; of lines long enough to show their dashes, or of signs."""
    widest = max((len(label) for label in labels), default=1) * _LETTER + (52 if lines else 34)
    columns, limit = max(1, int(width // widest)), width - 90
    if lines:
        return alt.Legend(
            orient="bottom",
            title=None,
            columns=columns,
            columnPadding=14,
            labelLimit=limit,
            rowPadding=-7,
            symbolType="stroke",
            symbolSize=600,
        )
    return alt.Legend(
        orient="bottom",
        title=None,
        columns=columns,
        columnPadding=14,
        labelLimit=limit,
        symbolOpacity=1,
        symbolStrokeWidth=0,
    )


def axis(title: str | None, shape: str, *, ticks: Sequence[float] | None = None, count: int = 6) -> alt.Axis:
    """An axis whose labels have this d3 format, at these ticks or at about so many round ones; no title, no labels."""
    told = title is not None
    if ticks is None:
        return alt.Axis(title=title, format=shape, tickCount=count, labels=told)
    return alt.Axis(title=title, format=shape, values=list(ticks), labels=told)


def by_colour(styles: Mapping[str, Style], labels: Sequence[str], shown: alt.Legend | None) -> alt.Color:
    """Colour by method."""
    scale = alt.Scale(domain=list(labels), range=[styles[label].colour for label in labels])
    return alt.Color(f"{NAME}:N", scale=scale, legend=shown)


def by_shape(styles: Mapping[str, Style], labels: Sequence[str], shown: alt.Legend | None) -> alt.Shape:
    """Shape by method."""
    scale = alt.Scale(domain=list(labels), range=[styles[label].shape for label in labels])
    return alt.Shape(f"{NAME}:N", scale=scale, legend=shown)


def by_dash(styles: Mapping[str, Style], labels: Sequence[str], shown: alt.Legend | None) -> alt.StrokeDash:
    """Dash by method."""
    scale = alt.Scale(domain=list(labels), range=[list(styles[label].dash) for label in labels])
    return alt.StrokeDash(f"{NAME}:N", scale=scale, legend=shown)


def axis_scale(values: Iterable[float], *, wide: float = 4.0, ticks: int = 6) -> tuple[alt.Scale, list[float] | None]:
    """A scale that shows all values, logarithmic where the largest is `wide` times the least; with ticks of its own."""
    found = sorted(values)
    low, high = found[0], found[-1]
    if low > 0 and high / low >= wide:
        margin = (high / low) ** 0.06
        ends = [low / margin, high * margin]
        return alt.Scale(type="log", domain=ends, nice=False), log_ticks(ends[0], ends[1], most=ticks)
    margin = (high - low) * 0.08 or abs(high) * 0.05 or 1.0
    floor = max(low - margin, 0.0) if low >= 0 else low - margin
    return alt.Scale(domain=[floor, high + margin], nice=False, zero=False), None


def log_ticks(low: float, high: float, *, most: int = 6) -> list[float]:
    """Round numbers between two positive ends, as fine as `most` allows."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for steps in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        found = [step * 10.0**power for power in range(first, last + 1) for step in steps]
        # Each is rounded, since 3 * 10**-1 is not 0.3.
        found = [float(f"{tick:.6g}") for tick in found if low <= tick <= high]
        if len(found) <= most:
            return found
    return found[:: math.ceil(len(found) / most)]


def fitting(ticks: Sequence[float], width: float) -> list[float]:
    """As many of the ticks, counted from the last, as have room for their labels."""
    widest = max((len(f"{tick:,.0f}") for tick in ticks), default=1) * _LETTER + 14
    return list(ticks)[:: -max(1, math.ceil(len(ticks) * widest / max(width, 1)))][::-1]


def inner(width: float) -> float:
    """The width of the plot itself in a chart that is so wide."""
    return width - _AXIS - 24
