"""`regard train`: mechanisms trained side by side on one small task."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from regard.cli.device import usable
from regard.errors import RegardError


@click.command()
@click.option("--task", "named", default="mqar", show_default=True, metavar="NAME[:key=value,...]", help="The task.")
@click.option(
    "-m", "--mechanisms", multiple=True, metavar="NAME[:key=value,...],...",
    help="Mechanisms with their settings, separated by commas; a/b take turns, layer by layer; may be repeated.  "
    "[default: softmax,sliding_window:window=8]",
)  # fmt: skip
@click.option(
    "--position", default=None, metavar="NAME[:key=value,...]",
    help="The position that goes with mechanisms which are none.  [default: rope]",
)  # fmt: skip
@click.option("--seeds", type=int, default=3, show_default=True, help="Trainings of each mechanism.")
@click.option("--steps", type=int, default=400, show_default=True, help="Steps of each training.")
@click.option("--length", type=int, default=None, help="Tokens of a sequence.  [default: the task's own]")
@click.option("--batch", type=int, default=32, show_default=True, help="Sequences in a step.")
@click.option("--dim", type=int, default=64, show_default=True, help="Width of the model.")
@click.option("--heads", type=int, default=4, show_default=True, help="Heads of a layer.")
@click.option("--layers", type=int, default=2, show_default=True, help="Layers of the model.")
@click.option("--rate", type=float, default=2e-3, show_default=True, help="The highest learning rate.")
@click.option(
    "--floor/--no-floor", default=True, show_default=True,
    help="Train softmax through two engines for the noise floor; nothing is ranked without.",
)  # fmt: skip
@click.option("--json", "json_file", type=click.Path(path_type=Path), default=None, help="Also write the result here.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("regard-train"), show_default=True,
    help="The folder for train.json, report.html and the checkpoints.",
)  # fmt: skip
@click.option("--resume", is_flag=True, help="Go on where an interrupted run in --out stopped.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option(
    "--list", "list_tasks", is_flag=True, is_eager=True, expose_value=False, callback=lambda c, _, on: _list(c, on),
    help="Print the tasks with their settings, and stop.",
)  # fmt: skip
def train(
    named: str,
    mechanisms: tuple[str, ...],
    position: str | None,
    seeds: int,
    steps: int,
    length: int | None,
    batch: int,
    dim: int,
    heads: int,
    layers: int,
    rate: float,
    floor: bool,
    json_file: Path | None,
    out: Path,
    resume: bool,
    device: str,
) -> None:
    """Train mechanisms on the same data in the same order: what each can learn, how fast, and at what cost.

    Prints a table; writes train.json, report.html and checkpoints.
    """
    from regard.bench import store
    from regard.bench.tasks import task
    from regard.bench.train.entrant import DEFAULT, entrants
    from regard.bench.train.report import ready, write_report
    from regard.bench.train.settings import Settings
    from regard.bench.train.table import table
    from regard.bench.train.training import read
    from regard.bench.train.training import train as run
    from regard.bench.train.verdict import sentences

    chosen = task(named)
    settings = Settings(
        seeds=seeds, steps=steps, length=chosen.usual if length is None else length, batch=batch, dim=dim,
        heads=heads, layers=layers, rate=rate,
    )  # fmt: skip
    picked = entrants(mechanisms or DEFAULT, position)
    saved = out / "train.json"
    if resume:
        read(saved)
    for file in (saved, json_file):
        if file is not None:
            store.writable(file)
    usable(device)
    ready()
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True,
        disable=not console.is_terminal,  # elsewhere it would leave an empty line
    )  # fmt: skip
    began = False

    def told(doing: str, done: float) -> None:
        nonlocal began
        began = True
        bar.update(shown, description=doing, completed=done)

    try:
        with bar:
            shown = bar.add_task("rehearsing", total=1.0)
            result = run(
                chosen, picked, settings,
                position=position, measure_floor=floor, device=device, folder=out, resume=resume,
                command=["regard", *sys.argv[1:]], progress=told,
            )  # fmt: skip
            bar.update(shown, description="drawing the report", completed=1.0)
            report = write_report(result, out)
            if json_file is not None:
                store.write(result, json_file)
    except KeyboardInterrupt:
        if not (began and saved.is_file()):
            raise RegardError("Stopped before a step was made; type the same command to begin again.") from None
        count = len(read(saved)["runs"])
        raise RegardError(
            f"Stopped. {count} finished trainings are in {saved}, and a begun one in its checkpoint; type the same "
            "command with --resume to go on."
        ) from None
    screen = Console()
    screen.print(table(result))
    for sentence in sentences(result):
        screen.print(sentence, markup=False, highlight=False)
    screen.print(f"Report: {report}", markup=False, highlight=False, soft_wrap=True)


def _list(context: click.Context, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    from rich.table import Table

    from regard.bench.tasks import TASKS

    table = Table("task", "settings", "metric", "target", "what is asked", box=None, pad_edge=False)
    for name, kind in TASKS.items():
        typed = " ".join(f"{key}={value}" for key, value in kind().settings.items())
        table.add_row(name, typed, kind.metric, f"{kind.target:g}", kind.what)
    Console().print(table)
    context.exit()
