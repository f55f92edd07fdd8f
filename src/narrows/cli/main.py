"""The ``narrows`` command: a table of subcommands, each loaded only when it is called.

Every ``narrows/cli/*.py`` exports ``app``, a ``typer.Typer``, and imports nothing heavy at
module level, so that ``narrows plan`` never pays for numba and ``narrows --help`` for nothing.
A ``NarrowsError`` ends the command with its message, its remedy and its exit code; anything
else is a bug and keeps its traceback.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click
import typer
from typer.core import TyperGroup

from narrows import __version__
from narrows.errors import InputError, NarrowsError

# name -> (module, one line for --help); the order is the order of --help
COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("narrows.cli.up", "Run enclave, gate, witness and edge on this machine and serve."),
    "status": ("narrows.cli.status", "Budget granted, spent and left; answers and their ratio."),
    "enclave": ("narrows.cli.enclave", "Run the role that holds the strong model."),
    "gate": ("narrows.cli.gate", "Run the role that meters every byte that leaves."),
    "edge": ("narrows.cli.edge", "Run the role that serves the API outside."),
    "witness": ("narrows.cli.witness", "Run the witness that cosigns the ledger's heads."),
    "init": ("narrows.cli.init", "Make the keys and the configuration of a deployment."),
    "key": ("narrows.cli.key", "API keys of the edge, operator keys of the budget."),
    "budget": ("narrows.cli.budget", "Show, propose, sign and apply budgets."),
    "ledger": ("narrows.cli.ledger", "Back up, restore and recover the ledger."),
    "log": ("narrows.cli.log", "Verify the ledger's append-only log offline."),
    "weak": ("narrows.cli.weak", "Import, inspect, check, train and compare weak models."),
    "plan": ("narrows.cli.plan", "Forecast: will an upload limit protect this model?"),
    "bench": ("narrows.cli.bench", "Measure the parts, each against its peers."),
}


class LazyGroup(TyperGroup):
    """A click group whose commands are imported when they are named."""

    table: dict[str, tuple[str, str]] = COMMANDS

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self.table.get(cmd_name)
        if entry is None:
            return None
        command = typer.main.get_command(importlib.import_module(entry[0]).app)
        command.name = cmd_name
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.table.items()])

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # click's own help: typer's rich one would import every subcommand to list it.
        click.Group.format_help(self, ctx, formatter)

    def get_help(self, ctx: click.Context) -> str:
        formatter = ctx.make_formatter()
        self.format_help(ctx, formatter)
        return formatter.getvalue().rstrip("\n")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"narrows {__version__}")
        raise typer.Exit


app = typer.Typer(cls=LazyGroup, no_args_is_help=True, add_completion=False)


@app.callback(help="Serve a language model through a link too narrow for its weights.")
def root(
    version: bool = typer.Option(
        False, "--version", help="Print the version.", callback=_print_version, is_eager=True
    ),
) -> None:
    """Global options only."""


def report(error: NarrowsError) -> None:
    """Print an error as every command does: what happened, all problems, what to do."""
    typer.echo(f"narrows: {error.message}", err=True)
    if isinstance(error, InputError):
        for problem in error.problems:
            typer.echo(f"  {problem}", err=True)
    if error.remedy:
        typer.echo(f"  {error.remedy}", err=True)


def main(argv: list[str] | None = None) -> Any:
    try:
        return app(args=argv)
    except NarrowsError as error:
        report(error)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
