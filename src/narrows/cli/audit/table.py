"""``narrows audit``: what of the bytes that left can be explained."""

from __future__ import annotations

from narrows.cli.dispatch import CommandTable

app = CommandTable(
    summary="Recompute what left: only what nobody can explain stays spent.",
    commands={
        "calibrate": ("narrows.cli.audit.calibrate", "Learn what honest charges look like."),
        "run": ("narrows.cli.audit.run", "Audit a recorded tape against the strong model."),
        "serve": ("narrows.cli.audit.serve", "The role: follow a gate's tape, sign credits."),
        "post": ("narrows.cli.audit.post", "The auditor's credits into the ledger."),
        "keygen": ("narrows.cli.audit.keygen", "Make an auditor's keys."),
        "pins": ("narrows.cli.audit.pins", "The digest of weights that operators enrol."),
        "show": ("narrows.cli.audit.show", "Show a report that a run has written."),
    },
    epilog="Example:\n  narrows audit run --tape gate.tape --out report.json",
)
