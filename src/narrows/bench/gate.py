"""The gate measured as it runs: its own process, the real ledger on disk, peers on loopback.

- ``throughput``: eight links from an enclave that floods.
- ``added_delay``: 200 links that ask and get an answer, through the gate with a tick of 1 ms
  (the shortest there is: no mode sends outside a tick) and, in turns, without the gate.
- ``kills``: kill -9 at random moments under load from eight links; after each, bytes at the
  edge's sockets against the ledger, and the log replayed from its first leaf.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from narrows.bench.gate_peers import Child, Counter, deployment, enclave_process
from narrows.gate.timing import idle_bytes_per_day

LOAD_LINKS = 8
DELAY_LINKS = 200
MESSAGE_BYTES = 64
BENCH_BUDGET_BYTES = 1 << 50
KILL_BUDGET_BYTES = 1 << 44
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Throughput:
    gbit_per_s: float
    utilisation: float  # bytes that arrived by those that the ledger counts


def throughput(seconds: float, links: int = LOAD_LINKS) -> Throughput:
    with deployment(BENCH_BUDGET_BYTES) as site, enclave_process("flood") as inside:
        gate = site.start_gate(inside)
        try:
            counters = [Counter(gate.port) for _ in range(links)]
            time.sleep(min(1.0, seconds / 4))
            before, began = _arrived(counters), time.perf_counter()
            time.sleep(seconds)
            after, ended = _arrived(counters), time.perf_counter()
            gate.process.terminate()
            total = sum(counter.join() for counter in counters)
            gate.process.wait(30)
        finally:
            gate.kill()
        return Throughput(
            (after - before) * 8 / (ended - began) / 1e9, total / site.committed_bytes()
        )


def _arrived(counters: list[Counter]) -> int:
    return sum(counter.arrived_bytes for counter in counters)


@dataclass(frozen=True)
class Delay:
    """Seconds from question to answer, all links together."""

    direct_p50_ms: float
    direct_p99_ms: float
    gate_p50_ms: float
    gate_p99_ms: float

    @property
    def added_p99_ms(self) -> float:
        return self.gate_p99_ms - self.direct_p99_ms


def added_delay(round_s: float, rounds: int, links: int = DELAY_LINKS, tick_ms: int = 1) -> Delay:
    """Rounds without and with the gate in turns; the median round, since a busy machine
    disturbs single ones."""
    with deployment(BENCH_BUDGET_BYTES) as site, enclave_process("echo") as inside:
        gate = site.start_gate(inside, tick_ms=tick_ms)
        try:
            pairs = [
                (
                    asyncio.run(_ask(inside, links, round_s)),
                    asyncio.run(_ask(gate.port, links, round_s)),
                )
                for _ in range(rounds)
            ]
        finally:
            gate.kill()
    measured = [_delay(direct, through) for direct, through in pairs]
    return sorted(measured, key=lambda delay: delay.added_p99_ms)[rounds // 2]


def _delay(direct: list[float], through: list[float]) -> Delay:
    return Delay(
        _percentile_ms(direct, 50),
        _percentile_ms(direct, 99),
        _percentile_ms(through, 50),
        _percentile_ms(through, 99),
    )


async def _ask(port: int, links: int, seconds: float) -> list[float]:
    """Each link asks about four times a second, at its own moments."""
    ends = asyncio.get_running_loop().time() + seconds
    delays: list[float] = []

    async def one(number: int) -> None:
        rng = random.Random(number)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.sleep(0.5)
        while asyncio.get_running_loop().time() < ends:
            await asyncio.sleep(rng.uniform(0.0, 0.5))
            began = time.perf_counter()
            writer.write(bytes(MESSAGE_BYTES))
            await reader.readexactly(MESSAGE_BYTES)
            delays.append(time.perf_counter() - began)
        writer.close()

    await asyncio.gather(*(one(number) for number in range(links)))
    return delays


def _percentile_ms(values: list[float], percent: int) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)] * 1e3


@dataclass(frozen=True)
class Kills:
    kills: int
    overspend_bytes: int  # over all kills: bytes that arrived above what the ledger counts
    stranded_bytes: int  # by the worst kill: counted as spent, never arrived
    arrived_bytes: int
    committed_bytes: int


def kills(
    count: int,
    seed: int,
    budget_bytes: int = KILL_BUDGET_BYTES,
    progress: Progress = lambda _: None,
) -> Kills:
    """Kill -9 a gate ``count`` times on one ledger. The worst overspend after any kill."""
    rng = random.Random(seed)
    overspend = stranded = arrived = committed = 0
    with deployment(budget_bytes) as site, enclave_process("flood") as inside:
        for done in range(count):
            gate = site.start_gate(inside, tick_ms=rng.choice([1, 5, 20]))
            now, before = _kill_under_load(gate, rng), committed
            arrived += now
            committed = site.committed_bytes()
            stranded = max(stranded, committed - before - now)
            overspend = max(overspend, arrived - min(committed, budget_bytes))
            progress(f"{done + 1} of {count} kills, {overspend} bytes over")
    return Kills(count, max(0, overspend), stranded, arrived, committed)


def _kill_under_load(gate: Child, rng: random.Random) -> int:
    try:
        counters = [Counter(gate.port) for _ in range(LOAD_LINKS)]
        time.sleep(rng.choice([0.0, rng.uniform(0, 0.05), rng.uniform(0, 0.5)]))
    finally:
        gate.kill()
    return sum(counter.join() for counter in counters)


def run(quick: bool, kill_count: int, seed: int, progress: Progress) -> dict[str, object]:
    """All of it, with the keys of ``narrows bench gate --json``."""
    progress("throughput")
    speed = throughput(2.0 if quick else 10.0)
    progress("delay")
    delay = added_delay(3.0, 3 if quick else 7)
    killed = kills(kill_count, seed, progress=progress)
    return {
        "gbit_per_s": round(speed.gbit_per_s, 3),
        "utilisation": round(speed.utilisation, 6),
        "added_p99_ms": round(delay.added_p99_ms, 3),
        "gate_p50_ms": round(delay.gate_p50_ms, 3),
        "gate_p99_ms": round(delay.gate_p99_ms, 3),
        "direct_p50_ms": round(delay.direct_p50_ms, 3),
        "direct_p99_ms": round(delay.direct_p99_ms, 3),
        "kills": killed.kills,
        "kill_seed": seed,
        "overspend_bytes": killed.overspend_bytes,
        "stranded_bytes_per_kill": killed.stranded_bytes,
        "arrived_bytes": killed.arrived_bytes,
        "committed_bytes": killed.committed_bytes,
        "timing_bytes_per_day_idle": idle_bytes_per_day(20),
    }
