"""Merkle trees with RFC 6962 hashing: roots, inclusion proofs, consistency proofs.

Leaf hash SHA-256(0x00 ‖ leaf), node hash SHA-256(0x01 ‖ left ‖ right) (RFC 6962, 2.1).

``Tree`` keeps the hashes of perfect subtrees only. ``prune(m)`` forgets all that later
proofs *from sizes of at least m* do not need, so a running ledger holds O(log n + leaves
since the last cosigned head). Verification follows RFC 9162, 2.1.3.2 and 2.1.4.2: the number
of hashes must be exact, and nothing may be left over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from narrows.errors import BudgetError

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()
MAX_PROOF_HASHES = 63  # tlog-witness's bound: trees of up to 2^63 leaves


def leaf_hash(leaf: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def _split(count: int) -> int:
    """The largest power of two below ``count`` (>= 2): where RFC 6962 divides a tree."""
    return 1 << ((count - 1).bit_length() - 1)


class Tree:
    """An append-only tree. ``size``: number of leaves."""

    def __init__(self) -> None:
        self.size = 0
        self._nodes: dict[tuple[int, int], bytes] = {}  # (level, index) of perfect subtrees

    def append(self, leaf: bytes) -> bytes:
        """Add a leaf; returns its hash."""
        digest = added = leaf_hash(leaf)
        level, index = 0, self.size
        self._nodes[level, index] = digest
        while index & 1:
            digest = node_hash(self._nodes[level, index - 1], digest)
            level, index = level + 1, index >> 1
            self._nodes[level, index] = digest
        self.size += 1
        return added

    def root(self, size: int | None = None) -> bytes:
        """The root of the first ``size`` leaves (all of them where None)."""
        count = self.size if size is None else size
        if not 0 <= count <= self.size:
            raise BudgetError(f"the log has {self.size} leaves, not {count}")
        return self._range(0, count) if count else EMPTY_ROOT

    def frontier(self, size: int | None = None) -> list[bytes]:
        """The perfect subtrees of the first ``size`` leaves, largest first."""
        return [self._node(*key) for key in _frontier_keys(self.size if size is None else size)]

    @classmethod
    def from_frontier(cls, size: int, frontier: Sequence[bytes]) -> Tree:
        """A tree that can grow and prove from ``size`` on, without the leaves before it."""
        keys = _frontier_keys(size)
        if len(keys) != len(frontier) or any(len(h) != HASH_BYTES for h in frontier):
            raise BudgetError(f"{len(frontier)} hashes do not describe {size} leaves")
        tree = cls()
        tree.size = size
        tree._nodes = dict(zip(keys, frontier, strict=True))
        return tree

    def copy(self) -> Tree:
        tree = Tree()
        tree.size, tree._nodes = self.size, dict(self._nodes)
        return tree

    def holds(self, size: int) -> bool:
        """Whether roots and proofs from ``size`` leaves can be made from memory."""
        return size <= self.size and all(key in self._nodes for key in _frontier_keys(size))

    def prune(self, size: int) -> None:
        """Forget what proofs from sizes >= ``size`` do not need."""
        kept = {key: self._node(*key) for key in _frontier_keys(size)}
        for (level, index), digest in self._nodes.items():
            if (index + 1) << level > size:
                kept[level, index] = digest
        self._nodes = kept

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """RFC 6962 2.1.1: the audit path of leaf ``index`` in the first ``size`` leaves."""
        if not 0 <= index < size <= self.size:
            raise BudgetError(f"no leaf {index} in a log of {size}")
        path: list[bytes] = []
        low, high = 0, size
        while high - low > 1:
            middle = low + _split(high - low)
            if index < middle:
                path.append(self._range(middle, high))
                high = middle
            else:
                path.append(self._range(low, middle))
                low = middle
        return path[::-1]

    def consistency(self, old: int, new: int | None = None) -> list[bytes]:
        """RFC 6962 2.1.2: the proof that the first ``old`` leaves did not change."""
        size = self.size if new is None else new
        if not 0 <= old <= size <= self.size:
            raise BudgetError(f"no proof from {old} to {size} leaves in a log of {self.size}")
        if old in (0, size):
            return []
        path: list[bytes] = []
        low, high, whole = 0, size, True
        while old != high:
            middle = low + _split(high - low)
            if old <= middle:
                path.append(self._range(middle, high))
                high = middle
            else:
                path.append(self._range(low, middle))
                low, whole = middle, False
        if not whole:
            path.append(self._range(low, high))
        return path[::-1]

    def _node(self, level: int, index: int) -> bytes:
        try:
            return self._nodes[level, index]
        except KeyError:
            raise BudgetError("the hashes of old leaves are no longer held in memory") from None

    def _range(self, low: int, high: int) -> bytes:
        count = high - low
        if count & (count - 1) == 0:  # RFC 6962's splits keep such ranges aligned
            level = count.bit_length() - 1
            return self._node(level, low >> level)
        middle = low + _split(count)
        return node_hash(self._range(low, middle), self._range(middle, high))


def _frontier_keys(size: int) -> list[tuple[int, int]]:
    keys, start = [], 0
    for level in range(size.bit_length() - 1, -1, -1):
        if size >> level & 1:
            keys.append((level, start >> level))
            start += 1 << level
    return keys


def root_of(leaves: Iterable[bytes]) -> bytes:
    tree = Tree()
    for leaf in leaves:
        tree.append(leaf)
    return tree.root()


def check_inclusion(
    leaf_digest: bytes, index: int, size: int, path: Sequence[bytes], root: bytes
) -> bool:
    """RFC 9162 2.1.3.2: whether ``path`` proves the leaf at ``index`` under ``root``."""
    if not 0 <= index < size or len(path) > MAX_PROOF_HASHES:
        return False
    node, last, digest = index, size - 1, leaf_digest
    for sibling in path:
        if len(sibling) != HASH_BYTES or last == 0:
            return False
        if node & 1 or node == last:
            digest = node_hash(sibling, digest)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            digest = node_hash(digest, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and digest == root


def root_before(index: int, size: int, path: Sequence[bytes]) -> bytes:
    """The root of the ``index`` leaves before a leaf, from a ``path`` that ``check_inclusion``
    accepted: its hashes on the left are the perfect subtrees of exactly those leaves."""
    node, last, digest = index, size - 1, b""
    for sibling in path:
        if node & 1 or node == last:
            digest = node_hash(sibling, digest) if digest else sibling
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        node, last = node >> 1, last >> 1
    return digest or EMPTY_ROOT


def check_consistency(
    old: int, new: int, old_root: bytes, new_root: bytes, path: Sequence[bytes]
) -> bool:
    """RFC 9162 2.1.4.2: whether the tree of ``new`` leaves extends the one of ``old``."""
    if not 0 <= old <= new or len(path) > MAX_PROOF_HASHES:
        return False
    if any(len(sibling) != HASH_BYTES for sibling in path):
        return False
    if old == new:
        return not path and old_root == new_root
    if old == 0:
        return not path and old_root == EMPTY_ROOT
    hashes = list(path)
    if old & (old - 1) == 0:
        hashes.insert(0, old_root)
    if not hashes:
        return False
    node, last = old - 1, new - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    first = second = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            return False
        if node & 1 or node == last:
            first, second = node_hash(sibling, first), node_hash(sibling, second)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            second = node_hash(second, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and first == old_root and second == new_root
