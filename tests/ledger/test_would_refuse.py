"""``would_refuse``: what a gate without links asks; it says what a lease would, and takes none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.ledger_helpers import Deployment
from ledger.test_ledger import FlakyWitness, lease, reason
from narrows.ledger.api import Denied
from narrows.ledger.limits import Limits
from narrows.ledger.office.balances import current_balances


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment.create(tmp_path / "state")
    yield made
    made.close()


def why(answer: Denied | None) -> str:
    return answer.reason if answer is not None else "granted"


def test_it_writes_nothing_and_knows_how_much_is_needed(deployment: Deployment) -> None:
    with deployment.ready(Limits(1000)) as ledger:
        lease(ledger, 900)
        size = ledger.state().size
        assert why(ledger.would_refuse("answers", 100)) == "granted"
        assert why(ledger.would_refuse("answers", 101)) == "depleted"
        assert why(ledger.would_refuse("telemetry", 1)) == "unknown_account"
        assert ledger.state().size == size


def test_a_raise_is_seen_where_nothing_else_happens(deployment: Deployment) -> None:
    one, people = deployment.open(gate="one"), deployment.open(gate="people")
    deployment.set_budget(one, Limits(10), signers=2)
    lease(one, 10)
    assert why(one.would_refuse("answers", 1)) == "depleted"
    deployment.set_budget(people, Limits(1000), signers=2)
    assert why(one.would_refuse("answers", 500)) == "granted"
    deployment.set_budget(people, Limits(2000), signers=2)
    assert reason(one.acquire("answers", 1500)) == "granted"
    one.close()
    people.close()


def test_a_lease_that_was_never_handed_out_is_no_reason(deployment: Deployment) -> None:
    """The witness goes in the middle of the last lease: it returns, and that lease is of use."""
    witness = FlakyWitness(deployment.witness())
    ledger = deployment.open(witness)
    deployment.set_budget(ledger, Limits(100))
    witness.faults = ["before"]
    assert reason(ledger.acquire("answers", 100)) == "witness"
    assert current_balances(ledger).left_bytes == 0
    witness.faults = ["before"]
    assert why(ledger.would_refuse("answers", 100)) == "witness"
    assert why(ledger.would_refuse("answers", 100)) == "granted"
    assert lease(ledger, 100).size_bytes == 100
    ledger.close()
