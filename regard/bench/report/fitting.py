"""A rich table that chooses its columns when it learns how wide the console is."""

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from regard.bench.report import format as fmt
from regard.bench.report.columns import Column, told, winners
from regard.bench.report.reading import Result, heading, method, rows, settings

WORSE = "†"
_METHOD = 20  # cells at most; longer names are folded


class FittingTable(Table):
    """The comparison; its columns are chosen for the width of each console that prints it."""

    def __init__(self, result: Result, *, fitted: int | None = None) -> None:
        super().__init__()
        self.result, self.fitted = result, fitted
        self.names = [
            f"{method(row)} {WORSE}" if row.get("worse_than_baseline") is True else method(row) for row in rows(result)
        ]
        self.cells = {column: [column.cell(row) for row in rows(result)] for column in told(rows(result))}
        self._fill(self, list(self.cells), ascii_only=False)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns, gap = self._chosen(min(self.fitted or options.max_width, options.max_width))
        plain = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, gap - 1), leading=1)
        self._fill(plain, columns, ascii_only=options.ascii_only)
        say = fmt.ascii_only if options.ascii_only else str
        yield Text(say(f"{heading(self.result)}\n"), style="bold")
        yield plain
        yield Text(say(f"\n{self._remarks(columns)}"), style="dim")

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, min(self.fitted or options.max_width, options.max_width))

    def _fill(self, table: Table, columns: list[Column], *, ascii_only: bool) -> None:
        def say(text: str, style: str = "") -> Text:
            return Text.assemble((fmt.ascii_only(text) if ascii_only else text, style))

        def two(first: str, second: str, style: str = "") -> Text:
            return say(first, style).append_text(say(f"\n{second}" if second else "", "dim not bold"))

        table.add_column(say("\nmethod", "bold"), overflow="fold", max_width=_METHOD)
        for column in columns:
            table.add_column(two(column.head, column.unit, "bold"), justify="right", no_wrap=True)
        won = {column: winners(column, self.result) for column in columns}
        for at, (name, row) in enumerate(zip(self.names, rows(self.result), strict=True)):
            figures = [two(*self.cells[column][at], "bold" if at in won[column] else "") for column in columns]
            table.add_row(two(name, settings(row)), *figures)

    def _chosen(self, width: int) -> tuple[list[Column], int]:
        """The columns that fit, and the gap between them: first the gap shrinks, then columns go."""
        kept = list(self.cells)
        first = min(max(map(len, [*self.names, "method"])), _METHOD)

        def fits(gap: int) -> bool:
            return first + sum(self._width(column) + gap for column in kept) <= width

        for gap in (3, 2):
            if fits(gap):
                return kept, gap
        while len(kept) > 1 and not fits(1):
            kept.remove(min(kept, key=lambda column: column.keep))
        return kept, 1

    def _width(self, column: Column) -> int:
        return max(len(line) for cell in [(column.head, column.unit), *self.cells[column]] for line in cell)

    def _remarks(self, columns: list[Column]) -> str:
        said = ["Second lines: the interval, × dense, + selection. Bold: the best among methods that do not break."]
        if any(name.endswith(WORSE) for name in self.names):
            said.append(f"{WORSE} worse quality than a sliding window with sinks at equal density.")
        if dropped := [
            f"{column.head} {'from' * (column.unit == 'from')}".strip()
            for column in self.cells
            if column not in columns
        ]:
            said.append(f"Not shown at this width: {fmt.listed(dropped)}.")
        return " ".join(said)
