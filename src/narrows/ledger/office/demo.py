"""A small demonstration budget, made by ``narrows up`` where there is no ledger yet.

One operator key without passphrase, a witness on the same machine: fine to try narrows, not
to protect anything.
"""

from __future__ import annotations

import secrets
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from narrows.errors import BudgetError
from narrows.ledger.auditors import EPOCH_BYTES, PPM, PPT, Enrolment, NetLimits, Terms
from narrows.ledger.changes import Operators, sign_change
from narrows.ledger.keys import load_private, public_of, save_private
from narrows.ledger.ledger import Ledger
from narrows.ledger.limits import Limits
from narrows.ledger.log.canonical import Document
from narrows.ledger.office.admin import apply_change
from narrows.ledger.office.balances import read_balances
from narrows.ledger.office.propose import auditor_document, budget_document
from narrows.ledger.office.setup import (
    create_ledger,
    create_log_key,
    create_witness,
    make_directory,
    open_witness,
)
from narrows.ledger.stores.place import OPERATOR, LedgerPlace

LINEAGE = "demo"
ACCOUNTS = ("answers", "telemetry")


def create_demo(state_dir: Path, budget_bytes: int) -> None:
    """Make keys, witness, ledger and a lifetime budget of ``budget_bytes`` for lineage
    ``demo`` with the accounts ``answers`` and ``telemetry``. Errors: ``BudgetError`` where a
    ledger *or a witness* exists: a deleted ledger is not replaced by a fresh budget."""
    place = LedgerPlace(state_dir)
    for path in (place.file, state_dir / "witness" / "witness.db"):
        if path.exists():
            raise BudgetError(
                f"{path} exists; a ledger is never made anew over it",
                "use another --state, or see narrows ledger restore and recover",
            )
    origin = f"narrows.demo/{secrets.token_hex(8)}"
    keys = make_directory(state_dir, place.folder.name, "operators")
    operator = Ed25519PrivateKey.generate()
    save_private(keys / "demo.key", operator)
    operators = Operators((public_of(operator).hex(),), 1)
    log_key, witness_key = create_log_key(place), create_witness(state_dir)
    witness = open_witness(state_dir)
    try:
        witness.add_log(origin, log_key, operators)
        create_ledger(place, origin, operators, witness_key, int(time.time() * 1000))
        ledger = Ledger.open(place, witness=witness, gate=OPERATOR)
        try:
            limits = Limits(budget_bytes)
            accounts = dict.fromkeys(ACCOUNTS, Limits(None))
            document = budget_document(ledger.state(), LINEAGE, limits, accounts, ledger.now_ms())
            apply_change(ledger, document, [sign_change(document, operator)])
        finally:
            ledger.close()
    finally:
        witness.close()


AUDITED_ACCOUNTS = (*ACCOUNTS, "verdicts")
DEMO_DELTA_PPT = PPT // 1000
DEMO_GRAIN_BYTES = 256
"""A small deployment's credits: 64 KiB would take it days."""


def audit_demo(
    state_dir: Path, gate: str, auditor: str, pins: str, grain_bytes: int = DEMO_GRAIN_BYTES
) -> Document:
    """The demonstration's auditor: every answer is audited. Gives the lineage a net budget of its
    own lifetime cap and an account ``verdicts`` where it has none, and enrols ``auditor`` (hex)
    for weights ``pins`` unless it is, on whatever terms; the enrolment's document. Errors:
    ``BudgetError``, also where the ledger is not the demonstration's own."""
    place = LedgerPlace(state_dir)
    operator = load_private(place.folder / "operators" / "demo.key")
    ledger = Ledger.open(place, witness=open_witness(state_dir), gate=OPERATOR)
    try:
        state = ledger.state()
        if LINEAGE not in state.lineages:
            raise BudgetError(f"the ledger has no lineage {LINEAGE}", "enrol an auditor yourself")
        missing = set(AUDITED_ACCOUNTS) - state.accounts.keys()
        if LINEAGE not in state.nets or missing:
            raw = state.lineages[LINEAGE].limits
            kept = state.nets[LINEAGE].limits() if LINEAGE in state.nets else None
            accounts = {
                name: entry.meter.limits
                for name, entry in state.accounts.items()
                if entry.lineage == LINEAGE and not entry.closed
            } | dict.fromkeys(missing, Limits(None))
            net = kept or NetLimits(Limits(raw.lifetime_bytes), DEMO_DELTA_PPT)
            document = budget_document(state, LINEAGE, raw, accounts, ledger.now_ms(), net=net)
            apply_change(ledger, document, [sign_change(document, operator)])
            state = ledger.state()
        terms = Terms(PPM, 2048, 1000, 990_000, pins, grain_bytes)
        body = Enrolment(LINEAGE, (gate,), auditor, secrets.token_hex(EPOCH_BYTES), terms)
        enrolled = state.nets[LINEAGE].auditors.get(gate)
        known = enrolled is not None and (enrolled.key, enrolled.terms.pins) == (auditor, pins)
        if enrolled is not None and known:
            body = Enrolment(LINEAGE, (gate,), auditor, enrolled.epoch, enrolled.terms)
        document = auditor_document(state, body, ledger.now_ms())
        if not known:
            apply_change(ledger, document, [sign_change(document, operator)])
        return document
    finally:
        ledger.close()


def demo_budget(state_dir: Path) -> int | None:
    """The demonstration's lifetime cap in bytes; None where there is no ledger or no lineage
    ``demo``. Errors: ``BudgetError`` for a damaged ledger."""
    place = LedgerPlace(state_dir)
    if not place.file.exists():
        return None
    for lineage in read_balances(place).lineages:
        if lineage.lineage == LINEAGE:
            return lineage.granted_bytes
    return None


def demo_witness_key(state_dir: Path) -> bytes:
    """The public key of the witness under ``state_dir``."""
    return public_of(load_private(state_dir / "witness" / "witness.key"))
