"""`regard show NAME`: everything there is to know of one mechanism or method."""

import difflib
import json
from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from regard.core.describe import Description, describe, power
from regard.errors import RegardError
from regard.measured import measured


@click.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON in place of text.")
def show(name: str, as_json: bool) -> None:
    """Show what NAME does, its formula and settings, what it supports, costs and equals, and where it comes from."""
    found = describe(_kind(name))
    if as_json:
        click.echo(json.dumps(_plain(found), indent=2, ensure_ascii=False))
        return
    console = Console(highlight=False)
    spec = found.spec
    article = "an" if spec.slot[0] in "aeiou" else "a"
    console.print(Text.assemble((spec.id, "bold"), f"  {found.name}, {article} {spec.slot}"))
    console.print(Text(f"\n{found.says}"))
    if spec.formula:
        lines = "\n".join(f"    {line}" for line in spec.formula.splitlines())
        console.print(Text(f"\n{lines}", style="cyan"), soft_wrap=True)
    for label in ("Shapes", "Raises", "Differs from the paper"):
        if label in found.parts:
            console.print(Text.assemble((f"\n{label}  ", "bold"), found.parts[label]))
    if found.settings:
        table = Table("setting", "type", "default", box=None, pad_edge=False)
        for setting in found.settings:
            table.add_row(Text(setting.name), Text(setting.kind), Text(setting.default))
        console.print("")
        console.print(table)
    if spec.slot != "method":
        yes = ", ".join(word for word, there in found.supports.items() if there) or "nothing"
        no = ", ".join(word for word, there in found.supports.items() if not there)
        console.print(Text.assemble(("\nSupports  ", "bold"), yes, *([f"; not {no}"] if no else [])))
    counted = "sources" if spec.slot == "depth" else "tokens"
    cost = f"time {power(spec.cost.time)}, state {power(spec.cost.state)} for N {counted}"
    console.print(Text.assemble(("Cost      ", "bold"), cost))
    for place, limit in enumerate(found.limits):
        console.print(Text.assemble(("Equals    " if not place else "          ", "bold"), str(limit)))
    for line in measured(spec.id):
        console.print(Text.assemble(("Measured  ", "bold"), line))
    console.print(Text.assemble(("Where     ", "bold"), found.where))
    console.print(Text.assemble(("Source    ", "bold"), str(spec.source)))
    console.print(Text(f"\n{found.bibtex}", style="dim"), soft_wrap=True)


def _kind(name: str) -> type:
    from regard.mechanisms.walk import walk

    known: dict[str, type] = dict(walk())
    if name in known:
        return known[name]
    try:
        from regard.methods.registry import methods
    except ImportError:  # methods need the extra that brings transformers; mechanisms do not
        others: dict[str, type] = {}
    else:
        others = dict(methods())
    if name in others:
        return others[name]
    near = difflib.get_close_matches(name, [*known, *others], 1, 0.5)
    hint = f"Did you mean {near[0]!r}?" if near else "Type regard list, or regard compare --list."
    raise RegardError(f"There is no mechanism or method {name!r}. {hint}")


def _plain(found: Description) -> dict[str, object]:
    spec = found.spec
    return {
        "id": spec.id,
        "class": found.where,
        "slot": spec.slot,
        "says": found.says,
        "formula": spec.formula,
        **{label.lower(): text for label, text in found.parts.items()},
        "settings": [asdict(setting) for setting in found.settings],
        "supports": found.supports,
        "cost": {"time": spec.cost.time, "state": spec.cost.state},
        "limits": [str(limit) for limit in found.limits],
        "measured": list(measured(spec.id)),
        "source": str(spec.source),
        "bibtex": found.bibtex,
    }
