"""A gate: its ports, its state port, its stats file, its end.

Anything unexpected in any part ends the whole gate (fail closed): leases that are not
settled count as spent. An orderly end closes all links and returns what was not used.
The stats file holds only counts that were charged, numbers of the edge's doing, and the
ledger's answers: ``STATE/gate/stats.json``, replaced atomically once a second: its time of
modification says that the gate runs.
Who modifies it can mislead ``narrows status``, and no one else: nothing reads it back.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import ssl
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import cast

from narrows.errors import PeerError
from narrows.gate.backstop.guard import REASON, Backstop
from narrows.gate.config import GateConfig
from narrows.gate.meter import LeasePolicy, Meter
from narrows.gate.port import Port
from narrows.gate.stats_file import StatsFile
from narrows.gate.tls import TlsServer
from narrows.ledger.api import LeaseSource
from narrows.wire.gatestate import MAX_RETRY_AFTER_S, GateState, PortState, encode_state
from narrows.wire.pins import check_peer, read_pins, server_context

STATS_EVERY_S = 1.0
LEASE_TICKS = 8  # a lease covers at least so many: else it could not grow from one to the next
MAX_STATE_CONNECTIONS = 64
STATE_CONNECTION_S = 5.0


class Gate:
    """``source`` is called from ``executor`` only, which must have exactly one thread."""

    def __init__(
        self,
        config: GateConfig,
        source: LeaseSource,
        executor: Executor,
        state_dir: Path,
        backstop: Backstop | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.config = config.check()
        self.ports: list[Port] = []
        self.state_port = -1
        self._source, self._executor = source, executor
        self._backstop = backstop
        if backstop is not None:
            backstop.paid_bytes = self._sent_bytes
        self._stats_file = StatsFile(state_dir / "gate" / "stats.json", say)
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="stats")  # a slow disk delays no tick
        self._servers: list[asyncio.Server] = []
        self._state_connections = 0
        self._ending: asyncio.Future[None] | None = None

    async def run(self, ready: Callable[[Gate], None]) -> None:
        """Serve until ``stop`` or a signal; raises what ended it otherwise."""
        loop = asyncio.get_running_loop()
        self._ending = loop.create_future()
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ValueError, RuntimeError):  # not in the main thread
                loop.add_signal_handler(number, self.stop)
        tasks: list[asyncio.Task[None]] = []
        try:
            await self._listen()
            tasks = [asyncio.create_task(port.run()) for port in self.ports]
            tasks.append(asyncio.create_task(self._write_stats()))
            if self._backstop is not None:
                tasks.append(asyncio.create_task(self._reconcile(self._backstop)))
            for task in tasks:
                task.add_done_callback(self._task_done)
            ready(self)
            await self._ending
        finally:
            for task in tasks:
                task.cancel()
            await self._close()

    def stop(self) -> None:
        """End in order. Idempotent."""
        if self._ending is not None and not self._ending.done():
            self._ending.set_result(None)

    def fatal(self, error: BaseException) -> None:
        """End because of ``error``: nothing more is sent."""
        if self._ending is not None and not self._ending.done():
            self._ending.set_exception(error)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fatal(error)

    async def _listen(self) -> None:
        config = self.config
        tls = TlsServer(config.tls) if config.tls else None
        lease_s = max(config.lease_s, LEASE_TICKS * config.tick_ms / 1000)
        policy = LeasePolicy(lease_s, config.min_lease_bytes, config.max_lease_bytes)
        for port_config in config.ports:
            meter = Meter(self._source, port_config.account, self._executor, policy, self.fatal)
            port = Port(config, port_config, meter, tls)
            self.ports.append(port)
            self._servers.append(await port.listen())
        if config.state_port >= 0:
            await self._listen_state()

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for port in self.ports:
            port.close()
        for port in self.ports:
            await port.meter.drain()
        with self._disk:
            self._disk.submit(self._stats_file.replace, self.stats()).result()

    # the backstop --------------------------------------------------------------------

    def _sent_bytes(self) -> int:
        return sum(port.meter.sent_bytes for port in self.ports)

    async def _reconcile(self, backstop: Backstop) -> None:
        """Until an alarm: then the ports are closed for good, and the state port says why."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, thread_name_prefix="backstop") as thread:
            while not await loop.run_in_executor(thread, backstop.reconcile):
                await asyncio.sleep(backstop.pause_s)
        for port in self.ports:
            port.state = REASON
            port.meter.forbid(backstop.denial())

    # the state port ------------------------------------------------------------------

    async def _listen_state(self) -> None:
        files = self.config.tls
        context: ssl.SSLContext | None = None
        if files is not None:
            context = server_context(files.cert_file, files.key_file, files.peer_file)
        pins = read_pins(files.peer_file) if files is not None else frozenset[bytes]()

        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._answer_state(writer, context, pins)

        server = await asyncio.start_server(
            answer,
            self.config.state_host,
            self.config.state_port,
            limit=1024,
        )
        self._servers.append(server)
        self.state_port = int(server.sockets[0].getsockname()[1])

    async def _answer_state(
        self, writer: asyncio.StreamWriter, context: ssl.SSLContext | None, pins: frozenset[bytes]
    ) -> None:
        """One line out, nothing read: there is no request to parse. A connection counts from
        its first moment, before TLS, which has to end within the same time."""
        self._state_connections += 1
        if self._backstop is not None:
            self._backstop.note_call()
        try:
            if self._state_connections > MAX_STATE_CONNECTIONS:
                writer.transport.abort()
                return
            async with asyncio.timeout(STATE_CONNECTION_S):
                if context is not None:
                    await writer.start_tls(context)
                    check_peer(cast(ssl.SSLObject, writer.get_extra_info("ssl_object")), pins)
                writer.write(encode_state(self.state()))
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, PeerError):
            writer.transport.abort()
        finally:
            self._state_connections -= 1
            writer.close()

    def state(self) -> GateState:
        return GateState(
            {
                port.port.name: PortState(
                    port.state,
                    0 if port.state == "ok" else _whole_seconds(port.retry_after_s),
                )
                for port in self.ports
            }
        )

    # stats ---------------------------------------------------------------------------

    def stats(self) -> dict[str, object]:
        return {
            "v": 1,
            "pid": os.getpid(),
            "tick_ms": self.config.tick_ms,
            "pacing": self.config.pacing,
            "state_port": self.state_port,
            "kernel": {"state": "off"} if self._backstop is None else self._backstop.stats(),
            "unwritten": self._stats_file.failures(),
            "ports": {
                port.port.name: {
                    "account": port.port.account,
                    "port": port.listening,
                    "state": port.state,
                    "links": port.links_live,
                    "links_opened": port.links_opened,
                    "sent_bytes": port.meter.sent_bytes,
                    "timing_bytes": port.meter.timing_bytes,
                    "denials": port.meter.denials,
                    "last_denial": port.meter.last_reason,
                    "last_detail": port.meter.last_detail,
                }
                for port in self.ports
            },
        }

    async def _write_stats(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await loop.run_in_executor(self._disk, self._stats_file.replace, self.stats())
            await asyncio.sleep(STATS_EVERY_S)


def _whole_seconds(seconds: float) -> int:
    return min(MAX_RETRY_AFTER_S, max(0, math.ceil(seconds)))
