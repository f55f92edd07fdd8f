"""What is no tick leaves on the tick grid, too: handshakes, and the state port's answers."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from pathlib import Path

import pytest

from gate.gate_fakes import FAST, FakeLedger, enclave, running_gate
from narrows.gate.config import TlsFiles
from narrows.gate.grid import LONGEST_S, Grid
from narrows.wire.gatestate import fetch_state
from narrows.wire.pins import client_context, make_identity, read_pins


class Time:
    """A clock that moves by sleeping, late by what the test says."""

    def __init__(self, start: float) -> None:
        self.now, self.late = start, [0.0]

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds + self.late[0]
        if len(self.late) > 1:
            self.late.pop(0)


@pytest.mark.parametrize("period_s", [0.001, 0.02, 0.1, 0.25, 10.0])
def test_it_wakes_on_the_grid_and_nowhere_else(period_s: float) -> None:
    async def scenario() -> None:
        time, chance = Time(1234.5), random.Random(3)
        grid = Grid(period_s, 0.002, time.clock, time.sleep)
        step = period_s / max(1, -(-period_s // LONGEST_S))
        for _ in range(200):
            time.now += chance.random() * period_s * 3
            before = time.now
            time.late = [chance.choice([0.0, step / 4, step * 1.7, 0.0, -step / 3]), 0.0]
            await grid.moment()
            phase = (time.now - grid.origin_s) / step % 1
            assert min(phase, 1 - phase) * step <= min(0.002, step / 2) + 1e-6
            assert time.now - before <= 5 * step + 1e-6

    asyncio.run(scenario())


class Held:
    """A grid whose moments the test makes."""

    def __init__(self) -> None:
        self.waiting, self._gate = 0, asyncio.Event()

    async def moment(self) -> None:
        self.waiting += 1
        await self._gate.wait()

    def release(self) -> None:
        self._gate.set()


def hold(grid: Grid) -> Held:
    held = Held()
    grid.moment = held.moment  # type: ignore[method-assign]
    return held


def tls_files(folder: Path) -> tuple[TlsFiles, tuple[Path, Path]]:
    gate, edge = make_identity(folder, "gate"), make_identity(folder, "edge")
    return TlsFiles(gate[0], gate[1], edge[0]), edge


@pytest.mark.parametrize("secured", [False, True])
def test_the_state_port_waits_for_the_grid(tmp_path: Path, secured: bool) -> None:
    files, edge = tls_files(tmp_path)

    async def scenario() -> None:
        config = replace(FAST, tls=files if secured else None)
        async with running_gate(FakeLedger(1000), 1, tmp_path, config) as gate:
            held = hold(gate.ports[0].grid)
            context = client_context(*edge, files.cert_file) if secured else None
            pins = read_pins(files.cert_file) if secured else frozenset[bytes]()
            asking = asyncio.create_task(
                fetch_state("127.0.0.1", gate.state_port, context, pins, timeout_s=30)
            )
            while not held.waiting:
                await asyncio.sleep(0.01)
            assert not (await asyncio.wait([asking], timeout=0.3))[0]
            held.release()
            assert (await asking).ports["answers"].state == "ok"
            assert held.waiting == (2 if secured else 1)

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_a_handshake_waits_for_the_grid_and_is_paid_after_it(tmp_path: Path) -> None:
    """Credit that others spend while it waits is leased again: it never sends unpaid."""
    files, edge = tls_files(tmp_path)

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        await reader.read()

    async def scenario() -> None:
        config = replace(FAST, tls=files)
        ledger = FakeLedger(1 << 20)
        async with (
            enclave(speak) as port,
            running_gate(ledger, port, tmp_path, config) as gate,
        ):
            served = gate.ports[0]
            held = hold(served.grid)
            context = client_context(*edge, files.cert_file)
            dialling = asyncio.create_task(
                asyncio.open_connection(
                    "127.0.0.1", served.listening, ssl=context, server_hostname="gate"
                )
            )
            while not held.waiting:
                await asyncio.sleep(0.01)
            assert served.meter.sent_bytes == 0
            served.meter.spend(served.meter.credit)  # another link, meanwhile
            before = served.meter.sent_bytes
            held.release()
            reader, writer = await dialling
            assert await reader.readexactly(5) == b"hello"
            assert served.meter.sent_bytes > before
            writer.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))
