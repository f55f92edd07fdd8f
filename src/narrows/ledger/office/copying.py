"""Carry a log from one store to another: a backup of etcd, or a move to it.

The copy has the same leaves under the same signed head, so it is the same ledger to its witness:
whichever goes on first, the other is behind and refused. Heads on the way have no signature, so
a copy that was cut short is refused as well, and made anew elsewhere.
"""

from __future__ import annotations

from narrows.ledger.log import note
from narrows.ledger.stores.store import Head, Store, StoreError

COPY_LEAVES = 512
MAX_COPY_BYTES = 1 << 19  # what any store takes in one append, with the longest leaf on top


def copy_log(source: Store, target: Store) -> int:
    """All of ``source`` into ``target``, which is empty; returns the number of leaves. Gates may
    be using the source: what they append meanwhile is not in the copy."""
    cosigned = source.cosigned()  # first: the head that is read next covers it
    head = source.head()
    if head is None:
        raise StoreError("there is nothing to copy")
    size = 0
    while size < head.size:
        leaves = _batch(source.leaves(size, min(head.size, size + COPY_LEAVES)))
        end = size + len(leaves)
        target.append(size, leaves, head.note if end == head.size else b"")
        size = end
    if cosigned is not None:
        checkpoint = note.parse_checkpoint(note.open_note(cosigned)[0])
        target.put_cosigned(Head(checkpoint.size, cosigned))
    return size


def _batch(leaves: list[bytes]) -> list[bytes]:
    """As many of the first ones as one append takes; at least one."""
    total_bytes = 0
    for count, leaf in enumerate(leaves):
        total_bytes += len(leaf)
        if total_bytes > MAX_COPY_BYTES and count:
            return leaves[:count]
    return leaves
