"""What every store must do, and what a ledger on it must survive. One suite for all stores.

A store's test module has a fixture ``make_case`` that makes a ``Case``, and a class of tests that
inherits ``StoreTests``; nothing here knows SQLite.
Faults are injected at the store's border, one at each call of a fixed script, as

    failed      the call did nothing and raised
    persisted   the call did its work and raised (fsync error, lost answer: outcome unknown)

each in the form *progress* (later calls work) and *fatal* (nothing works until it is opened
again). After each run the world is compared with the log: what was sent under leases that
``acquire`` returned is never more than the log counts, nor more than the cap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pytest

from ledger.ledger_helpers import Deployment, FakeClock
from narrows.errors import BudgetError
from narrows.ledger.api import Denied, Lease
from narrows.ledger.ledger import Ledger
from narrows.ledger.limits import Limits
from narrows.ledger.office.balances import current_balances
from narrows.ledger.office.verify import verify_log
from narrows.ledger.stores.store import ConflictError, Head, Snapshot, Store, StoreError

CAP_BYTES = 1000
SETTLED_MS = 1000  # by then a settlement may be written, see clock.py


class Case(Protocol):
    """One ledger in one store. ``deployment`` holds keys, witness and clock."""

    deployment: Deployment

    def open(self) -> Store:
        """Open the store anew, as another process would."""


@dataclass
class Faults:
    """Raise at call number ``at`` of a script; ``calls`` counts them."""

    at: int
    kind: str
    fatal: bool
    calls: int = 0

    def around(self, work: Callable[[], Any]) -> Any:
        number, self.calls = self.calls, self.calls + 1
        if number == self.at and self.kind == "persisted":
            work()
        if number == self.at or (self.fatal and number > self.at):
            raise StoreError(f"injected at call {number}")
        return work()


class FaultyStore:
    """A store whose calls go through ``faults``."""

    def __init__(self, inner: Store, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults

    @property
    def shared(self) -> bool:
        return self._inner.shared

    def head(self) -> Head | None:
        return self._faults.around(self._inner.head)  # type: ignore[no-any-return]

    def leaves(self, start: int, stop: int) -> list[bytes]:
        return self._faults.around(lambda: self._inner.leaves(start, stop))  # type: ignore[no-any-return]

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
        self._faults.around(
            lambda: self._inner.append(
                expected_size, leaves, note, snapshot, cosigned, expected_note=expected_note
            )
        )

    def cosigned(self) -> bytes | None:
        return self._inner.cosigned()

    def put_cosigned(self, cosigned: Head) -> None:
        self._faults.around(lambda: self._inner.put_cosigned(cosigned))

    def snapshot(self) -> Snapshot | None:
        return self._faults.around(self._inner.snapshot)  # type: ignore[no-any-return]

    def close(self) -> None:
        self._inner.close()


class World:
    """The far end of the link: what left, under which lease."""

    def __init__(self) -> None:
        self.sent_bytes = 0
        self.lease_ids: list[str] = []

    def send(self, lease: Lease, count: int) -> None:
        assert lease.lease_id.hex() not in self.lease_ids, "a lease was handed out twice"
        assert count <= lease.size_bytes
        self.lease_ids.append(lease.lease_id.hex())
        self.sent_bytes += count

    def check(self, store: Store) -> None:
        """No more left than the log counts; every lease that was handed out is in the log."""
        verified = verify_log(store)
        assert (
            self.sent_bytes <= verified.balances.spent_bytes + verified.balances.outstanding_bytes
        )
        assert verified.balances.spent_bytes + verified.balances.outstanding_bytes <= CAP_BYTES
        log = b"".join(store.leaves(0, verified.size)).decode()
        for lease_id in self.lease_ids:
            assert f'"id":"{lease_id}"' in log, "an acknowledged lease was lost"


def check_compare_and_swap(case: Case) -> None:
    """Two writers from one size: the second is refused and stores nothing."""
    one, two = case.open(), case.open()
    head = one.head()
    assert head is not None
    one.append(head.size, [b"leaf a", b"leaf b"], b"note 1")
    with pytest.raises(ConflictError):
        two.append(head.size, [b"leaf c"], b"note 2")
    for wrong in (0, head.size + 1, head.size + 3):
        with pytest.raises(ConflictError):
            two.append(wrong, [b"leaf c"], b"note 2")
    assert two.head() == Head(head.size + 2, b"note 1")
    assert two.leaves(head.size, head.size + 2) == [b"leaf a", b"leaf b"]
    with pytest.raises(ConflictError):  # the same size, another log
        two.append(head.size + 2, [b"leaf c"], b"note 3", expected_note=b"note 2")
    two.append(head.size + 2, [b"leaf c"], b"note 3", expected_note=b"note 1")
    assert one.leaves(head.size + 1, head.size + 3) == [b"leaf b", b"leaf c"]
    one.close()
    two.close()


def check_reads(case: Case) -> None:
    """What was stored is read by whoever opens the store later; a missing leaf is an error."""
    store = case.open()
    head = store.head()
    assert head is not None
    snapshot = Snapshot(head.size, b"state", (bytes(32), b"\x01" * 32))
    store.append(head.size, [b"", bytes(range(256))], b"n", snapshot, Head(head.size + 1, b"c"))
    store.put_cosigned(Head(head.size, b"older"))
    store.close()
    again = case.open()
    assert again.head() == Head(head.size + 2, b"n")
    assert again.leaves(head.size, head.size + 2) == [b"", bytes(range(256))]
    assert again.leaves(5, 5) == []
    assert again.snapshot() == snapshot
    assert again.cosigned() == b"c", "an older cosignature replaced a newer one"
    with pytest.raises(StoreError):
        again.leaves(head.size, head.size + 3)
    again.close()


def _script(ledger: Ledger, world: World, wants: tuple[int, ...], clock: FakeClock) -> None:
    """Leases, partly used, one left open; goes on where it is refused."""
    for number, want in enumerate(wants):
        got = ledger.acquire("answers", want)
        if isinstance(got, Denied):
            assert got.reason in ("store", "depleted")
            continue
        used = got.size_bytes // 2 + number % 2
        world.send(got, used)
        if number % 4 != 3:
            ledger.settle(got, used)
            clock.advance(SETTLED_MS)


def check_faults(make_case: Callable[[], Case], kind: str, fatal: bool) -> int:
    """The fault matrix. Returns how many boundaries were covered."""
    at = 0
    while True:
        case, faults = make_case(), Faults(at, kind, fatal)
        deployment, world = case.deployment, World()
        ledger = deployment.open(store=FaultyStore(case.open(), faults))
        # with the fault, then again with the same input, then with a different one
        for wants in ((100, 90, 80), (100, 90, 80), (7, 300)):
            _script(ledger, world, wants, deployment.clock)
        covered = faults.calls > at
        try:
            ledger.close()
        except BudgetError:
            assert fatal
        store = case.open()
        world.check(store)
        # a restart counts as spent whatever is open, and the rest can still be spent
        again = deployment.open(store=store)
        again.recover_dead_leases()
        assert world.sent_bytes <= current_balances(again).spent_bytes
        while isinstance(got := again.acquire("answers", 400), Lease):
            world.send(got, got.size_bytes)
            again.settle(got, got.size_bytes)
            deployment.clock.advance(SETTLED_MS)
        assert got.reason == "depleted"
        world.check(store)
        assert current_balances(again).spent_bytes == CAP_BYTES
        again.close()
        deployment.close()
        if not covered:
            return at
        at += 1


def prepare(deployment: Deployment, store: Store | None = None) -> None:
    """A budget of ``CAP_BYTES`` on the deployment's ledger."""
    with deployment.ready(Limits(CAP_BYTES), store=store):
        return


class StoreTests:
    """The suite, as tests over the module's ``make_case``."""

    def test_compare_and_swap(self, make_case: Callable[[], Case]) -> None:
        check_compare_and_swap(make_case())

    def test_reads(self, make_case: Callable[[], Case]) -> None:
        check_reads(make_case())

    @pytest.mark.parametrize("fatal", [False, True])
    @pytest.mark.parametrize("kind", ["failed", "persisted"])
    def test_faults_at_every_boundary(
        self, make_case: Callable[[], Case], kind: str, fatal: bool
    ) -> None:
        assert check_faults(make_case, kind, fatal) >= 12
