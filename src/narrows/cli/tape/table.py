"""``narrows tape``: the gate's tape on its way to an auditor on another machine."""

from __future__ import annotations

from narrows.cli.dispatch import CommandTable

app = CommandTable(
    summary="Carry a gate's spool to an auditor on another machine.",
    commands={
        "ship": ("narrows.cli.tape.ship", "Beside the gate: send the spool's files as they grow."),
        "receive": ("narrows.cli.tape.receive", "Beside the auditor: keep a copy of the spool."),
    },
    epilog="Example:\n  narrows tape ship --config narrows.toml --to 10.3.0.2:8411 "
    "--cert-file gate.crt --key-file gate.key --peer-file auditor.crt",
)
