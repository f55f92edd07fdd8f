"""``narrows redteam``: attacks that run, and a probe of an installation."""

from __future__ import annotations

from narrows.cli.dispatch import CommandTable

app = CommandTable(
    summary="Attack it: what a thief inside gets out, against what it is charged.",
    commands={
        "list": ("narrows.cli.redteam.catalogue", "The attacks, and what each tries."),
        "run": ("narrows.cli.redteam.run", "Run some attacks."),
        "all": ("narrows.cli.redteam.everything", "Run every attack."),
        "probe": ("narrows.cli.redteam.probe", "Try to get past the gate of an installation."),
    },
    epilog=(
        "Examples:\n"
        "  narrows redteam all --html redteam.html\n"
        "  narrows redteam run token-entropy link-ends --seed 1 --json"
    ),
)
