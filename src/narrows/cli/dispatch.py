"""A table of subcommands, each module imported only when its command is called.

``narrows plan`` must never pay for numba, nor ``narrows --help`` for anything. Typer imports
all subcommands to list them, hence this table above it. A module named in a table exports
``app``: a ``typer.Typer`` or another ``CommandTable``; both are called the same way.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

HELP_FLAGS = ("--help", "-h")
_SETTINGS = {"help_option_names": list(HELP_FLAGS)}


@dataclass(frozen=True)
class CommandTable:
    """``commands``: name to (module, one line of help), in the order of ``--help``."""

    summary: str
    commands: dict[str, tuple[str, str]]
    epilog: str = ""

    def __call__(self, args: Sequence[str] | None = None, prog_name: str = "narrows") -> None:
        """Run the subcommand that ``args`` names. Exits with 2 where there is none such."""
        words = list(sys.argv[1:] if args is None else args)
        if words[:1] == ["help"]:
            words = [*words[1:], "--help"]
        if not words or words[0] in HELP_FLAGS:
            self.print_help(prog_name)
            return
        entry = self.commands.get(words[0])
        if entry is None:
            close = difflib.get_close_matches(words[0], self.commands, 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            typer.echo(f"{prog_name}: no command {words[0][:80]!r}{hint}", err=True)
            typer.echo(f"  '{prog_name} --help' lists them", err=True)
            sys.exit(2)
        app = importlib.import_module(entry[0]).app
        if isinstance(app, typer.Typer):
            run(app, words[1:], f"{prog_name} {words[0]}")
        else:
            app(args=words[1:], prog_name=f"{prog_name} {words[0]}")

    def tree(self) -> typer.Typer:
        """All of it as one Typer application, for the completion of shells: every module of a
        command is imported."""
        whole = typer.Typer(help=self.summary, no_args_is_help=True)
        for name, (module, text) in self.commands.items():
            app = importlib.import_module(module).app
            inner = app if isinstance(app, typer.Typer) else app.tree()
            if (callback := only_command(inner)) is not None:
                whole.command(name, help=text)(callback)
            else:
                whole.add_typer(inner, name=name, help=text)
        return whole

    def print_help(self, prog_name: str) -> None:
        console = Console(highlight=False, soft_wrap=False)
        console.print(f"Usage: {prog_name} COMMAND [OPTIONS]\n\n{self.summary}\n", markup=False)
        grid = Table.grid(padding=(0, 2))
        for name, (_, text) in self.commands.items():
            grid.add_row(f"  [bold]{name}[/bold]", text)
        console.print(grid)
        if self.epilog:
            console.print(f"\n{self.epilog}", markup=False)


def only_command(app: typer.Typer) -> Callable[..., Any] | None:
    """What an application of one command calls; None where it has several."""
    if len(app.registered_commands) != 1 or app.registered_groups:
        return None
    return app.registered_commands[0].callback


def run(app: typer.Typer, words: Sequence[str], prog_name: str) -> None:
    """A Typer application, which takes ``-h`` for ``--help`` too, and ``help`` where a
    subcommand may stand."""
    _flow(app)
    app(args=_help_last(app, words), prog_name=prog_name)


def _help_last(app: typer.Typer, words: Sequence[str]) -> list[str]:
    if only_command(app) is not None:
        return list(words)
    groups = app.registered_groups
    for place, word in enumerate(words):
        if word == "help":
            return [*words[:place], *words[place + 1 :], "--help"]
        inner = next((group.typer_instance for group in groups if group.name == word), None)
        if inner is None:
            break
        groups = inner.registered_groups
    return list(words)


def _flow(app: typer.Typer) -> None:
    """``-h`` everywhere, and paragraphs of a command's help as wide as the terminal: Typer keeps
    the line ends of a docstring, which then break in the middle of its own lines."""
    app.info.context_settings = _SETTINGS
    for command in app.registered_commands:
        command.context_settings = _SETTINGS
        if command.help is None and command.callback is not None:
            paragraphs = inspect.cleandoc(command.callback.__doc__ or "").split("\n\n")
            command.help = "\n\n".join(
                text if "\n " in text or text.startswith(" ") else " ".join(text.split("\n"))
                for text in paragraphs
            )
    for group in app.registered_groups:
        if group.typer_instance is not None:
            _flow(group.typer_instance)
