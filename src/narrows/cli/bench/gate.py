"""``narrows bench gate``: throughput, delay, kills, overspend."""

from __future__ import annotations

from collections.abc import Mapping
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
    load_channel: Annotated[
        bool, typer.Option("--load-channel", help="What load tells, instead: root, two cores.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Measure a real gate process with a real ledger on loopback.

    With --load-channel: how many bits a second an enclave's load tells to who times the
    acknowledgements outside, between namespaces of this machine, with the enclave's frames on
    the gate's core and on another one. What is more than the gate charges for time
    belongs into its ambient_bits_per_s.
    """
    import json
    import secrets

    from rich.console import Console
    from rich.table import Table

    from narrows.bench import load_channel as channel
    from narrows.bench.gate import run

    count = kills if kills is not None else (20 if quick else 1000)
    chosen = seed if seed is not None else secrets.randbits(32)
    screen = Console(stderr=True, highlight=False)
    with screen.status("starting") as status:
        result: Mapping[str, object] = (
            channel.run(15 if quick else 120, chosen, status.update)
            if load_channel
            else run(quick, count, chosen, status.update)
        )
    if as_json:
        typer.echo(json.dumps(result))
        return
    table = Table("what", "value", title="narrows gate")
    for name, value in result.items():
        table.add_row(name, f"{value:,}")
    Console(highlight=False).print(table)
