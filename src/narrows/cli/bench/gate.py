"""``narrows bench gate``: throughput, delay, kills, overspend."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: narrows bench gate --quick --kills 20 --json")
def gate(
    quick: Annotated[bool, typer.Option(help="Seconds instead of minutes.")] = False,
    kills: Annotated[
        int | None, typer.Option(min=0, help="How often to kill -9 the gate [20 or 1,000].")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Replay the moments of a run.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Measure a real gate process with a real ledger on loopback."""
    import json
    import secrets

    from rich.console import Console
    from rich.table import Table

    from narrows.bench.gate import run

    count = kills if kills is not None else (20 if quick else 1000)
    chosen = seed if seed is not None else secrets.randbits(32)
    screen = Console(stderr=True, highlight=False)
    with screen.status("starting") as status:
        result = run(quick, count, chosen, status.update)
    if as_json:
        typer.echo(json.dumps(result))
        return
    table = Table("what", "value", title="narrows gate")
    for name, value in result.items():
        table.add_row(name, f"{value:,}")
    Console(highlight=False).print(table)
