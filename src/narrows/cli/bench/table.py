"""``narrows bench``: each part measured against its peers; every one has ``--json``."""

from __future__ import annotations

from narrows.cli.dispatch import CommandTable

app = CommandTable(
    summary="Measure the parts, each against its peers in the same run.",
    commands={
        "serve": ("narrows.cli.bench.serve", "The whole path against the model alone."),
        "runtime": ("narrows.cli.bench.runtime", "The exact runtime, llama.cpp and float32."),
        "codec": ("narrows.cli.bench.codec", "The link on real answers, and compressors."),
        "audit": ("narrows.cli.bench.audit", "What an auditor cannot explain of real answers."),
        "coupled": ("narrows.cli.bench.coupled", "Coupled coding against H, CE and KL."),
        "detect": ("narrows.cli.bench.detect", "What leaks before the detectors ring."),
        "engines": ("narrows.cli.bench.engines", "A running vLLM: bits, and speed with keys."),
        "gate": ("narrows.cli.bench.gate", "The gate: throughput, delay, kills, overspend."),
        "hostile": ("narrows.cli.bench.hostile", "What a broken link's bytes hold up."),
        "less": ("narrows.cli.bench.less", "What each way to send less saves."),
        "metrics": ("narrows.cli.bench.metrics", "What a scrape of all metrics costs."),
        "ledger": ("narrows.cli.bench.ledger", "The ledger: operations, utilisation, waste."),
    },
    epilog="Example:\n  narrows bench codec --answers answers.jsonl --json",
)
