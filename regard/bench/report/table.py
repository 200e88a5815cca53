"""The comparison as a table in a terminal, fitted to its width."""

from typing import TYPE_CHECKING

from regard.errors import MissingExtra

if TYPE_CHECKING:
    from rich.table import Table

    from regard.bench.report.reading import Result


def table(result: "Result", *, width: int | None = None) -> "Table":
    """One row per method: its quality, and its costs each against dense.

    The table fits itself to the console that prints it: a narrow one drops the columns of least weight and says which.
    With `width` it is fitted to that many columns instead.

    Raises:
        MissingExtra: rich is not installed.
    """
    try:
        import rich  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtra("The table in the terminal", "cli") from error
    from regard.bench.report.fitting import FittingTable

    return FittingTable(result, fitted=width)
