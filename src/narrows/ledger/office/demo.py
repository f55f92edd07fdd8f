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
from narrows.ledger.changes import Operators, sign_change
from narrows.ledger.keys import load_private, public_of, save_private
from narrows.ledger.ledger import Ledger
from narrows.ledger.limits import Limits
from narrows.ledger.office.admin import apply_change
from narrows.ledger.office.balances import read_balances
from narrows.ledger.office.propose import budget_document
from narrows.ledger.office.setup import (
    create_ledger,
    create_log_key,
    create_witness,
    make_directory,
    open_witness,
)

LINEAGE = "demo"
ACCOUNTS = ("answers", "telemetry")


def create_demo(state_dir: Path, budget_bytes: int) -> None:
    """Make keys, witness, ledger and a lifetime budget of ``budget_bytes`` for lineage
    ``demo`` with the accounts ``answers`` and ``telemetry``. Errors: ``BudgetError`` where a
    ledger *or a witness* exists: a deleted ledger is not replaced by a fresh budget."""
    for part in ("ledger/ledger.db", "witness/witness.db"):
        if (state_dir / part).exists():
            raise BudgetError(
                f"{state_dir / part} exists; a ledger is never made anew over it",
                "use another --state, or see narrows ledger restore and recover",
            )
    origin = f"narrows.demo/{secrets.token_hex(8)}"
    make_directory(state_dir, "ledger", "operators")
    operator = Ed25519PrivateKey.generate()
    save_private(state_dir / "ledger" / "operators" / "demo.key", operator)
    operators = Operators((public_of(operator).hex(),), 1)
    log_key, witness_key = create_log_key(state_dir), create_witness(state_dir)
    witness = open_witness(state_dir)
    try:
        witness.add_log(origin, log_key, operators)
        create_ledger(state_dir, origin, operators, witness_key, int(time.time() * 1000))
        ledger = Ledger.open(state_dir, witness=witness, gate="operator")
        try:
            limits = Limits(budget_bytes)
            accounts = dict.fromkeys(ACCOUNTS, Limits(None))
            document = budget_document(ledger.state(), LINEAGE, limits, accounts, ledger.now_ms())
            apply_change(ledger, document, [sign_change(document, operator)])
        finally:
            ledger.close()
    finally:
        witness.close()


def demo_budget(state_dir: Path) -> int | None:
    """The demonstration's lifetime cap in bytes; None where there is no ledger or no lineage
    ``demo``. Errors: ``BudgetError`` for a damaged ledger."""
    if not (state_dir / "ledger" / "ledger.db").exists():
        return None
    for lineage in read_balances(state_dir).lineages:
        if lineage.lineage == LINEAGE:
            return lineage.granted_bytes
    return None


def demo_witness_key(state_dir: Path) -> bytes:
    """The public key of the witness under ``state_dir``."""
    return public_of(load_private(state_dir / "witness" / "witness.key"))
