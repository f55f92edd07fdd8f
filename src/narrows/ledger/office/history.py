"""What left, hour by hour, as the ledger booked it: read-only."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

from narrows.errors import BudgetError
from narrows.ledger.log.canonical import decode
from narrows.ledger.stores.place import LedgerPlace
from narrows.ledger.stores.store import Store

HOUR_MS = 3_600_000
MAX_HOURS = 24 * 366
_READ_LEAVES = 4096


@dataclass(frozen=True, slots=True)
class BookedHours:
    """``hourly_bytes``: of complete hours up to the newest leaf's, the oldest first, at most a
    year of them; a lease counts when it is settled, a dead one in full. ``end_ms``: ledger time
    at the end of the last one."""

    hourly_bytes: tuple[int, ...]
    end_ms: int


def read_history(place: LedgerPlace, account: str | None = None) -> BookedHours:
    """Of one account, or of all. The leaves are taken as they are: ``narrows log verify`` checks
    them. Errors: ``BudgetError``."""
    with closing(place.read()) as store:
        return history_of(store, account)


def history_of(store: Store, account: str | None = None) -> BookedHours:
    """As ``read_history``."""
    head = store.head()
    if head is None:
        raise BudgetError("the log is empty")
    leases: dict[str, int] = {}
    hours: dict[int, int] = {}
    first_ms = last_ms = 0
    for start in range(0, head.size, _READ_LEAVES):
        for data in store.leaves(start, min(head.size, start + _READ_LEAVES)):
            leaf = decode(data)
            time_ms = leaf.get("time_ms")
            if isinstance(time_ms, int):
                first_ms, last_ms = first_ms or time_ms, max(last_ms, time_ms)
            if leaf["t"] == "lease" and account in (None, leaf["account"]):
                leases[leaf["id"]] = leaf["bytes"]
            elif leaf["t"] in ("settle", "dead") and leaf["id"] in leases:
                size_bytes = leases.pop(leaf["id"])
                hour = leaf["time_ms"] // HOUR_MS
                hours[hour] = hours.get(hour, 0) + leaf.get("used", size_bytes)
    last = last_ms // HOUR_MS  # under way
    first = max(-(-first_ms // HOUR_MS), last - MAX_HOURS)
    return BookedHours(tuple(hours.get(hour, 0) for hour in range(first, last)), last * HOUR_MS)
