"""A table of subcommands, each module imported only when its command is called.

``narrows plan`` must never pay for numba, nor ``narrows --help`` for anything. Typer imports
all subcommands to list them, hence this table above it. A module named in a table exports
``app``: a ``typer.Typer`` or another ``CommandTable``; both are called the same way.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import typer
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class CommandTable:
    """``commands``: name to (module, one line of help), in the order of ``--help``."""

    summary: str
    commands: dict[str, tuple[str, str]]
    epilog: str = ""

    def __call__(self, args: Sequence[str] | None = None, prog_name: str = "narrows") -> None:
        """Run the subcommand that ``args`` names. Exits with 2 where there is none such."""
        words = list(sys.argv[1:] if args is None else args)
        if not words or words[0] in ("--help", "-h"):
            self.print_help(prog_name)
            return
        entry = self.commands.get(words[0])
        if entry is None:
            typer.echo(f"{prog_name}: no command {words[0]!r}", err=True)
            typer.echo(f"  '{prog_name} --help' lists them", err=True)
            sys.exit(2)
        app = importlib.import_module(entry[0]).app
        if isinstance(app, typer.Typer):
            _flow(app)
        app(args=words[1:], prog_name=f"{prog_name} {words[0]}")

    def print_help(self, prog_name: str) -> None:
        console = Console(highlight=False, soft_wrap=False)
        console.print(f"Usage: {prog_name} COMMAND [OPTIONS]\n\n{self.summary}\n", markup=False)
        grid = Table.grid(padding=(0, 2))
        for name, (_, text) in self.commands.items():
            grid.add_row(f"  [bold]{name}[/bold]", text)
        console.print(grid)
        if self.epilog:
            console.print(f"\n{self.epilog}", markup=False)


def _flow(app: typer.Typer) -> None:
    """Paragraphs of a command's help as wide as the terminal: Typer keeps the line ends of a
    docstring, which then break in the middle of its own lines."""
    for command in app.registered_commands:
        if command.help is None and command.callback is not None:
            paragraphs = inspect.cleandoc(command.callback.__doc__ or "").split("\n\n")
            command.help = "\n\n".join(
                text if "\n " in text or text.startswith(" ") else " ".join(text.split("\n"))
                for text in paragraphs
            )
    for group in app.registered_groups:
        if group.typer_instance is not None:
            _flow(group.typer_instance)
