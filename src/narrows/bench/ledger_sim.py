"""Thousands of gates on one budget: the real rules in virtual time, nothing else.

Every leaf that the ledger would append is decided by ``rules`` on the real state and applied to
it, so a grant above the budget raises. Left out: disk, witness, network, signatures.

    rate    log-normal, constant for each gate
    idle    a gate stops after an exponential time; it settles and returns the rest of its lease
    crash   the same, rarer; nothing returns, and what was not sent of its leases is stranded
    denied  a gate asks again after a quarter of a lease's time

It ends when no gate can get or use anything more.
"""

from __future__ import annotations

import heapq
import random
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from itertools import pairwise

from narrows.bench.ledger import LedgerBench
from narrows.errors import BudgetError
from narrows.ledger import rules
from narrows.ledger.changes import BudgetChange, Operators
from narrows.ledger.leaves import Refusal, dead_leaf, genesis_leaf, lease_leaf, settle_leaf
from narrows.ledger.limits import Limits

MEAN_RATE = 20_000  # bytes/s a gate
TARGET_OPS_PER_S = 40.0  # on average; the busiest minute has about twice as many
CRASH_EVERY_S = 1_250_000.0  # of a gate's traffic: two weeks
IDLE_EVERY_S = 5_000.0
CONFLICT_S = 0.02
LEASES_AT_ONCE = 2  # a gate fetches the next one when it begins the last
MINUTE_S = 60.0


class Simulation:
    """``gates`` gates on one budget that lasts ``rounds`` leases each, or ``budget_s`` seconds of
    all gates' traffic. ``lease_s`` None: as long as needed for ``TARGET_OPS_PER_S``."""

    def __init__(
        self,
        gates: int,
        seed: int = 1,
        rounds: int = 20,
        lease_s: float | None = None,
        budget_s: float | None = None,
    ) -> None:
        self._random = random.Random(seed)
        self._gates = gates
        self.lease_s = lease_s or max(1.0, 2 * gates / TARGET_OPS_PER_S)
        self._rates = [MEAN_RATE * self._random.lognormvariate(-0.125, 0.5) for _ in range(gates)]
        self.budget_bytes = int(sum(self._rates) * (budget_s or self.lease_s * rounds))
        self._state = _budgeted(self.budget_bytes)
        self._held = [deque[tuple[bytes, int]]() for _ in range(gates)]
        self._fates: dict[int, tuple[int, str]] = {}  # of the first lease that is held
        self._ops_s: list[float] = []  # when an operation was, ascending
        self._ops_gate: list[int] = []  # and whose
        self.sent_bytes = self.leases = self.crashes = self.refusals = 0
        self.end_s = 0.0

    def run(self, progress: Callable[[float], None] = lambda share: None) -> LedgerBench:
        """``progress`` gets the share of the budget that is committed."""
        events = [(self._random.random() * self.lease_s, gate) for gate in range(self._gates)]
        heapq.heapify(events)
        while events:
            now_s, gate = heapq.heappop(events)
            next_s = self._step(now_s, gate)
            if next_s is not None:
                heapq.heappush(events, (next_s, gate))
            if self.leases % 4096 == 0:
                progress(self._state.committed()["base"] / self.budget_bytes)
        return self._result()

    def _step(self, now_s: float, gate: int) -> float | None:
        """End the lease that the gate sends under, get others; when its next step is."""
        held = self._held[gate]
        if held:
            pause_s = self._end(now_s, gate, *self._fates.pop(gate))
            if pause_s:
                return now_s + pause_s
        while len(held) < LEASES_AT_ONCE and self._begin(now_s, gate):
            pass
        if held:
            used, end, lasts_s = self._fate(gate, held[0][1])
            self._fates[gate] = used, end
            return now_s + lasts_s
        return now_s + self.lease_s / 4 if self._state.leases else None

    def _begin(self, now_s: float, gate: int) -> bool:
        want = max(1, int(self._rates[gate] * self.lease_s))
        lease_id = self._random.randbytes(16)
        decision = lease_leaf(self._state, "answers", want, lease_id, "gate", int(now_s * 1000))
        if isinstance(decision, Refusal):
            self.refusals += 1
            return False
        self._append(now_s, gate, decision[0])
        self._held[gate].append((lease_id, decision[1]))
        self.leases += 1
        return True

    def _fate(self, gate: int, size: int) -> tuple[int, str, float]:
        """How many bytes of a lease are sent, how it ends, how long it lasts."""
        rate = self._rates[gate]
        idle_s = self._random.expovariate(1 / IDLE_EVERY_S)
        crash_s = self._random.expovariate(1 / CRASH_EVERY_S)
        lasts_s = min(size / rate, idle_s, crash_s)
        if lasts_s == crash_s:
            return int(rate * lasts_s), "crash", lasts_s
        if lasts_s == idle_s:
            return int(rate * lasts_s), "idle", lasts_s
        return size, "used", lasts_s

    def _end(self, now_s: float, gate: int, used: int, end: str) -> float:
        """Settle or die, with all that is held unless only the first lease is used up; returns
        for how long the gate then asks for nothing."""
        held, now_ms = self._held[gate], int(now_s * 1000)
        self.sent_bytes += used
        self.end_s = now_s
        self.crashes += end == "crash"
        for number in range(1 if end == "used" else len(held)):
            lease_id, _ = held.popleft()
            if end == "crash":
                leaf = dead_leaf(self._state, lease_id.hex(), now_ms)
            else:
                settled = used if number == 0 else 0
                leaf = settle_leaf(self._state, lease_id, settled, now_ms) or b""
            self._append(now_s, gate, leaf)
        return 0.0 if end == "used" else self._random.expovariate(1 / self.lease_s)

    def _append(self, now_s: float, gate: int, leaf: bytes) -> None:
        self._state.apply(leaf)
        self._ops_s.append(now_s)
        self._ops_gate.append(gate)

    def _result(self) -> LedgerBench:
        if self.sent_bytes > self.budget_bytes:
            raise BudgetError("the simulation spent more than its budget")
        return LedgerBench(
            gates=self._gates,
            simulated=True,
            budget_bytes=self.budget_bytes,
            leases=self.leases,
            crashes=self.crashes,
            refusals=self.refusals,
            lease_s=round(self.lease_s, 1),
            ledger_ops_per_s=round(len(self._ops_s) / self.end_s, 1),
            peak_ops_per_s=_busiest(self._ops_s, 1.0),
            worst_minute_ops_per_s=round(_busiest(self._ops_s, MINUTE_S), 1),
            conflict_share=_conflict_share(self._ops_s, self._ops_gate),
            utilisation=self.sent_bytes / self.budget_bytes,
            stranded_bytes=self.budget_bytes - self.sent_bytes,
            reserve_p50_ms=None,
            reserve_p99_ms=None,
            seconds=round(self.end_s, 1),
        )


def _busiest(times_s: list[float], length_s: float) -> float:
    """The most operations in any interval of ``length_s``, by second. ``times_s`` ascends."""
    most = max(
        (i + 1 - bisect_left(times_s, t - length_s, 0, i + 1) for i, t in enumerate(times_s)),
        default=0,
    )
    return most / length_s


def _conflict_share(times_s: list[float], gates: list[int]) -> float:
    """A gate's own operations follow each other, and conflict with nothing."""
    close = sum(
        later - now < CONFLICT_S and one != other
        for (now, later), (one, other) in zip(pairwise(times_s), pairwise(gates), strict=True)
    )
    return round(close / max(1, len(times_s)), 4)


def _budgeted(budget_bytes: int) -> rules.State:
    """A state with a budget, made without keys or signatures: only sums matter here."""
    state = rules.State()
    base_point = bytes([0x58]) + 31 * b"\x66"
    operators = Operators((base_point.hex(),), 1)
    state.apply(genesis_leaf("narrows.bench/0", base_point, None, operators, 0))
    state.set_budget(BudgetChange("base", Limits(budget_bytes), {"answers": Limits(None)}))
    return state
