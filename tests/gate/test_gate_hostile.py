"""An enclave that floods, stalls, resets, refuses, and edges that do no better."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from gate.gate_fakes import FAST, FakeLedger, enclave, read_all, running_gate
from narrows.wire.gatestate import fetch_state


def run(coroutine) -> None:  # type: ignore[no-untyped-def]
    asyncio.run(asyncio.wait_for(coroutine, 60))


async def _close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def _reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@pytest.mark.parametrize("ending", [_close, _reset, None])
def test_closing_resetting_and_refusing_look_the_same_and_are_charged(
    tmp_path: Path, ending: object
) -> None:
    async def scenario() -> None:
        ledger = FakeLedger(100_000)
        async with enclave(ending or _close) as inside:  # type: ignore[arg-type]
            port = inside if ending else _free_port()
            config = FAST if ending else replace(FAST, connect_timeout_s=0.6)
            async with running_gate(ledger, port, tmp_path, config) as gate:
                reader, writer = await asyncio.open_connection("127.0.0.1", gate.ports[0].listening)
                assert await reader.read() == b""  # a plain end, never a reset
                writer.close()
                meter = gate.ports[0].meter
                assert meter.sent_bytes == 0
                assert meter.timing_bytes >= 1
        assert ledger.spent_bytes == meter.timing_bytes

    run(scenario())


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_ends_are_rate_limited(tmp_path: Path) -> None:
    config = replace(FAST, closes_per_s=2.0)

    async def scenario() -> None:
        async with (
            enclave(_close) as inside,
            running_gate(FakeLedger(100_000), inside, tmp_path, config) as gate,
        ):
            port, began = gate.ports[0].listening, asyncio.get_running_loop().time()
            peers = [await asyncio.open_connection("127.0.0.1", port) for _ in range(8)]
            await asyncio.sleep(0.5)
            ended = 8 - gate.ports[0].links_live
            passed_s = asyncio.get_running_loop().time() - began
            assert 1 <= ended <= 2 + 2 * passed_s, "two at once, then two a second"
            assert sum(reader.at_eof() for reader, _ in peers) <= ended
            for _, writer in peers:
                writer.close()

    run(scenario())


def test_an_enclave_that_does_not_read_never_slows_the_edge(tmp_path: Path) -> None:
    config = replace(FAST, inbound_buffer_bytes=200_000)

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(30)

    async def scenario() -> None:
        async with (
            enclave(deaf) as inside,
            running_gate(FakeLedger(100_000), inside, tmp_path, config) as gate,
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", gate.ports[0].listening)
            sent = 0
            try:
                while sent < 64 << 20:
                    writer.write(b"x" * 65536)
                    await asyncio.wait_for(writer.drain(), 5)  # never blocks for long
                    sent += 65536
            except ConnectionError:
                pass
            assert await read_all(reader) == b"", "a full buffer closes the link"
            assert sent < 64 << 20
            writer.close()

    run(scenario())


def test_an_edge_that_does_not_read_is_bounded_and_ended(tmp_path: Path) -> None:
    config = replace(FAST, stall_timeout_s=1.2, outbound_buffer_bytes=1 << 18)
    sent_by_enclave = 0

    async def flooding(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent_by_enclave
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            sent_by_enclave += 65536

    async def scenario() -> None:
        ledger = FakeLedger(1 << 30)
        async with (
            enclave(flooding) as inside,
            running_gate(ledger, inside, tmp_path, config) as gate,
        ):
            loop = asyncio.get_running_loop()
            with socket.socket() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
                sock.setblocking(False)
                await loop.sock_connect(sock, ("127.0.0.1", gate.ports[0].listening))
                while gate.ports[0].links_live == 0:
                    await asyncio.sleep(0.01)
                while gate.ports[0].links_live:
                    await asyncio.sleep(0.05)
            assert sent_by_enclave < 64 << 20
        assert gate.ports[0].meter.sent_bytes <= ledger.spent_bytes

    run(scenario())


def test_an_enclave_that_never_takes_a_request_is_ended(tmp_path: Path) -> None:
    config = replace(FAST, stall_timeout_s=1.2)

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(30)

    async def scenario() -> None:
        async with (
            enclave(deaf) as inside,
            running_gate(FakeLedger(100_000), inside, tmp_path, config) as gate,
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", gate.ports[0].listening)
            writer.write(b"x" * (12 << 20))
            assert await read_all(reader) == b""
            writer.close()

    run(scenario())


def test_edges_that_come_and_go_leave_nothing_behind(tmp_path: Path) -> None:
    async def chatty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"hello")
            await writer.drain()
            await asyncio.sleep(0.001)

    async def scenario() -> None:
        ledger = FakeLedger(1_000_000)
        async with enclave(chatty) as inside, running_gate(ledger, inside, tmp_path) as gate:
            for number in range(30):
                _, writer = await asyncio.open_connection("127.0.0.1", gate.ports[0].listening)
                await asyncio.sleep(0.005 * (number % 4))
                writer.transport.abort()
            while gate.ports[0].links_live or ledger.open:
                await asyncio.sleep(0.01)
            stats = gate.stats()
            assert stats["ports"]["answers"]["links"] == 0  # type: ignore[index]
        assert ledger.spent_bytes == sum(ledger.settled.values())
        written = json.loads((tmp_path / "gate" / "stats.json").read_text())
        assert written == gate.stats()

    run(scenario())


def test_no_lease_is_held_while_no_link_is_open(tmp_path: Path) -> None:
    """What a quiet port holds would be missing on a busy one."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(100))
        await reader.read()

    async def scenario() -> None:
        ledger = FakeLedger(2_000)
        async with enclave(echo) as inside, running_gate(ledger, inside, tmp_path) as gate:
            reader, writer = await asyncio.open_connection("127.0.0.1", gate.ports[0].listening)
            writer.write(b"hi")
            assert await reader.readexactly(2) == b"hi"
            assert ledger.open
            writer.close()
            while ledger.open:
                await asyncio.sleep(0.01)
            meter = gate.ports[0].meter
            assert ledger.spent_bytes == meter.sent_bytes + meter.timing_bytes

    run(scenario())


async def one_link(ledger: FakeLedger, tmp_path: Path) -> None:
    """A link that ends without a byte, because the gate ends."""
    async with enclave(_close) as inside, running_gate(ledger, inside, tmp_path) as gate:
        reader, writer = await asyncio.open_connection("127.0.0.1", gate.ports[0].listening)
        assert await read_all(reader) == b""
        writer.close()


def test_a_ledger_that_breaks_ends_the_gate(tmp_path: Path) -> None:
    class Broken(FakeLedger):
        def acquire(self, account: str, want_bytes: int):  # type: ignore[no-untyped-def]
            raise ZeroDivisionError("a bug of the ledger")

    with pytest.raises(ZeroDivisionError):
        run(one_link(Broken(1000), tmp_path))


def test_a_ledger_that_grants_too_much_ends_the_gate(tmp_path: Path) -> None:
    class Generous(FakeLedger):
        def acquire(self, account: str, want_bytes: int):  # type: ignore[no-untyped-def]
            return super().acquire(account, want_bytes + 1)

    with pytest.raises(RuntimeError, match="something else"):
        run(one_link(Generous(10_000), tmp_path))


def test_the_state_port_takes_no_word_and_many_callers(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            enclave(_close) as inside,
            running_gate(FakeLedger(1000), inside, tmp_path) as gate,
        ):
            states = await asyncio.gather(
                *(fetch_state("127.0.0.1", gate.state_port) for _ in range(30))
            )
            assert {state.ports["answers"].state for state in states} == {"ok"}
            reader, writer = await asyncio.open_connection("127.0.0.1", gate.state_port)
            writer.write(b"\x00" * 100_000)
            assert len(await read_all(reader)) < 200
            writer.close()

    run(scenario())
