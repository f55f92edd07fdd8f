"""A server for one reader at a time: whoever comes while another one reads is turned away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class OneReaderServer:
    """``serve`` has the connection until it returns; an OSError of it ends the connection alone."""

    def __init__(self, serve: Serve) -> None:
        self._reading = serve
        self._busy = False
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; the port."""
        self._server = await asyncio.start_server(self._serve, host, port)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._busy:
            writer.close()
            return
        self._busy = True
        try:
            with contextlib.suppress(OSError):
                await self._reading(reader, writer)
        finally:
            self._busy = False
            writer.close()
