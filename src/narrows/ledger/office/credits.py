"""Credits on their way from an auditor to the log: one file each, one leaf each.

A credit file is one line of canonical JSON, ``{"credit": document, "signature": hex}``. It needs
no secret and gives no right: the ledger's rules check the auditor's signature, so whoever
carries it can at most lose it. Nothing here is of the gate.
"""

from __future__ import annotations

from pathlib import Path

from narrows.durable import read_once, write_whole
from narrows.errors import InputError
from narrows.ledger import rules
from narrows.ledger.leaves import credit_leaf
from narrows.ledger.ledger import Ledger
from narrows.ledger.log.canonical import MAX_DOCUMENT_BYTES, Fields, decode, encode
from narrows.ledger.net import Credit, parse_credit
from narrows.ledger.session import PATIENT_TRIES
from narrows.publickey import SIGNATURE_BYTES


def write_credit_file(path: Path, credit: Credit, signature: str) -> None:
    """Replace the file whole. Errors: ``InputError`` where it cannot be written."""
    write_whole(path, encode({"credit": credit.document(), "signature": signature}) + b"\n")


def read_credit_file(path: Path) -> tuple[Credit, str]:
    """The credit and its signature, unchecked. Errors: ``NarrowsError``."""
    data = read_once(path, MAX_DOCUMENT_BYTES + 1)
    if not data.endswith(b"\n"):
        raise InputError(f"{path} is not a credit file")
    fields = Fields(decode(data[:-1]), str(path))
    credit = parse_credit(fields.table("credit", 16))
    signature = fields.hex("signature", SIGNATURE_BYTES).hex()
    fields.done()
    return credit, signature


def apply_credit(ledger: Ledger, credit: Credit, signature: str) -> int | None:
    """Append a credit and have it cosigned. Returns its position in the log; None where it is
    the newest of its gate and account already (a call before this one had an unknown outcome).
    Errors: ``BudgetError`` where the rules refuse it."""
    position: list[int] = []
    with ledger.exclusive() as session:
        session.ready()

        def decide() -> list[bytes]:
            position.clear()
            if _is_newest(session.state, credit):
                return []
            # Tried on a copy: a refused credit must not touch the real state.
            state = session.state.copy()
            leaf = credit_leaf(state, credit, signature, session.now_ms())
            state.apply(leaf)
            position.append(session.state.size)
            return [leaf]

        session.write(decide, PATIENT_TRIES)
        session.cosign()
    return position[0] if position else None


def _is_newest(state: rules.State, credit: Credit) -> bool:
    net = state.nets.get(credit.lineage)
    auditor = net.auditors.get(credit.gate) if net is not None else None
    if auditor is None or auditor.epoch != credit.epoch or credit.account not in auditor.chains:
        return False
    chain = auditor.chains[credit.account]
    return (chain.position, chain.total) == (credit.position, credit.total)
