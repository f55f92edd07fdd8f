"""What a state holds, its canonical form, and how to copy it.

``rules.State`` says what may be done to these; nothing here decides anything.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from narrows.ledger.changes import Operators
from narrows.ledger.keys import public_of_hex
from narrows.ledger.limits import BudgetMeter
from narrows.ledger.log.canonical import Document, decode, encode
from narrows.ledger.net import Net

MAX_SNAPSHOT_BYTES = 64 << 20


@dataclass(slots=True)
class Account:
    lineage: str
    meter: BudgetMeter
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


class StateData:
    """What a state is: read, copied, written as bytes. ``rules.State`` changes it."""

    def __init__(self) -> None:
        self.size = 0
        self.origin = ""
        self.log_key = ""
        self.witness_key = ""
        self.operators = Operators((), 1)
        self.time_ms = 0
        self.anchor = Anchor("", 0, 0)  # of a ledger on one machine
        self.anchors: dict[str, Anchor] = {}  # by gate, where gates have machines of their own
        self.last_change: tuple[int, bytes] = (0, bytes(32))
        self.lineages: dict[str, BudgetMeter] = {}
        self.accounts: dict[str, Account] = {}
        self.leases: dict[str, Held] = {}
        self.nets: dict[str, Net] = {}  # by lineage, where there is a net budget

    def snapshot(self) -> bytes:
        """The canonical form of the whole state; equal states have equal bytes."""
        return encode(_document(self))

    @classmethod
    def from_snapshot(cls, data: bytes) -> Self:
        """Read a snapshot whose digest the caller has checked against a ``state`` leaf."""
        state = cls()
        _fill(state, decode(data, MAX_SNAPSHOT_BYTES))
        return state

    def copy(self) -> Self:
        """The same state, which later leaves do not change."""
        state = type(self)()
        _copy(self, state)
        return state


def _document(state: StateData) -> Document:
    """A state as a document. ``anchors`` and ``nets`` are there only where there are any, so
    that the digests in logs from before they were possible stay what they were."""
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
    if state.nets:
        document["nets"] = {name: net.document() for name, net in state.nets.items()}
    return document


def _fill(state: StateData, d: Document) -> None:
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
    state.lineages = {name: BudgetMeter.parse(m) for name, m in d["lineages"].items()}
    state.accounts = {
        name: Account(lineage, BudgetMeter.parse(m), closed)
        for name, (lineage, closed, m) in d["accounts"].items()
    }
    state.leases = {lease_id: Held(*row) for lease_id, row in d["leases"].items()}
    state.nets = {name: Net.of_document(net) for name, net in d.get("nets", {}).items()}


def _copy(old: StateData, new: StateData) -> None:
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
    new.nets = {name: net.copy() for name, net in old.nets.items()}
