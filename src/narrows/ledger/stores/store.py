"""What a ledger needs of a store: an append-only list of leaves under a signed head.

Every store keeps, atomically and durably: the leaves, the head (size and signed checkpoint),
the last cosigned checkpoint, and one snapshot of the state. It knows no rule.

Contract, checked for each store by ``tests/ledger/conformance.py``:
1. ``append`` stores all leaves and the head, or nothing, if and only if the stored size is
   ``expected_size`` at that instant, and the stored head's note ``expected_note`` where that is
   given (compare and swap), and returns when they are durable.
2. ``ConflictError``: someone else appended; nothing was stored. Reload and decide again.
3. ``StoreError``: the outcome is unknown. The caller reloads and looks whether its leaf is
   there; until it can, nothing may be sent on the strength of it.
4. Reads are linearizable: they see every append that returned before they began.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from narrows.errors import BudgetError


class StoreError(BudgetError):
    """A read failed, or a write has an unknown outcome."""


class ConflictError(StoreError):
    """The stored size was not the expected one; nothing was stored."""


@dataclass(frozen=True, slots=True)
class Head:
    """``note``: the log's signed checkpoint of ``size`` leaves."""

    size: int
    note: bytes


@dataclass(frozen=True, slots=True)
class Snapshot:
    """``data``: canonical state after ``size`` leaves. ``frontier``: the Merkle tree's perfect
    subtrees at that size, largest first."""

    size: int
    data: bytes
    frontier: tuple[bytes, ...]


class Store(Protocol):
    @property
    def shared(self) -> bool:
        """Whether gates on several machines may use it: their clocks then differ."""

    def head(self) -> Head | None:
        """The newest head; None where the store is empty."""

    def leaves(self, start: int, stop: int) -> list[bytes]:
        """Leaves ``start`` to ``stop - 1``; ``StoreError`` if one is missing."""

    def append(
        self,
        expected_size: int,
        leaves: Sequence[bytes],
        note: bytes,
        snapshot: Snapshot | None = None,
        cosigned: Head | None = None,
        *,
        expected_note: bytes | None = None,
    ) -> None:
        """Contract 1 to 3. ``expected_note``: a file that was put back and grew to the same size
        holds other leaves, and nothing may be put on top of them. ``cosigned``: the newest
        checkpoint with its witness's line, to be kept beside the head; losing it costs a
        question, never a byte of budget."""

    def cosigned(self) -> bytes | None:
        """The newest checkpoint that a witness cosigned."""

    def put_cosigned(self, cosigned: Head) -> None:
        """The same on its own, when nothing is appended; an older one replaces no newer one."""

    def snapshot(self) -> Snapshot | None:
        """The newest snapshot."""

    def close(self) -> None:
        """Release files and connections."""
