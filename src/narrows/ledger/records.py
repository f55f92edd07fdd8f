"""What a state holds, its canonical form, and how to copy it.

``rules.State`` says what may be done to these; nothing here decides anything.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from narrows.ledger.changes import Operators
from narrows.ledger.keys import public_of_hex
from narrows.ledger.limits import Meter
from narrows.ledger.log.canonical import Document

if TYPE_CHECKING:
    from narrows.ledger.rules import State


@dataclass(slots=True)
class Account:
    lineage: str
    meter: Meter
    closed: bool = False  # removed from its budget: counts on, grants nothing


@dataclass(frozen=True, slots=True)
class Held:
    """An outstanding lease."""

    account: str
    size_bytes: int
    gate: str
    time_ms: int


@dataclass(frozen=True, slots=True)
class Anchor:
    """Ledger time ``time_ms`` was at ``boot_ms`` of CLOCK_BOOTTIME in boot ``boot_id``."""

    boot_id: str
    boot_ms: int
    time_ms: int

    def document(self) -> list[str | int]:
        return [self.boot_id, self.boot_ms, self.time_ms]


def state_document(state: State) -> Document:
    """A state as a document. ``anchors`` is there only where gates have their own, so that the
    digests in logs from before that was possible stay what they were."""
    document: Document = {
        "size": state.size,
        "origin": state.origin,
        "log_key": state.log_key,
        "witness_key": state.witness_key,
        "keys": list(state.operators.keys),
        "threshold": state.operators.threshold,
        "time_ms": state.time_ms,
        "anchor": state.anchor.document(),
        "last_change": [state.last_change[0], state.last_change[1].hex()],
        "lineages": {name: m.document() for name, m in state.lineages.items()},
        "accounts": {
            name: [a.lineage, a.closed, a.meter.document()] for name, a in state.accounts.items()
        },
        "leases": {
            lease_id: [h.account, h.size_bytes, h.gate, h.time_ms]
            for lease_id, h in state.leases.items()
        },
    }
    if state.anchors:
        document["anchors"] = {gate: anchor.document() for gate, anchor in state.anchors.items()}
    return document


def fill_state(state: State, d: Document) -> None:
    """The inverse, into a new state; only for documents whose digest was checked. Errors:
    ``BudgetError`` for a key that is none."""
    state.size, state.origin, state.time_ms = d["size"], d["origin"], d["time_ms"]
    state.log_key, state.witness_key = d["log_key"], d["witness_key"]
    for key in (state.log_key, *filter(None, [state.witness_key]), *d["keys"]):
        public_of_hex(key)  # a narrows from before they were checked may have let it in
    state.operators = Operators(tuple(d["keys"]), d["threshold"])
    state.anchor = Anchor(*d["anchor"])
    state.anchors = {gate: Anchor(*anchor) for gate, anchor in d.get("anchors", {}).items()}
    state.last_change = (d["last_change"][0], bytes.fromhex(d["last_change"][1]))
    state.lineages = {name: Meter.parse(m) for name, m in d["lineages"].items()}
    state.accounts = {
        name: Account(lineage, Meter.parse(m), closed)
        for name, (lineage, closed, m) in d["accounts"].items()
    }
    state.leases = {lease_id: Held(*row) for lease_id, row in d["leases"].items()}


def copy_state(old: State, new: State) -> None:
    """Make ``new`` equal to ``old``, sharing only what never changes."""
    new.size, new.origin, new.time_ms = old.size, old.origin, old.time_ms
    new.log_key, new.witness_key = old.log_key, old.witness_key
    new.operators, new.last_change = old.operators, old.last_change
    new.anchor, new.anchors = old.anchor, dict(old.anchors)
    new.lineages = {name: meter.copy() for name, meter in old.lineages.items()}
    new.accounts = {
        name: replace(account, meter=account.meter.copy()) for name, account in old.accounts.items()
    }
    new.leases = dict(old.leases)
