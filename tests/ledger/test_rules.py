"""The rules under random commands, against an oracle that knows only bytes and times.

The oracle keeps every lease with its size, grant and end, no sums and no granules, and after
every step recounts everything. It checks what the world sees: whatever moments within a lease
its bytes left at, no window and no lifetime was ever exceeded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.ledger_helpers import DAY_MS, HOUR_MS, MINUTE_MS, START_MS, make_keys
from narrows.errors import BudgetError
from narrows.ledger import rules
from narrows.ledger.auditors import PPM, PPT, Enrolment, NetLimits, Terms
from narrows.ledger.changes import Operators, sign_change
from narrows.ledger.keys import public_of
from narrows.ledger.leaves import (
    Refusal,
    change_leaf,
    dead_leaf,
    genesis_leaf,
    lease_leaf,
    settle_leaf,
)
from narrows.ledger.limits import GRANULES_PER_WINDOW, Limits, fair_bytes
from narrows.ledger.log import note
from narrows.ledger.log.canonical import MAX_INTEGER, encode
from narrows.ledger.office.propose import (
    auditor_document,
    budget_document,
    operators_document,
    recovery_document,
)

KEYS = make_keys(3, 3)
OPERATORS = Operators(tuple(sorted(public_of(k).hex() for k in KEYS)), 2)
ROOT = b"\x07" * 32  # of the tree under these states, which have none
LENGTHS = (MINUTE_MS, HOUR_MS, DAY_MS)


def fresh() -> rules.State:
    state = rules.State()
    state.apply(genesis_leaf("t.example/1", public_of(KEYS[0]), None, OPERATORS, START_MS))
    return state


def change(
    state: rules.State, document: dict, signers: int = 2, time_ms: int | None = None
) -> None:  # type: ignore[type-arg]
    signatures = sorted(sign_change(document, key) for key in KEYS[:signers])
    leaf = change_leaf(state, document, signatures, time_ms or state.time_ms)
    state.apply(leaf, lambda: ROOT)


def give(state: rules.State, limits: Limits, accounts: dict[str, Limits], signers: int = 2) -> None:
    document = budget_document(state, "base", limits, accounts, state.time_ms)
    change(state, document, signers)


@dataclass
class Past:
    """A lease as the oracle sees it. ``used``: None while outstanding."""

    account: str
    size: int
    start_ms: int
    end_ms: int | None = None
    used: int | None = None


@dataclass
class Oracle:
    limits: dict[str, Limits]  # "" is the lineage
    leases: dict[str, Past] = field(default_factory=dict)

    def counted(self, name: str, since_ms: int | None) -> int:
        """Bytes that can have left through ``name`` (all of the lineage: "") at or after
        ``since_ms``; outstanding ones in full."""
        total = 0
        for past in self.leases.values():
            if name not in ("", past.account):
                continue
            if past.used is None:
                total += past.size
            elif since_ms is None or (past.end_ms or 0) > since_ms:
                total += past.used
        return total

    def check(self, state: rules.State, now_ms: int) -> None:
        for name, limits in self.limits.items():
            if limits.lifetime_bytes is not None:
                assert self.counted(name, None) <= limits.lifetime_bytes
            for length_ms, cap_bytes in limits.windows:
                assert self.counted(name, now_ms - length_ms) <= cap_bytes
            meter = state.lineages["base"] if not name else state.accounts[name].meter
            everything = self.counted(name, None)
            outstanding = sum(
                p.size for p in self.leases.values() if p.used is None and name in ("", p.account)
            )
            assert meter.outstanding_bytes == outstanding
            assert meter.spent_bytes == everything - outstanding

    def room(self, account: str, now_ms: int, slack: bool) -> int:
        """What may be granted: exactly (``slack`` False: a settlement counts for the window's
        length) or with the longest rounding that the rules may do (True)."""
        free = []
        for name in ("", account):
            limits = self.limits[name]
            if limits.lifetime_bytes is not None:
                free.append(limits.lifetime_bytes - self.counted(name, None))
            for length_ms, cap_bytes in limits.windows:
                extra = length_ms // GRANULES_PER_WINDOW if slack else 0
                free.append(cap_bytes - self.counted(name, now_ms - length_ms - extra))
        return max(0, min(free))


caps = st.integers(0, 5000)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("lease"), st.sampled_from(["a", "b"]), st.integers(1, 1500)),
        st.tuples(st.just("settle"), st.integers(0, 30), st.floats(0, 1)),
        st.tuples(st.just("dead"), st.integers(0, 30), st.just(0)),
        st.tuples(
            st.just("wait"),
            st.sampled_from(
                [0, 1, 57, 58, 59, 3515, MINUTE_MS - 1, MINUTE_MS, HOUR_MS - 1, HOUR_MS]
            ),
            st.integers(0, 3),
        ),
        st.tuples(st.just("back"), st.integers(1, HOUR_MS), st.just(0)),
        st.tuples(st.just("limits"), caps, caps),
    ),
    max_size=60,
)


@settings(max_examples=250, deadline=None)
@given(caps, st.tuples(caps, caps, caps), caps, steps)
def test_no_window_and_no_lifetime_is_ever_exceeded(
    lifetime: int, windows: tuple[int, int, int], narrow: int, todo: list[tuple]
) -> None:  # type: ignore[type-arg]
    outer = Limits(lifetime, tuple(zip(LENGTHS, windows, strict=True)))
    inner = Limits(min(narrow, lifetime), ((MINUTE_MS, min(narrow, windows[0])),))
    state = fresh()
    give(state, outer, {"a": Limits(None), "b": inner})
    oracle = Oracle({"": outer, "a": Limits(None), "b": inner})
    now_ms, limited = START_MS, True
    for number, (kind, first, second) in enumerate(todo):
        if kind == "wait":
            now_ms += first * (second + 1)
        elif kind == "back":
            # a clock that goes back: the rules are told an earlier time than before
            assert state.clamp(now_ms - first) == max(state.time_ms, now_ms - first)
        elif kind == "lease":
            lease_id = number.to_bytes(16, "big")
            decision = lease_leaf(state, first, second, lease_id, "gate", now_ms)
            before = state.snapshot()
            exact, least = oracle.room(first, now_ms, False), oracle.room(first, now_ms, True)
            if isinstance(decision, Refusal):
                assert least == 0, "refused although there was room"
                assert decision.reason in ("depleted", "window")
                if decision.reason == "window" and decision.free_at_ms is not None:
                    assert decision.free_at_ms > now_ms
                continue
            assert state.snapshot() == before, "a decision must not change the state"
            leaf, size = decision
            assert min(second, least) <= size <= min(second, exact)
            state.apply(leaf)
            oracle.leases[lease_id.hex()] = Past(first, size, now_ms)
        elif kind in ("settle", "dead"):
            open_ids = [i for i, past in oracle.leases.items() if past.used is None]
            if not open_ids:
                continue
            lease_id_hex = open_ids[first % len(open_ids)]
            past = oracle.leases[lease_id_hex]
            used = int(past.size * second) if kind == "settle" else past.size
            if kind == "settle":
                leaf = settle_leaf(state, bytes.fromhex(lease_id_hex), used, now_ms)
                assert leaf is not None
            else:
                leaf = dead_leaf(state, lease_id_hex, now_ms)
            state.apply(leaf)
            past.end_ms, past.used = now_ms, used
            assert settle_leaf(state, bytes.fromhex(lease_id_hex), 0, now_ms) is None
        else:
            # new caps, raised or lowered; windows keep their history
            outer = Limits(first, tuple((length, second) for length in LENGTHS))
            inner = Limits(min(first, 700), ((MINUTE_MS, min(second, 300)),))
            document = budget_document(
                state, "base", outer, {"a": Limits(None), "b": inner}, now_ms
            )
            change(state, document, 2, max(now_ms, state.time_ms))
            oracle.limits |= {"": outer, "b": inner}
            limited = False  # what was spent before may be above the new caps
        if limited or all(
            (limits.lifetime_bytes is None or oracle.counted(name, None) <= limits.lifetime_bytes)
            and all(oracle.counted(name, now_ms - n) <= c for n, c in limits.windows)
            for name, limits in oracle.limits.items()
        ):
            oracle.check(state, now_ms)
            limited = True
    assert rules.State.from_snapshot(state.snapshot()).snapshot() == state.snapshot()


def test_a_lease_that_straddles_a_window_edge_breaks_no_hour() -> None:
    """Granted at 10:59, sent at 11:30: it counts until 12:30."""
    state = fresh()
    give(state, Limits(10**6, ((HOUR_MS, 100),)), {"a": Limits(None)})
    granted = START_MS + 59 * MINUTE_MS
    leaf, size = _granted(state, 100, granted)
    assert size == 100
    state.apply(leaf)
    sent = START_MS + 90 * MINUTE_MS
    assert isinstance(_lease(state, 1, sent), Refusal), "outstanding counts in full"
    settled = settle_leaf(state, bytes(16), 100, sent)
    assert settled is not None
    state.apply(settled)
    assert isinstance(_lease(state, 1, granted + HOUR_MS + 1), Refusal)
    assert isinstance(_lease(state, 1, sent + HOUR_MS - 1), Refusal)
    assert not isinstance(_lease(state, 1, sent + HOUR_MS + HOUR_MS // 1024), Refusal)


@given(st.integers(1, 10**15), st.integers(1, 10**15), st.integers(0, 10**5))
def test_a_share_is_within_what_is_free_and_no_crumb(want: int, free: int, held: int) -> None:
    size = fair_bytes(want, free, held)
    assert 1 <= size <= min(want, free)
    assert size >= min(want, free, max(4096, want // 2, free // (2 * (held + 1))))


def _lease(state: rules.State, want: int, now_ms: int) -> tuple[bytes, int] | Refusal:
    return lease_leaf(state, "a", want, bytes(16), "gate", now_ms)


def _granted(state: rules.State, want: int, now_ms: int) -> tuple[bytes, int]:
    decision = _lease(state, want, now_ms)
    assert not isinstance(decision, Refusal)
    return decision


def test_a_week_of_settlements_stays_small() -> None:
    state = fresh()
    give(state, Limits(10**12, ((7 * DAY_MS, 10**12),)), {"a": Limits(None)})
    for second in range(3000):
        now_ms = START_MS + second * 777_000
        state.apply(_granted(state, 10, now_ms)[0])
        leaf = settle_leaf(state, bytes(16), 10, now_ms + 5)
        assert leaf is not None
        state.apply(leaf)
    window = state.lineages["base"].windows[7 * DAY_MS]
    assert len(window.entries) <= GRANULES_PER_WINDOW + 2
    assert len(state.snapshot()) < 60_000


# -- changes ---------------------------------------------------------------------------

WIDE = Limits(1000, ((HOUR_MS, 500),))
ONE = {"a": Limits(None)}


@pytest.mark.parametrize(
    ("limits", "accounts", "needed"),
    [
        (Limits(999, ((HOUR_MS, 500),)), ONE, 1),
        (Limits(1000, ((HOUR_MS, 0),)), ONE, 1),
        (Limits(1000, ((MINUTE_MS, 5), (HOUR_MS, 500))), ONE, 1),
        (Limits(1000, ((HOUR_MS, 500),)), {"a": Limits(10)}, 1),
        (Limits(1000, ((HOUR_MS, 500),)), {}, 1),
        (Limits(1001, ((HOUR_MS, 500),)), ONE, 2),
        (Limits(999, ((HOUR_MS, 501),)), ONE, 2),
        (Limits(999), ONE, 2),  # a window less
        (Limits(999, ((HOUR_MS, 500),)), {**ONE, "b": Limits(1)}, 2),  # a way out more
    ],
)
def test_lowering_takes_one_signature_and_anything_else_k(
    limits: Limits, accounts: dict[str, Limits], needed: int
) -> None:
    state = fresh()
    with pytest.raises(BudgetError):
        give(fresh(), WIDE, ONE, signers=1)
    give(state, WIDE, ONE)
    if needed == 2:
        copy = rules.State.from_snapshot(state.snapshot())
        with pytest.raises(BudgetError):
            give(copy, limits, accounts, signers=1)
    give(state, limits, accounts, signers=needed)


def test_an_account_narrower_before_is_a_raise_when_widened() -> None:
    state = fresh()
    give(state, WIDE, {"a": Limits(10, ((HOUR_MS, 5),))})
    for account in (Limits(11, ((HOUR_MS, 5),)), Limits(None), Limits(10)):
        copy = rules.State.from_snapshot(state.snapshot())
        with pytest.raises(BudgetError):
            give(copy, WIDE, {"a": account}, signers=1)
    give(state, WIDE, {}, signers=1)
    assert isinstance(_lease(state, 1, START_MS), Refusal)
    with pytest.raises(BudgetError):  # a closed account opens only by k
        give(rules.State.from_snapshot(state.snapshot()), WIDE, {"a": Limits(1)}, signers=1)


def test_an_account_cannot_be_wider_than_its_lineage() -> None:
    state = fresh()
    for account in (Limits(1001), Limits(1, ((HOUR_MS, 501),))):
        with pytest.raises(BudgetError):
            budget_document(state, "base", WIDE, {"a": account}, START_MS)


def test_a_change_is_for_one_ledger_one_position_and_one_time() -> None:
    state = fresh()
    document = budget_document(state, "base", WIDE, ONE, START_MS, valid_ms=10)
    late = rules.State.from_snapshot(state.snapshot())
    with pytest.raises(BudgetError, match="expired"):
        change(late, document, time_ms=START_MS + 11)
    other = rules.State()
    other.apply(genesis_leaf("t.example/2", public_of(KEYS[0]), None, OPERATORS, START_MS))
    with pytest.raises(BudgetError, match="another"):
        change(other, document)
    change(state, document)
    with pytest.raises(BudgetError, match="another change"):
        change(state, document)


def test_every_field_of_a_change_is_signed() -> None:
    state = fresh()
    document = budget_document(state, "base", WIDE, ONE, START_MS)
    signatures = sorted(sign_change(document, key) for key in KEYS[:2])
    bends = [
        {"lineage": "other"},
        {"limits": Limits(1001, ((HOUR_MS, 500),)).document()},
        {"accounts": {"a": Limits(1).document()}},
        {"not_after_ms": document["not_after_ms"] + 1},
        {"origin": "t.example/3"},
        {"after": [0, bytes(32).hex()]},
    ]
    for bend in bends:
        copy = rules.State.from_snapshot(state.snapshot())
        with pytest.raises(BudgetError):
            copy.apply(change_leaf(copy, document | bend, signatures, START_MS))
    for wrong in ([*signatures, signatures[0]], signatures[::-1], [signatures[0]] * 2, []):
        copy = rules.State.from_snapshot(state.snapshot())
        with pytest.raises(BudgetError):
            copy.apply(change_leaf(copy, document, wrong, START_MS))
    stranger = sorted(sign_change(document, key) for key in [*make_keys(9, 2), KEYS[0]])
    with pytest.raises(BudgetError):
        state.apply(change_leaf(state, document, stranger, START_MS))


def test_operators_rotate_by_k_and_the_new_key_itself() -> None:
    state, new = fresh(), make_keys(11, 1)[0]
    keys = sorted([*OPERATORS.keys[:2], public_of(new).hex()])
    document = operators_document(state, Operators(tuple(keys), 2), START_MS)
    by_hex = {public_of(key).hex(): key for key in [*KEYS, new]}

    def signed(*names: str) -> bytes:
        pairs = sorted(sign_change(document, by_hex[name]) for name in names)
        return change_leaf(state, document, pairs, START_MS)

    for names in (OPERATORS.keys[:2], [OPERATORS.keys[0], public_of(new).hex()]):
        with pytest.raises(BudgetError):
            rules.State.from_snapshot(state.snapshot()).apply(signed(*names))
    state.apply(signed(*OPERATORS.keys[1:], public_of(new).hex()))
    assert state.operators.keys == tuple(keys)
    gone = by_hex[OPERATORS.keys[2]]
    document = budget_document(state, "base", WIDE, ONE, START_MS)
    pairs = sorted(sign_change(document, key) for key in (gone, by_hex[OPERATORS.keys[0]]))
    with pytest.raises(BudgetError):
        state.apply(change_leaf(state, document, pairs, START_MS))


def test_a_recovery_spends_the_gap_and_every_outstanding_lease() -> None:
    state = fresh()
    give(state, Limits(1000, ((HOUR_MS, 500),)), {"a": Limits(400)})
    state.apply(_granted(state, 50, START_MS)[0])
    document = recovery_document(state, ROOT, (9, bytes(32)), {"base": 120}, START_MS)
    with pytest.raises(BudgetError):
        change(rules.State.from_snapshot(state.snapshot()), document, signers=1)
    change(state, document)
    assert not state.leases
    assert state.lineages["base"].spent_bytes == state.accounts["a"].meter.spent_bytes == 170
    assert state.room("a", START_MS).free_bytes == 230
    assert state.lineages["base"].room(START_MS).free_bytes == 330


@pytest.mark.parametrize("gap_bytes", [0, 120])
def test_a_lineage_made_in_the_gap_grants_nothing_and_keeps_the_gap(gap_bytes: int) -> None:
    state = fresh()
    give(state, Limits(1000), ONE)
    change(state, recovery_document(state, ROOT, (9, bytes(32)), {"new": gap_bytes}, START_MS))
    assert state.committed() == {"base": 0, "new": gap_bytes}
    assert state.lineages["new"].room(START_MS).free_bytes == 0
    assert rules.State.from_snapshot(state.snapshot()).snapshot() == state.snapshot()
    document = budget_document(state, "new", Limits(150), {"n": Limits(None)}, START_MS)
    with pytest.raises(BudgetError):  # its making is not repeated by less than k
        change(rules.State.from_snapshot(state.snapshot()), document, signers=1)
    change(state, document)
    assert state.room("n", START_MS).free_bytes == 150 - gap_bytes


def test_gaps_beyond_every_number_close_the_lineage_and_the_ledger_still_loads() -> None:
    state = fresh()
    net = NetLimits(Limits(MAX_INTEGER), 0)
    change(state, budget_document(state, "base", Limits(MAX_INTEGER), ONE, START_MS, net=net))
    for _ in range(2):
        gaps = {"base": MAX_INTEGER}
        change(state, recovery_document(state, ROOT, (9, bytes(32)), gaps, START_MS))
    again = rules.State.from_snapshot(state.snapshot())
    assert again.snapshot() == state.snapshot()
    text = note.Checkpoint(state.origin, state.size, ROOT, state.committed()).text()
    assert note.parse_checkpoint(text).committed == {"base": MAX_INTEGER}
    assert isinstance(_lease(again, 1, START_MS), Refusal)


def test_a_recovery_makes_no_more_lineages_than_a_ledger_holds() -> None:
    state = fresh()
    give(state, Limits(1000), ONE)
    for count, fits in ((rules.MAX_LINEAGES, False), (rules.MAX_LINEAGES - 1, True)):
        gaps = {f"l{number}": 1 for number in range(count)}
        document = recovery_document(state, ROOT, (9, bytes(32)), gaps, START_MS)
        if fits:
            change(state, document)
        else:
            with pytest.raises(BudgetError, match="too many"):
                change(rules.State.from_snapshot(state.snapshot()), document)
    assert len(state.lineages) == rules.MAX_LINEAGES


def test_a_recovery_is_for_exactly_the_leaves_that_were_signed() -> None:
    state = fresh()
    give(state, Limits(1000), ONE)
    good = recovery_document(state, ROOT, (9, bytes(32)), {}, START_MS)
    pairs = sorted(sign_change(good, key) for key in KEYS[:2])
    with pytest.raises(BudgetError, match="another position"):  # nobody says what the root is
        rules.State.from_snapshot(state.snapshot()).apply(change_leaf(state, good, pairs, START_MS))
    for size, root in ((state.size, b"\x11" * 32), (state.size + 1, ROOT)):
        bad = good | {"base": [size, root.hex()]}
        with pytest.raises(BudgetError, match="another position"):
            change(rules.State.from_snapshot(state.snapshot()), bad)
    change(state, good)


# -- leaves ----------------------------------------------------------------------------


def test_leaves_that_break_a_rule_are_refused() -> None:
    state = fresh()
    give(state, WIDE, ONE)
    leaf, _ = _granted(state, 100, START_MS + 5)
    state.apply(leaf)
    snapshot = state.snapshot()
    lease = {"t": "lease", "id": "01" * 16, "account": "a", "bytes": 1, "gate": "g"}
    at = {"time_ms": START_MS + 5}
    broken = [
        leaf,  # the same id again
        encode(lease | at | {"bytes": 401}),  # the window has 400 left
        encode(lease | at | {"bytes": 0}),
        encode(lease | at | {"bytes": True}),
        encode(lease | at | {"bytes": 1.0}),
        encode(lease | at | {"account": "b"}),
        encode(lease | at | {"extra": 1}),
        encode(lease | {"time_ms": START_MS + 4}),
        encode(lease),
        encode(lease | at | {"t": "unknown"}),
        encode({"t": "settle", "id": "00" * 16, "used": 101} | at),
        encode({"t": "settle", "id": "00" * 16, "used": -1} | at),
        encode({"t": "settle", "id": "02" * 16, "used": 0} | at),
        encode({"t": "dead", "id": "02" * 16} | at),
        encode({"t": "state", "digest": bytes(32).hex()}),
        genesis_leaf("t.example/1", public_of(KEYS[0]), None, OPERATORS, START_MS + 9),
        encode(lease | at) + b" ",
        encode(lease | at).replace(b'"bytes":1', b'"bytes":1,"bytes":1'),
        encode(lease | at).replace(b"lease", b"\\u006cease"),
        b"",
        b"[]",
        b"[" * 60_000,
        b"x" * 70_000,
    ]
    for bad in broken:
        with pytest.raises(rules.RuleError):
            rules.State.from_snapshot(snapshot).apply(bad)
    rules.State.from_snapshot(snapshot).apply(encode(lease | at))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_random_leaves_raise_rule_errors_only(data: bytes) -> None:
    with pytest.raises(rules.RuleError):
        fresh().apply(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


hostile_credits = st.fixed_dictionaries(
    {
        name: st.just(value) | json_values
        for name, value in {
            "origin": "t.example/1",
            "lineage": "base",
            "gate": "gate",
            "account": "a",
            "epoch": "ab" * 16,
            "position": 1,
            "tape": "00" * 32,
            "previous": 0,
            "total": 1 << 16,
            "leases": [["00" * 16, 1 << 16]],
        }.items()
    }
)


@cache
def audited_snapshot() -> bytes:
    """A state with a net budget and an auditor; made once, since it takes four signatures."""
    state = fresh()
    net, accounts = NetLimits(Limits(1 << 20), PPT), {"a": Limits(None)}
    change(state, budget_document(state, "base", Limits(1 << 20), accounts, START_MS, net=net))
    terms = Terms(1, 1, 1, PPM, "11" * 32)
    enrolment = Enrolment("base", ("gate",), public_of(KEYS[0]).hex(), "ab" * 16, terms)
    change(state, auditor_document(state, enrolment, START_MS))
    return state.snapshot()


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["open", "change", "lease", "settle", "dead", "credit", "state"]),
    st.dictionaries(
        st.sampled_from(
            ["time_ms", "id", "account", "bytes", "gate", "used", "change", "signatures", "boot"]
        ),
        json_values,
    ),
    st.fixed_dictionaries(
        {},
        optional={
            "time_ms": st.just(START_MS),
            "credit": hostile_credits | json_values,
            "signature": st.just("00" * 64) | json_values,
        },
    ),
)
def test_random_documents_raise_rule_errors_only(
    kind: str, document: dict[str, Any], credit: dict[str, Any]
) -> None:
    state = rules.State.from_snapshot(audited_snapshot())
    more = credit if kind == "credit" else {}
    with pytest.raises(rules.RuleError):
        state.apply(encode({"t": kind} | document | more))
