"""Where reports are printed, and logs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from narrows.logs import LOG_FORMAT

if TYPE_CHECKING:
    from rich.console import Console

MIN_COLUMNS = 80
LogFormatOption = Annotated[
    Literal["text", "json"],
    typer.Option(
        "--log-format", envvar=LOG_FORMAT, help="Of the log on standard error; json: a line each."
    ),
]


def report_console() -> Console:
    """At least 80 columns: a narrower terminal wraps lines, but no column loses its figures."""
    from rich.console import Console

    console = Console(highlight=False)
    console.width = max(MIN_COLUMNS, console.width)
    return console
