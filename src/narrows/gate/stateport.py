"""The state port: one line to whoever connects, nothing read but his half of TLS.

Every byte leaves at a moment of the tick grid, the handshake's too: the line's content follows from
what was charged, and its moment from the grid.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from narrows.errors import PeerError
from narrows.gate.config import GateConfig
from narrows.gate.grid import Grid
from narrows.gate.tls import TlsPipe, TlsServer

MAX_CONNECTIONS = 64
CONNECTION_S = 5.0
_READ_BYTES = 4096


class StatePort:
    """``line``: what is said. ``note_call`` hears of every connection."""

    def __init__(
        self,
        config: GateConfig,
        tls: TlsServer | None,
        grid: Grid,
        line: Callable[[], bytes],
        note_call: Callable[[], None],
    ) -> None:
        self._config, self._tls, self._grid = config, tls, grid
        self._line, self._note_call = line, note_call
        self.connections = 0

    async def listen(self) -> asyncio.Server:
        host, port = self._config.state_host, self._config.state_port
        return await asyncio.start_server(self._answer, host, port, limit=1024)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A connection counts from its first moment, before TLS, which has to end within the
        same time."""
        self.connections += 1
        self._note_call()
        try:
            if self.connections > MAX_CONNECTIONS:
                writer.transport.abort()
                return
            async with asyncio.timeout(CONNECTION_S):
                pipe = None if self._tls is None else self._tls.pipe()
                if pipe is not None:
                    await self._shake_hands(pipe, reader, writer)
                await self._grid.moment()
                writer.write(_sealed(self._line(), pipe))
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, PeerError):
            writer.transport.abort()
        finally:
            self.connections -= 1
            writer.close()

    async def _shake_hands(
        self, pipe: TlsPipe, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while not pipe.established:
            data = await reader.read(_READ_BYTES)
            if not data:
                raise PeerError("the client left in its handshake")
            pipe.receive(data)
            if outgoing := pipe.take_outgoing():
                await self._grid.moment()
                writer.write(outgoing)


def _sealed(line: bytes, pipe: TlsPipe | None) -> bytes:
    if pipe is None:
        return line
    pipe.encrypt(line)
    pipe.finish()
    return pipe.take_outgoing()
