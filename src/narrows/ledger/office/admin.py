"""What operators do to a ledger: apply a signed change, accept a gap.

A recovery, step by step (the gates are stopped; a ledger behind its witness grants nothing):
1. ``find_gap`` asks the witness: the head to give up, and the bytes committed by then that
   this ledger does not know of;
2. k operators sign exactly that head and those bytes;
3. ``recover`` appends the signed leaf, which ends every outstanding lease as spent;
4. the witness checks signatures, heads and sums itself and moves to the new head.
A crash between 3 and 4 leaves a ledger that is still refused; ``recover`` again finishes it.
"""

from __future__ import annotations

from dataclasses import dataclass

from narrows.ledger import rules
from narrows.ledger.changes import parse_change
from narrows.ledger.leaves import change_leaf
from narrows.ledger.ledger import Ledger
from narrows.ledger.log import note
from narrows.ledger.log.canonical import Document, decode
from narrows.ledger.session import PATIENT_TRIES, Session
from narrows.ledger.stores.store import Head
from narrows.ledger.witness.witness import Latest, WitnessError


@dataclass(frozen=True, slots=True)
class Gap:
    """``witnessed``: the head to give up. ``root``: the ledger's own. ``gap_bytes``: by
    lineage, what can have left beyond what this ledger counts."""

    witnessed: Latest
    root: bytes
    gap_bytes: dict[str, int]


def apply_change(ledger: Ledger, document: Document, signatures: list[list[str]]) -> int:
    """Append a signed change and have it cosigned, else a lowering could be rolled back.
    Returns its position in the log. Where the witness could not be told of new
    operators, calling it again with the same change does the rest. Errors: ``BudgetError``."""
    with ledger.exclusive() as session:
        return _apply_change(session, document, signatures)


def _apply_change(session: Session, document: Document, signatures: list[list[str]]) -> int:
    session.ready()
    follows = document.get("kind") == "operators" and session.witness is not None
    if not (follows and _is_last(session, document)):
        if follows and parse_change(document).not_after_ms < session.latest().time_ms:
            raise rules.RuleError("the change has expired at the witness", "propose it again")
        session.write(
            lambda: [_checked(session, document, signatures, session.now_ms())], PATIENT_TRIES
        )
    position = session.state.last_change[0]
    if follows and session.witness is not None:
        session.witness.set_operators(session.store.leaves(position, position + 1)[0])
    session.cosign()
    return position


def find_gap(ledger: Ledger) -> Gap:
    """What a recovery would give up. Errors: ``BudgetError``."""
    with ledger.exclusive() as session:
        return _find_gap(session)


def _find_gap(session: Session) -> Gap:
    session.replica.reload()
    latest, gaps = session.latest(), dict[str, int]()
    if latest.note:
        then = note.parse_checkpoint(note.open_note(latest.note)[0]).committed
        have = session.state.committed()
        gaps = {name: max(0, count - have.get(name, 0)) for name, count in then.items()}
    return Gap(latest, session.replica.tree.root(), gaps)


def recover(ledger: Ledger, document: Document, signatures: list[list[str]]) -> int:
    """Steps 3 and 4. Returns the position of the recovery in the log. Errors: ``BudgetError``."""
    with ledger.exclusive() as session:
        return _recover(session, document, signatures)


def _recover(session: Session, document: Document, signatures: list[list[str]]) -> int:
    replica = session.replica
    replica.reload()
    if session.witness is None:
        raise WitnessError("a recovery needs the witness")
    position = session.state.last_change[0]
    (leaf,) = session.store.leaves(position, position + 1)
    if not _is_last(session, document):
        # Dated by the witness: this ledger's own time may be as old as its file.
        leaf = _checked(session, document, signatures, session.latest().time_ms)
        position = session.state.size
        replica.append([leaf])
    replica.load(Head(session.state.size, replica.note), from_start=True)
    path = replica.tree.inclusion(position, session.state.size)
    line = session.witness.recover(leaf, path, replica.note)
    session.accept(line, session.witness.verifier)
    return position


def _is_last(session: Session, document: Document) -> bool:
    """Whether the newest change in the log is this one: applied, perhaps not yet witnessed."""
    position = session.state.last_change[0]
    (leaf,) = session.store.leaves(position, position + 1)
    return decode(leaf).get("change") == document


def _checked(
    session: Session, document: Document, signatures: list[list[str]], time_ms: int
) -> bytes:
    """The change's leaf, tried on a copy: a refused change must not touch the real state."""
    state = session.state.copy()
    leaf = change_leaf(state, document, signatures, time_ms)
    state.apply(leaf, session.replica.tree.root)
    return leaf
