"""The leaves that a state allows: what to append to the log, or why nothing may be.

Pure as the rules are. Times are clamped to the log's, which never goes back; ``State.apply``
checks every leaf again.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

from narrows.errors import BudgetError
from narrows.ledger.changes import Operators
from narrows.ledger.limits import fair_bytes
from narrows.ledger.log.canonical import Document, encode
from narrows.ledger.net import Credit
from narrows.ledger.rules import State


@dataclass(frozen=True, slots=True)
class Refusal:
    """No lease. ``reason`` as in ``api.Denied``."""

    reason: str
    detail: str
    free_at_ms: int | None = None


def genesis_leaf(
    origin: str, log_key: bytes, witness_key: bytes | None, operators: Operators, time_ms: int
) -> bytes:
    return encode(
        {
            "t": "genesis",
            "origin": origin,
            "log_key": log_key.hex(),
            "witness_key": witness_key.hex() if witness_key else None,
            "keys": list(operators.keys),
            "threshold": operators.threshold,
            "time_ms": time_ms,
        }
    )


def open_leaf(
    state: State, boot_id: str, boot_ms: int, time_ms: int, gate: str | None = None
) -> bytes:
    """``gate``: whose machine booted, where gates have machines of their own."""
    leaf: Document = {"t": "open", "boot": boot_id, "boot_ms": boot_ms}
    leaf["time_ms"] = state.clamp(time_ms)
    return encode(leaf if gate is None else leaf | {"gate": gate})


def refusal(state: State, account: str, need_bytes: int, now_ms: int) -> Refusal | None:
    """Why ``need_bytes`` may not be leased at ``now_ms``; None where they may."""
    if account not in state.accounts:
        return Refusal("unknown_account", f"the ledger has no account {account!r}")
    room = state.room(account, now_ms, need_bytes)
    if room.free_bytes >= need_bytes:
        return None
    what = "the lifetime cap is reached" if room.reason == "depleted" else "a window is full"
    if state.only_net_lacks(account, now_ms, need_bytes):
        what += " (of the net budget: credits of the auditor bring some back)"
    return Refusal(room.reason, f"account {account}: {what}", room.free_at_ms)


def lease_leaf(
    state: State, account: str, want_bytes: int, lease_id: bytes, gate: str, time_ms: int
) -> tuple[bytes, int] | Refusal:
    """A lease of 1..want_bytes: its leaf and size."""
    now_ms = state.clamp(time_ms)
    refused = refusal(state, account, 1, now_ms)
    if refused is not None:
        return refused
    if want_bytes < 1:
        return Refusal("store", f"a lease of {want_bytes} bytes was asked for")
    room = state.room(account, now_ms)
    size_bytes = fair_bytes(want_bytes, room.free_bytes, len(state.leases))
    leaf: Document = {
        "t": "lease",
        "id": lease_id.hex(),
        "account": account,
        "bytes": size_bytes,
        "gate": gate,
        "time_ms": now_ms,
    }
    return encode(leaf), size_bytes


def settle_leaf(state: State, lease_id: bytes, used_bytes: int, time_ms: int) -> bytes | None:
    """The end of a lease; None where it has ended already."""
    held = state.leases.get(lease_id.hex())
    if held is None:
        return None
    if not 0 <= used_bytes <= held.size_bytes:
        raise BudgetError(f"{used_bytes} bytes used of a lease of {held.size_bytes}")
    now_ms = state.clamp(time_ms)
    return encode({"t": "settle", "id": lease_id.hex(), "used": used_bytes, "time_ms": now_ms})


def dead_leaf(state: State, lease_id: str, time_ms: int) -> bytes:
    return encode({"t": "dead", "id": lease_id, "time_ms": state.clamp(time_ms)})


def credit_leaf(state: State, credit: Credit, signature: str, time_ms: int) -> bytes:
    now_ms = state.clamp(time_ms)
    body: Document = {"t": "credit", "credit": credit.document(), "signature": signature}
    return encode(body | {"time_ms": now_ms})


def change_leaf(state: State, document: Document, signatures: object, time_ms: int) -> bytes:
    now_ms = state.clamp(time_ms)
    return encode({"t": "change", "change": document, "signatures": signatures, "time_ms": now_ms})


def state_leaf(snapshot: bytes) -> bytes:
    """``snapshot``: of the state before this leaf."""
    return encode({"t": "state", "digest": sha256(snapshot).hexdigest()})
