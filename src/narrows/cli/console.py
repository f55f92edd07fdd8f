"""Where reports are printed."""

from __future__ import annotations

from rich.console import Console

MIN_COLUMNS = 80


def report_console() -> Console:
    """At least 80 columns: a narrower terminal wraps lines, but no column loses its figures."""
    console = Console(highlight=False)
    console.width = max(MIN_COLUMNS, console.width)
    return console
