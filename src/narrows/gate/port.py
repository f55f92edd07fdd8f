"""One port: its links, its tick, its meter.

Life of a link
1. The edge dials. Not on the list, too many links, too many handshakes a second, or no
credit: closed.
2. TLS handshake, every byte of it paid. 3. The gate dials the enclave; meanwhile, and
whatever comes of it, the link is *live*: each tick is charged for it.
4. Tick: decide what to send -> cost of showing exactly that -> ``spend`` -> write.
5. It ends in a tick that was charged for its end, or because the edge left, or because
nothing more can be paid; that last moment follows from what was already charged.

Ticks lie on a fixed grid. One that the process missed, or to which it came later than
``max_late_ms``, is charged as the empty tick that an observer saw; the data waits for the next.
Without a live link there is nothing to see, hence no tick.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math

from narrows.errors import PeerError
from narrows.gate.bucket import TokenBucket
from narrows.gate.config import GateConfig, PortConfig
from narrows.gate.grid import Grid
from narrows.gate.link import EdgeSide, EnclaveSide, Link, shrink
from narrows.gate.meter import Drawn, Meter, cut
from narrows.gate.outlet import Outlet
from narrows.gate.recovery import PortVerdict
from narrows.gate.tape.tap import Tap
from narrows.gate.timing import (
    CONSTANT_EXCEPTION_UNITS,
    CONSTANT_NORMAL_UNITS,
    MAX_COUNT,
    Seen,
    TickModel,
    cost_bound,
)
from narrows.gate.tls import TlsServer
from narrows.ledger.api import Denied
from narrows.wire.padding import TLS_RECORD_OVERHEAD_BYTES

DIAL_AGAIN_S = 0.25
HANDSHAKE_BURST = 8.0
SHUTDOWN_S = 2.0  # what the edge has not taken by then is thrown away
MIN_RECORD = TLS_RECORD_OVERHEAD_BYTES + 1
FIT_ROUNDS = 4


class Port:
    """Serves one ``PortConfig``. ``verdict``: whether a link would be served now."""

    def __init__(
        self,
        config: GateConfig,
        port: PortConfig,
        meter: Meter,
        tls: TlsServer | None,
        tap: Tap | None = None,
    ) -> None:
        self.config, self.port, self.meter = config, port, meter
        self.verdict = PortVerdict(self._now)
        self.links_opened = 0
        self.listening = 0
        self.model = TickModel()
        self._tls, self._tap = tls, tap
        self._links: dict[Link, None] = {}  # in order of opening
        self._connections = 0
        self._some_live = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        now = self._now()
        self.grid = Grid(config.tick_ms / 1000, config.max_late_ms / 1000, self._now)
        self._closes = TokenBucket(config.closes_per_s, now)
        self._handshakes = TokenBucket(config.handshakes_per_s, now, HANDSHAKE_BURST)
        self._allowed = [ipaddress.ip_network(text) for text in port.allow]

    @property
    def links_live(self) -> int:
        return len(self._links)

    # life of a link ------------------------------------------------------------------

    async def listen(self) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: EdgeSide(self._opened, self._closed),
            self.port.listen_host,
            self.port.listen_port,
        )
        self.listening = int(server.sockets[0].getsockname()[1])
        return server

    def _opened(self, edge: asyncio.Transport) -> Link | None:
        self._connections += 1
        if self._connections > self.port.max_links or not self._may_dial(edge):
            return None
        if self._tls is not None and not self._handshakes.take(self._now()):
            return None
        outlet = Outlet(edge, self.config.stall_timeout_s)
        self.meter.outlets.add(outlet)
        link = Link(
            outlet,
            None if self._tls is None else self._tls.pipe(),
            self.config.outbound_buffer_bytes,
            self.config.inbound_buffer_bytes,
            self.config.stall_timeout_s,
            self._gone,
        )
        link.copy = None if self._tap is None else self._tap.copy(self.port.name)
        task = asyncio.create_task(self._serve(link))
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._served(done, link))
        return link

    def _may_dial(self, edge: asyncio.Transport) -> bool:
        if not self._allowed:
            return True
        peer = ipaddress.ip_address(edge.get_extra_info("peername")[0])
        mapped = peer.ipv4_mapped if isinstance(peer, ipaddress.IPv6Address) else None
        return any((mapped or peer) in network for network in self._allowed)

    def _closed(self, link: Link | None) -> None:
        self._connections -= 1
        if link is not None:
            self.meter.outlets.discard(link.outlet)

    def _served(self, task: asyncio.Task[None], link: Link) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            link.end()
        elif (error := task.exception()) is not None:
            link.end()
            self.meter.fatal(error)
        self._release_if_idle()

    def _gone(self, link: Link) -> None:
        self._links.pop(link, None)
        self._release_if_idle()

    def _release_if_idle(self) -> None:
        if not self._links and not self._tasks:
            self.meter.release()

    async def _serve(self, link: Link) -> None:
        if not await self._may_open(link) or link.ended:
            link.end()
            return
        self.links_opened += 1
        self._links[link] = None
        self._some_live.set()
        await self._dial(link)

    async def _may_open(self, link: Link) -> bool:
        if not await self._credit(self._least_bytes(1)):
            return False
        if link.pipe is None:
            return True
        try:
            async with asyncio.timeout(self.config.handshake_timeout_s):
                while await self._pay_handshake(link) and not link.pipe.established:
                    if link.ended:
                        return False
                    link.arrived.clear()
                    await link.arrived.wait()
        except TimeoutError:
            return False
        return link.pipe.established

    async def _pay_handshake(self, link: Link) -> bool:
        data = b"" if link.pipe is None else link.pipe.take_outgoing()
        while data and await self._credit(len(data)):
            await self.grid.moment()
            if link.ended:
                return False
            if self.meter.affords(len(data), 0):  # others may have spent it meanwhile
                link.send(data, self.meter.spend(len(data)))
                return True
        return not data

    async def _credit(self, need_bytes: int) -> bool:
        if await self.meter.ensure(need_bytes):
            self.verdict.allow()
            return True
        if not self._links:  # what is left may still serve the links that are open
            self._stop()
        return False

    async def _dial(self, link: Link) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.config.connect_timeout_s):
                while not link.ended:
                    try:
                        await loop.create_connection(
                            lambda: EnclaveSide(link),
                            self.port.enclave_host,
                            self.port.enclave_port,
                        )
                        return
                    except OSError:
                        await asyncio.sleep(DIAL_AGAIN_S)
        except TimeoutError:
            link.enclave_ended()

    # the tick ------------------------------------------------------------------------

    async def run(self) -> None:
        """Tick for ever; check once a second for what makes no progress."""
        period_s, late_s = self.config.tick_ms / 1000, self.config.max_late_ms / 1000
        origin, checked = self.grid.origin_s, self._now()
        done = 0  # the last slot of the grid that was charged
        while True:
            if not self._links:
                self._some_live.clear()
                await self._some_live.wait()
                done = math.floor((self._now() - origin) / period_s)
            await asyncio.sleep(origin + (done + 1) * period_s - self._now())
            now = self._now()
            slot = max(done + 1, math.floor((now - origin) / period_s))
            late = now - origin - slot * period_s > late_s
            self.miss(slot - done - 1 + late)
            if not late:
                self.tick()
            done = slot
            if now - checked >= 1:
                checked = now
                self.meter.trim()
                for link in list(self._links):
                    link.check(now)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    def tick(self) -> None:
        """One tick of all live links."""
        if not self._links:
            return
        self.meter.links = len(self._links)
        self.meter.pay_debt()
        if self.config.pacing == "constant":
            self._constant_tick()
            self.meter.prefetch(self.config.constant_bytes * len(self._links) + 1)
        elif self.meter.denied is not None and self.meter.credit < self._least_bytes():
            self._stop()
        else:
            self._variable_tick()
            if self._links:
                self.meter.prefetch()

    def miss(self, ticks: int) -> None:
        """Charge ticks in which nothing was sent."""
        if ticks and self._links:
            links = len(self._links)
            constant = self.config.pacing == "constant"
            self._charge_silence(
                ticks * links * CONSTANT_EXCEPTION_UNITS if constant else self.model.empty(ticks)
            )

    def _least_bytes(self, links: int = 0) -> int:
        """With so much credit, one byte can always be shown. The bound below which a denial
        ends all links: it must not depend on what waits, which the enclave chooses uncharged."""
        return cost_bound(links or len(self._links), 1) + (1 if self._tls is None else MIN_RECORD)

    def _charge_silence(self, units: int) -> None:
        if self.meter.affords(0, units):
            next(iter(self._links)).note_paid(self.meter.spend(0, units))
        else:
            self.meter.owe(units)

    def _variable_tick(self) -> None:
        links = list(self._links)
        ready = [link.waiting_bytes for link in links]
        counts = [
            link.fits(min(MAX_COUNT, n)) if n and not link.edge_paused else 0
            for link, n in zip(links, ready, strict=True)
        ]
        closes = [link.closing and self._may_close(n) for link, n in zip(links, ready, strict=True)]
        fitting = self._fit(links, counts, closes)
        if fitting is None:
            self._charge_silence(self.model.empty())
        else:
            self._show(links, fitting, closes)

    def _may_close(self, waiting: int) -> bool:
        return not waiting and self._closes.take(self._now())

    def _fit(self, links: list[Link], counts: list[int], closes: list[bool]) -> list[int] | None:
        """Counts that the credit covers together with the cost of showing them; None if
        only silence is affordable, never so with ``_least_bytes`` of credit. With credit in
        plenty: the counts as they are."""
        want = sum(counts)
        bound = cost_bound(len(links), len(counts) - counts.count(0), closes.count(True))
        if want + bound <= self.meter.credit:
            return counts
        wanted, counts = counts, shrink(links, counts, self.meter.credit)
        for _ in range(FIT_ROUNDS):
            due = self.meter.due_bytes(self.model.preview(_seen(links, counts, closes)))
            over = sum(counts) + due - self.meter.credit
            if over <= 0:
                if any(counts) or not want:
                    return counts
                break
            counts = shrink(links, counts, sum(counts) - over)
        return self._one_link(links, wanted, closes)

    def _one_link(
        self, links: list[Link], counts: list[int], closes: list[bool]
    ) -> list[int] | None:
        """One link's end, or else what the first link with bytes can send, whatever the model
        thinks of it. ``closes`` loses the ends that are not shown."""
        shown = [0] * len(counts)
        if any(closes):
            first = closes.index(True)
            closes[:] = [index == first for index in range(len(closes))]
            affordable = cost_bound(len(links), 0, 1) <= self.meter.credit
            return shown if affordable else None
        allowed = self.meter.credit - cost_bound(len(links), 1)
        first = next((index for index, count in enumerate(counts) if count), -1)
        if first >= 0 and allowed > 0:
            shown[first] = links[first].fits(min(counts[first], allowed))
        return shown if any(shown) else None

    def _show(self, links: list[Link], counts: list[int], closes: list[bool]) -> None:
        units = self.model.tick(_seen(links, counts, closes))
        drawn = self.meter.spend(sum(counts), units)
        for link, count, close in zip(links, counts, closes, strict=True):
            if count:
                _send(link, count, cut(drawn, count))
            if close:
                link.end()
        links[0].note_paid(drawn)  # time

    def _constant_tick(self) -> None:
        size, meter = self.config.constant_bytes, self.meter
        for link in list(self._links):
            if not meter.affords(size, CONSTANT_NORMAL_UNITS):  # whatever the enclave wants
                if meter.denied is not None:
                    self._stop()
                    return
                self._charge_silence(CONSTANT_EXCEPTION_UNITS)
            elif link.edge_paused:
                link.note_paid(meter.spend(0, CONSTANT_EXCEPTION_UNITS))
            elif link.closing and self._may_close(link.waiting_bytes):
                link.note_paid(meter.spend(0, CONSTANT_EXCEPTION_UNITS))
                link.end()
            else:
                frame = link.take_frame(size)
                link.send(frame, meter.spend(size, CONSTANT_NORMAL_UNITS))

    def _stop(self) -> None:
        """Nothing more can be paid: close every link, say why on the state port."""
        denied = self.meter.denied
        self.verdict.refuse(self.meter.last_reason, denied.retry_after_s if denied else None)
        for link in list(self._links):
            link.end()
        self.meter.release()

    async def ask(self) -> Denied | None:
        """Why a link would be refused now, and no byte shown on it."""
        constant = self.config.constant_bytes + 1 if self.config.pacing == "constant" else 0
        return await self.meter.ask(max(self._least_bytes(1), constant))

    async def pay_standing(self, units: int) -> None:
        """Charge for time (standing.py), with or without a link."""
        if await self.meter.ensure(self.meter.due_bytes(units) - self.meter.due_bytes(0)):
            self.meter.spend(0, units)
        else:
            self.meter.owe(units)
        self._release_if_idle()

    def close(self) -> None:
        asyncio.get_running_loop().call_later(SHUTDOWN_S, self._abort)
        for task in list(self._tasks):
            task.cancel()
        for link in list(self._links):
            link.end()

    def _abort(self) -> None:
        for outlet in list(self.meter.outlets):
            outlet.abort()


def _seen(links: list[Link], counts: list[int], closes: list[bool]) -> list[Seen]:
    return [
        (link.history, count, close)
        for link, count, close in zip(links, counts, closes, strict=True)
    ]


def _send(link: Link, paid_bytes: int, drawn: Drawn) -> None:
    try:
        link.send(link.take(paid_bytes), drawn)
    except PeerError:  # the edge broke its TLS
        link.end()
