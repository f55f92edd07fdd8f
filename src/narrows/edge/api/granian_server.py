"""The HTTP server: granian, embedded in the edge's own event loop, on a socket of the edge's.

granian would bind with SO_REUSEPORT, so that a second edge on the same port starts without a
word and takes half of the requests; the socket is therefore made here, exclusively, and port 0
can be resolved before anyone connects. Only HTTP/1.1: what the openai package and curl speak.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.net import SocketHolder  # type: ignore[attr-defined]  # re-exported without saying so
from granian.server.embed import Server
from starlette.types import ASGIApp

from narrows.edge.config import EdgeConfig
from narrows.errors import InputError

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
    """``serve`` until ``stop``; what clients still hold open then is cut after ``STOP_S``."""

    def __init__(self, app: ASGIApp, config: EdgeConfig, listener: socket.socket) -> None:
        self._server = _Embedded(app, config, listener)
        self._stopping = asyncio.Event()

    async def serve(self) -> None:
        serving = asyncio.create_task(self._server.serve())
        stopped = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({serving}, timeout=STOP_S)
            if serving.done():
                await serving
        finally:
            stopped.cancel()

    def stop(self) -> None:
        self._stopping.set()
        self._server.main_loop_interrupt.set()
        self._server.interrupt_signal = True


class _Embedded(Server):
    def __init__(self, app: ASGIApp, config: EdgeConfig, listener: socket.socket) -> None:
        self._listener = listener
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

    def _init_shared_socket(self) -> None:
        self._ssp = None
        # A copy: granian closes its own, and the socket object here must not close it earlier.
        descriptor = os.dup(self._listener.fileno())
        # The stub has no constructor; copyreg in granian.net uses this one.
        holder = SocketHolder(descriptor, False, BACKLOG)  # type: ignore[call-arg]
        self._shd: Any = holder
        self._sfd = holder.get_fd()
