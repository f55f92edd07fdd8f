"""A lease ends when its bytes have left the kernel, not when the kernel took them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from gate.gate_fakes import FAST, FakeLedger, enclave, running_gate
from narrows.gate.outlet import Outlet
from narrows.gate.port import Port

PARKED_BYTES = 200_000


def run(coroutine) -> None:  # type: ignore[no-untyped-def]
    asyncio.run(asyncio.wait_for(coroutine, 60))


async def deaf_edge(port: int) -> socket.socket:
    """A connection with a tiny window that nobody reads."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    return sock


async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(bytes(PARKED_BYTES))
    await reader.read()


async def speak_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(bytes(PARKED_BYTES))
    writer.close()


async def all_sent(port: Port) -> None:
    while port.meter.sent_bytes < PARKED_BYTES:
        await asyncio.sleep(0.01)


async def read_whole(sock: socket.socket) -> int:
    loop, got = asyncio.get_running_loop(), 0
    with contextlib.suppress(ConnectionError):
        while part := await loop.sock_recv(sock, 1 << 16):
            got += len(part)
            if got == PARKED_BYTES:
                break
    return got


def open_bytes(ledger: FakeLedger) -> int:
    return sum(lease.size_bytes for lease in ledger.open.values())


@pytest.mark.parametrize("handler", [speak, speak_and_close])
def test_parked_bytes_keep_their_leases_open(tmp_path: Path, handler: object) -> None:
    """Settled at once, they would be forgotten by a rolling window before they left it."""

    async def scenario() -> None:
        ledger = FakeLedger(1 << 30)
        async with enclave(handler) as inside, running_gate(ledger, inside, tmp_path) as gate:  # type: ignore[arg-type]
            port = gate.ports[0]
            with await deaf_edge(port.listening) as sock:
                await all_sent(port)
                await asyncio.sleep(0.3)
                [outlet] = port.meter.outlets
                assert outlet.waiting_bytes > PARKED_BYTES // 2
                assert open_bytes(ledger) + sum(ledger.settled.values()) >= PARKED_BYTES
                assert sum(ledger.settled.values()) <= outlet.left_bytes + port.meter.timing_bytes
                assert await read_whole(sock) == PARKED_BYTES, "late, but not lost"
                while open_bytes(ledger) >= PARKED_BYTES:
                    await asyncio.sleep(0.01)

    run(scenario())


def test_an_end_behind_parked_bytes_is_bounded_and_throws_them_away(tmp_path: Path) -> None:
    config = replace(FAST, stall_timeout_s=0.5)

    async def scenario() -> None:
        ledger = FakeLedger(1 << 30)
        async with (
            enclave(speak_and_close) as inside,
            running_gate(ledger, inside, tmp_path, config) as gate,
        ):
            port = gate.ports[0]
            with await deaf_edge(port.listening) as sock:
                await all_sent(port)
                while port.meter.outlets or ledger.open:
                    await asyncio.sleep(0.02)
                assert await read_whole(sock) < PARKED_BYTES, "the rest can never leave"

    run(scenario())


def test_a_peer_that_ends_its_half_takes_nothing_after_the_settlement(tmp_path: Path) -> None:
    """An early FIN must not make the gate forget a socket that still holds bytes."""

    async def scenario() -> None:
        ledger = FakeLedger(1 << 30)
        async with enclave(speak) as inside, running_gate(ledger, inside, tmp_path) as gate:
            port = gate.ports[0]
            with await deaf_edge(port.listening) as sock:
                await all_sent(port)
                sock.shutdown(socket.SHUT_WR)
                while port.links_live:
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.1)
                assert ledger.open
                assert await read_whole(sock) == PARKED_BYTES
                while ledger.open:
                    await asyncio.sleep(0.01)

    run(scenario())


def test_an_orderly_stop_does_not_wait_for_a_deaf_edge(tmp_path: Path) -> None:
    async def scenario() -> None:
        ledger = FakeLedger(1 << 30)
        async with contextlib.AsyncExitStack() as peers:
            async with enclave(speak) as inside, running_gate(ledger, inside, tmp_path) as gate:
                sock = peers.enter_context(await deaf_edge(gate.ports[0].listening))
                await all_sent(gate.ports[0])
            assert not ledger.open
            assert await read_whole(sock) < PARKED_BYTES

    run(scenario())


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[tuple[Outlet, asyncio.StreamWriter, socket.socket]]:
    """An outlet and the peer that does not read."""
    accepted: asyncio.Future[asyncio.StreamWriter] = asyncio.get_running_loop().create_future()
    server = await asyncio.start_server(lambda _, w: accepted.set_result(w), "127.0.0.1", 0)
    with await deaf_edge(server.sockets[0].getsockname()[1]) as sock:
        writer = await accepted
        yield Outlet(writer.transport, 30.0), writer, sock
        writer.transport.abort()
        server.close()


def test_any_close_resets_and_drops_the_queue() -> None:
    """So a gate that is killed leaves nothing behind that a window would forget too early."""

    async def scenario() -> None:
        async with connected() as (outlet, writer, sock):
            outlet.write(bytes(PARKED_BYTES))
            await asyncio.sleep(0.1)
            assert 0 < outlet.left_bytes < PARKED_BYTES
            writer.transport.abort()
            await asyncio.sleep(0.05)
            assert outlet.waiting_bytes == 0
            assert await read_whole(sock) < PARKED_BYTES

    run(scenario())


def test_a_connection_that_the_peer_resets_holds_nothing() -> None:
    async def scenario() -> None:
        async with connected() as (outlet, _, sock):
            outlet.write(bytes(PARKED_BYTES))
            await asyncio.sleep(0.05)
            sock.close()  # with unread bytes: a reset
            while outlet.waiting_bytes:
                await asyncio.sleep(0.01)

    run(scenario())
