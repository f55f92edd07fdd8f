"""``narrows bench coupled``: coupled coding against entropy, cross-entropy and divergence."""

from __future__ import annotations

import json
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Example: narrows bench coupled --quick --json. Bits are per token; "
    "the bar is coupled_bits <= 3.3 x KL."
)
def coupled(
    weak: Annotated[
        str | None,
        typer.Option(help="Weak model: a name or an artifact. Default: 5-bit weights."),
    ] = None,
    tokens: Annotated[int, typer.Option(min=64, max=20_000, help="Tokens at T = 1.")] = 1600,
    quick: Annotated[bool, typer.Option("--quick", help="400 tokens.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Code answers of the built-in model with shared noise, under a weaker copy of it."""
    from rich.console import Console
    from rich.table import Table

    from narrows.bench.coupled import measure

    console = Console(stderr=True)
    with console.status("starting") as status:
        result = measure(weak, min(tokens, 400) if quick else tokens, status.update)
    if as_json:
        typer.echo(json.dumps(result))
        return
    table = Table("measure", "value", title="coupled coding, bits per token")
    for name, value in result.items():
        table.add_row(name, str(value))
    Console().print(table)
