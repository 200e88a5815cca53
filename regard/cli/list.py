"""`regard list`: every mechanism of the library, as its spec has it."""

import json
from typing import get_args

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from regard.core.describe import FLAGS, power
from regard.core.spec import Slot as SlotName
from regard.errors import RegardError

# One letter a flag, so that seven fit into one column.
LETTERS = {"causal": "c", "bidirectional": "b", "cross": "x", "decode": "d", "gqa": "g", "padding": "p", "packing": "k"}
LEGEND = "c causal, b bidirectional, x over another sequence, d step by step, g grouped heads, p padding, k packing"


@click.command(name="list")
@click.option("--slot", type=click.Choice(get_args(SlotName)), help="Only what fills this slot.")
@click.option("--family", help="Only this folder's, such as dense or heads.")
@click.option("--causal", is_flag=True, help="Only what can be causal.")
@click.option("--cross", is_flag=True, help="Only what can look at another sequence.")
@click.option("--decode", is_flag=True, help="Only what goes on step by step.")
@click.option("--gqa", is_flag=True, help="Only what takes grouped heads.")
@click.option("--padding", is_flag=True, help="Only what leaves padding out.")
@click.option("--packing", is_flag=True, help="Only what keeps packed documents apart.")
@click.option("--max-time", type=float, metavar="E", help="Only what takes at most N^E time.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON in place of a table.")
def list_mechanisms(
    slot: SlotName | None, family: str | None, max_time: float | None, as_json: bool, **flags: bool
) -> None:
    """List the mechanisms: what each does, what it supports and what it costs.

    The methods for pretrained models are listed by `regard compare --list`.
    """
    from regard.mechanisms.walk import family_of, mechanisms

    wanted = {flag: True for flag, asked in flags.items() if asked}
    try:
        found = mechanisms(slot=slot, family=family, max_time_exponent=max_time, **wanted)  # type: ignore[arg-type]
    except ValueError as error:
        raise RegardError(f"--family: {error}") from error
    if as_json:
        rows = [
            {
                "id": name,
                "class": f"{kind.__module__}.{kind.__qualname__}",
                "family": family_of(kind),
                "slot": kind.spec.slot,
                **{flag: getattr(kind.spec, flag) for flag in FLAGS},
                "time": kind.spec.cost.time,
                "state": kind.spec.cost.state,
                "what": kind.spec.what,
            }
            for name, kind in found.items()
        ]
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for column in ("mechanism", "slot", "takes", "time", "state"):
        table.add_column(column, no_wrap=True)
    table.add_column("what it does", ratio=1)
    before = ""
    for name, kind in sorted(found.items(), key=lambda item: (family_of(item[1]), item[0])):
        spec = kind.spec
        if family_of(kind) != before:
            before = family_of(kind)
            table.add_section()
            table.add_row(Text(f"{before}/", style="dim"))
        takes = "".join(letter if getattr(spec, flag) else "·" for flag, letter in LETTERS.items())
        cost = power(spec.cost.time), power(spec.cost.state)
        table.add_row(Text(name, style="bold"), spec.slot, takes, *cost, Text(spec.what))
    console = Console()
    console.print(table)
    many = "1 mechanism" if len(found) == 1 else f"{len(found)} mechanisms"
    console.print(Text(f"{many}. Takes: {LEGEND}. Type: regard show NAME", style="dim"))
