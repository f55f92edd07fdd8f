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
import os
import signal
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

from narrows.gate.backstop.guard import REASON, Backstop
from narrows.gate.config import GateConfig
from narrows.gate.machine.surroundings import Surroundings
from narrows.gate.meter import LeasePolicy, Meter
from narrows.gate.port import Port
from narrows.gate.recovery import recover
from narrows.gate.standing import Sentry, Watch
from narrows.gate.stateport import StatePort
from narrows.gate.stats_file import Latency, StatsFile
from narrows.gate.tape.tap import Tap
from narrows.gate.tls import TlsServer
from narrows.ledger.api import LeaseSource
from narrows.wire.gatestate import GateState, encode_state

STATS_EVERY_S = 1.0
CREDITED_EVERY_S = 10.0
LEASE_TICKS = 8  # a lease covers at least so many: else it could not grow from one to the next


class Gate:
    """``source`` and ``credited`` are called from ``executor`` only, which must have exactly one
    thread. ``credited``: how far the tape's spool is done with. ``witness``: how long it took."""

    def __init__(
        self,
        config: GateConfig,
        source: LeaseSource,
        executor: Executor,
        state_dir: Path,
        backstop: Backstop | None = None,
        surroundings: Surroundings | None = None,
        say: Callable[[str], None] = lambda text: None,
        tap: Tap | None = None,
        credited: Callable[[], int] = lambda: 0,
        witness: Latency | None = None,
    ) -> None:
        self.config = config.check()
        self.ports: list[Port] = []
        self.state_port = -1
        self.state_answers: StatePort | None = None
        self._sentry, self._executor = Sentry(source), executor
        self._watch = Watch(surroundings or Surroundings(config), self._sentry, self.ports)
        self._tap, self._credited = tap, credited
        self._witness = witness or Latency()
        self._backstop = backstop
        if backstop is not None:
            backstop.paid_bytes = self._sent_bytes
        self._stats_file = StatsFile(state_dir / "gate" / "stats.json", say)
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="stats")  # a slow disk delays no tick
        self._servers: list[asyncio.Server] = []
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
            if self._tap is not None:
                await loop.run_in_executor(self._disk, self._tap.start)
            await self._listen()
            tasks = [asyncio.create_task(port.run()) for port in self.ports]
            tasks += [asyncio.create_task(recover(port)) for port in self.ports]
            tasks.append(asyncio.create_task(self._write_stats()))
            tasks.append(asyncio.create_task(self._watch.run()))
            if self._tap is not None:
                tasks.append(asyncio.create_task(self._remove_credited(self._tap)))
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
            meter = Meter(self._sentry, port_config.account, self._executor, policy, self.fatal)
            port = Port(config, port_config, meter, tls, self._tap)
            self.ports.append(port)
            self._servers.append(await port.listen())
        if config.state_port >= 0:
            await self._listen_state(tls)

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for port in self.ports:
            port.close()
        for port in self.ports:
            await port.meter.drain()
        with self._disk:
            if self._tap is not None:
                self._disk.submit(self._tap.close).result()
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
            port.verdict.refuse(REASON)
            port.meter.forbid(backstop.denial())

    # the tape ------------------------------------------------------------------------

    async def _remove_credited(self, tap: Tap) -> None:
        """What the ledger's visits have brought, and no visit more: only a leaf of the log lets
        a file go, never the auditor's word."""
        loop = asyncio.get_running_loop()
        while True:
            tap.done_position = await loop.run_in_executor(self._executor, self._credited)
            await asyncio.sleep(CREDITED_EVERY_S)

    # the state port ------------------------------------------------------------------

    async def _listen_state(self, tls: TlsServer | None) -> None:
        backstop = self._backstop
        self.state_answers = StatePort(
            self.config,
            tls,
            self.ports[0].grid,
            lambda: encode_state(self.state()),
            backstop.note_call if backstop is not None else lambda: None,
        )
        server = await self.state_answers.listen()
        self._servers.append(server)
        self.state_port = int(server.sockets[0].getsockname()[1])

    def state(self) -> GateState:
        return GateState({port.port.name: port.verdict.line() for port in self.ports})

    # stats ---------------------------------------------------------------------------

    def stats(self) -> dict[str, object]:
        return {
            "v": 1,
            "pid": os.getpid(),
            "tick_ms": self.config.tick_ms,
            "pacing": self.config.pacing,
            "state_port": self.state_port,
            "kernel": {"state": "off"} if self._backstop is None else self._backstop.stats(),
            "machine": self._watch.stats(),
            "tape": {"state": "off"} if self._tap is None else self._tap.stats(),
            "unwritten": self._stats_file.failures(),
            "acquire": self._sentry.latency.figures(),
            "witness": self._witness.figures(),
            "ports": {
                port.port.name: {
                    "account": port.port.account,
                    "port": port.listening,
                    "state": port.verdict.state,
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
