"""Who may be connected to a witness, so that strangers cannot keep its gates out.

Of ``MAX_CONNECTIONS`` each network has what the others leave: where all are taken, the network
with most of them (an IPv4 address, or 64 bits of an IPv6 one) loses the one that has waited
longest for a whole request. A gate notices that, and connects anew. A request that is carried
out is never cut off. One request, from the end of the one before, has one deadline and one
bound on its bytes, however slowly its head comes.
"""

from __future__ import annotations

import io
import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

MAX_CONNECTIONS = 256
MAX_THREADS = 2 * MAX_CONNECTIONS  # those that were cut off end a moment later


@dataclass(slots=True)
class _Guest:
    network: str
    since: float  # in ``time.monotonic`` seconds: of the request that it is waited for
    busy: bool = False


class Slots:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._guests: dict[socket.socket, _Guest] = {}
        self._threads = 0

    def enter(self, sock: socket.socket, host: str) -> bool:
        """Whether there is room, made if need be; ``leave`` has to follow where there is."""
        with self._lock:
            if self._threads >= MAX_THREADS:
                return False
            if len(self._guests) >= MAX_CONNECTIONS and not self._make_room():
                return False
            self._guests[sock] = _Guest(_network(host), time.monotonic())
            self._threads += 1
            return True

    def leave(self, sock: socket.socket) -> None:
        with self._lock:
            self._guests.pop(sock, None)
            self._threads -= 1

    def mark(self, sock: socket.socket, busy: bool) -> None:
        """A whole request is there, or it was answered."""
        with self._lock:
            if guest := self._guests.get(sock):
                guest.busy, guest.since = busy, time.monotonic()

    def _make_room(self) -> bool:
        idle = [(g.since, g.network, sock) for sock, g in self._guests.items() if not g.busy]
        if not idle:
            return False
        counts = Counter(guest.network for guest in self._guests.values())
        most = max(counts[network] for _, network, _ in idle)
        _, _, oldest = min(
            (entry for entry in idle if counts[entry[1]] == most), key=lambda entry: entry[0]
        )
        del self._guests[oldest]
        with suppress(OSError):  # it has gone by itself
            oldest.shutdown(socket.SHUT_RDWR)  # its thread reads the end, and leaves
        return True


def _network(host: str) -> str:
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    return host if address.version == 4 else str(ip_network((address, 64), strict=False))


class RequestReader(io.RawIOBase):
    """A connection's bytes, of one request at a time. ``allow`` starts the next one."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._deadline, self._left_bytes = 0.0, 0

    def allow(self, seconds: float, max_bytes: int) -> None:
        self._deadline, self._left_bytes = time.monotonic() + seconds, max_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """``TimeoutError`` at the deadline; the end where a request is too long."""
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the request did not come in time")
        self._sock.settimeout(left_s)
        count = self._sock.recv_into(memoryview(buffer)[: self._left_bytes])
        self._left_bytes -= count
        return count
