"""The meter: no byte leaves that is not already on a durable lease.

Order (law 1, paid before sent)
1. ``acquire`` returned: the lease is durable and cosigned. Only then does ``credit`` grow.
2. ``spend(bytes, units)`` lowers ``credit`` *before* the caller writes. Timing units add up
   and are paid in whole bytes, in advance: paid bytes * 8 >= bits seen, at every moment.
3. ``settle`` returns what is left, after every byte under the lease has *left the kernel*
   or was thrown away with its connection: a rolling window forgets from then on. A gate that
   dies settles nothing: all of it is spent.

Lease sizes: half of ``lease_s`` seconds of the recent rate, and half of ``max_bytes`` at most,
asked for when less than that half is left. So a crash strands at most one ``lease_s`` of
traffic and one ``max_bytes``, and the next lease is there before the last one ends. Sizes and
moments follow from what was charged, never from what waits: that is the enclave's choice and
not yet paid. The ledger grants less near the end of the budget.
Store calls run in one thread that all meters of a gate share; everything else in the loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

from narrows.gate.outlet import Outlet
from narrows.gate.timing import UNITS_PER_BYTE
from narrows.ledger.api import Denied, Lease, LeaseSource
from narrows.wire.gatestate import told

DENIED_RETRY_S = 1.0
MAX_RETRY_S = 5.0
TRIM_FACTOR = 8
PART_POLL_S = 0.02
Drawn = list[tuple[bytes, int]]
"""Leases that were drawn on, by id, and how many bytes of each; in their order."""
DRAIN_S = 10.0  # what has not left then counts as spent


class UnpaidError(RuntimeError):
    """The gate was about to send what is not paid: a bug, and the gate must die of it."""


@dataclass(frozen=True, slots=True)
class LeasePolicy:
    lease_s: float
    min_bytes: int
    max_bytes: int


@dataclass(slots=True)
class _Held:
    lease: Lease
    used_bytes: int = 0

    @property
    def left_bytes(self) -> int:
        return self.lease.size_bytes - self.used_bytes


@dataclass(slots=True)
class _Parting:
    """A lease under which no more is written. ``marks``: how far each connection has to get;
    taken in a later step of the loop than the last ``spend``, hence after its write."""

    held: _Held
    marks: list[tuple[Outlet, int]] | None = None

    def left(self) -> bool:
        return self.marks is not None and all(o.left_bytes >= mark for o, mark in self.marks)


class Meter:
    """One account's credit. ``fatal`` is called with what must end the gate."""

    def __init__(
        self,
        source: LeaseSource,
        account: str,
        executor: Executor,
        policy: LeasePolicy,
        fatal: Callable[[BaseException], None],
    ) -> None:
        self.account = account
        self.credit = 0
        self.links = 1  # live ones: each may speak at once, so the least lease grows with them
        self.outlets: set[Outlet] = set()  # every connection that can hold bytes of a lease
        self.sent_bytes = 0
        self.timing_bytes = 0
        self.denials = 0
        self.denied: Denied | None = None
        self.fatal = fatal
        self._last: Denied | None = None
        self._source = source
        self._executor = executor
        self._policy = policy
        self._held: deque[_Held] = deque()
        self._paid_units = 0  # timing already paid for and not yet seen; negative: owed
        self._open = False
        self._retry_at = 0.0
        self._asked_at = 0.0
        self._sent_when_asked = 0
        self._paid_at_trim = 0
        self._fetching: asyncio.Task[None] | None = None
        self._settling: set[asyncio.Future[None]] = set()
        self._parting: deque[_Parting] = deque()
        self._part_timer: asyncio.Handle | None = None

    # spending ------------------------------------------------------------------------

    def due_bytes(self, units: int) -> int:
        """Whole bytes that would have to be paid for ``units`` more of timing."""
        return max(0, -(-(units - self._paid_units) // UNITS_PER_BYTE))

    def affords(self, count_bytes: int, units: int) -> bool:
        return count_bytes + self.due_bytes(units) <= self.credit

    def spend(self, count_bytes: int, units: int = 0) -> Drawn:
        """Pay for bytes and timing. Call it before the bytes are written."""
        due = self.due_bytes(units)
        if count_bytes < 0 or units < 0 or count_bytes + due > self.credit:
            raise UnpaidError(f"{count_bytes}+{due} bytes on a credit of {self.credit}")
        drawn = self._take(count_bytes + due)
        self.sent_bytes += count_bytes
        self.timing_bytes += due
        self._paid_units += due * UNITS_PER_BYTE - units
        return drawn

    def owe(self, units: int) -> None:
        """Charge timing for which there is no credit: nothing was sent in it, and it is the
        first thing that the next lease pays."""
        self._paid_units -= units

    def pay_debt(self) -> None:
        """As much of what is owed as the credit covers, before anything new is shown."""
        due = min(self.due_bytes(0), self.credit)
        self._take(due)
        self.timing_bytes += due
        self._paid_units += due * UNITS_PER_BYTE

    def _take(self, count: int) -> Drawn:
        drawn = []
        self.credit -= count
        while count:
            held = self._held[0]
            part = min(count, held.left_bytes)
            held.used_bytes += part
            drawn.append((held.lease.lease_id, part))
            count -= part
            if not held.left_bytes:
                self._held.popleft()
                self._retire(held)
        return drawn

    # leases --------------------------------------------------------------------------

    def prefetch(self, need_bytes: int = 0) -> None:
        """Ask for the next lease if the credit runs low. Cheap; call it after every tick.
        ``need_bytes`` may depend on the edge and the configuration, on nothing else."""
        now = asyncio.get_running_loop().time()
        self._open = True
        if self._fetching is not None or now < self._retry_at:
            return
        size = self._lease_bytes(now, need_bytes)
        if self.credit > max(size, need_bytes):
            return
        self._asked_at, self._sent_when_asked = now, self._paid_bytes
        self._fetching = asyncio.create_task(self._fetch(size))
        self._fetching.add_done_callback(self._fetched)

    @property
    def _paid_bytes(self) -> int:
        return self.sent_bytes + self.timing_bytes

    def _lease_bytes(self, now: float, need_bytes: int) -> int:
        elapsed_s = max(now - self._asked_at, 1e-3)
        rate = (self._paid_bytes - self._sent_when_asked) / elapsed_s
        half = int(rate * self._policy.lease_s / 2)
        want = max(half, need_bytes - self.credit, self._least_bytes)
        return min(want, max(1, self._policy.max_bytes // 2))

    @property
    def _least_bytes(self) -> int:
        return self._policy.min_bytes * max(1, self.links)

    async def _fetch(self, size: int) -> None:
        loop = asyncio.get_running_loop()
        answer = await loop.run_in_executor(
            self._executor, self._source.acquire, self.account, size
        )
        self._fetching = None
        if isinstance(answer, Denied):
            self._refused(answer, loop.time())
        else:
            self._granted(answer, size)

    def _fetched(self, task: asyncio.Task[None]) -> None:
        if self._fetching is task:
            self._fetching = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fatal(error)

    def _granted(self, lease: Lease, size: int) -> None:
        if lease.account != self.account or not 0 < lease.size_bytes <= size:
            raise UnpaidError("the ledger granted something else than was asked for")
        self.denied = None
        held = _Held(lease)
        if not self._open:
            self._settle(held)
            return
        self._held.append(held)
        self.credit += lease.size_bytes

    def _refused(self, denied: Denied, now: float) -> None:
        wait = denied.retry_after_s or DENIED_RETRY_S
        self._retry_at = now + min(max(wait, DENIED_RETRY_S), MAX_RETRY_S)
        self.denials += 1
        self.denied = self._last = denied

    async def ask(self, need_bytes: int) -> Denied | None:
        """Why so much, beside what is owed, would not be leased now; reserves nothing. Where it
        would be, the next ``ensure`` asks at once."""
        need_bytes += self.due_bytes(0)
        denied = await asyncio.get_running_loop().run_in_executor(
            self._executor, self._source.would_refuse, self.account, need_bytes
        )
        self._last = denied or self._last
        if denied is None:
            self.denied, self._retry_at = None, 0.0
        return denied

    async def ensure(self, need_bytes: int) -> bool:
        """Wait until so much is leased, beside what is owed. False: denied (``denied`` says
        why)."""
        while self.credit < need_bytes + self.due_bytes(0):
            self.prefetch(need_bytes + self.due_bytes(0))
            if self._fetching is None:
                return False  # denied a moment ago
            await asyncio.shield(self._fetching)
            if self.denied is not None and self.credit < need_bytes + self.due_bytes(0):
                return False
        return True

    def release(self) -> None:
        """Return all credit: the port has no link, or nothing more can be paid."""
        self._open = False
        self._return_credit()

    def forbid(self, denied: Denied) -> None:
        """Nothing more may be sent, also of what was paid; the source will say the same."""
        self._refused(denied, asyncio.get_running_loop().time())
        self.release()
        for outlet in list(self.outlets):
            outlet.abort()

    def _return_credit(self) -> None:
        self.credit = 0
        while self._held:
            self._retire(self._held.popleft())

    async def drain(self) -> None:
        """Wait for every connection, acquisition and settlement under way (at shutdown)."""
        self.release()
        deadline = asyncio.get_running_loop().time() + DRAIN_S
        while self.outlets or self._parting:
            if asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(PART_POLL_S)
        while self._fetching is not None or self._settling:
            waits = [*self._settling, *([self._fetching] if self._fetching else [])]
            await asyncio.wait(waits)

    def trim(self) -> None:
        """Call it about once a second: return a credit far above what the last second used.
        What a quiet port holds is missing everywhere else, and in every window."""
        used, self._paid_at_trim = self._paid_bytes - self._paid_at_trim, self._paid_bytes
        if self.credit > TRIM_FACTOR * used + 2 * self._least_bytes:
            self._return_credit()

    def _retire(self, held: _Held) -> None:
        """Settle as soon as what was written under it has left."""
        if not held.used_bytes:
            self._settle(held)
            return
        self._parting.append(_Parting(held))
        if self._part_timer is None:
            self._part_timer = asyncio.get_running_loop().call_soon(self._part)

    def _part(self) -> None:
        self._part_timer = None
        try:
            self._settle_parted()
        except (OSError, RuntimeError) as error:
            self.fatal(error)
            return
        if self._parting:
            self._part_timer = asyncio.get_running_loop().call_later(PART_POLL_S, self._part)

    def _settle_parted(self) -> None:
        for parting in self._parting:
            if parting.marks is None:
                parting.marks = [(o, o.written_bytes) for o in self.outlets if o.waiting_bytes]
        while self._parting and self._parting[0].left():
            self._settle(self._parting.popleft().held)

    def _settle(self, held: _Held) -> None:
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(
            self._executor, self._source.settle, held.lease, held.used_bytes
        )
        self._settling.add(future)
        future.add_done_callback(self._settled)

    def _settled(self, future: asyncio.Future[None]) -> None:
        self._settling.discard(future)
        error = None if future.cancelled() else future.exception()
        if error is not None:
            self.fatal(error)

    @property
    def last_reason(self) -> str:
        """Why the last denial was, from the closed set ``REASONS``; empty without one."""
        if self._last is None:
            return ""
        return told(self._last.reason)

    @property
    def last_detail(self) -> str:
        """The ledger's words on it, for the operator."""
        return "" if self._last is None else self._last.detail[:500]


def cut(drawn: Drawn, count: int) -> Drawn:
    """The first ``count`` bytes of what was drawn, which keeps the rest."""
    first = []
    while count > 0 and drawn:
        lease_id, size = drawn.pop(0)
        first.append((lease_id, min(size, count)))
        if size > count:
            drawn.insert(0, (lease_id, size - count))
        count -= size
    return first
