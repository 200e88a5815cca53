"""The training benchmark as a table in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from regard.bench.report.format import clean
from regard.bench.train.columns import Column, columns, elsewhere
from regard.errors import MissingExtra

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table


def table(result: Mapping[str, Any]) -> Group:
    """One row for each mechanism: what it learns at what cost, and below how it does elsewhere.

    Raises: MissingExtra where rich is not installed.
    """
    try:
        from rich.console import Group
    except ModuleNotFoundError as error:
        raise MissingExtra("The table in the terminal", "cli") from error
    settings = result["settings"]
    title = f"{clean(result['task']['label'])}, trained at {settings['length']} tokens for {settings['steps']} steps"
    return Group(
        _drawn(result, title, columns(result)),
        _drawn(result, "The trained models: their size, and how they do elsewhere", elsewhere(result)),
    )


def _drawn(result: Mapping[str, Any], title: str, told: Sequence[Column]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    drawn.add_column("mechanism", overflow="fold", min_width=10)
    for column in told:
        drawn.add_column(column.head, justify="right", no_wrap=True)
    for row in result["rows"]:
        drawn.add_row(Text(clean(row["mechanism"])), *(column.cell(row) for column in told))
    return drawn
