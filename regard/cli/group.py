"""The root of the command line: commands are named here and imported only when they run."""

import difflib
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

import click

import regard
from regard.errors import RegardError


class Command(NamedTuple):
    """Where a command is, as `module:attribute`, and the line that `regard --help` says of it."""

    target: str
    summary: str


COMMANDS = {
    "compare": Command(
        "regard.cli.compare:compare", "What each attention method saves and loses on a model and a text."
    ),
    "list": Command("regard.cli.list:list_mechanisms", "List the mechanisms: what each does, supports and costs."),
    "models": Command("regard.cli.models:models", "List pretrained checkpoints, pull one, or say where it is."),
    "papers": Command("regard.cli.papers:papers", "The papers of the catalogue: done, planned or context only."),
    "show": Command("regard.cli.show:show", "Show one mechanism or method: formula, settings, claims, source."),
    "train": Command(
        "regard.cli.train:train", "What each mechanism learns on a small task, trained side by side, and at what cost."
    ),
}


class LazyGroup(click.Group):
    """A group over `COMMANDS` whose help imports none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].target.partition(":")
        return getattr(import_module(module), attribute)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(sorted(COMMANDS))}."
            raise click.UsageError(f"No command {args[0]!r}. {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name].summary) for name in self.list_commands(ctx)])


@click.group(cls=LazyGroup, name="regard", invoke_without_command=True)
@click.version_option(regard.__version__, prog_name="regard", message="%(prog)s %(version)s")
@click.pass_context
def root(ctx: click.Context) -> None:
    """Which attention should my model use, on my text, on my machine: what does it save and what does it lose?"""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def run(arguments: Sequence[str] | None) -> int:
    """Run the command line and return its exit code.

    Raises: RegardError for a command that was typed wrong; KeyboardInterrupt where the person stopped it.
    """
    try:
        outcome = root.main(args=arguments, prog_name="regard", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.UsageError as error:
        where = f" See: {error.ctx.command_path} --help" if error.ctx else ""
        raise RegardError(error.format_message() + where) from error
    except click.ClickException as error:
        raise RegardError(error.format_message()) from error
    except click.Abort as error:
        # click calls an end of file an abort too; inside a command that is a fault, not an interrupt.
        if isinstance(error.__cause__, EOFError):
            raise error.__cause__ from None
        raise KeyboardInterrupt from None
    return outcome if isinstance(outcome, int) else 0
