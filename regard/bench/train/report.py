"""The training benchmark as one page that needs no network, no script and no other file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module, resources
from pathlib import Path
from typing import Any

from regard.bench.report.files import write_bytes
from regard.bench.report.format import clean, tokens
from regard.bench.report.inline import inline
from regard.bench.report.reading import COLOURS, GRID, INK, LIGHTER, MUTED
from regard.bench.train.charts import figures, looks
from regard.bench.train.columns import columns, elsewhere
from regard.bench.train.verdict import sentences
from regard.errors import MissingExtra

Result = Mapping[str, Any]


def write_report(result: Result, folder: str | os.PathLike[str]) -> Path:
    """Write `report.html` into a folder and return its path; the file is whole or not there.

    Raises: MissingExtra where jinja2, altair or vl-convert is not installed; OSError where it can't be written.
    """
    return write_bytes(Path(folder) / "report.html", page(result).encode("utf-8"))


def ready() -> None:
    """Find out before anything is trained whether the page can be made.

    Raises: MissingExtra where jinja2, altair or vl-convert is not installed.
    """
    for package, extra in (("jinja2", "viewer"), ("altair", "plot"), ("vl_convert", "plot")):
        try:
            import_module(package)
        except ModuleNotFoundError as error:
            raise MissingExtra("The report page", extra) from error


def page(result: Result) -> str:
    """The whole page as text; everything that came from a person is escaped.

    Raises: MissingExtra where jinja2, altair or vl-convert is not installed.
    """
    ready()
    import jinja2
    from markupsafe import Markup

    source = (resources.files("regard.bench") / "templates" / "train.html").read_text(encoding="utf-8")
    template = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(source)
    drawn = [
        (figure, [Markup(inline(svg, key=f"{figure.name}-{size}", label=f"{figure.title}. {figure.caption}"))
                  for svg, size in zip(figure.svgs, ("wide", "narrow"), strict=True)])
        for figure in figures(result)
    ]  # fmt: skip
    told, style = [*columns(result), *elsewhere(result)], looks(result)
    table = [
        {
            "name": clean(row["mechanism"]),
            "colour": f"--method-{COLOURS.index(style[clean(row['mechanism'])].colour)}",
            "cells": [column.cell(row) for column in told],
        }
        for row in result["rows"]
    ]
    return template.render(
        heading=heading(result), sentences=sentences(result), columns=told, table=table, figures=drawn,
        facts=_facts(result), command=clean(result.get("command") or "regard train"),
        ink=INK, muted=MUTED, grid=GRID, colours=list(zip(COLOURS, LIGHTER, strict=True)),
    )  # fmt: skip


def heading(result: Result) -> str:
    """What was trained on what, in one line."""
    task, settings = result["task"], result["settings"]
    return f"{clean(task['label'])}, {tokens(settings['length'])} tokens, {tokens(settings['steps'])} steps"


def _facts(result: Result) -> list[tuple[str, str]]:
    """What the figures hang on, as terms and what is said of them."""
    task, machine = result["task"], result["machine"]
    return [
        ("Task", clean(f"{task['label']}: {task['what']} {task['source']}.")),
        ("Position", clean(result["position"])),
        ("Settings", _pairs(result["settings"], " = ")),
        ("Machine", ", ".join(clean(value) for value in machine.values())),
        ("Versions", _pairs(result["versions"], " ")),
        ("Started", clean(result["started"])),
    ]


def _pairs(values: Mapping[str, Any], between: str) -> str:
    return ", ".join(f"{clean(key)}{between}{clean(value)}" for key, value in values.items())
