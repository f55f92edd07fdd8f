"""What an auditor and the poster of its credits are told: the section ``[audit]``.

The terms (share, bound, weights) are not in it: they are what operators have signed, in the file
that ``enrolment`` names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from narrows.config import out_of_range
from narrows.errors import InputError
from narrows.wire.verdict import MAX_VERDICT_BYTES, MIN_VERDICT_BYTES

POLICIES = ("stop-crediting", "close")
MAX_PERIOD_S = 86_400.0
MAX_AUDIT_PORTS = 16


@dataclass(frozen=True, slots=True)
class AuditConfig:
    """``listen``: where the gate's port for verdicts finds the auditor. ``spool``: the folder
    that the gate writes. ``keys``: the folder of ``narrows audit keygen``. ``enrolment``: the
    change that operators signed. ``journal``: a folder of the auditor's own. ``model``,
    ``scorer``, ``weak``, ``null``: as of ``narrows audit run``. ``period_s``, ``verdict_bytes``:
    how often a verdict leaves, and its size; the poster must have the same. ``ports``: the
    ledger's account of each gate port on the tape, where it is not the port's name.
    ``on_alarm``: what the poster does behind an alarm that does not pass."""

    listen: str = "127.0.0.1:8409"
    spool: Path | None = None
    keys: Path | None = None
    enrolment: Path | None = None
    journal: Path | None = None
    gate: str = "gate"
    model: str = "smollm2-135m"
    scorer: str = "runtime"
    weak: tuple[str, ...] = ("default",)
    null: Path | None = None
    period_s: float = 300.0
    verdict_bytes: int = 512
    ports: dict[str, str] = field(default_factory=dict)
    on_alarm: str = POLICIES[0]

    def check(self) -> AuditConfig:
        """Itself, or ``InputError`` with every problem."""
        problems = out_of_range(
            [
                ("period_s", self.period_s, 0.1, MAX_PERIOD_S),
                ("verdict_bytes", self.verdict_bytes, MIN_VERDICT_BYTES, MAX_VERDICT_BYTES),
                ("ports", len(self.ports), 0, MAX_AUDIT_PORTS),
            ]
        )
        if self.on_alarm not in POLICIES:
            problems.append(f"on_alarm is {self.on_alarm!r}, must be one of {', '.join(POLICIES)}")
        if problems:
            raise InputError("the auditor's configuration is wrong", problems=tuple(problems))
        return self
