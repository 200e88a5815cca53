"""Charts made of small maps: density by layer and head, and what each method looks at."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np

from regard.bench.report import drawing as draw
from regard.bench.report.drawing import Drawing
from regard.bench.report.format import percent
from regard.bench.report.pixels import png
from regard.bench.report.reading import Result, figure, is_dense, names, number, rows

# One hue from faint to full, over whatever ground the page has: it reads the same on white and on dark.
_HUE = (0x1F, 0x6F, 0xD6)
_FAINT = 0.15
_SHARP = 384  # least pixels of a map's side, so that its cells stay sharp when a viewer smooths pictures
_LOWEST = 54  # least height of a map


@dataclass(frozen=True)
class _Map:
    """One map: shades [Y, X] from 0 (nothing) to 1, and the values at its left and right, upper and lower ends."""

    name: str
    remark: str | None
    shades: np.ndarray
    across: tuple[float, float]
    down: tuple[float, float]
    ticks: tuple[list[float], list[float]]


def density_heads(result: Result, width: float) -> Drawing | None:
    """Density of every layer and head, one map a method; dense is one everywhere and left out."""
    grids: list[tuple[str, str, np.ndarray]] = []
    for name, row in zip(names(result), rows(result), strict=True):
        grid = _grid(row.get("density_by_head"))
        if grid is not None and not is_dense(row):
            grids.append((name, percent(figure(row, "density")), grid.T))
    if not grids:
        return None
    top = max(float(np.nanmax(grid)) for _, _, grid in grids) or 1.0
    maps: list[_Map] = []
    for name, share, grid in grids:
        heads, layers = grid.shape
        ticks = [0.0, float((layers - 1) // 2), layers - 1.0], [0.0, heads - 1.0]
        maps.append(_Map(name, share, _shaded(grid / top), (-0.5, layers - 0.5), (-0.5, heads - 0.5), ticks))
    bar = alt.Legend(title="density", format=".0%")
    return _together(maps, width, titles=("layer", "head"), top=top, bar=bar)


def looks(result: Result, width: float) -> Drawing | None:
    """The attention of one head, down-sampled, one map a method."""
    grids: list[tuple[str, np.ndarray, float]] = []
    for name, row in zip(names(result), rows(result), strict=True):
        picture = row.get("picture") or {}
        grid = _grid(picture.get("weights"))
        if grid is not None and np.nanmax(grid) > 0:
            grids.append((name, grid, number(picture.get("tokens")) or float(len(grid))))
    if not grids:
        return None
    top = max(float(np.nanmax(grid)) for _, grid, _ in grids)
    maps: list[_Map] = []
    for name, grid, count in grids:
        ends, ticks = (0.0, count), [0.0, count / 2, count]
        # Whatever is looked at is seen, however little; what is not, is not.
        maps.append(_Map(name, None, np.where(grid > 0, _shaded(grid / top), 0.0), ends, ends, (ticks, ticks)))
    bar = alt.Legend(title="attention", values=[0, top], labelExpr="datum.value > 0 ? 'most' : 'least'")
    return _together(maps, width, titles=("key", "query"), top=top, bar=bar)


def _grid(values: Sequence[Sequence[float | None]] | None) -> np.ndarray | None:
    """A full rectangle of figures, NaN where one is missing; None where there is no such rectangle."""
    if not values or not values[0] or len({len(line) for line in values}) != 1:
        return None
    grid = np.array([[np.nan if number(one) is None else one for one in line] for line in values], dtype=np.float64)
    return None if np.isnan(grid).all() else grid


def _shaded(share: np.ndarray) -> np.ndarray:
    return np.nan_to_num(_FAINT + (1 - _FAINT) * share)


def _together(maps: Sequence[_Map], width: float, *, titles: tuple[str, str], top: float, bar: alt.Legend) -> Drawing:
    """The maps side by side, with axis titles at the outer ones and one legend for all."""
    columns = 4 if width >= 700 else 2
    side = (width - 40) / columns - 48
    panels: list[Any] = []
    for at, one in enumerate(maps):
        axes = [
            alt.Axis(values=sorted(set(ticks)), title=title if outer else None, format=",d", grid=False)
            for ticks, title, outer in zip(
                one.ticks, titles, (at + columns >= len(maps), at % columns == 0), strict=True
            )
        ]
        high, wide = one.shades.shape
        panels.append(_panel(one, side, min(max(side * high / wide, _LOWEST), side), axes, top, bar))
    return alt.concat(*panels, columns=columns, spacing=20).resolve_scale(color="shared")


def _panel(one: _Map, width: float, height: float, axes: list[alt.Axis], top: float, bar: alt.Legend) -> Drawing:
    """One map with its axes: a picture, and over it a point that is never seen but carries axes and legend."""
    pixels = np.zeros((*one.shades.shape, 4), dtype=np.uint8)
    pixels[..., :3] = _HUE
    pixels[..., 3] = np.round(one.shades * 255)
    high, wide = (max(1, -(-_SHARP // cells)) for cells in one.shades.shape)
    url = f"data:image/png;base64,{base64.b64encode(png(pixels.repeat(high, axis=0).repeat(wide, axis=1))).decode()}"
    picture = alt.Chart(draw.data([{}])).mark_image(
        url=url, x=0, y=0, width=width, height=height, align="left", baseline="top", aspect=False
    )
    shades = alt.Scale(domain=[0, top], range=[f"rgba({_HUE[0]},{_HUE[1]},{_HUE[2]},{alpha})" for alpha in (_FAINT, 1)])
    across = alt.Scale(domain=list(one.across), nice=False, zero=False)
    down = alt.Scale(domain=list(one.down), nice=False, zero=False, reverse=True)
    unseen = (
        alt.Chart(draw.data([{"x": one.across[0], "y": one.down[0], "shade": 0}]))
        .mark_point(opacity=0)
        .encode(
            x=alt.X("x:Q", scale=across, axis=axes[0]),
            y=alt.Y("y:Q", scale=down, axis=axes[1]),
            color=alt.Color("shade:Q", scale=shades, legend=bar),
        )
    )
    title = alt.TitleParams(one.name, limit=int(width) + 20, offset=6)
    if one.remark is not None:
        title.subtitle = one.remark
    return alt.layer(picture, unseen).properties(width=width, height=height, title=title)
