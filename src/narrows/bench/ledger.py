"""The ledger measured on disk with its witness; ``ledger_sim`` is the simulation.

One process, SQLite with synchronous=FULL, the witness over HTTP on loopback with its own
database. An operation is a lease or a settlement, durable when counted.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from narrows.errors import BudgetError
from narrows.ledger.api import Lease
from narrows.ledger.ledger import Ledger
from narrows.ledger.office.demo import create_demo, demo_witness_key
from narrows.ledger.office.setup import open_witness
from narrows.ledger.stores.place import LedgerPlace
from narrows.ledger.witness.server import HttpWitness, WitnessServer
from narrows.ledger.witness.witness import witness_verifier


@dataclass(frozen=True, slots=True)
class LedgerBench:
    """``utilisation``: bytes sent by bytes of budget when nothing more could be leased.
    ``stranded_bytes``: the rest: crashed leases, crumbs. ``refusals``: requests that got nothing,
    which append nothing. ``lease_s``: seconds of traffic asked for at a time. Operations a second
    are the mean of the run, of its busiest second, and of its busiest minute. ``conflict_share``:
    operations less than 20 ms (a quorum's write) after another gate's: these try again.
    ``reserve_p50_ms`` and ``_p99_ms``: of ``acquire``. What was not measured is None."""

    gates: int
    simulated: bool
    budget_bytes: int
    leases: int
    crashes: int
    refusals: int
    lease_s: float
    ledger_ops_per_s: float
    peak_ops_per_s: float
    worst_minute_ops_per_s: float | None
    conflict_share: float | None
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
    ledger = Ledger.open(LedgerPlace(state), witness=client)
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
    ledger = Ledger.open(LedgerPlace(state), witness=client)
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
        refusals=0,
        lease_s=0.0,
        ledger_ops_per_s=round(2 * len(waits) / elapsed, 1),
        peak_ops_per_s=float(max(buckets.values())),
        worst_minute_ops_per_s=None,
        conflict_share=None,
        utilisation=sent / budget_bytes,
        stranded_bytes=budget_bytes - sent,
        reserve_p50_ms=round(1000 * waits[len(waits) // 2], 3),
        reserve_p99_ms=round(1000 * waits[int(len(waits) * 0.99)], 3),
        seconds=round(elapsed, 2),
    )
