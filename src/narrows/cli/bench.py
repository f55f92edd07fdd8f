"""``narrows bench``: each part measured against its peers; every one has ``--json``."""

from __future__ import annotations

import typer

from narrows.cli.main import LazyGroup

BENCHES: dict[str, tuple[str, str]] = {
    "serve": (
        "narrows.cli.bench_serve",
        "The whole path: tokens/s and first token, with and without.",
    ),
    "runtime": ("narrows.cli.bench_runtime", "The exact runtime against llama.cpp and float32."),
    "codec": ("narrows.cli.bench_codec", "The link on real answers against general compressors."),
    "coupled": (
        "narrows.cli.bench_coupled",
        "Coupled coding against entropy, cross-entropy and KL.",
    ),
    "gate": ("narrows.cli.bench_gate", "The gate: throughput, delay, kills, overspend."),
    "ledger": ("narrows.cli.bench_ledger", "The ledger: operations, utilisation, waste."),
}


class BenchGroup(LazyGroup):
    table = BENCHES


app = typer.Typer(cls=BenchGroup, no_args_is_help=True, add_completion=False)


@app.callback(help="Measure the parts, each against its peers in the same run.")
def bench() -> None:
    """Only a group."""
