"""The table in the terminal: what is in it at which width, and how it is printed where."""

import io
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from regard.bench.report import table
from regard.errors import MissingExtra

Find = Callable[[str], dict[str, Any]]


def _printed(result: dict[str, Any], width: int, **settings: Any) -> str:
    console = Console(width=width, file=io.StringIO(), **settings)
    console.print(table(result))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _heads(text: str) -> list[str]:
    lines = text.splitlines()
    rule = next(at for at, line in enumerate(lines) if line.startswith("───"))
    return lines[rule - 2].split()


def test_it_is_a_rich_table_with_a_row_for_each_method(result: dict[str, Any]) -> None:
    built = table(result)
    assert isinstance(built, Table)
    assert built.row_count == 8


def test_all_columns_stand_in_a_hundred_cells(result: dict[str, Any]) -> None:
    wanted = ["perplexity", "KL", "top-1", "needle", "density", "prefill", "decode", "cache", "peak", "FLOPs", "faster"]
    text = _printed(result, 100)
    assert _heads(text) == wanted
    assert "Not shown" not in text


@pytest.mark.parametrize("width", [40, 60, 80, 100, 140, 240])
def test_no_line_is_wider_than_the_console_and_every_method_is_there(result: dict[str, Any], width: int) -> None:
    text = _printed(result, width)
    assert max(cell_len(line) for line in text.splitlines()) <= width
    assert all(row["method"] in text for row in result["rows"])
    assert all(figure in text for figure in ("17.31", "312.4", "22.40", "6.42", "0.58×"))


def test_what_a_narrow_console_drops_is_told(result: dict[str, Any]) -> None:
    text = _printed(result, 80)
    assert _heads(text) == ["perplexity", "KL", "top-1", "needle", "density", "prefill", "decode", "cache"]
    assert "Not shown at this width: peak, FLOPs and faster from." in " ".join(text.split())


def test_a_width_asked_for_is_kept(result: dict[str, Any]) -> None:
    console = Console(width=200, file=io.StringIO())
    console.print(table(result, width=60))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert max(cell_len(line.rstrip()) for line in lines[2:-2]) <= 60


def test_a_pipe_gets_no_colours_and_a_terminal_gets_bold(result: dict[str, Any]) -> None:
    assert "\x1b" not in _printed(result, 100)
    assert "\x1b[1m" in _printed(result, 100, force_terminal=True, color_system="truecolor")


def test_the_best_of_each_column_is_bold_and_what_breaks_wins_nothing(result: dict[str, Any], row: Find) -> None:
    text = _printed(result, 100, force_terminal=True, color_system="truecolor")
    assert "\x1b[1m3.92\x1b[0m" in text  # streaming_llm's prefill, not sliding_window's 3.72
    assert "\x1b[1m3.72\x1b[0m" not in text
    assert "\x1b[1m17.33\x1b[0m" in text  # the oracle's perplexity, not dense's
    assert "\x1b[1m17.31\x1b[0m" not in text
    row("sliding_window")["perplexity"] = 18.0
    assert "\x1b[1m3.72\x1b[0m" in _printed(result, 100, force_terminal=True, color_system="truecolor")


def test_rows_worse_than_the_baseline_are_marked_and_the_mark_is_explained(result: dict[str, Any]) -> None:
    text = _printed(result, 100)
    marked = [line.split()[0] for line in text.splitlines() if " † " in line[:25]]
    assert marked == ["sliding_window", "random_blocks"]
    assert "† worse quality than a sliding window with sinks at equal density." in " ".join(text.split())
    for row in result["rows"]:
        row["worse_than_baseline"] = False
    assert "†" not in _printed(result, 100)


def test_dense_has_no_multiples_of_itself_and_no_break_even(result: dict[str, Any]) -> None:
    lines = _printed(result, 120).splitlines()
    at = next(at for at, line in enumerate(lines) if line.startswith("dense"))
    assert "×" not in lines[at] + lines[at + 1]
    assert "never" not in lines[at]


def test_never_measured_faster_is_not_the_same_as_not_measured(result: dict[str, Any], row: Find) -> None:
    row("moba")["break_even_times"] = []
    last = {
        line.split()[0]: line.split()[-1]
        for line in _printed(result, 120).splitlines()
        if line.startswith(("moba", "spargeattn", "sliding_window"))
    }
    assert last == {"moba": "–", "spargeattn": "never", "sliding_window": "2,048"}


def test_columns_of_which_nothing_was_measured_are_left_out(result: dict[str, Any]) -> None:
    for row in result["rows"]:
        row["peak_bytes"] = row["kl"] = None
        row["relative"]["peak_bytes"] = None
    assert not {"peak", "KL"} & set(_heads(_printed(result, 140)))


def test_a_terminal_of_ascii_alone_can_print_it(result: dict[str, Any]) -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    Console(width=100, file=file).print(table(result))
    file.flush()
    text = raw.getvalue().decode("ascii")
    assert "0.58x" in text
    assert "sliding_window *" in text
    assert "?" not in text


def test_markup_and_control_signs_in_names_are_shown_and_not_obeyed(result: dict[str, Any], row: Find) -> None:
    result["text"]["name"] = "[red]a[/red]\x1b[31m.txt"
    row("moba")["settings"] = {"[bold]k": "\x1b]0;x\x07"}
    text = _printed(result, 200, force_terminal=True, color_system="truecolor")
    assert "[red]a[/red]�[31m.txt" in text
    assert "[bold]k=�]0;x�" in text
    assert "\x1b[31m" not in text
    assert "\x1b]0" not in text


def test_an_empty_result_is_printed_too() -> None:
    assert "method" in _printed({}, 80)


def test_without_rich_the_extra_is_named(result: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    with pytest.raises(MissingExtra, match=r"pip install 'regard\[cli\]'"):
        table(result)


def test_importing_the_report_needs_no_optional_package() -> None:
    blocked = "altair", "vl_convert", "jinja2", "rich", "click", "transformers"
    lines = ["import sys", *(f"sys.modules[{name!r}] = None" for name in blocked)]
    lines += ["from regard.bench.report import verdict", "print(verdict({}))"]
    run = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert run.stdout.startswith("There is no measured dense row"), run.stderr
