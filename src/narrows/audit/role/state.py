"""A whole auditor as one JSON object and back, for moments when no link is open."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from narrows.audit.auditor import TapeAuditor
from narrows.audit.role.journal import experience_of

_SUMS = ("exact_q16", "group_q16", "drawn_q16", "credit_q16")
_TALLY = ("segments", "drawn", "tokens", "off", "audit_q16")
_REPLAY = ("paid_bytes", "data_bytes", "checked_bits")


def auditor_state(auditor: TapeAuditor) -> dict[str, Any]:
    """All that what follows depends on, but the keys."""
    logs, whole = auditor.bound.state()
    return {
        "bound": [logs, whole],
        "sums": {name: getattr(auditor, name) for name in _SUMS},
        "tally": {name: getattr(auditor.tally, name) for name in _TALLY},
        "not_scored": dict(auditor.tally.not_scored),
        "replay": {name: getattr(auditor.replay, name) for name in _REPLAY},
        "faults": dict(auditor.replay.faults),
        "alarm": [auditor.alarm.raised, list(auditor.alarm.logs)],
        "experience": asdict(auditor.experience),
    }


def restore_auditor(auditor: TapeAuditor, state: dict[str, Any]) -> None:
    """Into a fresh one of the same rules and null."""
    logs, whole = state["bound"]
    auditor.bound.add(np.asarray(logs, np.float64), whole)
    for part, target in (
        ("sums", auditor),
        ("tally", auditor.tally),
        ("replay", auditor.replay),
    ):
        for name, value in state[part].items():
            setattr(target, name, value)
    auditor.tally.not_scored.update(state["not_scored"])
    auditor.replay.faults.update(state["faults"])
    auditor.alarm.raised, auditor.alarm.logs = state["alarm"]
    auditor.experience = experience_of(state["experience"])
