"""``narrows bench ledger``: durable operations per second, utilisation, waste."""

from __future__ import annotations

from typing import Annotated

import typer

from narrows.cli.ledger_common import JsonOption

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: narrows bench ledger --gates 10000 --json")
def ledger(
    gates: Annotated[
        int, typer.Option(help="1: on disk; more: the rules simulated.", min=1, max=100_000)
    ] = 1,
    seconds: Annotated[float, typer.Option(help="How long, on disk.", min=0.1, max=600)] = 5.0,
    rounds: Annotated[
        int, typer.Option(help="Leases that the budget lasts for each gate.", min=2, max=1000)
    ] = 20,
    lease_s: Annotated[
        float | None, typer.Option(help="Seconds of traffic in a lease; else as needed.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the simulation.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Measure the ledger with its witness on this disk, or simulate many gates on one budget."""
    import dataclasses
    import json

    from rich.console import Console
    from rich.progress import Progress

    from narrows.bench.ledger import Simulation, on_disk

    if gates == 1:
        result = on_disk(seconds)
    else:
        simulation = Simulation(gates, seed, rounds, lease_s)
        console = Console(stderr=True)
        with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
            task = bar.add_task(f"{gates:,} gates", total=1.0)
            result = simulation.run(lambda share: bar.update(task, completed=share))
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(result)))
        return
    where = "simulated" if result.simulated else "on disk, witness over loopback"
    typer.echo(f"{result.gates:,} gate(s), {where}, {result.leases:,} leases")
    typer.echo(f"operations   {result.ledger_ops_per_s:,} /s (peak {result.peak_ops_per_s:,})")
    typer.echo(f"utilisation  {100 * result.utilisation:.4f} %")
    typer.echo(f"stranded     {result.stranded_bytes:,} bytes, {result.crashes} crashes")
    if result.reserve_p99_ms is not None:
        typer.echo(f"acquire      p50 {result.reserve_p50_ms} ms, p99 {result.reserve_p99_ms} ms")
