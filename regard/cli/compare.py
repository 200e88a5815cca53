"""`regard compare`: which attention should my model use, on my text, on my machine?"""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from regard.cli.device import usable
from regard.errors import RegardError


@click.command()
@click.option(
    "--model", default="smollm2-135m", show_default=True, help="A checkpoint's name, a local path or a hub id."
)
@click.option("--text", type=click.Path(), default=None, help="A UTF-8 text file.  [default: the book that ships]")
@click.option("--context", type=int, default=4096, show_default=True, help="Tokens of the text to read.")
@click.option(
    "-m", "--method", "methods", multiple=True, metavar="NAME[:key=value,...]",
    help="A method with its settings; may be repeated.  [default: a telling set]",
)  # fmt: skip
@click.option("--decode", type=int, default=32, show_default=True, help="Tokens to decode, for the time per token.")
@click.option(
    "--stream", type=int, default=0, metavar="N", help="Also feed N tokens of an endless text through the cache."
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), default=None, help="Also write the result here.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("regard-compare"), show_default=True,
    help="The folder for compare.json, report.html and its pictures.",
)  # fmt: skip
@click.option("--resume", is_flag=True, help="Go on where an interrupted run in --out stopped.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@click.option("--device", default=None, help="cpu or cuda.  [default: cuda where there is one]")
@click.option(
    "--list", "list_methods", is_flag=True, is_eager=True, expose_value=False, callback=lambda c, _, on: _list(c, on),
    help="Print the methods with their settings, and stop.",
)  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="For the needles and the resampling.")
def compare(
    model: str,
    text: str | None,
    context: int,
    methods: tuple[str, ...],
    decode: int,
    stream: int,
    json_file: Path | None,
    out: Path,
    resume: bool,
    dtype: str,
    device: str | None,
    seed: int,
) -> None:
    """Compare attention methods on a model and a text: quality against cost.

    Prints a table; writes compare.json, report.html and PNG charts.
    """
    import torch

    from regard.bench import store
    from regard.bench.compare import compare as run
    from regard.bench.report import table, verdict, write_report
    from regard.bench.settings import Settings, chosen
    from regard.bench.subject import Subject
    from regard.bench.text import read

    settings = Settings(context=context, decode=decode, stream=stream, seed=seed)
    picked = chosen(methods)
    book = read(text)
    saved = out / "compare.json"
    if resume:
        store.read(saved)
    for file in (saved, json_file):
        if file is not None:
            store.writable(file)
    where = _device(device)
    before = _stamp(saved)
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True,
        disable=not console.is_terminal,  # elsewhere it would leave an empty line
    )  # fmt: skip
    try:
        with bar:
            task = bar.add_task(f"opening {model}", total=1.0)
            subject = Subject.open(model, dtype=getattr(torch, dtype), device=where)
            result = run(
                subject, book, picked, settings,
                path=saved, resume=resume, command=["regard", *sys.argv[1:]],
                progress=lambda doing, done: bar.update(task, description=doing, completed=done),
            )  # fmt: skip
            bar.update(task, description="drawing the report", completed=1.0)
            report = write_report(result, out)
            if json_file is not None:
                store.write(result, json_file)
    except KeyboardInterrupt:
        if not resume and _stamp(saved) == before:
            raise RegardError("Stopped before a row was finished; type the same command to begin again.") from None
        rows = len(store.read(saved)["rows"])
        raise RegardError(
            f"Stopped. {rows} finished rows are in {saved}; type the same command with --resume to go on."
        ) from None
    shown = Console()
    shown.print(table(result))
    shown.print(verdict(result))
    shown.print(f"Report: {report}", highlight=False, soft_wrap=True)


def _stamp(file: Path) -> tuple[int, int] | None:
    """What changes when a file is written again; None where there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


def _device(name: str | None) -> str:
    """The device that is meant, tried before anything is loaded."""
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    return usable(name)


def _list(context: click.Context, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    from rich.table import Table

    from regard.methods.registry import methods

    table = Table("method", "settings", "what a query sees", box=None, pad_edge=False)
    for name, kind in methods().items():
        typed = kind().label.partition(":")[2].replace(",", " ")
        table.add_row(name, typed, kind.spec.what)
    Console().print(table)
    context.exit()
