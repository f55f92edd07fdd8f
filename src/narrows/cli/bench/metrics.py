"""``narrows bench metrics``: what a scrape costs."""

from __future__ import annotations

from typing import Annotated

import typer

from narrows.cli.ledger.options import JsonOption

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: narrows bench metrics --links 200 --json")
def metrics(
    links: Annotated[int, typer.Option(help="Links that are open.", min=1, max=100_000)] = 200,
    leases: Annotated[
        int, typer.Option(help="Leases between two samples.", min=0, max=10_000)
    ] = 200,
    rounds: Annotated[int, typer.Option(help="Samples, and scrapes.", min=1, max=1000)] = 20,
    as_json: JsonOption = False,
) -> None:
    """Sample a state folder with 16 gate ports, four weak models and 100 API keys, and scrape it.

    Budget: 20 ms a scrape, 1 % of a core at one sample and one scrape in 15 s.
    """
    import dataclasses
    import json

    from rich.console import Console
    from rich.progress import Progress

    from narrows.bench.metrics.scrape import scrape_bench

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("samples", total=1.0)
        result = scrape_bench(
            links, leases, rounds, said=lambda share: bar.update(task, completed=share)
        )
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(result)))
        return
    typer.echo(f"{result.series} series, {result.body_bytes:,} bytes, {links} links")
    typer.echo(
        f"sample  {result.sample_p50_ms:6.1f} ms (max {result.sample_max_ms:.1f}; the first "
        f"{result.first_sample_ms:.1f}) after {leases} leases"
    )
    typer.echo(f"scrape  {result.scrape_p50_ms:6.1f} ms (max {result.scrape_max_ms:.1f})")
    typer.echo(f"core    {result.core_share:6.2%} at {result.every_s:g} s")
