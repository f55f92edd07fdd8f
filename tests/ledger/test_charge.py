"""What left another way is booked under a lineage: one operator may, and it only lowers."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from cli.here import run
from ledger.ledger_helpers import DAY_MS, HOUR_MS, Deployment, lease
from ledger.test_rules import KEYS, OPERATORS, change, fresh, give
from narrows.errors import BudgetError
from narrows.ledger import rules
from narrows.ledger.api import Denied
from narrows.ledger.auditors import NetLimits
from narrows.ledger.changes import MAX_REASON_CHARS, message_of, parse_change, sign_change
from narrows.ledger.leaves import lease_leaf, settle_leaf
from narrows.ledger.limits import Limits
from narrows.ledger.log.canonical import MAX_INTEGER
from narrows.ledger.office.admin import apply_change
from narrows.ledger.office.balances import balances_of
from narrows.ledger.office.demo import create_demo
from narrows.ledger.office.propose import budget_document, charge_document
from narrows.ledger.office.verify import verify_path

LIMITS = Limits(1_000_000, ((HOUR_MS, 100_000), (DAY_MS, 500_000)))


def budgeted(net: bool = True) -> rules.State:
    """Lineage ``base`` with two windows, and a net budget half as wide."""
    state = fresh()
    inner = Limits(500_000, ((HOUR_MS, 50_000),))
    accounts = {"answers": Limits(None), "narrow": Limits(1000)}
    document = budget_document(
        state, "base", LIMITS, accounts, state.time_ms, net=NetLimits(inner, 0) if net else None
    )
    change(state, document)
    return state


def charge(
    state: rules.State, size_bytes: int, signers: int = 1, lineage: str = "base"
) -> dict[str, Any]:
    document = charge_document(state, lineage, size_bytes, "a backup", state.time_ms)
    change(state, document, signers)
    return document


def test_one_operator_books_it_and_every_limit_of_the_lineage_has_less() -> None:
    assert OPERATORS.threshold == 2
    state = budgeted()
    before = balances_of(state, state.time_ms).lineages[0]
    charge(state, 30_000)
    after = balances_of(state, state.time_ms).lineages[0]
    assert after.spent_bytes == 30_000
    assert after.left_bytes == before.left_bytes - 30_000
    lefts = [one.left_bytes for one in after.windows]
    assert lefts == [one.left_bytes - 30_000 for one in before.windows]
    assert before.net is not None
    assert after.net is not None
    assert after.net.left_bytes == before.net.left_bytes - 30_000
    assert [one.left_bytes for one in after.net.windows] == [20_000]
    assert [one.spent_bytes for one in after.accounts] == [0, 0]  # nobody's
    assert state.room("answers", state.time_ms).free_bytes == 20_000
    assert state.committed() == {"base": 30_000}  # what the witness cosigns
    later = state.time_ms + 2 * HOUR_MS
    assert (
        state.room("answers", later).free_bytes == 50_000
    )  # a window forgets, a lifetime does not
    assert balances_of(state, later).lineages[0].left_bytes == before.left_bytes - 30_000


def test_nobody_and_strangers_book_nothing() -> None:
    state = budgeted()
    document = charge_document(state, "base", 5, "x", state.time_ms)
    with pytest.raises(rules.RuleError, match="0 of 1"):
        change(state.copy(), document, signers=0)
    for lineage in ("other", "answers"):
        with pytest.raises(rules.RuleError, match="no lineage"):
            charge(state.copy(), 5, lineage=lineage)
    again = charge(state, 5)
    with pytest.raises(rules.RuleError, match="another change came first"):
        change(state.copy(), again)
    assert state.lineages["base"].spent_bytes == 5


def test_more_than_there_is_closes_the_lineage_and_a_lease_that_is_out_still_ends() -> None:
    state = budgeted(net=False)
    leaf, size_bytes = lease_leaf(state, "answers", 1000, b"\x01" * 16, "g", state.time_ms)  # type: ignore[misc]
    state.apply(leaf)
    charge(state, 5_000_000)
    room = state.room("answers", state.time_ms)
    assert (room.free_bytes, room.reason) == (0, "depleted")
    end = settle_leaf(state, b"\x01" * 16, size_bytes, state.time_ms)
    assert end is not None
    state.apply(end)
    assert state.lineages["base"].spent_bytes == 5_000_000 + size_bytes
    give(state, Limits(10_000_000), {"answers": Limits(None)})  # people raise it again
    assert state.room("answers", state.time_ms).free_bytes == 5_000_000 - size_bytes


@pytest.mark.parametrize(
    "wrong",
    [
        {"bytes": 0},
        {"bytes": -1},
        {"bytes": True},
        {"bytes": 1.5},
        {"bytes": "5"},
        {"bytes": MAX_INTEGER + 1},
        {"lineage": "no name!"},
        {"reason": ""},
        {"reason": "x" * (MAX_REASON_CHARS + 1)},
        {"reason": "a line\nand another"},
        {"reason": "\x1b[2J"},
        {"reason": "\u202edrawkcab"},
        {"reason": 5},
        {"more": 1},
    ],
)
def test_what_is_no_charge_is_refused(wrong: dict[str, Any]) -> None:
    state = budgeted()
    document = charge_document(state, "base", 5, "x", state.time_ms)
    with pytest.raises(BudgetError):
        parse_change(document | wrong)


def test_sums_stay_within_what_a_snapshot_holds() -> None:
    """Else one operator alone could make a state that no gate can write."""
    state = budgeted()
    charge(state, MAX_INTEGER - 10)
    with pytest.raises(rules.RuleError, match="more than a ledger counts"):
        charge(state.copy(), 11)
    charge(state, 10)
    snapshot = state.snapshot()
    assert rules.State.from_snapshot(snapshot).snapshot() == snapshot


def test_no_charge_widens_anything() -> None:
    """Random moments, sizes and leases between them: no room ever grows by one."""
    rng = random.Random(5)
    for _ in range(40):
        state = budgeted(net=rng.random() < 0.5)
        for number in range(rng.randrange(4)):
            lease_id = bytes([number]) * 16
            got = lease_leaf(state, "answers", rng.randrange(1, 9000), lease_id, "g", state.time_ms)
            assert isinstance(got, tuple)
            state.apply(got[0])
            if rng.random() < 0.7:
                end = settle_leaf(state, lease_id, rng.randrange(got[1] + 1), state.time_ms)
                assert end is not None
                state.apply(end)
        moments = [state.time_ms + rng.randrange(2 * DAY_MS) for _ in range(8)]
        rooms = {(a, t): state.room(a, t).free_bytes for a in state.accounts for t in moments}
        charge(state, rng.choice((1, 100, 40_000, 10**9)))
        for (account, moment), free_bytes in rooms.items():
            assert state.room(account, moment).free_bytes <= free_bytes


def test_a_charge_is_these_bytes() -> None:
    """For a second implementation: document, message, signature."""
    state = budgeted()
    state.last_change = (7, bytes(range(32)))
    document = charge_document(state, "base", 5_000_000, "backup of 2026-11-01", 1_700_000_000_000)
    assert message_of(document) == (
        b'narrows change v1\n{"after":[7,"' + bytes(range(32)).hex().encode() + b'"],'
        b'"bytes":5000000,"kind":"charge","lineage":"base","not_after_ms":1700604800000,'
        b'"origin":"t.example/1","reason":"backup of 2026-11-01"}'
    )
    key, signature = sign_change(document, KEYS[0])
    assert len(signature) == 128
    assert key in OPERATORS.keys


def test_gates_count_it_from_the_next_lease_and_the_log_verifies(tmp_path: Path) -> None:
    made = Deployment.create(tmp_path)
    try:
        with made.ready(Limits(10_000)) as ledger:
            first = lease(ledger, 1000)
            document = charge_document(ledger.state(), "base", 8500, "x", ledger.now_ms())
            apply_change(ledger, document, [sign_change(document, made.keys[0])])
            assert lease(ledger, 1000).size_bytes == 500
            assert isinstance(ledger.acquire("answers", 1), Denied)
            ledger.settle(first, 1000)
    finally:
        made.close()
    found = verify_path(tmp_path)
    assert found.balances.spent_bytes + found.balances.outstanding_bytes == 10_000


def test_from_the_proposal_to_the_history(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state, file = tmp_path / "state", tmp_path / "charge.json"
    create_demo(state, 1_000_000)
    words = ("budget", "charge", "--lineage", "demo", "--bytes", "250kB", "--out", file)
    said = run(capsys, *words, "--reason", "logs copied by hand", "--state", state)
    assert "charge lineage demo with 250,000 bytes that left another way: logs copied" in said
    assert "needs 1 of 1 operators" in said
    run(capsys, "budget", "sign", file, "--key", "demo", "--yes", "--state", state)
    run(capsys, "budget", "apply", file, "--state", state)
    shown = json.loads(run(capsys, "budget", "show", "--state", state, "--json"))
    assert (shown["spent_bytes"], shown["left_bytes"]) == (250_000, 750_000)
    assert "logs copied by hand" in run(capsys, "budget", "history", "--state", state)
    assert "came first" in run(capsys, "budget", "apply", file, "--state", state, code=5)
    for bad in ("0", "-5", "much"):
        run(capsys, *words[:5], bad, *words[6:], "--reason", "x", "--state", state, code=2)
    for reason in ("", "two\nlines", "x" * 201):
        run(capsys, *words, "--reason", reason, "--state", state, code=2)
    elsewhere = (*words[:3], "other", *words[4:], "--reason", "x")
    assert "demo" in run(capsys, *elsewhere, "--state", state, code=2)
