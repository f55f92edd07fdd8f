"""Proofs of a ledger's log for other tools, in C2SP's formats. Read-only; decides nothing.

    checkpoint    the signed head, or the newest one that the witness cosigned
    leaf proof    c2sp.org/tlog-proof: index, audit path, checkpoint
    consistency   hashes that the first n leaves of a checkpoint are what they were

All leaves are read and hashed anew, and the checkpoint has to be theirs.
"""

from __future__ import annotations

from dataclasses import dataclass

from narrows.errors import BudgetError
from narrows.ledger.log import note
from narrows.ledger.log.merkle import Tree
from narrows.ledger.stores.store import Store

PROOF_TITLE = "c2sp.org/tlog-proof@v1"
READ_LEAVES = 4096


@dataclass(frozen=True, slots=True)
class SignedTree:
    """A checkpoint as signed, its size, and the tree of at least so many leaves."""

    signed: bytes
    size: int
    tree: Tree


def signed_checkpoint(store: Store, newest: bool = False) -> bytes:
    """The newest cosigned checkpoint; the log's own head where there is none, or for
    ``newest``. Errors: ``BudgetError``."""
    head = store.head()
    if head is None:
        raise BudgetError("the log is empty")
    return head.note if newest else (store.cosigned() or head.note)


def open_log(store: Store, newest: bool = False) -> SignedTree:
    """The checkpoint with the tree that proves it. Errors: ``BudgetError``."""
    signed = signed_checkpoint(store, newest)
    checkpoint = note.parse_checkpoint(note.open_note(signed)[0])
    tree = Tree()
    for start in range(0, checkpoint.size, READ_LEAVES):
        for leaf in store.leaves(start, min(checkpoint.size, start + READ_LEAVES)):
            tree.append(leaf)
    if tree.root() != checkpoint.root:
        raise BudgetError("the leaves are not those of the checkpoint", "narrows log verify")
    return SignedTree(signed, checkpoint.size, tree)


def leaf_proof(log: SignedTree, index: int) -> str:
    """That leaf ``index`` is in the checkpoint. Errors: ``BudgetError``."""
    hashes = note.format_hashes(log.tree.inclusion(index, log.size))
    return f"{PROOF_TITLE}\nindex {index}\n{hashes}\n{log.signed.decode()}"


def consistency_proof(log: SignedTree, old: int) -> str:
    """Hashes as tlog-witness writes them: the first ``old`` leaves did not change."""
    return note.format_hashes(log.tree.consistency(old, log.size))
