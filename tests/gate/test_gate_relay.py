"""The relay: bytes pass unchanged both ways, all are counted, and the count is the limit."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from gate.gate_fakes import FAST, FakeLedger, enclave, read_all, running_gate
from narrows.ledger.api import Denied
from narrows.wire.gatestate import fetch_state


def run(coroutine) -> None:  # type: ignore[no-untyped-def]
    asyncio.run(asyncio.wait_for(coroutine, 60))


def test_bytes_pass_both_ways_and_are_counted(tmp_path: Path) -> None:
    request, answer = os.urandom(300_000), os.urandom(500_000)
    got_inside: list[bytes] = []

    async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got_inside.append(await reader.readexactly(len(request)))
        writer.write(answer)
        await writer.drain()

    async def scenario() -> None:
        ledger = FakeLedger(10_000_000)
        async with enclave(answering) as inside, running_gate(ledger, inside, tmp_path) as gate:
            reader, writer = await asyncio.open_connection("127.0.0.1", gate.ports[0].listening)
            writer.write(request)
            assert await read_all(reader) == answer
            writer.close()
            meter = gate.ports[0].meter
            assert meter.sent_bytes == len(answer)
            assert meter.timing_bytes > 0
        assert got_inside == [request]
        assert not ledger.open
        assert ledger.spent_bytes == len(answer) + meter.timing_bytes

    run(scenario())


@pytest.mark.parametrize("budget", [1, 15, 100, 2_000, 65_536])
def test_no_byte_after_the_last_leased_one(tmp_path: Path, budget: int) -> None:
    async def flooding(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async def scenario() -> None:
        ledger = FakeLedger(budget)
        arrived = 0
        for _ in range(2):  # a restart changes nothing
            async with enclave(flooding) as inside, running_gate(ledger, inside, tmp_path) as gate:
                for _ in range(3):
                    reader, writer = await asyncio.open_connection(
                        "127.0.0.1", gate.ports[0].listening
                    )
                    arrived += len(await read_all(reader))
                    writer.close()
                state = await fetch_state("127.0.0.1", gate.state_port)
                assert state.ports["answers"].state == "depleted"
            assert arrived <= ledger.spent_bytes <= budget
        if budget >= 100:
            assert ledger.left_bytes < 21, "all but what cannot show one byte is used"

    run(scenario())


def test_many_links_share_one_account(tmp_path: Path) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)

    async def one(port: int, number: int) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        message = bytes([number]) * 1000
        for _ in range(5):
            writer.write(message)
            assert await reader.readexactly(1000) == message
        writer.close()
        return 5000

    async def scenario() -> None:
        ledger = FakeLedger(10_000_000)
        async with enclave(echo) as inside, running_gate(ledger, inside, tmp_path) as gate:
            port = gate.ports[0].listening
            counted = sum(await asyncio.gather(*(one(port, n) for n in range(40))))
            assert gate.ports[0].meter.sent_bytes == counted
        assert ledger.spent_bytes == counted + gate.ports[0].meter.timing_bytes

    run(scenario())


def test_too_many_links_are_refused_without_a_byte(tmp_path: Path) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    config = replace(FAST, ports=(replace(FAST.ports[0], max_links=2),))

    async def scenario() -> None:
        ledger = FakeLedger(100_000)
        async with (
            enclave(silent) as inside,
            running_gate(ledger, inside, tmp_path, config) as gate,
        ):
            port = gate.ports[0].listening
            kept = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            await asyncio.sleep(0.1)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await read_all(reader) == b""
            writer.close()
            kept[0][1].close()
            await asyncio.sleep(0.1)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.read(1), 0.2)
            writer.close()
            kept[1][1].close()

    run(scenario())


@pytest.mark.parametrize("reason", ["window", "witness", "behind", "store", "clock"])
def test_a_refusing_ledger_stops_within_the_leases_and_is_named(
    tmp_path: Path, reason: str
) -> None:
    async def flooding(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"x" * 1000)
            await writer.drain()
            await asyncio.sleep(0.01)

    async def scenario() -> None:
        ledger = FakeLedger(1 << 30)
        async with enclave(flooding) as inside, running_gate(ledger, inside, tmp_path) as gate:
            port = gate.ports[0].listening
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await reader.readexactly(5000)
            ledger.refuse = Denied(reason, "test", 7.5)
            rest = await read_all(reader)
            writer.close()
            assert 5000 + len(rest) <= ledger.spent_bytes
            state = (await fetch_state("127.0.0.1", gate.state_port)).ports["answers"]
            assert (state.state, state.retry_after_s) == (reason, 8)

    run(scenario())


def test_a_burst_leaves_no_large_lease_behind(tmp_path: Path) -> None:
    """The link stays open, but its unused credit goes back for others to use."""

    async def bursting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(20):
            writer.write(bytes(200_000))
            await asyncio.sleep(0.05)
        await reader.read()

    async def scenario() -> None:
        ledger = FakeLedger(1 << 30)
        async with enclave(bursting) as inside, running_gate(ledger, inside, tmp_path) as gate:
            reader, writer = await asyncio.open_connection("127.0.0.1", gate.ports[0].listening)
            await reader.readexactly(20 * 200_000)
            while sum(lease.size_bytes for lease in ledger.open.values()) > 4096:
                await asyncio.sleep(0.05)
            assert gate.ports[0].links_live == 1
            writer.close()

    run(scenario())


def test_it_serves_again_when_the_ledger_does(tmp_path: Path) -> None:
    async def greeting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        await reader.read()

    async def scenario() -> None:
        ledger = FakeLedger(10_000)
        ledger.refuse = Denied("store", "test")
        async with enclave(greeting) as inside, running_gate(ledger, inside, tmp_path) as gate:
            answers = []
            while not answers or not answers[-1]:
                reader, writer = await asyncio.open_connection("127.0.0.1", gate.ports[0].listening)
                answers.append(await reader.read(5))
                writer.close()
                ledger.refuse = None
                await asyncio.sleep(0.1)
            assert answers[0] == b""
            assert answers[-1] == b"hello"
            assert gate.ports[0].verdict.state == "ok"

    run(scenario())


def test_an_unknown_reason_of_the_ledger_is_not_passed_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        ledger = FakeLedger(100)
        ledger.refuse = Denied("a secret", "test")

        async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()

        async with enclave(nothing) as inside, running_gate(ledger, inside, tmp_path) as gate:
            reader, writer = await asyncio.open_connection("127.0.0.1", gate.ports[0].listening)
            assert await read_all(reader) == b""
            writer.close()
            state = await fetch_state("127.0.0.1", gate.state_port)
            assert state.ports["answers"].state == "store"

    run(scenario())
