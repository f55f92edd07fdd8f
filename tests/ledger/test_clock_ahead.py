"""A gate whose boot clock is moved ahead, by whoever is root on its machine, opens no window.

Gate and witness have clocks of their own over one simulated real time. The oracle knows only when
bytes really left.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ledger.ledger_helpers import HOUR_MS, MINUTE_MS, START_MS, Deployment
from ledger.test_shared_time import RealTime, SharedFile, SlowWitness
from narrows.ledger import clock
from narrows.ledger.api import Denied, Lease
from narrows.ledger.clock import RENEW_MS, TOLERANCE_MS, WitnessedTime
from narrows.ledger.keys import load_private
from narrows.ledger.leaves import open_leaf
from narrows.ledger.ledger import Ledger
from narrows.ledger.limits import Limits
from narrows.ledger.office.balances import current_balances
from narrows.ledger.office.verify import verify_log
from narrows.ledger.records import Anchor
from narrows.ledger.replica import Replica
from narrows.ledger.stores.sqlite import SqliteStore

CAP_BYTES, WINDOW_MS = 1000, MINUTE_MS
Way = Callable[[], tuple[float, float]]


@dataclass
class BentClock:
    """A boot clock that root bends: ``ahead_ms`` and ``rate`` may change at any time."""

    real: RealTime
    ahead_ms: float = 0.0
    rate: float = 1.0
    since_ms: float = 0.0

    def boot_id(self) -> str:
        return "gate-boot"

    def boot_ms(self) -> int:
        return int(self.ahead_ms + self.real.ms + (self.real.ms - self.since_ms) * (self.rate - 1))

    def set_rate(self, rate: float) -> None:
        self.ahead_ms += (self.real.ms - self.since_ms) * (self.rate - 1)
        self.since_ms, self.rate = self.real.ms, rate


@dataclass
class Site:
    """One gate, its witness elsewhere, and what left when."""

    made: Deployment
    real: RealTime
    clock: BentClock
    sent: list[tuple[float, int]] = field(default_factory=list)

    def gate(self, way: Way = lambda: (0, 0), store: type[SqliteStore] = SqliteStore) -> Ledger:
        return Ledger(
            store(self.made.db),
            load_private(self.made.folder / "ledger" / "log.key"),
            SlowWitness(self.made.witness(), self.real, way),  # type: ignore[arg-type]
            "gate",
            self.clock,
            sleep=lambda seconds: None,
            later=lambda _, __: lambda: None,
        )

    def start(self, limits: Limits | None = None, way: Way = lambda: (0, 0)) -> Ledger:
        gate = self.gate(way)
        self.made.set_budget(gate, limits or Limits(10**9, ((WINDOW_MS, CAP_BYTES),)))
        return gate

    def send(self, gate: Ledger, want_bytes: int = CAP_BYTES) -> str:
        """Lease, send and settle; ``granted`` or the reason why not."""
        got = gate.acquire("answers", want_bytes)
        if isinstance(got, Denied):
            return got.reason
        self.sent.append((self.real.ms, got.size_bytes))
        gate.settle(got, got.size_bytes)
        return "granted"

    def worst(self, length_ms: float) -> int:
        """The most bytes that left within any interval of ``length_ms``."""
        return max(
            sum(count for at, count in self.sent if start <= at < start + length_ms)
            for start, _ in self.sent
        )


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    real = RealTime()
    made = Deployment.create(tmp_path / "state")
    made.clock.boot_ms = lambda: int(real.ms)  # type: ignore[method-assign]  # the witness's
    yield Site(made, real, BentClock(real))
    made.close()


def test_a_jump_is_denied_and_opens_nothing(site: Site) -> None:
    gate = site.start()
    assert site.send(gate) == "granted"
    site.clock.ahead_ms += HOUR_MS
    assert site.send(gate) == "clock"
    # In step again, by the witness's answer, and nothing was forgotten early.
    for _ in range(5):
        site.real.ms += WINDOW_MS / 6
        assert site.send(gate) == "window"
    site.real.ms += WINDOW_MS / 6 + WINDOW_MS / 1000
    assert site.send(gate) == "granted"
    assert site.worst(WINDOW_MS) == CAP_BYTES
    gate.close()


def test_a_jump_that_no_question_precedes_is_seen_in_the_cosignature(site: Site) -> None:
    """The lease is in the log, dated ahead, and is not handed out before its time has come."""
    gate = site.start()
    assert site.send(gate) == "granted"
    site.clock.ahead_ms += WINDOW_MS + 1000  # less than until the next question
    for _ in range(5):
        assert site.send(gate) == "clock"
        site.real.ms += 10_000
    site.real.ms += WINDOW_MS - 50_000
    assert site.send(gate) == "granted", "the witness's time has come near: it ends by itself"
    assert site.worst(WINDOW_MS - TOLERANCE_MS - 1000) == CAP_BYTES
    gate.close()
    verify_log(site.made.store())


def test_a_settlement_after_a_jump_does_not_push_the_log_ahead(site: Site) -> None:
    gate = site.start()
    got = gate.acquire("answers", 500)
    assert isinstance(got, Lease)
    site.clock.ahead_ms += 400 * 24 * HOUR_MS
    gate.settle(got, 500)
    site.real.ms += 1
    gate.close()
    again = site.gate()
    again.recover_dead_leases()
    assert again.state().time_ms <= START_MS + 1000
    assert site.send(again, 100) == "granted"
    again.close()


def test_a_start_after_a_jump_in_the_same_boot_works_in_step(site: Site) -> None:
    gate = site.start()
    assert site.send(gate) == "granted"
    gate.close()
    site.clock.ahead_ms += HOUR_MS
    again = site.gate()
    again.recover_dead_leases()
    assert site.send(again) == "window"
    site.real.ms += WINDOW_MS * 1.002
    assert site.send(again) == "granted"
    assert again.now_ms() <= START_MS + WINDOW_MS * 1.002
    again.close()


def test_a_leaf_dated_ahead_grants_nothing_until_its_time(site: Site) -> None:
    """By a thief of the log key, who cannot have the windows opened by it."""
    gate = site.start()
    assert site.send(gate) == "granted"
    gate.close()
    key = load_private(site.made.folder / "ledger" / "log.key")
    store = SqliteStore(site.made.db)
    head = store.head()
    assert head is not None
    replica = Replica(store, key.public_key().public_bytes_raw(), key)
    replica.reload()
    ahead_ms = START_MS + 2 * WINDOW_MS
    replica.append([open_leaf(replica.state, "gate-boot", site.clock.boot_ms(), ahead_ms)])
    store.close()
    again = site.gate()
    again.recover_dead_leases()
    for _ in range(3):
        assert site.send(again) == "clock"
        site.real.ms += WINDOW_MS / 2
    site.real.ms += WINDOW_MS / 2
    assert site.send(again) == "granted"
    again.close()


@pytest.mark.parametrize("rate", [1.1, 1.01, 3.0])
def test_a_clock_that_runs_fast_gains_no_more_than_the_tolerance(site: Site, rate: float) -> None:
    """adjtimex allows root 10 %. For hours, asked every few seconds or after long pauses."""
    rng = random.Random(7)
    gate = site.start()
    site.clock.set_rate(rate)
    reasons = set()
    for _ in range(900):
        reasons.add(site.send(gate, rng.choice((100, 400, 1000))))
        site.real.ms += rng.choice((50, 1000, 5000, 20_000))
        if rng.random() < 0.01:
            site.real.ms += 2 * RENEW_MS
    assert "granted" in reasons
    assert site.worst(WINDOW_MS - TOLERANCE_MS - 1000) <= CAP_BYTES
    assert gate.now_ms() <= START_MS + site.real.ms + TOLERANCE_MS
    gate.close()


def test_a_clock_that_was_held_back_does_not_catch_up(site: Site) -> None:
    """Never ahead of the witness's, and yet a window of a minute would pass in an instant."""
    gate = site.start()
    site.clock.set_rate(0.0)
    site.real.ms += HOUR_MS
    site.clock.set_rate(1.0)
    site.clock.ahead_ms += RENEW_MS  # the question is due: the witness learns how far behind
    assert site.send(gate) == "granted"
    behind_ms = HOUR_MS - RENEW_MS
    site.clock.ahead_ms += behind_ms
    assert site.send(gate) == "clock"
    assert site.send(gate) == "window"
    site.real.ms += WINDOW_MS * 1.002
    assert site.send(gate) == "granted"
    assert site.worst(WINDOW_MS) == CAP_BYTES
    gate.close()


def test_honest_clocks_and_slow_answers_are_never_denied(site: Site) -> None:
    """Drift as assumed, questions of up to 5 s, days without a lease between."""
    rng = random.Random(1)
    gate = site.start(Limits(10**9), way=lambda: (rng.random() * 4800, rng.random() * 200))
    for number in range(300):
        assert site.send(gate, 10) == "granted", number
        site.clock.set_rate(rng.choice((1.00049, 0.99951, 1.0)))
        site.real.ms += rng.choice((10, 2000, RENEW_MS, 24 * HOUR_MS))
    gate.close()


def test_the_witness_is_asked_at_the_start_and_regularly(site: Site) -> None:
    gate = site.start(Limits(10**9))
    asked: list[float] = []
    inner = gate._session.latest

    def latest() -> object:
        asked.append(site.real.ms)
        return inner()

    gate._session.latest = latest  # type: ignore[method-assign,assignment]
    start_ms = site.real.ms
    while site.real.ms < start_ms + 3 * RENEW_MS:
        assert site.send(gate, 10) == "granted"
        site.real.ms += 10_000
    assert 2 <= len(asked) <= 4
    gate.close()


def test_without_its_witness_a_stale_time_grants_nothing_and_closes(site: Site) -> None:
    gate = site.start()
    got = gate.acquire("answers", 100)
    assert isinstance(got, Lease)

    def gone() -> tuple[float, float]:
        from narrows.ledger.witness.witness import WitnessError

        raise WitnessError("unreachable")

    gate._session.witness._way = gone  # type: ignore[union-attr]
    site.real.ms += RENEW_MS
    assert site.send(gate) == "witness"
    gate.settle(got, 60)
    gate.close()  # what is settled as it stops is written without it
    after = current_balances(site.gate())
    assert (after.spent_bytes, after.outstanding_bytes) == (60, 0)


def test_several_machines_are_held_to_the_same(site: Site) -> None:
    gate = site.gate(store=SharedFile)
    site.made.set_budget(gate, Limits(10**9, ((WINDOW_MS, CAP_BYTES),)))
    assert site.send(gate) == "granted"
    site.real.ms += 1000
    gate._settle_later()
    site.clock.ahead_ms += WINDOW_MS + 10_000
    assert [site.send(gate), site.send(gate)] == ["clock", "clock"]
    site.real.ms += WINDOW_MS + 10_000
    assert site.send(gate) == "granted"
    assert site.worst(WINDOW_MS) == CAP_BYTES
    gate.close()


def test_only_what_is_certain_is_given_up() -> None:
    real = RealTime(0)
    own = BentClock(real)
    time = WitnessedTime(own, Anchor("b", 0, START_MS))
    assert time.stale
    assert time.renew(own.boot_ms(), START_MS) == 0
    assert not time.stale
    asked = own.boot_ms()
    real.ms += 4000  # all of it on the way back: the witness's answer is old
    assert time.renew(asked, START_MS) == -2
    assert time.now_ms() == START_MS + 4000
    own.ahead_ms += 10_000
    asked = own.boot_ms()
    assert time.renew(asked, START_MS + 4000) == 10_000 - 10_000 // clock.DRIFT_DIVISOR
    assert time.now_ms() == START_MS + 4000
    real.ms += RENEW_MS
    assert time.stale
