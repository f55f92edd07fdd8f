"""``narrows redteam list``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command("list", epilog="Example: narrows redteam list --json")
def list_attacks(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Name the attacks: what the outsider sees, how he decodes it, what it is charged."""
    from rich.table import Table

    from narrows.cli.console import report_console
    from narrows.redteam.catalogue import every_attack

    attacks = every_attack()
    if as_json:
        rows = [
            {"name": one.name, "group": one.group, "title": one.title}
            | {part.lower(): text for part, text in one.parts.items()}
            for one in attacks
        ]
        typer.echo(json.dumps({"attacks": rows}))
        return
    grid = Table.grid(padding=(0, 2))
    for one in attacks:
        grid.add_row(f"[bold]{one.name}[/bold]", one.group, one.title)
    report_console().print(grid)
