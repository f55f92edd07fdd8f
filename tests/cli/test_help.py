"""Every command's help: it can be asked for, and it says all of what its source says."""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Iterator

import click
import pytest
import typer
from typer.main import get_command

from narrows.cli.dispatch import CommandTable
from narrows.cli.main import app

MARKUP = re.compile(r"\[[a-z#/@][^[]*?]")  # what rich takes for a style, and does not print


def commands(table: CommandTable, words: tuple[str, ...] = ()) -> Iterator[tuple[str, object]]:
    for name, (module, _) in table.commands.items():
        found = importlib.import_module(module).app
        if isinstance(found, CommandTable):
            yield from commands(found, (*words, name))
        else:
            yield " ".join((*words, name)), found


COMMANDS = dict(commands(app))


def texts(command: click.Command) -> Iterator[str]:
    yield command.help or ""
    yield command.epilog or ""
    for parameter in command.params:
        yield getattr(parameter, "help", None) or ""
    for child in getattr(command, "commands", {}).values():
        yield from texts(child)


@pytest.mark.parametrize("name", [n for n, one in COMMANDS.items() if isinstance(one, typer.Typer)])
def test_help_keeps_its_brackets(name: str) -> None:
    for text in texts(get_command(COMMANDS[name])):
        assert not MARKUP.search(text), text


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_can_be_asked_for(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(SystemExit):
        app([*name.split(), "--help"])
    assert f"narrows {name}".strip() in capsys.readouterr().out


def test_paragraphs_are_as_wide_as_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Not broken twice, where the source and where the terminal ends its lines."""
    with pytest.raises(SystemExit):
        app(["weak", "publish", "--help"])
    shown = capsys.readouterr().out
    source = importlib.import_module("narrows.cli.weak.publish").publish.__doc__ or ""
    paragraph = " ".join(source.split("\n\n")[1].split())
    lines = [line.strip() for line in shown.splitlines()]
    first = next(n for n, line in enumerate(lines) if line.startswith("What an artifact"))
    last = next(n for n, line in enumerate(lines) if line.endswith("are configured."))
    assert " ".join(lines[first : last + 1]) == paragraph
    assert max(len(line) for line in lines[first:last]) - min(map(len, lines[first:last])) < 20
