"""This process's copy of the log: the state and the Merkle tree, as of the store's head.

Loading trusts nothing but the log key: the snapshot's digest must be the next leaf, the leaves
after it are replayed through the rules, and the root they give must be the one that the log
key signed. A loaded copy only moves forward: a store whose head is smaller than, or differs
from, what this process has seen is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from narrows.errors import BudgetError
from narrows.ledger import records, rules
from narrows.ledger.leaves import state_leaf
from narrows.ledger.log import note
from narrows.ledger.log.canonical import decode
from narrows.ledger.log.merkle import Tree
from narrows.ledger.stores.store import ConflictError, Head, Snapshot, Store, StoreError

SNAPSHOT_EVERY_LEAVES = 1024
READ_LEAVES = 4096


class DamagedError(BudgetError):
    """The store holds what its log key never signed."""


class BehindError(BudgetError):
    """The ledger is older than, or differs from, what was seen of it before."""


class Replica:
    """``state``, ``tree`` and ``note`` (the signed head) describe the same size, unless
    ``void``: an append failed, and only ``reload`` says what is true."""

    def __init__(self, store: Store, log_public: bytes, key: Ed25519PrivateKey | None) -> None:
        self._store = store
        self._public = log_public
        self._key = key
        self.state = rules.State()
        self.tree = Tree()
        self.note = b""
        self.void = True
        self._seen_size = 0
        self._seen_frontier: tuple[bytes, ...] = ()
        self._snapshot_size = 0

    def checkpoint(self) -> note.Checkpoint:
        return _checkpoint(self.state, self.tree)

    def reload(self) -> None:
        """Catch up with the store: after a conflict, a failure, or at the start. What is known
        to be true is kept, and only the leaves after it are read."""
        head = self._store.head()
        if head is None:
            raise StoreError("the ledger is empty")
        if head.size < self._seen_size:
            raise BehindError(
                f"the store went back from {self._seen_size} leaves to {head.size}",
                "its file was replaced while in use: see narrows ledger recover",
            )
        if self.void:
            self.load(head)
        elif head.note != self.note:
            self._catch_up(head)

    def load(self, head: Head, from_start: bool = False) -> None:
        """Read the store up to ``head``: from its snapshot, or from the first leaf."""
        state, tree = rules.State(), Tree()
        snapshot = None if from_start else self._store.snapshot()
        if snapshot is not None:
            state, tree = self._open_snapshot(snapshot)
            if state.size >= head.size:  # another process appended since the head was read
                head = self._store.head() or head
        self._snapshot_size = snapshot.size if snapshot is not None else 0
        self._replay(state, tree, head)

    def _catch_up(self, head: Head) -> None:
        self.void = True  # until the new head was checked
        try:
            self._replay(self.state, self.tree, head)
        except (DamagedError, rules.RuleError):
            self.load(head)  # says whether it is damaged, or another log than the one known

    def _replay(self, state: rules.State, tree: Tree, head: Head) -> None:
        """Take in the store's leaves up to ``head``, and take over if they are signed."""
        text = self._signed(head)
        for start in range(state.size, head.size, READ_LEAVES):
            for leaf in self._store.leaves(start, min(head.size, start + READ_LEAVES)):
                if leaf.endswith(b'"t":"state"}'):
                    self._snapshot_size = state.size  # another process has stored it
                state.apply(leaf, tree.root)
                tree.append(leaf)
        if text != _checkpoint(state, tree).text():
            raise DamagedError(
                "the leaves are not those that the log key signed",
                "restore a backup: see narrows ledger restore",
            )
        if tree is not self.tree:
            self._require_extension(tree)
        self.state, self.tree, self.note, self.void = state, tree, head.note, False
        self._see()

    def _signed(self, head: Head) -> str:
        """The checkpoint's text, before any leaf is read: of a size that only the store says,
        there could be leaves without end."""
        text = note.open_note(head.note)[0]
        checkpoint = note.parse_checkpoint(text)
        note.verify_note(head.note, note.log_verifier(checkpoint.origin, self._public))
        if checkpoint.size != head.size:
            raise DamagedError("the head's size is not the one that the log key signed")
        return text

    def _require_extension(self, tree: Tree) -> None:
        # Of two logs that the log key signed, only one is the witness's: a lease or a cosigned
        # size that is known of the one means nothing in the other.
        seen = Tree.from_frontier(self._seen_size, self._seen_frontier)
        if seen.size <= tree.size:
            for leaf in self._store.leaves(seen.size, tree.size):
                seen.append(leaf)
        if seen.root() != tree.root():
            raise BehindError(
                f"the store's first {self._seen_size} leaves are not those that were seen before",
                "its file was replaced while in use: see narrows ledger recover",
            )

    def _see(self) -> None:
        self._seen_size, self._seen_frontier = self.tree.size, tuple(self.tree.frontier())

    def root_at(self, size: int) -> bytes:
        """The root of the first ``size`` leaves, reading old leaves where they are needed."""
        if not self.tree.holds(size):
            self.load(Head(self.state.size, self.note), from_start=True)
        return self.tree.root(size)

    def consistency(self, old: int) -> list[bytes]:
        """The proof from ``old`` leaves to the head."""
        self.root_at(old)
        return self.tree.consistency(old)

    def append(self, leaves: Sequence[bytes], cosigned: Head | None = None) -> None:
        """Append leaves that were decided on this state, and a snapshot when one is due.
        Errors as ``Store.append``; the replica is void after all but ``ConflictError``."""
        expected_size, written, snapshot = self.state.size, list(leaves), None
        before = self.state.copy(), self.tree.copy()
        self.void = True
        self._take(leaves)
        if self.state.size - self._snapshot_size >= SNAPSHOT_EVERY_LEAVES:
            data = self.state.snapshot()
            if len(data) <= records.MAX_SNAPSHOT_BYTES:  # one that nobody reads would be the end
                snapshot = Snapshot(self.state.size, data, tuple(self.tree.frontier()))
                written.append(state_leaf(data))
                self._take(written[-1:])
            else:
                self._snapshot_size = self.state.size  # tried again later; the log has it all
        if self._key is None:
            raise StoreError("the ledger was opened without its log key")
        signed = note.sign_note(self.checkpoint().text(), self.state.origin, self._key)
        try:
            self._store.append(
                expected_size, written, signed, snapshot, cosigned, expected_note=self.note
            )
        except ConflictError:
            self.state, self.tree = before  # nothing was stored: what was true still is
            self.void = False
            raise
        self.note, self.void = signed, False
        self._see()
        if snapshot is not None:
            self._snapshot_size = snapshot.size

    def _take(self, leaves: Sequence[bytes]) -> None:
        for leaf in leaves:
            self.state.apply(leaf, self.tree.root)
            self.tree.append(leaf)

    def _open_snapshot(self, snapshot: Snapshot) -> tuple[rules.State, Tree]:
        """The leaf behind a snapshot holds its digest, and the signed root holds the leaf."""
        (leaf,) = self._store.leaves(snapshot.size, snapshot.size + 1)
        expected = {"t": "state", "digest": sha256(snapshot.data).hexdigest()}
        if decode(leaf) != expected:
            raise DamagedError("the snapshot is not the one that the log names")
        state = rules.State.from_snapshot(snapshot.data)
        if state.size != snapshot.size:
            raise DamagedError("the snapshot is of another size than it says")
        return state, Tree.from_frontier(snapshot.size, snapshot.frontier)


def _checkpoint(state: rules.State, tree: Tree) -> note.Checkpoint:
    return note.Checkpoint(state.origin, state.size, tree.root(), state.committed())
