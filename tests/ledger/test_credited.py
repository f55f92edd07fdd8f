"""What a gate may remove of its spool: what credits in the ledger's log rest on."""

from __future__ import annotations

from dataclasses import replace

from ledger.test_net import MB, audited, credit, post, spent
from narrows.ledger.net import Chain, credited_positions


def test_only_credits_say_what_is_done_with() -> None:
    state = audited()
    first, second = spent(state, 1, 2 * MB), spent(state, 2, 2 * MB)
    assert credited_positions(state.nets, "gate", {"a"}) == (0, 0)
    post(state, credit(state, {first: MB}, 1000))
    assert credited_positions(state.nets, "gate", {"a", "b"}) == (1000, 1000)
    post(state, credit(state, {second: MB}, 5000, MB))
    assert credited_positions(state.nets, "gate", {"a"}) == (5000, 5000)
    assert credited_positions(state.nets, "gate", set()) == (0, 0)
    assert credited_positions(state.nets, "another", {"a"}) == (0, 0)


def test_the_account_that_is_behind_counts_once_it_had_a_credit() -> None:
    state = audited()
    post(state, credit(state, {spent(state, 1, 2 * MB): MB}, 1000))
    (net,) = state.nets.values()
    net.auditors["gate"].chains["b"] = Chain()
    assert credited_positions(state.nets, "gate", {"a", "b"}) == (1000, 1000)
    net.auditors["gate"].chains["b"] = Chain(position=400)
    assert credited_positions(state.nets, "gate", {"a", "b"}) == (400, 1000)
    net.auditors["another"] = replace(net.auditors["gate"], chains={"a": Chain(position=7)})
    assert credited_positions(state.nets, "gate", {"a"}) == (1000, 1000)
