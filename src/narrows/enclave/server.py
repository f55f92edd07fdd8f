"""The enclave's process: listen for the gate, one session a connection.

Weak models are shared by all links, and a token model serves one call at a time, so one codec
thread serves all sessions. New ones are taken from a folder while the process runs (SIGHUP: look
now); links that are open keep theirs.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from narrows.coding.cache_account import CacheAccount
from narrows.enclave.backend import Attended, Backend
from narrows.enclave.config import EnclaveConfig
from narrows.enclave.session import LinkSession
from narrows.enclave.telemetry import LineRing, TelemetryServer
from narrows.models.api import TokenModel
from narrows.models.shelf.shelf import Shelf, watch
from narrows.wire.address import parse_address

log = logging.getLogger("narrows.enclave")


class EnclaveServer:
    """Accepts links from the gate and serves each until it closes."""

    def __init__(
        self, config: EnclaveConfig, backend: Backend, models: Mapping[bytes, TokenModel] | Shelf
    ) -> None:
        self._config = config
        self._backend = backend
        self.shelf = models if isinstance(models, Shelf) else Shelf.of(models.values())
        self._codec = ThreadPoolExecutor(1, thread_name_prefix="link-codec")
        self._accounts: dict[bytes, CacheAccount] = {}
        self._sessions: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._served = 0

    async def start(self) -> int:
        """Listen; the port. Raises NarrowsError where the backend must not serve."""
        if isinstance(self._backend, Attended):
            await self._backend.start()
        host, port = parse_address(self._config.listen)
        self._server = await asyncio.start_server(self._connected, host, port, limit=1 << 20)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    def figures(self) -> dict[str, float]:
        """What telemetry reports beside the log."""
        own = {"links": len(self._sessions), "links_served": self._served}
        return own | dict(self._backend.figures() if isinstance(self._backend, Attended) else {})

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._sessions):
            task.cancel()
        await asyncio.gather(*self._sessions, return_exceptions=True)
        await self._backend.close()
        self._codec.shutdown(cancel_futures=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._sessions) >= self._config.max_links:
            log.warning("refused a link: %d are open", len(self._sessions))
            writer.close()
            return
        self._sessions.add(task)
        self._served += 1
        session = LinkSession(
            reader,
            writer,
            self._backend,
            self.shelf,
            self._codec,
            self._config.session,
            self._accounts,
        )
        try:
            await session.run()
        except asyncio.CancelledError:
            pass  # by ``stop``: asyncio's streams report a connection that ends so as a fault
        finally:
            self._sessions.discard(task)


async def serve(
    config: EnclaveConfig, backend: Backend, models: Mapping[bytes, TokenModel] | Shelf
) -> None:
    """Serve until SIGINT or SIGTERM. Says ``{"ready": true, "port": N}`` on standard output."""
    server = EnclaveServer(config, backend, models)
    facts = {"port": await server.start()}
    telemetry = None
    if config.telemetry:
        ring = LineRing()
        logging.getLogger("narrows").addHandler(ring)
        telemetry = TelemetryServer(ring, server.figures, config.telemetry_s)
        facts["telemetry_port"] = await telemetry.start(*parse_address(config.telemetry))
    say_ready(**facts)
    stop = asyncio.Event()
    look = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, look.set)
    watching = asyncio.create_task(watch(server.shelf, look))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({watching, stopping}, return_when=asyncio.FIRST_COMPLETED)
    failure = watching.exception() if watching.done() else None  # a bug, or no memory
    watching.cancel()
    stopping.cancel()
    if telemetry is not None:
        telemetry.stop()
    await server.stop()
    if failure is not None:
        raise failure


def say_ready(**facts: Any) -> None:
    sys.stdout.write(json.dumps({"ready": True, **facts}) + "\n")
    sys.stdout.flush()
