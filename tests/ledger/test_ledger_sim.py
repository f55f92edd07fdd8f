"""The simulation of many gates: it can fail, and what it counts is what it says."""

from __future__ import annotations

import pytest

from narrows.bench import ledger_sim
from narrows.bench.ledger_sim import Simulation
from narrows.errors import BudgetError
from narrows.ledger import leaves


def test_every_byte_is_sent_outstanding_or_lost_in_a_crash() -> None:
    simulation = Simulation(40, seed=7, rounds=10, lease_s=100)
    result = simulation.run()
    state = simulation._state
    assert not state.leases, "nothing is open at the end"
    spent = state.committed()["base"]
    assert spent <= simulation.budget_bytes
    assert result.stranded_bytes == simulation.budget_bytes - simulation.sent_bytes
    assert spent >= simulation.sent_bytes, "the rules count no less than was sent"
    if not result.crashes:
        assert spent == simulation.sent_bytes


def test_crashes_strand_what_is_left_of_their_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_sim, "CRASH_EVERY_S", 500.0)
    simulation = Simulation(40, seed=7, rounds=10, lease_s=100)
    result = simulation.run()
    assert result.crashes > 20
    assert result.utilisation < 0.95
    assert simulation._state.committed()["base"] > simulation.sent_bytes


def test_rules_that_grant_too_much_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaves, "fair_bytes", lambda want, free, held: want)
    with pytest.raises(BudgetError, match="leases more than the budget has left"):
        Simulation(10, rounds=3, lease_s=100).run()


def test_the_end_of_a_budget_is_no_storm() -> None:
    """All gates near the end together: the busiest minute stays near twice the mean."""
    result = Simulation(300, seed=3, rounds=20, lease_s=300).run()
    assert result.worst_minute_ops_per_s is not None
    assert result.worst_minute_ops_per_s <= 3 * result.ledger_ops_per_s


def test_operations_are_counted_by_window() -> None:
    times = [0.0, 0.1, 0.2, 5.0, 5.005, 5.01]
    assert ledger_sim._busiest(times, 1.0) == 3
    assert ledger_sim._busiest(times, 10.0) == 0.6
    assert ledger_sim._conflict_share(times, [1, 2, 3, 4, 4, 5]) == round(1 / 6, 4)
