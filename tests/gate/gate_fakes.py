"""A ledger in memory and simple peers, for tests of the gate alone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from narrows.gate.config import GateConfig, PortConfig
from narrows.gate.machine.surroundings import Surroundings
from narrows.gate.server import Gate
from narrows.gate.tape.tap import Tap
from narrows.ledger.api import Denied, Lease


class FakeLedger:
    """Grants while there is budget. ``spent_bytes`` counts open leases in full."""

    def __init__(self, budget_bytes: int) -> None:
        self.left_bytes = budget_bytes
        self.budget_bytes = budget_bytes
        self.open: dict[bytes, Lease] = {}
        self.settled: dict[bytes, int] = {}
        self.refuse: Denied | None = None
        self.hold = threading.Event()
        self.hold.set()
        self.acquired = 0

    @property
    def spent_bytes(self) -> int:
        return self.budget_bytes - self.left_bytes

    def acquire(self, account: str, want_bytes: int) -> Lease | Denied:
        self.hold.wait(10)
        assert want_bytes >= 1
        if self.refuse is not None:
            return self.refuse
        size = min(want_bytes, self.left_bytes)
        if size <= 0:
            return Denied("depleted", "all spent")
        self.left_bytes -= size
        lease = Lease(os.urandom(16), account, size)
        self.open[lease.lease_id] = lease
        self.acquired += 1
        return lease

    def would_refuse(self, account: str, need_bytes: int) -> Denied | None:
        if self.refuse is not None:
            return self.refuse
        return Denied("depleted", "all spent") if self.left_bytes < need_bytes else None

    def settle(self, lease: Lease, used_bytes: int) -> None:
        assert 0 <= used_bytes <= lease.size_bytes
        if lease.lease_id in self.settled:
            return
        del self.open[lease.lease_id]
        self.settled[lease.lease_id] = used_bytes
        self.left_bytes += lease.size_bytes - used_bytes


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def enclave(handler: Handler) -> AsyncIterator[int]:
    """A TCP server that plays the enclave; its port."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await handler(reader, writer)
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()


FAST = GateConfig(
    tick_ms=2,
    state_port=0,
    stall_timeout_s=20.0,
    connect_timeout_s=20.0,
    closes_per_s=1000.0,
    handshakes_per_s=1000.0,
)


@contextlib.asynccontextmanager
async def running_gate(
    ledger: object,
    enclave_port: int,
    tmp_path: Path,
    config: GateConfig = FAST,
    surroundings: Surroundings | None = None,
    tap: Tap | None = None,
    credited: Callable[[], int] = lambda: 0,
) -> AsyncIterator[Gate]:
    """A gate with one port in this loop; orderly stopped, and its error raised, at the end."""
    port = config.ports[0]
    port = replace(port, listen_port=0, enclave_port=enclave_port)
    config = replace(config, ports=(port,))
    started: asyncio.Future[Gate] = asyncio.get_running_loop().create_future()
    with ThreadPoolExecutor(1) as executor:
        gate = Gate(
            config,
            ledger,  # type: ignore[arg-type]
            executor,
            tmp_path,
            surroundings=surroundings,
            tap=tap,
            credited=credited,
        )
        task = asyncio.create_task(gate.run(started.set_result))
        await asyncio.wait([task, started], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        try:
            yield gate
        finally:
            gate.stop()
            await task


async def read_all(reader: asyncio.StreamReader) -> bytes:
    """Everything until the gate closes, however it closes."""
    parts = []
    with contextlib.suppress(ConnectionError):
        while part := await reader.read(1 << 16):
            parts.append(part)
    return b"".join(parts)


__all__ = ["FAST", "FakeLedger", "PortConfig", "enclave", "read_all", "running_gate"]
