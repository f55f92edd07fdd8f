"""Gates on several machines, each with a clock of its own, and windows that hold all the same.

Time is simulated: every clock has its own offset and rate, and every question to the witness
takes its time on the way. The oracle knows only when bytes really left.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ledger.etcd_cluster import wait_until
from ledger.ledger_helpers import START_MS, Deployment, make_keys
from narrows.errors import BudgetError
from narrows.ledger import clock
from narrows.ledger.api import Denied, Lease
from narrows.ledger.changes import Operators
from narrows.ledger.clock import SharedTime
from narrows.ledger.keys import load_private, public_of
from narrows.ledger.leaves import genesis_leaf, open_leaf
from narrows.ledger.ledger import Ledger
from narrows.ledger.limits import Limits
from narrows.ledger.office.balances import current_balances
from narrows.ledger.office.verify import verify_log
from narrows.ledger.records import Anchor
from narrows.ledger.rules import State
from narrows.ledger.stores.sqlite import SqliteStore
from narrows.ledger.stores.store import StoreError

WINDOW_MS, CAP_BYTES, MOST_MS = 20_000, 1000, 2500


class SharedFile(SqliteStore):
    """A file in the place of a cluster: the rules of time are the same, and runs are fast."""

    shared = True


@dataclass
class RealTime:
    ms: float = 1_000_000.0  # where the deployment's clock starts


@dataclass
class SkewedClock:
    """A machine's boot clock: ``rate`` of real time, from an offset."""

    real: RealTime
    boot: str
    offset_ms: int
    rate: float

    def boot_id(self) -> str:
        return self.boot

    def boot_ms(self) -> int:
        return self.offset_ms + int(self.real.ms * self.rate)


class SlowWitness:
    """A witness at the end of a long way: ``way`` says how long it takes, there and back."""

    def __init__(self, inner: object, real: RealTime, way: Callable[[], tuple[float, float]]):
        self._inner, self._real, self._way = inner, real, way
        self.verifier = inner.verifier  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> object:
        def call(*arguments: object) -> object:
            there_ms, back_ms = self._way()
            self._real.ms += there_ms
            answer = getattr(self._inner, name)(*arguments)
            self._real.ms += back_ms
            return answer

        return call


@dataclass
class Machines:
    """Gates over one ledger, and what really left when."""

    deployment: Deployment
    real: RealTime
    rng: random.Random
    sent: list[tuple[float, int]] = field(default_factory=list)

    def gate(
        self, name: str, rate: float, way: Callable[[], tuple[float, float]] | None = None
    ) -> Ledger:
        own = SkewedClock(self.real, f"boot-{name}", self.rng.randrange(10**9), rate)
        inner = self.deployment.witness()
        return Ledger(
            SharedFile(self.deployment.db),
            load_private(self.deployment.folder / "ledger" / "log.key"),
            SlowWitness(inner, self.real, way or self._random_way),
            name,
            own,
            sleep=self._sleep,
            later=lambda _, __: lambda: None,
        )

    def _random_way(self) -> tuple[float, float]:
        return self.rng.random() * MOST_MS, self.rng.random() * MOST_MS

    def _sleep(self, seconds: float) -> None:
        self.real.ms += seconds * 1000 + 1

    def worst_window(self) -> int:
        """The most bytes that left within any interval of the window's length."""
        worst = total = first = 0
        for number, (_, count) in enumerate(self.sent):
            total += count
            while self.sent[first][0] <= self.sent[number][0] - WINDOW_MS:
                total -= self.sent[first][1]
                first += 1
            worst = max(worst, total)
        return worst


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    rng, real = random.Random(seed), RealTime()
    made = Deployment.create(tmp_path / "state")
    made.clock.boot_ms = lambda: int(real.ms)  # type: ignore[method-assign]  # the witness's
    yield Machines(made, real, rng)
    made.close()


def _run(machines: Machines, steps: int) -> tuple[int, int]:
    """Leases taken, sent in part and settled by three gates in turn; the worst window and the
    number of leases."""
    rng, real = machines.rng, machines.real
    rates = (1.0, 1.0004, 0.9997)
    gates = [machines.gate(f"g{number}", rate) for number, rate in enumerate(rates)]
    machines.deployment.set_budget(gates[0], Limits(10**9, ((WINDOW_MS, CAP_BYTES),)))
    held: list[tuple[Ledger, Lease]] = []
    leases = 0
    for _ in range(steps):
        gate = rng.choice(gates)
        got = gate.acquire("answers", rng.choice((50, 300, 2000)))
        if isinstance(got, Lease):
            leases += 1
            held.append((gate, got))
        real.ms += rng.choice((1, 20, 400, 3000))
        while held and rng.random() < 0.7:
            gate, lease = held.pop(rng.randrange(len(held)))
            machines.sent.append((real.ms, lease.size_bytes))
            gate.settle(lease, lease.size_bytes)
        if rng.random() < 0.03:  # nothing for a while: clocks drift apart, windows empty
            real.ms += rng.randrange(2 * clock.RENEW_MS)
    for gate in gates:
        gate.close()
    return machines.worst_window(), leases


def test_no_window_opens_early_by_any_clock(machines: Machines) -> None:
    worst, leases = _run(machines, 400)
    assert leases > 20
    assert worst <= CAP_BYTES


@pytest.mark.parametrize("held_back", [True, False])
def test_what_the_wait_is_for(
    machines: Machines, monkeypatch: pytest.MonkeyPatch, held_back: bool
) -> None:
    """One gate's anchor is 4 s old on arrival, the other's is exact. The first settles what it
    just sent; the second grants as soon as that has left the window, by its own clock."""
    if not held_back:
        monkeypatch.setattr(SharedTime, "hold_ms", 0)
    slow = machines.gate("slow", 1.0, lambda: (0, 4000))
    exact = machines.gate("exact", 1.0, lambda: (0, 0))
    machines.deployment.set_budget(exact, Limits(10**9, ((WINDOW_MS, CAP_BYTES),)))
    real = machines.real
    first = slow.acquire("answers", CAP_BYTES)
    assert isinstance(first, Lease)
    machines.sent.append((real.ms, first.size_bytes))
    slow.settle(first, first.size_bytes)
    for _ in range(400):
        real.ms += 100
        slow._settle_later()
        got = exact.acquire("answers", CAP_BYTES)
        if isinstance(got, Lease):
            machines.sent.append((real.ms, got.size_bytes))
            exact.settle(got, got.size_bytes)
            break
    assert len(machines.sent) == 2
    assert (machines.worst_window() <= CAP_BYTES) == held_back
    slow.close()
    exact.close()


def test_the_witness_moves_a_running_clock_by_a_thousandth_at_most() -> None:
    real = RealTime(0)
    own = SkewedClock(real, "b", 5000, 1.0)
    time = SharedTime(own, Anchor("b", 5000, START_MS))
    assert time.stale
    time.renew(own.boot_ms(), START_MS + 10**9)  # a witness that lies
    assert time.now_ms() == START_MS
    assert time.hold_ms >= 10**9, "as far behind as it says: nothing is settled, nothing opens"
    real.ms += 100_000
    asked = own.boot_ms()
    real.ms += 40
    time.renew(asked, START_MS + 100_010)
    assert time.now_ms() == START_MS + 100_010
    assert time.hold_ms == 40 + 2 * clock.DRIFT_MS
    assert not time.stale
    real.ms += clock.RENEW_MS
    assert time.stale
    time.renew(own.boot_ms(), START_MS)  # back: the ledger's clamp keeps time from going back
    assert time.now_ms() == START_MS


def test_each_gate_keeps_its_own_anchor(machines: Machines) -> None:
    """Two boots in one log; a restart in the same boot makes no new anchor."""
    one, two = machines.gate("g1", 1.0), machines.gate("g2", 1.0)
    machines.deployment.set_budget(one, Limits(100))
    for gate in (one, two, one):
        assert isinstance(gate.acquire("answers", 10), Lease)
    state = two.state()
    assert set(state.anchors) == {"g1", "g2"}
    assert state.anchor == Anchor("", 0, 0)
    assert {a.boot_id for a in state.anchors.values()} == {"boot-g1", "boot-g2"}
    assert State.from_snapshot(state.snapshot()).snapshot() == state.snapshot()
    assert state.copy().snapshot() == state.snapshot()
    kept, size = one._session._clock, state.size
    one.close()
    again = machines.gate("g1", 1.0)
    again._session._clock = kept  # the same machine, the same boot
    again.recover_dead_leases()
    store = SqliteStore(machines.deployment.db)
    later = b"".join(store.leaves(size, again.state().size))
    assert b'"t":"open"' not in later
    assert later.count(b'"t":"dead"') == 2
    verify_log(store)
    for closing in (again, two, store):
        closing.close()


def test_a_ledger_of_several_machines_needs_a_witness(tmp_path: Path) -> None:
    made = Deployment.create(tmp_path / "state")
    ledger = Ledger(
        SharedFile(made.db), load_private(made.folder / "ledger" / "log.key"), None, "g"
    )
    ledger._session.replica.reload()
    ledger.state().witness_key = ""
    with pytest.raises(BudgetError, match="tells the time"):
        ledger._session.check_witness_key()
    ledger.close()
    made.close()


def test_a_clock_far_behind_is_no_reason_to_wait_for_ever(machines: Machines) -> None:
    """A machine that was paused for minutes: its dead leases can't be dated, so it says why."""
    gate = machines.gate("g1", 1.0)
    machines.deployment.set_budget(gate, Limits(100))
    assert isinstance(gate.acquire("answers", 10), Lease)
    own = gate._session._clock
    gate.close()
    again = machines.gate("g1", 1.0)
    again._session._clock = own
    own.offset_ms, own.rate = own.boot_ms(), 0.0  # it stands still
    machines.real.ms += 600_000
    with pytest.raises(BudgetError, match="behind the witness"):
        again.recover_dead_leases()
    assert isinstance(again.acquire("answers", 10), Lease | Denied)
    again.close()


def test_old_logs_replay_to_what_they_were() -> None:
    """An ``open`` leaf without a gate's name is the one anchor of before; digests stay."""
    key = public_of(make_keys(1, 1)[0])
    operators = Operators((key.hex(),), 1)
    state = State()
    state.apply(genesis_leaf("o", key, key, operators, 5))
    state.apply(open_leaf(state, "boot", 7, 9))
    assert b"anchors" not in state.snapshot()
    assert state.anchor_of(None, "boot") == Anchor("boot", 7, 9)
    assert state.anchor_of("g1", "boot") is None
    state.apply(open_leaf(state, "boot-2", 1, 11, "g1"))
    assert state.anchor == Anchor("boot", 7, 9)
    assert state.anchor_of("g1", "boot-2") == Anchor("boot-2", 1, 11)
    assert state.anchor_of("g1", "boot") is None


class LateFile(SharedFile):
    """An append whose answer is lost, and which is carried out only before the next one: a
    member of a cluster that was paused with the request in its hands."""

    late = False

    def append(self, *arguments: object, **named: object) -> None:  # type: ignore[override]
        if self.late:
            self.late, self._held = False, (arguments, named)
            raise StoreError("no answer in time")
        held, self._held = self._held, None
        if held is not None:
            super().append(*held[0], **held[1])  # type: ignore[arg-type]
        super().append(*arguments, **named)  # type: ignore[arg-type]

    _held: tuple[tuple[object, ...], dict[str, object]] | None = None


def test_a_lease_that_is_written_late_is_returned(machines: Machines) -> None:
    made = machines.deployment
    with made.ready(Limits(1000)):
        pass
    store = LateFile(made.db)
    ledger = made.open(gate="g1", store=store)
    assert isinstance(ledger.acquire("answers", 10), Lease)
    store.late = True
    denied = ledger.acquire("answers", 300)
    assert isinstance(denied, Denied)
    assert denied.reason == "store"
    got = ledger.acquire("answers", 200)
    assert isinstance(got, Lease)
    assert sorted(h.size_bytes for h in ledger.state().leases.values()) == [10, 200, 300]
    ledger.settle(got, 200)
    assert sorted(h.size_bytes for h in ledger.state().leases.values()) == [10, 200], "300 is back"
    machines.real.ms += 1000
    assert isinstance(ledger.acquire("answers", 1000), Lease)
    sums = current_balances(ledger)
    assert (sums.spent_bytes, sums.outstanding_bytes) == (200, 800)
    ledger.close()


def test_an_idle_gate_settles_without_being_called(machines: Machines) -> None:
    made = machines.deployment
    with made.ready(Limits(1000)):
        pass
    key = load_private(made.folder / "ledger" / "log.key")
    ledger = Ledger(SharedFile(made.db), key, made.witness(), "g1")  # real clock, real timers
    got = ledger.acquire("answers", 300)
    assert isinstance(got, Lease)
    ledger.settle(got, 100)
    assert current_balances(ledger).outstanding_bytes == 300, "not yet: see clock.py"
    wait_until(lambda: current_balances(ledger).outstanding_bytes == 0, "the timer settled it")
    assert current_balances(ledger).spent_bytes == 100
    ledger.close()
