"""What an observer sees happens at moments that follow from what was charged before."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from gate.gate_fakes import FAST, FakeLedger, enclave, read_all, running_gate
from narrows.errors import InputError
from narrows.gate import stateport
from narrows.gate.bucket import TokenBucket
from narrows.gate.config import GateConfig, PortConfig
from narrows.gate.link import Link
from narrows.gate.meter import LeasePolicy, Meter
from narrows.gate.port import HANDSHAKE_BURST, Port
from narrows.gate.tls import TlsPipe
from narrows.ledger.api import Denied, Lease
from narrows.wire.pins import TlsFiles, make_identity


def run(coroutine) -> None:  # type: ignore[no-untyped-def]
    asyncio.run(asyncio.wait_for(coroutine, 60))


class OneLease(FakeLedger):
    """Grants ``budget_bytes`` whatever is asked, then refuses; remembers what was asked."""

    def __init__(self, budget_bytes: int) -> None:
        super().__init__(budget_bytes)
        self.asked: list[int] = []

    def acquire(self, account: str, want_bytes: int) -> Lease | Denied:
        self.asked.append(want_bytes)
        return super().acquire(account, want_bytes)


class Paper:
    """An outlet that only counts."""

    def __init__(self) -> None:
        self.written_bytes = self.waiting_bytes = 0
        self.finished = False

    @property
    def left_bytes(self) -> int:
        return self.written_bytes

    def write(self, data: bytes) -> None:
        self.written_bytes += len(data)

    def finish(self) -> None:
        self.finished = True


class PaperTls:
    """The sizes of TLS without its bytes."""

    established = True
    wire_bytes = staticmethod(TlsPipe.wire_bytes)

    def __init__(self) -> None:
        self._outgoing = b""

    def encrypt(self, payload: bytes) -> None:
        self._outgoing += bytes(self.wire_bytes(len(payload)))

    def take_outgoing(self) -> bytes:
        data, self._outgoing = self._outgoing, b""
        return data


@contextlib.asynccontextmanager
async def bare_port(
    ledger: FakeLedger, links: int, config: GateConfig = FAST, tls: bool = False
) -> AsyncIterator[tuple[Port, list[Link]]]:
    """A port with live links and no sockets, whose ticks the test makes."""
    with ThreadPoolExecutor(1) as executor:
        meter = Meter(ledger, "answers", executor, LeasePolicy(1, 64, 1 << 26), pytest.fail)
        port = Port(config, config.ports[0], meter, object() if tls else None)  # type: ignore[arg-type]
        made = []
        for _ in range(links):
            link = Link(Paper(), PaperTls() if tls else None, 1 << 20, 1 << 20, 30, port._gone)  # type: ignore[arg-type]
            port._links[link] = None
            made.append(link)
        yield port, made
        port.meter.outlets.clear()
        await meter.drain()


async def denied(port: Port) -> None:
    while port.meter.denied is None:
        port.meter._retry_at = 0
        port.meter.prefetch(1 << 20)
        await asyncio.sleep(0.002)


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("links", [1, 5])
@pytest.mark.parametrize("credit", [1, 15, 20, 30, 42, 60, 90, 120])
def test_the_stop_does_not_wait_for_bytes_of_the_enclave(
    tls: bool, links: int, credit: int
) -> None:
    """With or without bytes waiting, the same ticks are ended by the same credit; above that
    credit waiting bytes can always be shown, so nothing waits for a stop."""

    async def scenario() -> None:
        ends = []
        for backlog in (0, 1, 500_000):
            async with bare_port(FakeLedger(credit), links, tls=tls) as (port, made):
                await denied(port)
                if backlog:
                    made[-1].from_enclave(bytes(backlog))
                port.tick()
                ends.append(port.links_live == 0)
                if backlog and not ends[-1]:
                    assert port.meter.sent_bytes, "enough to live on is enough to speak"
        assert ends == [credit < port._least_bytes(links)] * 3

    run(scenario())


@pytest.mark.parametrize("tls", [False, True])
def test_whatever_the_model_learned_a_little_credit_shows_a_byte_or_an_end(tls: bool) -> None:
    async def scenario() -> None:
        for closing in (False, True):
            async with bare_port(FakeLedger(1 << 40), 3, tls=tls) as (port, made):
                assert await port.meter.ensure(1000)
                table = port.model._p  # the worst that it can have learned
                table[:] = [(1 << 16) - 64] * len(table)
                table[:8], table[12] = [64] * 8, 64 if closing else table[12]
                least = port._least_bytes()
                port.meter.spend(port.meter.credit - least)
                made[1].from_enclave(bytes(100))
                for link in (made[0], made[2]):
                    link.closing = closing
                before, live = port.meter.sent_bytes, port.links_live
                port._variable_tick()
                spoke, ended = port.meter.sent_bytes > before, port.links_live < live
                assert ended if closing else spoke

    run(scenario())


@pytest.mark.parametrize("backlog", [0, 900_000])
def test_leases_are_sized_by_what_was_charged(backlog: int) -> None:
    async def scenario() -> None:
        ledger = OneLease(1 << 30)
        async with bare_port(ledger, 2) as (port, made):
            made[0].edge_paused = True
            made[0].from_enclave(bytes(backlog))  # shown to nobody, hence asks for nothing
            for _ in range(20):
                port.tick()
                await asyncio.sleep(0.005)
        assert set(ledger.asked) == {128}

    run(scenario())


def test_leases_grow_to_a_flood_within_a_few_ticks(tmp_path: Path) -> None:
    async def flooding(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(4 << 20))
        await reader.read()

    async def scenario() -> None:
        ledger = OneLease(1 << 30)
        async with enclave(flooding) as inside, running_gate(ledger, inside, tmp_path) as gate:
            reader, writer = await asyncio.open_connection("127.0.0.1", gate.ports[0].listening)
            await reader.readexactly(4 << 20)
            writer.close()
        assert len(ledger.asked) < 30
        assert max(ledger.asked) > 1 << 20

    run(scenario())


def test_what_comes_late_waits_for_the_next_point_of_the_grid() -> None:
    """Every tick that shows something is shown at most ``max_late_ms`` after its moment."""
    config = replace(FAST, tick_ms=20, max_late_ms=5.0)

    async def scenario() -> None:
        async with bare_port(FakeLedger(1 << 30), 1, config) as (port, _):
            shown: list[float] = []
            charged: list[int] = []
            clock = [0.0]
            port.grid.origin_s = 0.0
            port._now = lambda: clock[0]  # type: ignore[method-assign]
            port.tick = lambda: shown.append(clock[0])  # type: ignore[method-assign]
            port.miss = charged.append  # type: ignore[method-assign]
            wakes = iter([0.020, 0.041, 0.066, 0.080, 0.107, 0.131, 0.200, 0.2251, 0.240])

            async def sleep(_: float) -> None:
                clock[0] = next(wakes)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("narrows.gate.port.asyncio.sleep", sleep)
                with contextlib.suppress(RuntimeError):  # no more wakes
                    await port.run()
            assert shown == [0.020, 0.041, 0.080, 0.200, 0.240]
            assert len(shown) + sum(charged) == 12, "each slot is shown or charged as empty"

    run(scenario())


@pytest.mark.parametrize("credit", [0, 1])
def test_constant_pacing_shows_no_end_that_is_not_paid(credit: int) -> None:
    config = replace(FAST, pacing="constant", constant_bytes=64)

    async def scenario() -> None:
        ledger = FakeLedger(1 << 20)
        async with bare_port(ledger, 1, config) as (port, [link]):
            if credit:
                assert await port.meter.ensure(credit)
                port.meter.spend(port.meter.credit - credit)
            ledger.hold.clear()
            link.closing = True
            for _ in range(5):
                port.tick()
                assert port.links_live == 1
            ledger.hold.set()
            while port.links_live:
                await asyncio.sleep(0.002)
                port.tick()
            meter = port.meter
            assert meter._paid_units >= 0, "nothing is owed for an end that was seen"

    run(scenario())


def test_constant_pacing_stops_by_its_credit_alone() -> None:
    config = replace(FAST, pacing="constant", constant_bytes=64)

    async def scenario() -> None:
        for closing in (False, True):
            async with bare_port(FakeLedger(60), 2, config) as (port, links):
                await denied(port)
                links[0].edge_paused = links[0].closing = closing
                port.tick()
                assert port.links_live == 0
                assert port.verdict.state == "depleted"

    run(scenario())


def test_state_connections_are_bounded_before_their_handshake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stateport, "MAX_CONNECTIONS", 4)
    cert, key = make_identity(tmp_path, "gate")
    config = replace(FAST, tls=TlsFiles(cert, key, cert))

    async def scenario() -> None:
        async with running_gate(FakeLedger(1000), 1, tmp_path, config) as gate:
            assert gate.state_answers is not None
            peers = [await asyncio.open_connection("127.0.0.1", gate.state_port) for _ in range(9)]
            while gate.state_answers.connections > 4:
                await asyncio.sleep(0.01)
            ends = [asyncio.create_task(read_all(reader)) for reader, _ in peers]
            done, silent = await asyncio.wait(ends, timeout=1)
            assert (len(done), len(silent)) == (5, 4)
            assert all(task.result() == b"" for task in done)
            for _, writer in peers:
                writer.transport.abort()
            while gate.state_answers.connections:
                await asyncio.sleep(0.01)
            with contextlib.suppress(ssl.SSLError, OSError):
                await asyncio.wait(silent)

    run(scenario())


@pytest.mark.parametrize(
    ("allow", "served"),
    [
        ((), True),
        (("127.0.0.1",), True),
        (("192.0.2.0/24", "127.0.0.0/8"), True),
        (("192.0.2.1", "::1"), False),
    ],
)
def test_only_listed_sources_are_answered(
    tmp_path: Path, allow: tuple[str, ...], served: bool
) -> None:
    async def greeting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    config = replace(FAST, ports=(replace(FAST.ports[0], allow=allow),))

    async def scenario() -> None:
        ledger = FakeLedger(10_000)
        async with (
            enclave(greeting) as inside,
            running_gate(ledger, inside, tmp_path, config) as gate,
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", gate.ports[0].listening)
            assert await read_all(reader) == (b"hello" if served else b"")
            writer.close()
        assert bool(ledger.acquired) == served, "no lease, hence no byte, for others"

    run(scenario())


def test_an_allow_list_is_checked_and_knows_mapped_addresses() -> None:
    for text in ("", "10.0.0.1/8", "edge.example", "10.0.0.0/33"):
        with pytest.raises(InputError):
            GateConfig(ports=(PortConfig(allow=(text,)),)).check()

    class Peer:
        def __init__(self, host: str) -> None:
            self._host = host

        def get_extra_info(self, _: str) -> tuple[str, int]:
            return self._host, 1

    async def scenario() -> None:
        config = replace(FAST, ports=(replace(FAST.ports[0], allow=("192.0.2.7", "fe80::/10")),))
        async with bare_port(FakeLedger(1), 0, config) as (port, _):
            answers = {
                host: port._may_dial(Peer(host))  # type: ignore[arg-type]
                for host in ("192.0.2.7", "::ffff:192.0.2.7", "fe80::1%eth0", "192.0.2.8")
            }
            assert list(answers.values()) == [True, True, True, False]

    run(scenario())


def test_strangers_get_few_handshakes() -> None:
    now = time.monotonic()
    bucket = TokenBucket(GateConfig().handshakes_per_s, now, HANDSHAKE_BURST)
    answered = sum(bucket.take(now + second / 100) for second in range(100 * 60))
    assert answered <= HANDSHAKE_BURST + 60


def test_a_stranger_sees_a_plain_close(tmp_path: Path) -> None:
    config = replace(FAST, ports=(replace(FAST.ports[0], allow=("192.0.2.1",)),))

    async def scenario() -> None:
        async with running_gate(FakeLedger(10_000), 1, tmp_path, config) as gate:
            with socket.create_connection(("127.0.0.1", gate.ports[0].listening)) as sock:
                sock.setblocking(False)
                assert await asyncio.get_running_loop().sock_recv(sock, 1) == b""
            while gate.ports[0]._connections:
                await asyncio.sleep(0.01)

    run(scenario())
