"""The comparison as one page that needs no network, no script and no other file, with its pictures beside it."""

import json
import math
import os
from importlib import resources
from pathlib import Path
from typing import Any

from regard.bench.report.charts import save_png, svgs
from regard.bench.report.columns import told, winners
from regard.bench.report.files import write_bytes
from regard.bench.report.inline import inline
from regard.bench.report.judge import RULES
from regard.bench.report.provenance import facts, repeat
from regard.bench.report.reading import (
    COLOURS,
    GRID,
    INK,
    LIGHTER,
    MUTED,
    Result,
    heading,
    is_dense,
    method,
    names,
    rows,
    settings,
    styles,
)
from regard.bench.report.verdict import sentences
from regard.errors import MissingExtra


def write_report(result: Result, folder: str | os.PathLike[str]) -> Path:
    """Write `report.html`, the charts as PNG and `compare.json` into a folder and return the page.

    The page holds everything it shows. Each file is whole or not there; the page comes last.

    Raises:
        MissingExtra: jinja2, altair or vl-convert is not installed.
        OSError: the folder can't be written to.
    """
    text = page(result)
    into = Path(folder)
    save_png(result, into)
    write_json(result, into / "compare.json")
    return write_bytes(into / "report.html", text.encode("utf-8"))


def write_json(result: Result, path: str | os.PathLike[str]) -> Path:
    """Write the result as strict JSON: a figure that is not finite becomes null.

    Raises:
        OSError: the file can't be written.
    """
    text = json.dumps(_finite(result), indent=1, ensure_ascii=False, allow_nan=False)
    return write_bytes(Path(path), f"{text}\n".encode())


def page(result: Result) -> str:
    """The whole page as text; everything that came from a person is escaped.

    Raises:
        MissingExtra: jinja2, altair or vl-convert is not installed.
    """
    try:
        import jinja2
        from markupsafe import Markup
    except ModuleNotFoundError as error:
        raise MissingExtra("The report page", "viewer") from error
    source = (resources.files("regard.bench") / "templates" / "report.html").read_text(encoding="utf-8")
    template = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(source)
    # Every chart is drawn twice, since one that is scaled down to a telephone can't be read; the page shows one.
    drawn = zip(svgs(result, narrow=False), svgs(result, narrow=True), strict=True)
    figures = [
        (figure, [Markup(inline(svg, key=f"{figure.name}-{size}", label=f"{figure.title}. {figure.caption}"))
                  for size, svg in (("wide", wide), ("narrow", narrow))])
        for (figure, wide), (_, narrow) in drawn
    ]  # fmt: skip
    return template.render(
        heading=heading(result), sentences=sentences(result), rules=RULES, columns=told(rows(result)),
        table=_table(result), figures=figures, facts=facts(result), repeat=repeat(result),
        ink=INK, muted=MUTED, grid=GRID, colours=list(zip(COLOURS, LIGHTER, strict=True)),
    )  # fmt: skip


def _table(result: Result) -> list[dict[str, Any]]:
    looks, columns = styles(result), told(rows(result))
    won = {column: winners(column, result) for column in columns}
    return [
        {
            "name": method(row),
            "settings": settings(row),
            # The page's name for the colour, which is another one on its dark ground.
            "colour": "--ink" if is_dense(row) else f"--method-{COLOURS.index(looks[name].colour)}",
            "worse": row.get("worse_than_baseline") is True,
            "cells": [(*column.cell(row), at in won[column]) for column in columns],
        }
        for at, (name, row) in enumerate(zip(names(result), rows(result), strict=True))
    ]


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, (list, tuple)) else value
