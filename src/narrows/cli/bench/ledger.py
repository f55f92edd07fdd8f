"""``narrows bench ledger``: durable operations per second, utilisation, waste."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from narrows.cli.ledger.options import JsonOption
from narrows.errors import InputError

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
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Simulate leases of several lengths.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(help="With --sweep: a picture, .svg or .png.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure the ledger with its witness on this disk, or simulate many gates on one budget."""
    import dataclasses
    import json

    from rich.console import Console
    from rich.progress import Progress

    from narrows.bench.ledger import on_disk
    from narrows.bench.ledger_sim import Simulation

    if plot is not None and not sweep:
        raise InputError("--plot draws a --sweep")
    if sweep:
        _sweep(gates, seed, plot, as_json)
        return
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
    worst = result.worst_minute_ops_per_s
    minute = "" if worst is None else f", busiest minute {worst:,}"
    typer.echo(f"operations   {result.ledger_ops_per_s:,} /s{minute}")
    typer.echo(f"utilisation  {100 * result.utilisation:.4f} %")
    typer.echo(f"stranded     {result.stranded_bytes:,} bytes, {result.crashes} crashes")
    if result.reserve_p99_ms is not None:
        typer.echo(f"acquire      p50 {result.reserve_p50_ms} ms, p99 {result.reserve_p99_ms} ms")


def _sweep(gates: int, seed: int, picture: Path | None, as_json: bool) -> None:
    import json

    from rich.console import Console
    from rich.progress import Progress

    from narrows.bench import ledger_sweep

    if gates < 2:
        raise InputError("a sweep simulates many gates", "say --gates 1000, for example")
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(f"{gates:,} gates", total=1.0)
        result = ledger_sweep.sweep(
            gates, seed, progress=lambda share: bar.update(task, completed=share)
        )
    if picture is not None:
        ledger_sweep.plot(result, picture)
    if as_json:
        typer.echo(json.dumps(result.document()))
        return
    typer.echo("lease s    ops/s  busiest minute  conflicts  stranded")
    for run in result.runs:
        typer.echo(
            f"{run.lease_s:7,.0f} {run.ledger_ops_per_s:8,.1f} {run.worst_minute_ops_per_s:15,.1f}"
            f" {100 * (run.conflict_share or 0):8.2f} % {100 * (1 - run.utilisation):8.4f} %"
        )
    said = "none of these" if result.recommended_s is None else f"{result.recommended_s:,.0f} s"
    typer.echo(f"recommended: {said}")
