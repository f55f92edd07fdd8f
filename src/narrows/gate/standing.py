"""The standing cost: what load tells the outside, charged for time.

While the gate's machine has a card, its kernel answers the outside at moments that the enclave's
load can move (docs/timing.md). Nobody can count that, so each second costs the bound that was
measured for such a set-up, whether a link is live or not: acknowledgements, refusals and the state
port exist without one, too. The account of the first port pays.

Paid before: a block is bought before its time begins, so a gate that dies owes nothing, and a
start costs one block. What cannot be paid is owed, and the account's next lease pays it first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from narrows.gate.machine.surroundings import Surroundings, View
from narrows.gate.port import Port
from narrows.gate.stats_file import Latency
from narrows.gate.timing import UNITS_PER_BIT, UNITS_PER_BYTE
from narrows.ledger.api import Denied, Lease, LeaseSource

REASON = "machine"
LOOK_S = 1.0
BLOCK_BYTES = 256
AHEAD_NS = 3_000_000_000  # the time until the next look, and what delays it
_NANOMILLI = 10**12  # nanoseconds times millibits a second, in a bit


class StandingCost:
    """What time costs, in whole blocks. Exact: rounded up once, over all of the time."""

    def __init__(self, now_ns: int) -> None:
        self._then_ns = now_ns
        self._rate = 0
        self._used = 0  # nanoseconds times millibits a second
        self._bought_units = 0

    def due_units(self, now_ns: int, millibits_per_s: int) -> int:
        """Units of 2^-24 bit to be paid now. The time since the last call costs the higher of
        the rates at its two ends."""
        elapsed_ns = max(0, now_ns - self._then_ns)
        self._used += elapsed_ns * max(self._rate, millibits_per_s)
        self._then_ns, self._rate = now_ns, millibits_per_s
        ahead = self._used + AHEAD_NS * millibits_per_s
        lacking = -(-ahead * UNITS_PER_BIT // _NANOMILLI) - self._bought_units
        blocks = max(0, -(-lacking // (BLOCK_BYTES * UNITS_PER_BYTE)))
        bought = blocks * BLOCK_BYTES * UNITS_PER_BYTE
        self._bought_units += bought
        return bought


class Sentry:
    """A ``LeaseSource`` in front of the gate's: refuses while the machine is not as it must be.
    ``refusal`` is set by the loop and read by the ledger's thread."""

    def __init__(self, source: LeaseSource) -> None:
        self.refusal = ""
        self.latency = Latency()
        self._source = source

    def acquire(self, account: str, want_bytes: int) -> Lease | Denied:
        if self.refusal:
            return self.denial()
        began_s = time.monotonic()
        lease = self._source.acquire(account, want_bytes)
        self.latency.add(time.monotonic() - began_s)
        return lease

    def would_refuse(self, account: str, need_bytes: int) -> Denied | None:
        if self.refusal:
            return self.denial()
        return self._source.would_refuse(account, need_bytes)

    def settle(self, lease: Lease, used_bytes: int) -> None:
        self._source.settle(lease, used_bytes)

    def denial(self) -> Denied:
        return Denied(REASON, self.refusal)


class Watch:
    """Looks every second, charges for the time, ends the links where it must."""

    def __init__(
        self,
        surroundings: Surroundings,
        sentry: Sentry,
        ports: Sequence[Port],
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.view: View | None = None
        self._surroundings, self._sentry, self._ports = surroundings, sentry, ports
        self._clock_ns = clock_ns
        self._cost = StandingCost(clock_ns())

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, thread_name_prefix="machine") as thread:
            while True:
                view = await loop.run_in_executor(thread, self._surroundings.look)
                self.see(view)
                units = self._cost.due_units(self._clock_ns(), view.millibits_per_s)
                if units:
                    await self._ports[0].pay_standing(units)
                await asyncio.sleep(LOOK_S)

    def see(self, view: View) -> None:
        """What follows from it for the links. That they may open again, ``recover`` finds."""
        self.view = view
        before, self._sentry.refusal = self._sentry.refusal, view.refusal
        for port in self._ports:
            if view.refusal and not before:
                port.verdict.refuse(REASON)
                port.meter.forbid(self._sentry.denial())

    def stats(self) -> dict[str, object]:
        """For the stats file."""
        if self.view is None:
            return {"state": "unknown"}
        return {
            "state": "refused" if self.view.refusal else "ok",
            "ambient_bits_per_s": self.view.millibits_per_s / 1000,
            "shared": self.view.shared,
            "fault": self.view.fault,
        }
