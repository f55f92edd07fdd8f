"""Runs that the model check found (docs/lease-protocol.md), replayed on the real code."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ledger.conformance import Faults, FaultyStore
from ledger.ledger_helpers import Deployment, lease
from narrows.errors import BudgetError
from narrows.ledger.api import Denied, Lease
from narrows.ledger.limits import Limits
from narrows.ledger.office.balances import current_balances
from narrows.ledger.office.verify import verify_path
from narrows.ledger.replica import BehindError
from narrows.ledger.witness.witness import Witness, WitnessError


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment.create(tmp_path / "state")
    yield made
    made.close()


class Interposed:
    """A witness before whose next ``cosign`` something happens."""

    def __init__(self, inner: Witness) -> None:
        self._inner = inner
        self.verifier = inner.verifier
        self.before_cosign: Callable[[], None] | None = None

    def cosign(self, old: int, proof: list[bytes], signed: bytes) -> bytes:
        happens, self.before_cosign = self.before_cosign, None
        if happens is not None:
            happens()
        return self._inner.cosign(old, proof, signed)

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


def unreachable() -> None:
    raise WitnessError("unreachable")


def copy_of(deployment: Deployment) -> Path:
    target = deployment.folder / "copy.db"
    with closing(deployment.store()) as store:
        store.backup(target)
    return target


def put_back(deployment: Deployment, copy: Path) -> None:
    """The file's older content under the processes that have it open, in one transaction."""
    with closing(sqlite3.connect(deployment.db, isolation_level=None)) as db:
        db.execute("ATTACH ? AS old", (str(copy),))
        db.execute("BEGIN IMMEDIATE")
        for table in ("leaf", "head", "cosigned", "snapshot"):
            db.execute(f"DELETE FROM main.{table}")
            db.execute(f"INSERT INTO main.{table} SELECT * FROM old.{table}")
        db.execute("COMMIT")


def refusal(got: Lease | Denied) -> str:
    return got.reason if isinstance(got, Denied) else "granted"


def test_a_lease_that_was_given_up_is_never_handed_out(deployment: Deployment) -> None:
    """Written, not cosigned; too big for the next call, whose own write fails; big enough again."""
    witness = Interposed(deployment.witness())
    faults = Faults(-1, "failed", False)
    ledger = deployment.open(witness, store=FaultyStore(deployment.store(False), faults))
    deployment.set_budget(ledger, Limits(1000))
    witness.before_cosign = unreachable
    assert refusal(ledger.acquire("answers", 100)) == "witness"
    faults.at = faults.calls  # the next call of the store: the settlement of what is given up
    assert refusal(ledger.acquire("answers", 50)) == "store"
    got = lease(ledger, 100)
    ledger.settle(got, got.size_bytes)  # all of it left
    balances = current_balances(ledger)
    assert balances.spent_bytes == got.size_bytes, "bytes that left were returned as unused"
    assert balances.outstanding_bytes == 0
    ledger.close()


def test_no_lease_of_a_log_that_is_not_the_witnesss(deployment: Deployment) -> None:
    """The file is put back between a lease's append and its cosignature, and another gate goes
    on from there: the lease is in no head that anybody cosigned."""
    witness = Interposed(deployment.witness())
    one = deployment.open(witness)
    deployment.set_budget(one, Limits(1000))
    other = deployment.open(gate="other")
    others = [lease(other, 100)]
    copy = copy_of(deployment)

    def happens() -> None:
        put_back(deployment, copy)
        fresh = deployment.open(gate="third")
        others.extend(lease(fresh, 100) for _ in range(2))
        fresh.close()

    witness.before_cosign = happens
    got = one.acquire("answers", 400)
    assert refusal(got) == "behind"
    assert refusal(one.acquire("answers", 400)) == "behind", "and it stays so"
    assert verify_path(deployment.folder).balances.outstanding_bytes == 300
    for ledger in (one, other):
        ledger.close()


def test_a_replica_that_failed_does_not_read_another_log(deployment: Deployment) -> None:
    """After a write with an unknown outcome the store is read again: it must be the same log."""
    faults = Faults(-1, "failed", False)
    one = deployment.open(store=FaultyStore(deployment.store(False), faults))
    deployment.set_budget(one, Limits(1000))
    copy = copy_of(deployment)
    one.settle(lease(one, 100), 40)
    with closing(deployment.open(gate="other")) as other:
        lease(other, 100)
    faults.at = faults.calls
    assert refusal(one.acquire("answers", 10)) == "store"
    put_back(deployment, copy)
    blind = deployment.open(None, gate="other", store=deployment.store(False))
    for _ in range(9):
        lease(blind, 10)
    blind.close()
    with pytest.raises(BehindError, match="seen before"):
        one.state()
    assert refusal(one.acquire("answers", 10)) == "behind"
    one.close()


def test_nothing_is_put_on_a_log_that_grew_to_the_same_size(deployment: Deployment) -> None:
    """The compare and swap is on the head, not on its size."""
    one = deployment.open()
    deployment.set_budget(one, Limits(1000))
    held = lease(one, 100)
    copy = copy_of(deployment)
    one.settle(held, 40)  # a leaf that no witness has seen
    put_back(deployment, copy)
    with closing(deployment.open(gate="other")) as other:
        lease(other, 100)  # as many leaves as the first gate knows
        assert refusal(one.acquire("answers", 100)) == "behind"
        assert verify_path(deployment.folder).balances.outstanding_bytes == 200
        lease(other, 100)
    one.close()


def test_a_lease_that_ended_before_its_cosignature_is_not_handed_out(
    deployment: Deployment,
) -> None:
    """As a recovery under a running gate ends it."""
    witness = Interposed(deployment.witness())
    ledger = deployment.open(witness)
    deployment.set_budget(ledger, Limits(1000))

    def happens() -> None:
        twin = deployment.open(store=deployment.store(False))  # no lock file is asked
        assert twin.recover_dead_leases() == 1
        lease(twin, 10)
        twin.close()

    witness.before_cosign = happens
    assert refusal(ledger.acquire("answers", 100)) == "store"
    assert lease(ledger, 100).size_bytes == 100
    balances = current_balances(ledger)
    assert (balances.spent_bytes, balances.outstanding_bytes) == (100, 110)
    with pytest.raises(BudgetError):
        ledger.settle(Lease(bytes(16), "answers", 5), 6)
    ledger.close()
