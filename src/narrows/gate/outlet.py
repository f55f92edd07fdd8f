"""The edge's socket: what was written to it, and what has really left.

Bytes that the kernel took have not left: a peer that offers no window parks them in the
gate's kernel and takes them later. So a lease ends only when all bytes under it were
acknowledged, or their connection was aborted, which throws its queue away.

Invariant: ``left_bytes`` never counts a byte that could still leave. The socket lingers for
0 s, so whatever closes it, the end of the process included, resets the connection and drops
the queue; an orderly end (``finish``) first waits until the queue is empty.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios

SEND_BUFFER_BYTES = 1 << 18  # the kernel doubles it; more would only park there
POLL_S, MAX_POLL_S = 0.01, 0.25
_TCP_CLOSED = 7  # the first byte of TCP_INFO: nothing leaves any more, whatever is queued
_RESET, _WAIT = struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)


class Outlet:
    """One connection to the edge. ``stall_timeout_s`` bounds a peer that acknowledges
    nothing, and the time that an end may take."""

    def __init__(self, transport: asyncio.Transport, stall_timeout_s: float) -> None:
        self.written_bytes = 0
        self._transport = transport
        self._stall_timeout_s = stall_timeout_s
        self._finishing = False
        self._socket = transport.get_extra_info("socket")
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        timeout_ms = int(stall_timeout_s * 1000)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)

    def write(self, data: bytes) -> None:
        self.written_bytes += len(data)
        self._transport.write(data)

    @property
    def waiting_bytes(self) -> int:
        """Bytes, and the end, that are neither acknowledged nor thrown away."""
        number = self._socket.fileno()
        if number < 0:
            return 0
        if self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSED:
            return 0
        queued = struct.unpack("i", fcntl.ioctl(number, termios.TIOCOUTQ, bytes(4)))[0]
        return self._transport.get_write_buffer_size() + int(queued)

    @property
    def left_bytes(self) -> int:
        """How many of ``written_bytes`` can no longer leave."""
        return self.written_bytes - self.waiting_bytes

    def finish(self) -> None:
        """Deliver what was written and the end, then close; abort what takes too long."""
        if self._finishing:
            return
        self._finishing = True
        try:
            self._transport.write_eof()
        except OSError:  # the peer is gone
            self.abort()
            return
        self._await_empty(asyncio.get_running_loop().time() + self._stall_timeout_s, POLL_S)

    def _await_empty(self, deadline: float, wait_s: float) -> None:
        loop = asyncio.get_running_loop()
        if self._socket.fileno() < 0:
            return
        if not self.waiting_bytes:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _WAIT)
            self._transport.close()
        elif loop.time() >= deadline:
            self.abort()
        else:
            loop.call_later(wait_s, self._await_empty, deadline, min(2 * wait_s, MAX_POLL_S))

    def abort(self) -> None:
        """Reset the connection: what has not left never will."""
        self._finishing = True
        self._transport.abort()
