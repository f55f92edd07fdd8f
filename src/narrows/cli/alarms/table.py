"""``narrows alarms``: what the detectors found, and who has seen it."""

from __future__ import annotations

from narrows.cli.dispatch import CommandTable

app = CommandTable(
    summary="What the edge's detectors found; acknowledge it; try where alarms go.",
    commands={
        "list": ("narrows.cli.alarms.listing", "Open alarms, or all of them."),
        "ack": ("narrows.cli.alarms.ack", "Acknowledge alarms: what they refuse is served again."),
        "test": ("narrows.cli.alarms.trial", "Send an alarm that is none to webhook and command."),
        "calibrate": ("narrows.cli.alarms.calibrate", "Learn how lucky honest answers are."),
    },
    epilog="Example:\n  narrows alarms list --json",
)
