"""The ledger measured: on disk with its witness, and 10,000 gates as a simulation.

On disk: one process, SQLite with synchronous=FULL, the witness over HTTP on loopback with its
own database. An operation is a lease or a settlement, durable when counted.

The simulation runs the pure rules with virtual time, nothing else: gates with log-normal rates
that use up leases, fall idle (and return what is left), crash (and lose the lease). It ends
when no gate can get or use anything more.
"""

from __future__ import annotations

import heapq
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from narrows.errors import BudgetError
from narrows.ledger import rules
from narrows.ledger.api import Lease
from narrows.ledger.changes import BudgetChange, Operators
from narrows.ledger.demo import create_demo, demo_witness_key
from narrows.ledger.ledger import Ledger
from narrows.ledger.limits import Limits
from narrows.ledger.setup import open_witness, witness_verifier
from narrows.ledger.witness_http import HttpWitness, WitnessServer

MEAN_RATE = 20_000  # bytes/s a gate
TARGET_OPS_PER_S = 80.0


@dataclass(frozen=True, slots=True)
class LedgerBench:
    """``utilisation``: bytes sent by bytes of budget when nothing more could be leased.
    ``stranded_bytes``: the rest: crashed leases, crumbs. ``reserve_p50_ms`` and ``_p99_ms``: of
    ``acquire``, None in the simulation. ``lease_s``: seconds of traffic asked for at a time."""

    gates: int
    simulated: bool
    budget_bytes: int
    leases: int
    crashes: int
    lease_s: float
    ledger_ops_per_s: float
    peak_ops_per_s: float
    utilisation: float
    stranded_bytes: int
    reserve_p50_ms: float | None
    reserve_p99_ms: float | None
    seconds: float


def on_disk(seconds: float, lease_bytes: int = 65_536) -> LedgerBench:
    """Lease and settle as fast as the disk goes, then spend the rest to the last byte, with one
    crash in between."""
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        budget_bytes = int(seconds * 20_000 * lease_bytes) + 1_000_003
        create_demo(state, budget_bytes)
        witness = open_witness(state)
        server = WitnessServer(("127.0.0.1", 0), witness)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        verifier = witness_verifier(demo_witness_key(state))
        client = HttpWitness("127.0.0.1", server.server_address[1], verifier)
        try:
            return _drain(state, client, budget_bytes, seconds, lease_bytes)
        finally:
            client.close()
            server.shutdown()
            thread.join()
            server.server_close()
            witness.close()


def _drain(
    state: Path, client: HttpWitness, budget_bytes: int, seconds: float, lease_bytes: int
) -> LedgerBench:
    ledger = Ledger.open(state, witness=client)
    ledger.recover_dead_leases()
    sent, waits, buckets = 0, list[float](), Counter[int]()
    started = time.perf_counter()
    while (now := time.perf_counter()) - started < seconds:
        lease = ledger.acquire("answers", lease_bytes)
        waits.append(time.perf_counter() - now)
        if not isinstance(lease, Lease):
            raise BudgetError(f"the bench was refused: {lease.detail}")
        ledger.settle(lease, lease.size_bytes)
        sent += lease.size_bytes
        buckets[int(now - started)] += 2
    elapsed = time.perf_counter() - started
    ledger.acquire("answers", lease_bytes)  # never settled: the gate dies here
    ledger.close()
    ledger = Ledger.open(state, witness=client)
    ledger.recover_dead_leases()
    while isinstance(lease := ledger.acquire("answers", budget_bytes // 4), Lease):
        ledger.settle(lease, lease.size_bytes)
        sent += lease.size_bytes
    ledger.close()
    waits.sort()
    return LedgerBench(
        gates=1,
        simulated=False,
        budget_bytes=budget_bytes,
        leases=len(waits),
        crashes=1,
        lease_s=0.0,
        ledger_ops_per_s=round(2 * len(waits) / elapsed, 1),
        peak_ops_per_s=float(max(buckets.values())),
        utilisation=sent / budget_bytes,
        stranded_bytes=budget_bytes - sent,
        reserve_p50_ms=round(1000 * waits[len(waits) // 2], 3),
        reserve_p99_ms=round(1000 * waits[int(len(waits) * 0.99)], 3),
        seconds=round(elapsed, 2),
    )


class Simulation:
    """``gates`` gates on one budget that lasts ``rounds`` leases each. ``lease_s`` None: as long
    as needed for about ``TARGET_OPS_PER_S``."""

    def __init__(
        self,
        gates: int,
        seed: int = 1,
        rounds: int = 20,
        lease_s: float | None = None,
        crash_share: float = 0.0002,
        idle_share: float = 0.05,
    ) -> None:
        self._random = random.Random(seed)
        self._gates = gates
        self._crash_share, self._idle_share = crash_share, idle_share
        self.lease_s = lease_s or max(1.0, 2 * gates / TARGET_OPS_PER_S)
        self._rates = [MEAN_RATE * self._random.lognormvariate(-0.125, 0.5) for _ in range(gates)]
        self.budget_bytes = int(sum(self._rates) * self.lease_s * rounds)
        self._state = _budgeted(self.budget_bytes)
        self._ops: Counter[int] = Counter()
        self.sent_bytes = self.leases = self.crashes = 0
        self.end_s = 0.0

    def run(self, progress: Callable[[float], None] = lambda share: None) -> LedgerBench:
        """``progress`` gets the share of the budget that is committed."""
        events = [(self._random.random() * self.lease_s, gate) for gate in range(self._gates)]
        heapq.heapify(events)
        open_leases: dict[int, tuple[bytes, int, str]] = {}
        while events:
            now_s, gate = heapq.heappop(events)
            if gate in open_leases:
                now_s += self._end(now_s, *open_leases.pop(gate))
            grant = self._begin(now_s, gate)
            if grant is not None:
                open_leases[gate] = grant[:3]
                heapq.heappush(events, (now_s + grant[3], gate))
            elif self._state.leases:
                heapq.heappush(events, (now_s + self.lease_s / 4, gate))
            if self.leases % 4096 == 0:
                progress(self._state.committed()["base"] / self.budget_bytes)
        return self._result()

    def _begin(self, now_s: float, gate: int) -> tuple[bytes, int, str, float] | None:
        """A lease, how many bytes of it are used, how it ends, how long it lasts."""
        want = max(1, int(self._rates[gate] * self.lease_s))
        lease_id = self._random.randbytes(16)
        decision = rules.lease_leaf(
            self._state, "answers", want, lease_id, "gate", int(now_s * 1000)
        )
        if isinstance(decision, rules.Refusal):
            return None
        self._count(now_s, decision[0])
        self.leases += 1
        size, fate = decision[1], self._random.random()
        used, end = size, "used"
        if fate < self._crash_share + self._idle_share:
            used, end = int(size * self._random.random()), "idle"
            if fate < self._crash_share:
                end = "crash"
        return lease_id, used, end, used / self._rates[gate]

    def _end(self, now_s: float, lease_id: bytes, used: int, end: str) -> float:
        """Settle or die; returns for how long the gate then asks for nothing."""
        now_ms = int(now_s * 1000)
        if end == "crash":
            self._count(now_s, rules.dead_leaf(self._state, lease_id.hex(), now_ms))
            self.crashes += 1
        else:
            leaf = rules.settle_leaf(self._state, lease_id, used, now_ms)
            if leaf is None:
                raise BudgetError("the simulation lost a lease")
            self._count(now_s, leaf)
        self.sent_bytes += used
        self.end_s = now_s
        return 0.0 if end == "used" else self._random.expovariate(1 / self.lease_s)

    def _count(self, now_s: float, leaf: bytes) -> None:
        self._state.apply(leaf)
        self._ops[int(now_s / 10)] += 1

    def _result(self) -> LedgerBench:
        if self.sent_bytes > self.budget_bytes:
            raise BudgetError("the simulation spent more than its budget")
        return LedgerBench(
            gates=self._gates,
            simulated=True,
            budget_bytes=self.budget_bytes,
            leases=self.leases,
            crashes=self.crashes,
            lease_s=round(self.lease_s, 1),
            ledger_ops_per_s=round(sum(self._ops.values()) / self.end_s, 1),
            peak_ops_per_s=max(self._ops.values()) / 10,
            utilisation=self.sent_bytes / self.budget_bytes,
            stranded_bytes=self.budget_bytes - self.sent_bytes,
            reserve_p50_ms=None,
            reserve_p99_ms=None,
            seconds=round(self.end_s, 1),
        )


def _budgeted(budget_bytes: int) -> rules.State:
    """A state with a budget, made without keys or signatures: only sums matter here."""
    state = rules.State()
    operators = Operators((bytes(32).hex(),), 1)
    state.apply(rules.genesis_leaf("narrows.bench/0", bytes(32), None, operators, 0))
    state.set_budget(BudgetChange("base", Limits(budget_bytes), {"answers": Limits(None)}))
    return state
