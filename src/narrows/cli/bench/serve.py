"""``narrows bench serve``: the whole path against the strong model alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command(epilog="Example:  narrows bench serve --requests 20 --concurrency 1,16,64 --json")
def serve(
    requests: Annotated[int, typer.Option(min=1, help="Answers for first-token times.")] = 20,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens an answer.")] = 64,
    concurrency: Annotated[str, typer.Option(help="Concurrent answers, a list.")] = "1,16,64",
    config: Annotated[Path | None, typer.Option(help="Configuration file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """First-token delay and tokens/s, with and without edge, gate and enclave in between."""
    import json

    from rich.console import Console
    from rich.table import Table

    from narrows.bench.serve import run
    from narrows.errors import InputError

    try:
        levels = [int(part) for part in concurrency.split(",")]
    except ValueError as error:
        raise InputError(f"--concurrency {concurrency!r} is no list", "as in 1,16,64") from error
    result = run(requests, max_tokens, levels, config)
    if as_json:
        typer.echo(json.dumps(result))
        return
    table = Table("", "model alone", "through the path", title=f"{requests} requests")
    for key, name in (
        ("first_token_p50_ms", "first token p50, ms"),
        ("first_token_p99_ms", "first token p99, ms"),
    ):
        table.add_row(name, f"{result['direct'][key]:.0f}", f"{result['path'][key]:.0f}")
    for level in map(str, levels):
        pair = [f"{result[way]['tokens_per_s'][level]:.0f}" for way in ("direct", "path")]
        table.add_row(f"tokens/s, {level} at once", *pair)
    Console().print(table)
