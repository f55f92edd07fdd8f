"""The net budget: only what an enrolled auditor explained comes back, once, and never raw.

The oracle keeps every lease with what it used and what was credited of it, no sums, and after
every step recounts everything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.ledger_helpers import DAY_MS, HOUR_MS, MINUTE_MS, START_MS, make_keys
from ledger.test_rules import KEYS, OPERATORS, ROOT, change, fresh
from narrows.errors import BudgetError
from narrows.ledger import net as net_module
from narrows.ledger import rules
from narrows.ledger.auditors import GRAIN_BYTES, PPT, Enrolment, NetLimits, Revocation, Terms
from narrows.ledger.keys import public_of
from narrows.ledger.leaves import (
    Refusal,
    credit_leaf,
    dead_leaf,
    genesis_leaf,
    lease_leaf,
    refusal,
    settle_leaf,
)
from narrows.ledger.limits import GRANULES_PER_WINDOW, Limits
from narrows.ledger.log.canonical import MalformedError, encode
from narrows.ledger.net import (
    MAX_CREDITABLE,
    Chain,
    Credit,
    parse_credit,
    sign_credit,
)
from narrows.ledger.office.propose import auditor_document, budget_document, recovery_document

AUDITOR, OTHER = make_keys(77, 2)
EPOCH, LATER = "ab" * 16, "cd" * 16
TAPE = "00" * 32
MB = 1 << 20
RAW = Limits(1 << 40, ((HOUR_MS, 1 << 40),))
NET = NetLimits(Limits(100 * MB, ((HOUR_MS, 50 * MB),)), PPT // 1000)
TERMS = Terms(50_000, 2000, PPT // 10_000, 950_000, "11" * 32)


def enrolment(gates: tuple[str, ...] = ("gate",), **other: Any) -> Enrolment:
    return Enrolment("base", gates, public_of(AUDITOR).hex(), EPOCH, replace(TERMS, **other))


def set_net(state: rules.State, net: NetLimits | None, signers: int = 2) -> None:
    accounts = {"a": Limits(None), "b": Limits(None)}
    now_ms = state.time_ms
    change(state, budget_document(state, "base", RAW, accounts, now_ms, net=net), signers)


def people(state: rules.State, body: Enrolment | Revocation, signers: int = 2) -> None:
    change(state, auditor_document(state, body, state.time_ms), signers)


def audited() -> rules.State:
    state = fresh()
    set_net(state, NET)
    people(state, enrolment())
    return state


def lease(
    state: rules.State, number: int, want_bytes: int, account: str = "a", gate: str = "gate"
) -> str | None:
    lease_id = number.to_bytes(16, "big")
    decision = lease_leaf(state, account, want_bytes, lease_id, gate, state.time_ms)
    if isinstance(decision, Refusal):
        return None
    state.apply(decision[0])
    return lease_id.hex()


def settle(state: rules.State, lease_id: str, used_bytes: int, time_ms: int = 0) -> None:
    leaf = settle_leaf(state, bytes.fromhex(lease_id), used_bytes, time_ms)
    assert leaf is not None
    state.apply(leaf)


def spent(state: rules.State, number: int, used_bytes: int, account: str = "a") -> str:
    lease_id = lease(state, number, used_bytes, account)
    assert lease_id is not None
    settle(state, lease_id, used_bytes)
    return lease_id


def credit(state: rules.State, sizes: dict[str, int], position: int, previous: int = 0) -> Credit:
    total = previous + sum(sizes.values())
    leases = tuple(sorted(sizes.items()))
    return Credit(state.origin, "base", "gate", "a", EPOCH, position, TAPE, previous, total, leases)


def post(state: rules.State, made: Credit, key: Any = AUDITOR, time_ms: int = 0) -> None:
    state.apply(credit_leaf(state, made, sign_credit(made, key), time_ms))


def net_left(state: rules.State, account: str = "a") -> int:
    net = state.nets[state.accounts[account].lineage]
    return net.meter.room(state.time_ms).free_bytes


def test_a_credit_gives_back_to_the_net_budget_and_to_nothing_else() -> None:
    state = audited()
    first = spent(state, 1, 10 * MB)
    raw = state.lineages["base"].document()
    account = state.accounts["a"].meter.document()
    assert net_left(state) == 40 * MB
    post(state, credit(state, {first: 9 * MB}, 1000))
    assert net_left(state) == 49 * MB
    assert state.lineages["base"].document() == raw
    assert state.accounts["a"].meter.document() == account
    assert state.committed() == {"base": 10 * MB}
    assert rules.State.from_snapshot(state.snapshot()).snapshot() == state.snapshot()


def _bad(change_it: Callable[[Credit], Credit]) -> Callable[[rules.State, Credit], None]:
    return lambda state, good: post(state, change_it(good))


@pytest.mark.parametrize(
    "wrong",
    [
        _bad(lambda c: replace(c, origin="elsewhere.example/1")),
        _bad(lambda c: replace(c, lineage="other")),
        _bad(lambda c: replace(c, gate="gate-2")),
        _bad(lambda c: replace(c, account="b")),
        _bad(lambda c: replace(c, account="nobody")),
        _bad(lambda c: replace(c, epoch=LATER)),
        _bad(lambda c: replace(c, position=1000)),
        _bad(lambda c: replace(c, position=999)),
        _bad(lambda c: replace(c, previous=0, total=c.total - c.previous)),
        _bad(lambda c: replace(c, previous=c.previous + MB, total=c.total + MB)),
        _bad(lambda c: replace(c, leases=(("ff" * 16, c.leases[0][1]),))),
        # 0.95 of what was used, and one more block
        _bad(lambda c: replace(c, total=c.previous + 10 * MB, leases=((c.leases[0][0], 10 * MB),))),
        lambda state, good: post(state, good, OTHER),
        lambda state, good: state.apply(credit_leaf(state, good, "00" * 64, 0)),
    ],
)
def test_a_credit_that_is_not_this_one_is_refused(wrong: Callable[..., None]) -> None:
    state = audited()
    first, second = spent(state, 1, 10 * MB), spent(state, 2, 10 * MB)
    post(state, credit(state, {first: MB}, 1000))
    good = credit(state, {second: 9 * MB}, 2000, MB)
    before = state.snapshot()
    with pytest.raises(rules.RuleError):
        wrong(rules.State.from_snapshot(before), good)
    post(state, good)
    assert state.snapshot() != before


def test_a_credit_has_one_form() -> None:
    state = audited()
    good = credit(state, {spent(state, 1, 2 * MB): MB}, 5).document()
    parse_credit(good)
    [pair] = good["leases"]
    for bad in (
        {"total": MB + GRAIN_BYTES},
        {"leases": []},
        {"leases": [pair, pair], "total": 2 * MB},
        {"leases": [["f" * 32, 1], ["0" * 32, MB - 1]]},
        {"leases": [[pair[0], 0], ["f" * 32, MB]]},
        {"leases": [[pair[0], -MB], ["f" * 32, 2 * MB]]},
        {"leases": [[pair[0], True]]},
        {"leases": [[pair[0].upper(), MB]]} if pair[0].upper() != pair[0] else {"leases": [[1, 2]]},
        {"position": 0},
        {"previous": -1},
        {"extra": 1},
        {"tape": "00"},
    ):
        with pytest.raises(MalformedError):
            parse_credit(good | bad)


def test_totals_are_multiples_of_what_operators_signed() -> None:
    state = audited()
    first, second = spent(state, 1, MB), spent(state, 2, MB)
    odd = credit(state, {first: GRAIN_BYTES + 1024}, 5)
    with pytest.raises(rules.RuleError, match="no multiple of 65536"):
        post(rules.State.from_snapshot(state.snapshot()), odd)
    with pytest.raises(rules.RuleError):  # finer credits say more: k operators
        people(state, enrolment(grain_bytes=1024), signers=1)
    people(state, enrolment(grain_bytes=1024))
    post(state, odd)
    assert rules.State.from_snapshot(state.snapshot()).snapshot() == state.snapshot()
    people(state, enrolment(), signers=1)
    with pytest.raises(rules.RuleError):
        post(state, credit(state, {second: 1024}, 6, odd.total))


def test_a_credit_twice_replayed_or_out_of_order_is_nothing() -> None:
    state = audited()
    ids = [spent(state, n, 4 * MB) for n in range(3)]
    one = credit(state, {ids[0]: MB}, 10)
    two = credit(state, {ids[1]: MB}, 20, MB)
    for early in (two,):
        with pytest.raises(rules.RuleError):
            post(rules.State.from_snapshot(state.snapshot()), early)
    post(state, one)
    post(state, two)
    for again in (one, two, replace(one, position=30), replace(two, position=30)):
        with pytest.raises(rules.RuleError):
            post(rules.State.from_snapshot(state.snapshot()), again)
    # the rest of a lease that was credited once is never credited
    with pytest.raises(rules.RuleError):
        post(state, credit(state, {ids[0]: MB}, 40, 2 * MB))


def test_what_is_outstanding_dead_or_settled_before_the_enrolment_is_never_credited() -> None:
    state = fresh()
    set_net(state, NET)
    early = spent(state, 1, 4 * MB)
    people(state, enrolment())
    held = lease(state, 2, 4 * MB)
    dead = lease(state, 3, 4 * MB)
    other_gate = lease(state, 4, 4 * MB, gate="gate-2")
    assert held is not None
    assert dead is not None
    assert other_gate is not None
    state.apply(dead_leaf(state, dead, 0))
    settle(state, other_gate, 4 * MB)
    for lease_id in (early, held, dead, other_gate):
        with pytest.raises(rules.RuleError):
            post(rules.State.from_snapshot(state.snapshot()), credit(state, {lease_id: MB}, 5))


def test_a_recovery_spends_its_gap_net_and_raw_and_nothing_of_it_is_credited() -> None:
    state = audited()
    held = lease(state, 1, 4 * MB)
    assert held
    gap = recovery_document(state, ROOT, (9, bytes(32)), {"base": 3 * MB}, state.time_ms)
    change(state, gap)
    assert state.lineages["base"].spent_bytes == state.nets["base"].meter.spent_bytes == 7 * MB
    with pytest.raises(rules.RuleError):
        post(state, credit(state, {held: MB}, 5))


def test_a_recovery_ends_every_enrolment() -> None:
    """The revocation of one may lie in the gap, and k operators sign the recovery anyway."""
    state = audited()
    early = spent(state, 1, 4 * MB)
    change(state, recovery_document(state, ROOT, (9, bytes(32)), {}, state.time_ms))
    with pytest.raises(rules.RuleError, match="no auditor"):
        post(rules.State.from_snapshot(state.snapshot()), credit(state, {early: MB}, 5))
    people(state, enrolment())
    with pytest.raises(rules.RuleError, match="cannot be credited"):
        post(state, credit(state, {early: MB}, 5))


def test_a_revoked_auditor_credits_nothing_and_its_successor_starts_anew() -> None:
    state = audited()
    first = spent(state, 1, 4 * MB)
    made = credit(state, {first: MB}, 5)
    people(state, Revocation("base", ("gate",)), signers=1)
    with pytest.raises(rules.RuleError):
        post(rules.State.from_snapshot(state.snapshot()), made)
    people(state, replace(enrolment(), epoch=LATER))
    for epoch in (EPOCH, LATER):
        with pytest.raises(rules.RuleError):
            post(rules.State.from_snapshot(state.snapshot()), replace(made, epoch=epoch))
    second = spent(state, 2, 4 * MB)
    post(state, replace(credit(state, {second: MB}, 5), epoch=LATER))


@pytest.mark.parametrize(
    ("field_name", "value", "signers"),
    [
        ("audited_ppm", 60_000, 1),
        ("audited_ppm", 40_000, 2),
        ("segment_bits", 1000, 1),
        ("segment_bits", 3000, 2),
        ("delta_ppt", 1, 1),
        ("delta_ppt", PPT // 5000, 2),
        ("most_ppm", 900_000, 1),
        ("most_ppm", 960_000, 2),
        ("pins", "22" * 32, 2),
    ],
)
def test_terms_are_tightened_by_one_and_widened_by_k(
    field_name: str, value: Any, signers: int
) -> None:
    state = audited()
    waiting = spent(state, 1, 4 * MB)
    new = enrolment(**{field_name: value})
    if signers == 2:
        with pytest.raises(rules.RuleError):
            people(rules.State.from_snapshot(state.snapshot()), new, 1)
    people(state, new, signers)
    post(state, credit(state, {waiting: MB}, 5))  # the same epoch goes on


def test_another_key_or_epoch_takes_k() -> None:
    state = audited()
    for new in (
        replace(enrolment(), epoch=LATER),
        replace(enrolment(), key=public_of(OTHER).hex(), epoch=LATER),
        enrolment(("gate", "gate-2")),
    ):
        with pytest.raises(rules.RuleError):
            people(rules.State.from_snapshot(state.snapshot()), new, 1)
        people(rules.State.from_snapshot(state.snapshot()), new, 2)
    with pytest.raises(rules.RuleError, match="another key"):
        people(state, replace(enrolment(), key=public_of(OTHER).hex()), 2)


def test_the_pool_of_error_probability_is_spent_once() -> None:
    state = audited()
    half = PPT // 2000
    people(state, replace(enrolment(("gate-2",), delta_ppt=half)))
    with pytest.raises(rules.RuleError, match="pool"):
        people(rules.State.from_snapshot(state.snapshot()), enrolment(("gate-3",), delta_ppt=half))
    people(state, Revocation("base", ("gate-2",)))
    with pytest.raises(rules.RuleError, match="pool"):  # what was taken stays taken
        people(rules.State.from_snapshot(state.snapshot()), enrolment(("gate-3",), delta_ppt=half))
    # an operator who lowers the pool below what is taken stops the credits
    waiting = spent(state, 1, 4 * MB)
    set_net(state, replace(NET, delta_ppt=1), signers=1)
    with pytest.raises(rules.RuleError, match="pool"):
        post(state, credit(state, {waiting: MB}, 5))


def test_adding_a_net_budget_lowers_and_taking_it_away_raises() -> None:
    state = fresh()
    set_net(state, None)
    spent(state, 1, 4 * MB)
    held = lease(state, 2, 4 * MB)
    set_net(state, replace(NET, delta_ppt=0), signers=1)
    net = state.nets["base"].meter
    assert (net.spent_bytes, net.outstanding_bytes) == (4 * MB, 4 * MB)
    assert held
    settle(state, held, MB)
    assert (net.spent_bytes, net.outstanding_bytes) == (5 * MB, 0)
    with pytest.raises(rules.RuleError):
        set_net(rules.State.from_snapshot(state.snapshot()), None, signers=1)
    wider = NetLimits(Limits(200 * MB, NET.limits.windows), 0)
    with pytest.raises(rules.RuleError):
        set_net(rules.State.from_snapshot(state.snapshot()), wider, signers=1)
    with pytest.raises(BudgetError, match="wider"):
        set_net(state, NetLimits(Limits(1 << 41), 0))


def test_one_operator_makes_no_pool_of_error_probability() -> None:
    """Else one who adds the net budget, or adds it again, undoes what k agreed on."""
    state = fresh()
    set_net(state, None)
    with pytest.raises(rules.RuleError, match="1 of 2"):
        set_net(rules.State.from_snapshot(state.snapshot()), NET, signers=1)
    set_net(state, replace(NET, delta_ppt=0), signers=1)
    with pytest.raises(rules.RuleError, match="1 of 2"):
        set_net(rules.State.from_snapshot(state.snapshot()), NET, signers=1)
    with pytest.raises(rules.RuleError, match="pool"):
        people(rules.State.from_snapshot(state.snapshot()), enrolment())
    set_net(state, NET)
    people(state, enrolment())


def test_no_net_budget_no_enrolment() -> None:
    state = fresh()
    set_net(state, None)
    with pytest.raises(rules.RuleError, match="no net budget"):
        people(state, enrolment())


def test_a_late_auditor_loses_the_oldest_leases_and_memory_is_bounded() -> None:
    chain = Chain()
    for number in range(MAX_CREDITABLE + 10):
        chain.settled(f"{number:032x}", number, 5)
    assert len(chain.leases) == MAX_CREDITABLE
    assert next(iter(chain.leases)) == f"{10:032x}"


def test_what_waits_in_all_of_a_ledger_is_bounded_and_a_flood_takes_from_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """64 gates of five accounts with a dead auditor: 76 MB, and no snapshot loaded again."""
    monkeypatch.setattr(net_module, "MAX_WAITING", 6)
    state = audited()
    quiet = [spent(state, n, MB, "b") for n in range(2)]
    flood = [spent(state, 10 + n, MB) for n in range(9)]
    chains = state.nets["base"].auditors["gate"].chains
    assert list(chains["b"].leases) == quiet
    assert list(chains["a"].leases) == flood[-4:]
    # the same from the log and from a snapshot, whose tables are in another order
    twin = rules.State.from_snapshot(state.snapshot())
    for each in (state, twin):
        spent(each, 30, MB, "b")
        spent(each, 31, MB, "b")
    assert twin.snapshot() == state.snapshot()


def test_a_window_that_is_added_keeps_what_came_after_it() -> None:
    state = audited()
    early = spent(state, 1, 4 * MB)
    longer = Limits(100 * MB, (*NET.limits.windows, (DAY_MS, 60 * MB)))
    set_net(state, NetLimits(longer, NET.delta_ppt))
    late = spent(state, 2, 4 * MB)  # in the same granule of the day as the early one
    post(state, credit(state, {early: 3 * MB}, 5))
    day = state.nets["base"].meter.windows[DAY_MS]
    assert day.settled_at(state.time_ms) == 4 * MB
    post(state, credit(state, {late: 3 * MB}, 6, 3 * MB))
    assert day.settled_at(state.time_ms) == MB


def test_a_window_that_is_added_at_time_zero_keeps_what_came_after_it_too() -> None:
    state = rules.State()
    keys = public_of(KEYS[0])
    state.apply(genesis_leaf("t.example/1", keys, None, OPERATORS, 0))
    set_net(state, NET)
    people(state, enrolment())
    early = spent(state, 1, 4 * MB)
    longer = Limits(100 * MB, (*NET.limits.windows, (DAY_MS, 60 * MB)))
    set_net(state, NetLimits(longer, NET.delta_ppt))
    spent(state, 2, 4 * MB)
    post(state, credit(state, {early: 3 * MB}, 5))
    assert state.nets["base"].meter.windows[DAY_MS].settled_at(0) == 4 * MB


def test_a_refusal_says_which_budget_it_was() -> None:
    state = audited()
    for number in range(50):
        lease_id = lease(state, number, 10 * MB)
        if lease_id is None:
            break
        settle(state, lease_id, state.leases[lease_id].size_bytes)
    refused = refusal(state, "a", 1, state.time_ms)
    assert refused is not None
    assert refused.reason == "window"
    assert "net" in refused.detail
    assert state.lineages["base"].room(state.time_ms).free_bytes > 0


def test_a_refusal_promises_no_credits_where_they_would_not_help() -> None:
    state = fresh()
    tight = Limits(10 * MB)
    accounts = {"a": Limits(None), "b": Limits(None)}
    net = NetLimits(tight, PPT)
    change(state, budget_document(state, "base", tight, accounts, state.time_ms, net=net))
    for number in range(10):
        if lease_id := lease(state, number, 10 * MB):
            settle(state, lease_id, state.leases[lease_id].size_bytes)
    refused = refusal(state, "a", 1, state.time_ms)
    assert refused is not None
    assert "net" not in refused.detail
    accounts.pop("b")
    change(state, budget_document(state, "base", RAW, accounts, state.time_ms, net=net))
    for account, credits_help in (("a", True), ("b", False)):  # b is closed
        refused = refusal(state, account, 1, state.time_ms)
        assert refused is not None
        assert ("net" in refused.detail) == credits_help


def test_a_copy_is_untouched_by_later_credits() -> None:
    state = audited()
    ids = [spent(state, n, 4 * MB) for n in range(2)]
    twin = state.copy()
    before = twin.snapshot()
    post(state, credit(state, {ids[0]: MB}, 5))
    spent(state, 9, MB)
    assert twin.snapshot() == before
    post(twin, credit(twin, {ids[1]: 2 * MB}, 7))
    assert state.nets["base"].auditors["gate"].chains["a"].total == MB


# -- under random commands -------------------------------------------------------------


@dataclass
class Past:
    account: str
    size: int
    used: int | None = None
    end_ms: int = 0
    settled: bool = False  # by a settlement of the audited gate, while it was enrolled
    credited: int = 0


@dataclass
class Oracle:
    leases: dict[str, Past] = field(default_factory=dict)

    def counted(self, since_ms: int | None) -> int:
        total = 0
        for past in self.leases.values():
            if past.used is None:
                total += past.size
            elif since_ms is None or past.end_ms > since_ms:
                total += past.used - past.credited
        return total


commands = st.lists(
    st.one_of(
        st.tuples(st.just("lease"), st.integers(1, 8), st.sampled_from(["gate", "gate-2"])),
        st.tuples(st.just("settle"), st.integers(0, 30), st.floats(0, 1)),
        st.tuples(st.just("dead"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("wait"), st.sampled_from([1, 3515, MINUTE_MS, HOUR_MS]), st.just(0)),
        st.tuples(st.just("credit"), st.integers(0, 30), st.integers(1, 160)),
        st.tuples(st.just("replay"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("revoke"), st.just(0), st.just(0)),
        st.tuples(st.just("enrol"), st.integers(1, 250), st.just(0)),
    ),
    max_size=50,
)


@settings(max_examples=200, deadline=None)
@given(commands)
def test_net_is_what_was_used_less_what_was_credited(todo: list[tuple[Any, Any, Any]]) -> None:
    windows = ((MINUTE_MS, 20 * MB), (HOUR_MS, 30 * MB), (DAY_MS, 60 * MB))
    limits = Limits(80 * MB, windows)
    state = fresh()
    set_net(state, NetLimits(limits, PPT))
    people(state, enrolment(delta_ppt=1))
    oracle, now_ms = Oracle(), START_MS
    epoch, position, total, posted = EPOCH, 0, 0, list[Credit]()
    for number, (kind, first, second) in enumerate(todo):
        open_ids = [i for i, past in oracle.leases.items() if past.used is None]
        if kind == "wait":
            now_ms += first
        elif kind == "lease":
            lease_id = number.to_bytes(16, "big")
            decision = lease_leaf(state, "a", first * MB, lease_id, second, now_ms)
            if not isinstance(decision, Refusal):
                state.apply(decision[0])
                oracle.leases[lease_id.hex()] = Past(second, decision[1])
        elif kind in ("settle", "dead") and open_ids:
            name = open_ids[first % len(open_ids)]
            past = oracle.leases[name]
            if kind == "dead":
                past.used, leaf = past.size, dead_leaf(state, name, now_ms)
            else:
                past.used = int(past.size * second)
                made = settle_leaf(state, bytes.fromhex(name), past.used, now_ms)
                assert made is not None
                leaf = made
                past.settled = past.account == "gate" and "gate" in state.nets["base"].auditors
            past.end_ms = now_ms
            state.apply(leaf)
        elif kind == "credit" and oracle.leases:
            name = list(oracle.leases)[first % len(oracle.leases)]
            past, size = oracle.leases[name], second * GRAIN_BYTES
            document = credit(state, {name: size}, position + 1, total)
            made_credit = replace(document, epoch=epoch)
            allowed = past.settled and not past.credited and past.used is not None
            allowed = allowed and size <= (past.used or 0) * TERMS.most_ppm // 1_000_000
            allowed = allowed and "gate" in state.nets["base"].auditors
            copy = state.copy()
            try:
                post(copy, made_credit, time_ms=now_ms)
            except rules.RuleError:
                assert not allowed
            else:
                assert allowed
                state, past.credited = copy, size
                position, total = position + 1, total + size
                posted.append(made_credit)
        elif kind == "replay" and posted:
            with pytest.raises(rules.RuleError):
                post(state.copy(), posted[first % len(posted)], time_ms=now_ms)
        elif kind == "revoke" and "gate" in state.nets["base"].auditors:
            people(state, Revocation("base", ("gate",)), 1)
            for past in oracle.leases.values():
                past.settled = False
        elif kind == "enrol":
            epoch = f"{first:02x}" * 16
            current = state.nets["base"].auditors.get("gate")
            if current is None or current.epoch != epoch:
                for past in oracle.leases.values():
                    past.settled = False
                position, total, posted = 0, 0, []
            people(state, replace(enrolment(delta_ppt=1), epoch=epoch))
        meter = state.nets["base"].meter
        assert meter.committed_bytes() == oracle.counted(None) <= 80 * MB
        for length_ms, cap_bytes in windows:
            # never less than what is left of the leases that ended in the window
            exact = oracle.counted(now_ms - length_ms)
            loose = oracle.counted(now_ms - length_ms - length_ms // GRANULES_PER_WINDOW)
            held = meter.windows[length_ms].settled_at(now_ms) + meter.outstanding_bytes
            assert exact <= held <= loose
            assert exact <= cap_bytes
        raw = state.lineages["base"].committed_bytes()
        assert raw == sum(p.size if p.used is None else p.used for p in oracle.leases.values())
    again = rules.State.from_snapshot(state.snapshot())
    assert again.snapshot() == state.snapshot() == state.copy().snapshot()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["credit", "signature", "time_ms", "leases", "total", "gate"]), json_values)
def test_a_hostile_credit_raises_rule_errors_only(name: str, value: Any) -> None:
    state = audited()
    good = credit(state, {spent(state, 1, 2 * MB): MB}, 5)
    leaf: dict[str, Any] = {"t": "credit", "credit": good.document(), "time_ms": state.time_ms}
    leaf["signature"] = sign_credit(good, AUDITOR)
    target = leaf if name in leaf else leaf["credit"]
    later = name == "time_ms" and type(value) is int and value >= state.time_ms
    if target[name] == value or later:
        return
    target[name] = value
    with pytest.raises(rules.RuleError):
        state.apply(encode(leaf))


some_limits = st.builds(
    lambda lifetime, windows: Limits(lifetime * MB, tuple(sorted(windows.items()))),
    st.sampled_from([40, 30, 20, 1, 0]),
    st.dictionaries(
        st.sampled_from([MINUTE_MS, HOUR_MS, DAY_MS]), st.sampled_from([40 * MB, 20 * MB, 0])
    ),
)
some_nets = st.builds(NetLimits, some_limits, st.sampled_from([PPT, 2, 1, 0])) | st.none()


def _narrower(one: Limits, other: Limits) -> Limits:
    windows = dict(other.windows)
    windows |= {n: min(cap, windows.get(n, cap)) for n, cap in one.windows}
    lifetime = min(one.lifetime_bytes or 0, other.lifetime_bytes or 0)
    return Limits(lifetime, tuple(sorted(windows.items())))


@settings(max_examples=200, deadline=None)
@given(
    some_limits,
    some_nets,
    some_limits,
    some_nets,
    st.lists(st.integers(1, 8), min_size=1, max_size=4),
    st.sampled_from([True, True, False]),
)
def test_what_one_operator_may_do_widens_nothing_now_or_later(
    raw: Limits,
    net: NetLimits | None,
    new_raw: Limits,
    new_net: NetLimits | None,
    used: list[int],
    narrow: bool,
) -> None:
    """With and without the change, and the same credit after it."""
    state, accounts = fresh(), {"a": Limits(None)}
    net = net and NetLimits(_narrower(net.limits, raw), net.delta_ppt)
    if narrow:
        new_raw = _narrower(raw, new_raw)
        if new_net is not None:
            old = net.limits if net is not None else new_net.limits
            limits = _narrower(_narrower(old, new_net.limits), new_raw)
            new_net = NetLimits(limits, min(new_net.delta_ppt, net.delta_ppt if net else 0))
    if (net and net.limits.exceeds(raw)) or (new_net and new_net.limits.exceeds(new_raw)):
        return
    change(state, budget_document(state, "base", raw, accounts, state.time_ms, net=net))
    if net is not None and net.delta_ppt:
        people(state, enrolment(delta_ppt=1))
    ids = []
    for number, size in enumerate(used):
        if lease_id := lease(state, number, size * MB):
            settle(state, lease_id, state.leases[lease_id].size_bytes)
            ids.append(lease_id)
    twin = state.copy()
    document = budget_document(twin, "base", new_raw, accounts, state.time_ms, net=new_net)
    try:
        change(twin, document, signers=1)
    except rules.RuleError:
        return
    now_ms = state.time_ms
    times = [now_ms + n for n in (0, MINUTE_MS - 1, MINUTE_MS, HOUR_MS, DAY_MS, 2 * DAY_MS)]
    for step in range(2):
        for moment in times:
            assert twin.room("a", moment).free_bytes <= state.room("a", moment).free_bytes
        if step or not ids or new_net is None:
            return
        made = credit(state, {ids[0]: GRAIN_BYTES}, 5)
        both = twin.copy(), state.copy()
        try:
            post(both[0], made)
        except rules.RuleError:
            return
        post(both[1], made)
        twin, state = both
