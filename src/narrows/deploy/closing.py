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
    """Lower the net lifetime to what is spent and out, so that from the next lease on nothing of
    ``lineage`` leaves, and revoke the auditor of ``gate``. In this order: killed between the two
    it is called again, as long as there is an auditor. Errors: ``BudgetError``."""
    if key is None:
        log.warning("no operator's key is here: nothing more is credited, and the net budget fills")
        return
    state = ledger.state()
    net = state.nets[lineage]
    limits = net.limits()
    committed_bytes = net.meter.committed_bytes()
    if limits.limits.lifetime_bytes != committed_bytes:
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
            net=NetLimits(replace(limits.limits, lifetime_bytes=committed_bytes), limits.delta_ppt),
        )
        apply_change(ledger, document, [sign_change(document, key)])
    document = auditor_document(ledger.state(), Revocation(lineage, (gate,)), ledger.now_ms())
    apply_change(ledger, document, [sign_change(document, key)])
    log.warning("lineage %s is closed, and the auditor of %s is revoked", lineage, gate)
