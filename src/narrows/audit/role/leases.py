"""Which lease paid for what is explained: a credit names leases, and the tape names one a write.

Each write's data is room of its lease. What a segment explains fills the room of its own link
from its first token on, oldest first; so no byte is explained twice, and each comes out of the
window in which it was spent. What finds no room is not credited. Bounded: links and accounts
forget their oldest entries, which only loses credit.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from narrows.audit.auditor import Growth
from narrows.audit.code import ONE_BIT
from narrows.wire.tape import Begin, LinkEnd, Outward, Record

MAX_WRITES = 1024
"""Of one link that still have room."""
MAX_LEASES = 4096
"""Of one account: as many as a ledger keeps for credits."""
BYTE_Q16 = 8 * ONE_BIT


@dataclass(slots=True)
class _Room:
    """Data of one lease on one link: it ends before ``end``; so much of it is free."""

    end: int
    lease: bytes
    free_q16: int


@dataclass(slots=True)
class _OpenLink:
    account: str
    rooms: deque[_Room] = field(default_factory=deque)


@dataclass(slots=True)
class LeaseSpent:
    """``paid_bytes``: by the tape; ``q16``: bits explained of it."""

    paid_bytes: int = 0
    q16: int = 0

    @property
    def explained_bytes(self) -> int:
        return self.q16 // BYTE_Q16


class LeaseBook:
    """``ports``: account by port, where it is not the port's name."""

    def __init__(self, ports: Mapping[str, str]) -> None:
        self._ports = dict(ports)
        self._links: dict[int, _OpenLink] = {}
        self._accounts: dict[str, OrderedDict[bytes, LeaseSpent]] = {}
        self.lost_q16 = 0
        """Explained bits for which there was no room."""

    def take(self, record: Record) -> None:
        """Before what the record completes is explained."""
        if isinstance(record, Begin):
            account = self._ports.get(record.port, record.port)
            self._links[record.link] = _OpenLink(account)
        elif isinstance(record, Outward):
            self._outward(self._links[record.link], record)

    def over(self, record: Record) -> None:
        """Behind what the record completed."""
        if isinstance(record, LinkEnd):
            del self._links[record.link]

    def explain(self, growth: Growth) -> None:
        link = self._links[growth.link]
        leases = self._accounts.setdefault(link.account, OrderedDict())
        wanted = growth.q16
        for room in link.rooms:
            part = min(wanted, room.free_q16)
            if room.end > growth.since and part and room.lease in leases:
                room.free_q16 -= part
                leases[room.lease].q16 += part
                wanted -= part
                if not wanted:
                    break
        self.lost_q16 += wanted
        while link.rooms and not link.rooms[0].free_q16:
            link.rooms.popleft()

    def close_links(self) -> None:
        """The chapter is over."""
        self._links.clear()

    def _outward(self, link: _OpenLink, record: Outward) -> None:
        leases = self._accounts.setdefault(link.account, OrderedDict())
        leases.setdefault(record.lease, LeaseSpent()).paid_bytes += record.paid_bytes
        if len(leases) > MAX_LEASES:
            leases.popitem(last=False)
        if not record.data:
            return
        end, free_q16 = record.position + len(record.data), len(record.data) * BYTE_Q16
        link.rooms.append(_Room(end, record.lease, free_q16))
        if len(link.rooms) > MAX_WRITES:
            link.rooms.popleft()

    # -- copies ------------------------------------------------------------------------

    def explained(self) -> dict[str, dict[bytes, tuple[int, int]]]:
        """By account and lease: bytes explained, at least one, and bytes paid."""
        return {
            account: {
                lease: (spent.explained_bytes, spent.paid_bytes)
                for lease, spent in leases.items()
                if spent.explained_bytes
            }
            for account, leases in self._accounts.items()
        }

    def state(self) -> dict[str, Any]:
        """While no link is open."""
        return {
            account: [[lease.hex(), one.paid_bytes, one.q16] for lease, one in leases.items()]
            for account, leases in self._accounts.items()
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        for account, rows in state.items():
            leases = self._accounts.setdefault(account, OrderedDict())
            for lease, paid_bytes, q16 in rows:
                leases[bytes.fromhex(lease)] = LeaseSpent(paid_bytes, q16)
