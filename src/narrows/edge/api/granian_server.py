"""The HTTP server: granian, embedded in the edge's own event loop, on a socket of the edge's.

granian would bind with SO_REUSEPORT, so that a second edge on the same port starts without a
word and takes half of the requests; the socket is therefore made here, exclusively, and port 0
can be resolved before anyone connects. Only HTTP/1.1: what the openai package and curl speak.

As a program it tries a certificate, chain and key as arguments: see ``certificate.py``.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import os
import socket
import sys
from contextlib import ExitStack
from typing import Any

from granian.constants import HTTPModes, Interfaces, SSLProtocols
from granian.http import HTTP1Settings
from granian.net import SocketHolder  # type: ignore[attr-defined]  # re-exported without saying so
from granian.server.embed import Server
from starlette.types import ASGIApp

from narrows.edge.api.certificate import Certificate, held, load_certificate, try_certificate
from narrows.edge.config import EdgeConfig
from narrows.errors import InputError

log = logging.getLogger("narrows.edge")

BACKLOG = 1024
MAX_CONNECTIONS = 4096
HEADER_TIMEOUT_MS = 30_000
STOP_S = 2.0


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises InputError where the address is taken or not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
        # Accepted connections inherit it; else a first token waits 40 ms for a delayed ACK.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except (OSError, OverflowError) as error:
        raise InputError(
            f"cannot listen on {host}:{port}: {error}",
            "choose another: --port of 'narrows up', --listen of 'narrows edge'",
        ) from error


class HttpServer:
    """``serve`` until ``stop``; what clients still hold open then is cut after ``STOP_S``.

    ``reload`` puts a new certificate in place: a second granian takes the listening socket, and
    the first one takes no more connections and ends with the last reply that it has begun. One
    that cannot be used changes nothing, and the log says why."""

    def __init__(self, app: ASGIApp, config: EdgeConfig, listener: socket.socket) -> None:
        """Raises InputError where the configuration names a certificate that cannot be used."""
        self._app, self._config, self._listener = app, config, listener
        self._certificate = self._load()
        self._running: dict[asyncio.Task[None], _Embedded] = {}
        self._woken = asyncio.Event()
        self._stopping = self._reloading = False

    async def serve(self) -> None:
        current = await self._start(self._certificate)
        try:
            while not self._stopping:
                woken = asyncio.create_task(self._woken.wait())
                await asyncio.wait({current, woken}, return_when=asyncio.FIRST_COMPLETED)
                woken.cancel()
                if current.done():
                    return current.result()
                self._woken.clear()
                if self._reloading and not self._stopping:
                    current = await self._replaced(current)
        finally:
            for server in self._running.values():
                server.end()
            if self._running:
                await asyncio.wait(self._running, timeout=STOP_S)

    def stop(self) -> None:
        self._stopping = True
        self._woken.set()

    def reload(self) -> None:
        """Look at the certificate's files again."""
        self._reloading = True
        self._woken.set()

    def _load(self) -> Certificate | None:
        if self._config.https is None:
            return None
        found = load_certificate(self._config.https, datetime.datetime.now(datetime.UTC))
        try_certificate(found)
        return found

    async def _replaced(self, current: asyncio.Task[None]) -> asyncio.Task[None]:
        """The server that new connections go to from now on."""
        self._reloading = False
        try:
            certificate = await asyncio.to_thread(self._load)
            if certificate == self._certificate:
                return current
            newer = await self._start(certificate)
        except (InputError, OSError) as error:
            log.error("the new certificate is not used, the one before stays: %s", error)
            return current
        self._certificate = certificate
        if (older := self._running.get(current)) is not None:
            older.end()
        log.info("a new certificate is in use")
        return newer

    async def _start(self, certificate: Certificate | None) -> asyncio.Task[None]:
        with ExitStack() as files:
            paths = files.enter_context(held(certificate)) if certificate else None
            server = _Embedded(self._app, self._config, self._listener, paths)
            serving = asyncio.create_task(server.serve())
            self._running[serving] = server
            serving.add_done_callback(self._running.pop)
            await server.started(serving)
        return serving


class _Embedded(Server):
    """``certificate``: names of chain and key; none: no TLS."""

    def __init__(
        self,
        app: ASGIApp,
        config: EdgeConfig,
        listener: socket.socket,
        certificate: tuple[str, str] | None,
    ) -> None:
        self._listener = listener
        self._certificate = certificate
        super().__init__(
            app,
            address=config.listen_host,
            port=config.listen_port,
            interface=Interfaces.ASGINL,
            http=HTTPModes.http1,
            websockets=False,
            backlog=BACKLOG,
            backpressure=MAX_CONNECTIONS,
            http1_settings=HTTP1Settings(
                header_read_timeout=HEADER_TIMEOUT_MS, max_buffer_size=config.limits.header_bytes
            ),
            log_enabled=False,
        )

    async def started(self, serving: asyncio.Task[None]) -> None:
        """Until its worker has read the certificate, which it does in its first step."""
        while not serving.done() and not self.wrks:
            await asyncio.sleep(0)
        for _ in range(2):
            await asyncio.sleep(0)

    def end(self) -> None:
        """No more connections; ``serve`` returns with the end of the last reply."""
        self.interrupt_signal = True
        self.main_loop_interrupt.set()

    def build_ssl_context(self, *_: object) -> None:
        """granian's own would follow the names to where there is no file."""
        chain, key = self._certificate or (None, None)
        protocol = str(SSLProtocols.tls12)  # Debian's nginx asks its upstreams for no newer one
        self.ssl_ctx: Any = (chain is not None, chain, key, None, protocol, None, [], False)

    def _init_shared_socket(self) -> None:
        self._ssp = None
        # A copy: granian closes its own, and the socket object here must not close it earlier.
        descriptor = os.dup(self._listener.fileno())
        # The stub has no constructor; copyreg in granian.net uses this one.
        holder = SocketHolder(descriptor, False, BACKLOG)  # type: ignore[call-arg]
        self._shd: Any = holder
        self._sfd = holder.get_fd()


async def _nothing(*_: object) -> None:
    """An application that nobody asks."""


async def _try(certificate: tuple[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = _Embedded(_nothing, EdgeConfig(), listener, certificate)
        serving = asyncio.create_task(server.serve())
        await server.started(serving)
        if serving.done():
            serving.result()
        # Tried is the certificate: granian can abort in an orderly end that comes this soon.
        os._exit(0)


if __name__ == "__main__":
    asyncio.run(_try((sys.argv[1], sys.argv[2])))
