"""Settlements that a gate owes the log: kept until they may be written, and are.

A lease counts in full until its settlement is in the log. It is written ``hold_ms`` after its
bytes have left (see clock.py; 0 on one machine), and again after a failure, with the gate's
next call or by a timer: an idle gate must not keep what others could use. What nothing was
sent under waits for no clock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from narrows.ledger.leaves import settle_leaf
from narrows.ledger.session import Session

BATCH_LEAVES = 1024
RETRY_S = 1.0

Later = Callable[[float, Callable[[], None]], Callable[[], None]]


def start_timer(delay_s: float, work: Callable[[], None]) -> Callable[[], None]:
    """Run ``work`` once, in a thread; returns what cancels it."""
    timer = threading.Timer(delay_s, work)
    timer.daemon = True
    timer.start()
    return timer.cancel


class Owed:
    """Not thread-safe: ``Ledger`` holds a lock around it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._leases: dict[bytes, tuple[int, int]] = {}  # id to bytes used, boot time then

    def __len__(self) -> int:
        return len(self._leases)

    def add(self, lease_id: bytes, used_bytes: int) -> None:
        """``used_bytes`` of the lease have left by now; the first call for an id counts."""
        self._leases.setdefault(lease_id, (used_bytes, self._session.boot_ms()))

    def wait_ms(self) -> int:
        """Until the first of them may be written; 0 where one may be now."""
        now_ms = self._session.boot_ms()
        return max(0, min((self._due_ms(i) - now_ms for i in self._leases), default=0))

    def write(self) -> None:
        """Append those that may be. Errors: as ``Session.write``; what was not written is kept."""
        now_ms = self._session.boot_ms()
        due = [lease_id for lease_id in self._leases if self._due_ms(lease_id) <= now_ms]
        for first in range(0, len(due), BATCH_LEAVES):
            batch = due[first : first + BATCH_LEAVES]
            self._session.write(partial(self._leaves, batch))
            for lease_id in batch:
                del self._leases[lease_id]

    def _due_ms(self, lease_id: bytes) -> int:
        used_bytes, left_ms = self._leases[lease_id]
        return left_ms + (self._session.hold_ms if used_bytes else 0)

    def _leaves(self, batch: list[bytes]) -> list[bytes]:
        state, now_ms = self._session.state, self._session.now_ms()
        leaves = [settle_leaf(state, i, self._leases[i][0], now_ms) for i in batch]
        return [leaf for leaf in leaves if leaf is not None]
