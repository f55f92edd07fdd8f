"""Check a whole log offline: every leaf through the rules, every balance derived anew.

1. Replay all leaves from the first one, without snapshots; each must be allowed by the state
   before it, signatures of changes included.
2. Rebuild the Merkle tree; the head must be signed by the log key over exactly this root and
   these committed sums.
3. The cosigned checkpoint must be signed by log and witness and be that of a prefix of this
   log, its committed sums included.
4. No lease id occurs twice, ended or not.

What the caller still owes: that the genesis (printed as ``origin``, ``log_key``, ``operators``)
is the one that people agreed on, and, for freshness, the witness's live answer.
"""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from narrows.errors import BudgetError
from narrows.ledger.log import note
from narrows.ledger.log.merkle import Tree
from narrows.ledger.office.balances import Balances, balances_of
from narrows.ledger.rules import RuleError, State
from narrows.ledger.stores.place import LedgerPlace
from narrows.ledger.stores.sqlite import SqliteStore
from narrows.ledger.stores.store import Store
from narrows.ledger.witness.witness import witness_verifier

READ_LEAVES = 4096


@dataclass(frozen=True, slots=True)
class Verified:
    """``cosigned_size``: leaves under the newest cosignature in the store, 0 for none;
    ``cosigned_s``: when the witness signed it (Unix seconds)."""

    size: int
    root: bytes
    log_vkey: str
    witness_vkey: str
    operators: tuple[str, ...]
    threshold: int
    cosigned_size: int
    cosigned_s: int
    leases: int
    balances: Balances


def verify_log(store: Store, log_vkey: str = "", witness_vkey: str = "") -> Verified:
    """``log_vkey``, ``witness_vkey``: the keys to expect, in C2SP's text form; empty trusts those
    in the genesis. Errors: ``BudgetError``, which says what is wrong and where."""
    cosigned = store.cosigned()  # first: gates may append, and the head that is read next covers it
    head = store.head()
    if head is None:
        raise BudgetError("the log is empty")
    state, tree, heads = State(), Tree(), _wanted_head(cosigned)
    seen: set[str] = set()
    for start in range(0, head.size, READ_LEAVES):
        for leaf in store.leaves(start, min(head.size, start + READ_LEAVES)):
            state.apply(leaf, tree.root)
            tree.append(leaf)
            _check_lease_id(leaf, seen, state.size - 1)
            if tree.size in heads:
                heads[tree.size] = _head_text(state, tree)
    verifier = note.log_verifier(state.origin, bytes.fromhex(state.log_key))
    if note.verify_note(head.note, verifier) != _head_text(state, tree):
        raise BudgetError("the log key did not sign these leaves")
    witness = witness_verifier(bytes.fromhex(state.witness_key)) if state.witness_key else None
    if log_vkey not in ("", verifier.vkey()):
        raise BudgetError("this is another log than the one expected")
    if witness_vkey and (witness is None or witness.vkey() != witness_vkey):
        raise BudgetError("the log names another witness than the one expected")
    cosigned_size, cosigned_s = _check_cosigned(cosigned, verifier, witness, heads)
    return Verified(
        state.size,
        tree.root(),
        verifier.vkey(),
        witness.vkey() if witness else "",
        state.operators.keys,
        state.operators.threshold,
        cosigned_size,
        cosigned_s,
        len(seen),
        balances_of(state, state.time_ms),
    )


def verify_place(place: LedgerPlace, log_vkey: str = "", witness_vkey: str = "") -> Verified:
    """``verify_log`` of the ledger at ``place``, opened to read."""
    with closing(place.read()) as store:
        return verify_log(store, log_vkey, witness_vkey)


def verify_path(path: Path, log_vkey: str = "", witness_vkey: str = "") -> Verified:
    """``verify_log`` of a ledger file (a backup, say), or of the one in a state folder."""
    if path.is_dir():
        return verify_place(LedgerPlace(path), log_vkey, witness_vkey)
    with closing(SqliteStore(path, read_only=True)) as store:
        return verify_log(store, log_vkey, witness_vkey)


def _head_text(state: State, tree: Tree) -> str:
    return note.Checkpoint(state.origin, tree.size, tree.root(), state.committed()).text()


def _wanted_head(cosigned: bytes | None) -> dict[int, str]:
    if cosigned is None:
        return {}
    return {note.parse_checkpoint(note.open_note(cosigned)[0]).size: ""}


def _check_lease_id(leaf: bytes, seen: set[str], position: int) -> None:
    document = json.loads(leaf)  # canonical: the rules have parsed it
    if document["t"] != "lease":
        return
    if document["id"] in seen:
        raise RuleError(f"leaf {position} repeats a lease")
    seen.add(document["id"])


def _check_cosigned(
    cosigned: bytes | None,
    log: note.Verifier,
    witness: note.Verifier | None,
    heads: dict[int, str],
) -> tuple[int, int]:
    if cosigned is None or witness is None:
        return 0, 0
    text, signatures = note.open_note(cosigned)
    checkpoint = note.parse_checkpoint(text)
    time_s = note.find_signature(text, signatures, witness)
    if time_s is None or note.find_signature(text, signatures, log) is None:
        raise BudgetError("the cosigned checkpoint lacks the log's or the witness's signature")
    if heads.get(checkpoint.size) != text:
        raise BudgetError(f"the witness cosigned another log of {checkpoint.size} leaves")
    return checkpoint.size, time_s
