"""The charts of a comparison: which there are, what they are called and how they are read."""

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from regard.bench.report.files import write_bytes
from regard.bench.report.reading import Result
from regard.errors import MissingExtra

if TYPE_CHECKING:
    import altair as alt

    from regard.bench.report.drawing import Drawing

WIDE, HALF, NARROW = 1000, 500, 350
_PNG_SCALE = 2


@dataclass(frozen=True)
class Figure:
    """One chart: its name, its title, the sentence that says how to read it, and what draws it."""

    name: str
    title: str
    caption: str
    half: bool
    draw: "Callable[[Result, float], Drawing | None]"


def figures() -> tuple[Figure, ...]:
    """All charts that a comparison can have, in the order of the page.

    Raises:
        MissingExtra: altair or vl-convert is not installed.
    """
    try:
        import altair  # noqa: F401
        import vl_convert  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtra("The charts of a comparison", "plot") from error
    from regard.bench.report import costs, maps, texts

    return (
        Figure(
            "quality_density", "Quality against density",
            "Lower is better and further left is sparser; the dashed line joins the methods on the scale that no other "
            "beats in both, bars are bootstrap intervals, and the grey band is dense's own.",
            True, costs.quality_density,
        ),
        Figure(
            "quality_prefill", "Quality against time",
            "Lower is better and further left is faster; a sparse method that stands right of dense saves no time on "
            "this machine.",
            True, costs.quality_prefill,
        ),
        Figure(
            "loss", "Loss by position",
            "Where a line leaves the others, a method starts to miss what it no longer sees; the lower panel is the "
            "difference to dense, and lines that run out of its top break.",
            True, texts.loss,
        ),
        Figure(
            "break_even", "Time against length",
            "Attention timed alone: where a method's line is below dense's it is faster; dense's line is the median of "
            "its times beside the methods.",
            True, costs.break_even,
        ),
        Figure(
            "needles", "Needles by depth",
            "Each sign stands for the facts hidden at about that depth of a text and asked for at its end: a disc was "
            "told, a cross was not, a diamond was told in some texts.",
            False, texts.needles,
        ),
        Figure(
            "density_heads", "Density by layer and head",
            "The fuller its colour, the more of its allowed pairs a head looks at; dense would be full everywhere "
            "and is left out.",
            False, maps.density_heads,
        ),
        Figure(
            "looks", "What it looks at",
            "One head of one layer, down-sampled: each line is a query and spreads its attention over the keys before "
            "it; the fuller the colour, the more, and an empty place was not looked at.",
            False, maps.looks,
        ),
        Figure(
            "stream", "An endless stream",
            "A method that survives stays level in all three; the dotted line is the length that the model was trained "
            "for.",
            False, texts.stream,
        ),
    )  # fmt: skip


def charts(result: Result) -> "dict[str, alt.TopLevelMixin]":
    """The charts of this result by name, on white; a chart whose figures were not measured is absent.

    Raises:
        MissingExtra: altair or vl-convert is not installed.
    """
    return {figure.name: chart for figure, chart in _drawn(result, narrow=False, titled=True)}


def save_png(result: Result, folder: str | os.PathLike[str]) -> list[Path]:
    """Write each chart as NAME.png, two pixels a point, into the folder and return the files.

    Raises:
        MissingExtra: altair or vl-convert is not installed.
        OSError: the folder can't be written to; no file is left half-written.
    """
    written: list[Path] = []
    for name, chart in charts(result).items():
        image = io.BytesIO()
        chart.save(image, format="png", scale_factor=_PNG_SCALE)
        written.append(write_bytes(Path(folder) / f"{name}.png", image.getvalue()))
    return written


def svgs(result: Result, *, narrow: bool) -> list[tuple[Figure, str]]:
    """Each chart as SVG text on no ground and without a title, for a wide or for a narrow screen.

    Raises:
        MissingExtra: altair or vl-convert is not installed.
    """
    drawn: list[tuple[Figure, str]] = []
    for figure, chart in _drawn(result, narrow=narrow, titled=False):
        text = io.StringIO()
        chart.save(text, format="svg")
        drawn.append((figure, text.getvalue()))
    return drawn


def _drawn(result: Result, *, narrow: bool, titled: bool) -> "list[tuple[Figure, alt.TopLevelMixin]]":
    listed = figures()
    from regard.bench.report.drawing import finish

    found: list[tuple[Figure, alt.TopLevelMixin]] = []
    for figure in listed:
        chart = figure.draw(result, NARROW if narrow else HALF if figure.half else WIDE)
        if chart is not None:
            title, ground = (figure.title, "#ffffff") if titled else (None, None)
            found.append((figure, finish(chart, title=title, background=ground)))
    return found
