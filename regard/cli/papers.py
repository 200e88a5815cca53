"""`regard papers`: the ledger as a table with counts."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from typing import get_args

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from regard.papers import Kind, Paper, Status
from regard.papers import papers as ledger

STATUSES: tuple[str, ...] = get_args(Status)


@click.command()
@click.option("--status", type=click.Choice(STATUSES), help="Only papers of this status.")
@click.option("--kind", type=click.Choice(get_args(Kind)), help="Only papers of this kind.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON in place of tables.")
def papers(status: str | None, kind: str | None, as_json: bool) -> None:
    """Print the papers of the catalogue and count them by kind and status."""
    chosen = [p for p in ledger() if status in (None, p.status) and kind in (None, p.kind)]
    if as_json:
        rows = [{**asdict(paper), "status": paper.status} for paper in chosen]
        click.echo(json.dumps({"papers": rows, "counts": counts(chosen)}, indent=2, ensure_ascii=False))
        return
    console = Console()
    console.print(_table(chosen))
    console.print(_count_table(counts(chosen)))


def counts(chosen: Iterable[Paper]) -> dict[str, dict[str, int]]:
    """How many papers have each status, by kind, most frequent kind first, and in `total`."""
    pairs = Counter((paper.kind, paper.status) for paper in chosen)
    kinds = Counter[str]()
    for (kind, _), number in pairs.items():
        kinds[kind] += number
    table = {kind: {s: pairs[kind, s] for s in STATUSES} | {"total": total} for kind, total in kinds.most_common()}
    columns = (*STATUSES, "total")
    table["total"] = {column: sum(row[column] for row in table.values()) for column in columns}
    return table


def _table(chosen: list[Paper]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("id", no_wrap=True)
    table.add_column("kind", no_wrap=True)
    table.add_column("where", overflow="fold")
    table.add_column("title", ratio=1)
    styles = {"done": "green", "planned": "yellow", "context": "dim"}
    for paper in chosen:
        title = Text(paper.title)
        if paper.reason:
            title.append("\n" + paper.reason, style="dim")
        table.add_row(Text(paper.id), paper.kind, Text(paper.where, style=styles[paper.status]), title)
    return table


def _count_table(rows: dict[str, dict[str, int]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("kind")
    for column in rows["total"]:
        table.add_column(column, justify="right")
    for kind, row in rows.items():
        table.add_row(
            kind, *map(str, row.values()), end_section=kind != "total", style="bold" if kind == "total" else ""
        )
    return table
