"""What ``on_alarm = "close"`` does beside booking nothing: a lowering that one operator may sign.

Without an operator's key the poster only books nothing more: the net budget fills and closes.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from narrows.ledger.auditors import NetLimits, Revocation
from narrows.ledger.changes import sign_change
from narrows.ledger.ledger import Ledger
from narrows.ledger.office.admin import apply_change
from narrows.ledger.office.propose import auditor_document, budget_document

log = logging.getLogger("narrows.poster")


def close_behind_alarm(
    ledger: Ledger, lineage: str, gate: str, key: Ed25519PrivateKey | None
) -> None:
    """Revoke the auditor of ``gate``, and lower the net lifetime to what is spent and out: from
    the next lease on nothing of ``lineage`` leaves. Errors: ``BudgetError``."""
    if key is None:
        log.warning("no operator's key is here: nothing more is credited, and the net budget fills")
        return
    state = ledger.state()
    document = auditor_document(state, Revocation(lineage, (gate,)), ledger.now_ms())
    apply_change(ledger, document, [sign_change(document, key)])
    state = ledger.state()
    net = state.nets[lineage]
    limits = net.limits()
    lower = replace(limits.limits, lifetime_bytes=net.meter.committed_bytes())
    accounts = {
        name: entry.meter.limits
        for name, entry in state.accounts.items()
        if entry.lineage == lineage and not entry.closed
    }
    document = budget_document(
        state,
        lineage,
        state.lineages[lineage].limits,
        accounts,
        ledger.now_ms(),
        net=NetLimits(lower, limits.delta_ppt),
    )
    apply_change(ledger, document, [sign_change(document, key)])
    log.warning("the auditor of %s is revoked, and lineage %s is closed", gate, lineage)
