"""What a gate knows of the ledger: leases, and nothing of how they are kept.

Order that makes the claim true (law 1, paid before sent):

    acquire  -> the lease is on disk and, where a witness is set, cosigned
    send     -> at most ``size_bytes`` under that lease, counted before the write
    settle   -> what was not used returns; a gate that dies settles nothing, and the whole
                lease counts as spent

A ``LeaseSource`` is used from one thread at a time per account; ``acquire`` may block on
disk and witness, so gates prefetch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Lease:
    """A slice of budget that is already durable. ``lease_id``: 16 bytes, random, unique."""

    lease_id: bytes
    account: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Denied:
    """No lease. ``reason``: one of ``wire.gatestate.REASONS``, where each is explained; ``kernel``
    and ``machine`` never come from a ledger. ``retry_after_s``: when some of a ``window`` returns.
    ``detail`` is for the operator's log, never for the enclave."""

    reason: str
    detail: str
    retry_after_s: float | None = None


class LeaseSource(Protocol):
    def acquire(self, account: str, want_bytes: int) -> Lease | Denied:
        """A lease of 1..want_bytes, durable and cosigned when this returns, or why not."""

    def would_refuse(self, account: str, need_bytes: int) -> Denied | None:
        """Why ``acquire`` could not bring ``need_bytes`` now, store, witness and clock
        included; None where it could. Reserves nothing. A gate without links asks it, since
        what only a lease would show, nobody would ever see."""

    def settle(self, lease: Lease, used_bytes: int) -> None:
        """End a lease; ``size_bytes - used_bytes`` return to the budget. Idempotent per lease
        id; a settlement that fails leaves the lease counted in full."""
