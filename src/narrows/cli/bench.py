"""``narrows bench``: each part measured against its peers; every one has ``--json``."""

from __future__ import annotations

from narrows.cli.dispatch import CommandTable

app = CommandTable(
    summary="Measure the parts, each against its peers in the same run.",
    commands={
        "serve": ("narrows.cli.bench_serve", "The whole path against the model alone."),
        "runtime": ("narrows.cli.bench_runtime", "The exact runtime, llama.cpp and float32."),
        "codec": ("narrows.cli.bench_codec", "The link on real answers, and compressors."),
        "coupled": ("narrows.cli.bench_coupled", "Coupled coding against H, CE and KL."),
        "gate": ("narrows.cli.bench_gate", "The gate: throughput, delay, kills, overspend."),
        "ledger": ("narrows.cli.bench_ledger", "The ledger: operations, utilisation, waste."),
    },
    epilog="Example:\n  narrows bench codec --answers answers.jsonl --json",
)
