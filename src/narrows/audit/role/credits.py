"""The next true thing to sign: a credit that follows what a ledger has booked.

A view of the ledger (``wire/verdict.py``) comes from outside and is not believed. It chooses the
leases of the next credit and the total that it follows; how much of a lease is explained is the
tape's. So a false view gets a credit that no ledger takes, and nothing more: a ledger takes a lease
off its list with the first credit that names it, and books only what follows its own total.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from narrows.audit.role.follow import Audited
from narrows.ledger.auditors import PPM, Enrolment
from narrows.ledger.log.canonical import MAX_INTEGER
from narrows.ledger.net import MAX_CREDIT_LEASES, Credit
from narrows.wire.verdict import FINAL, FULL, MAX_LEASE_BYTES, LedgerView, account_tag

MAX_TOTAL_BYTES = MAX_INTEGER // 2
SPARE_BYTES = 1 << 12
"""Each credit's position is above the last one's, and several may rest on the same tape."""


@dataclass(frozen=True, slots=True)
class NextCredit:
    """``credit``: None where there is none yet. ``alarms``: ``FULL`` where only the verdict's
    size is in the way. ``view``: what the credit follows."""

    credit: Credit | None
    alarms: int = 0
    view: LedgerView | None = None


def next_credit(
    origin: str,
    enrolment: Enrolment,
    gate: str,
    audited: Audited,
    views: Mapping[bytes, LedgerView],
    most_leases: int,
) -> NextCredit:
    """The largest that one account can get, of at most ``most_leases`` leases."""
    if audited.alarms & FINAL:
        return NextCredit(None)
    found = NextCredit(None)
    best = 0
    for account, explained in sorted(audited.leases.items()):
        view = views.get(account_tag(account))
        if view is None or view.position >= audited.read or view.total > MAX_TOTAL_BYTES:
            continue
        sizes = _sizes(view, explained, enrolment.terms.most_ppm)
        chosen = _chosen(view.total, sizes, enrolment.terms.grain_bytes, most_leases)
        gain = sum(size for _, size in chosen)
        if gain > best:
            best = gain
            credit = Credit(
                *(origin, enrolment.lineage, gate, account, enrolment.epoch),
                max(audited.position - SPARE_BYTES, view.position + 1),
                audited.tape.hex(),
                view.total,
                view.total + gain,
                tuple(sorted((lease.hex(), size) for lease, size in chosen)),
            )
            found = NextCredit(credit, 0, view)
        elif not best and sum(size for _, size in sizes) >= 2 * enrolment.terms.grain_bytes:
            found = NextCredit(None, FULL)
    return found


def _sizes(
    view: LedgerView, explained: Mapping[bytes, tuple[int, int]], most_ppm: int
) -> list[tuple[bytes, int]]:
    """What each lease of the view may be credited with, largest first."""
    sizes = {}
    for lease, used_bytes in view.leases:
        mine, paid_bytes = explained.get(lease, (0, 0))
        most = min(paid_bytes, used_bytes) * most_ppm // PPM
        sizes[lease] = min(mine, most, MAX_LEASE_BYTES)
    found = [(lease, size) for lease, size in sizes.items() if size]
    return sorted(found, key=lambda one: (-one[1], one[0]))


def _chosen(
    total: int, sizes: list[tuple[bytes, int]], grain_bytes: int, most_leases: int
) -> list[tuple[bytes, int]]:
    """The largest of ``sizes`` that bring ``total`` to a multiple of the grain: what a credit
    names is never credited again, so it names no lease that it does not need."""
    room = sizes[: min(most_leases, MAX_CREDIT_LEASES)]
    reached = total + sum(size for _, size in room)
    missing = reached - reached % grain_bytes - total
    chosen = []
    for lease, size in room:
        if missing <= 0:
            break
        chosen.append((lease, min(size, missing)))
        missing -= size
    return chosen
