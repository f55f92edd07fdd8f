"""One link: two TCP connections and the bytes between them, bounded.

Outward (enclave -> edge): bytes wait in ``_outbox``; a full outbox stops *reading from the
enclave*. They leave only through ``take``, which the port calls after it has paid.
Inward (edge -> enclave): read at the edge's own speed, always. What the enclave does not
take waits; more than the bound closes the link. So the edge never feels how fast the
enclave reads. Whatever the enclave does to its connection (refuse, close, reset, not read)
only sets ``closing``; the port shows that at a tick of its choosing, and charges it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import cast

from narrows.errors import PeerError
from narrows.gate.meter import Drawn
from narrows.gate.outlet import Outlet
from narrows.gate.tape.tap import LinkCopy
from narrows.gate.timing import LinkHistory
from narrows.gate.tls import TlsPipe
from narrows.wire.keepalive import set_options
from narrows.wire.padding import frame_bytes, pad, tls_payload_bytes

IDLE_S, PROBES = 15, 4
JOIN_BYTES = 4096


class Outbox:
    """A queue of bytes with a known size. Small pieces are joined: a peer that sends single
    bytes does not get an object for each."""

    def __init__(self) -> None:
        self.size = 0
        self._parts: deque[bytes] = deque()

    def put(self, data: bytes) -> None:
        if self._parts and len(self._parts[-1]) + len(data) <= JOIN_BYTES:
            self._parts[-1] += data
        else:
            self._parts.append(data)
        self.size += len(data)

    def take(self, count: int) -> bytes:
        """The first ``count`` bytes, or all if there are fewer."""
        taken = []
        while count and self._parts:
            part = self._parts.popleft()
            if len(part) > count:
                self._parts.appendleft(part[count:])
                part = part[:count]
            taken.append(part)
            count -= len(part)
            self.size -= len(part)
        return b"".join(taken)


class Stall:
    """Whether a writer has made no progress for ``timeout_s`` while bytes were waiting."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._drained = -1
        self._since = 0.0

    def check(self, now: float, written: int, waiting: int) -> bool:
        drained = written - waiting
        if not waiting or drained != self._drained:
            self._drained, self._since = drained, now
        return now - self._since > self._timeout_s


class Link:
    """Bounded state of one link. ``gone`` is called once, when the edge's side has ended."""

    def __init__(
        self,
        outlet: Outlet,
        pipe: TlsPipe | None,
        outbound_bytes: int,
        inbound_bytes: int,
        stall_timeout_s: float,
        gone: Callable[[Link], None],
    ) -> None:
        self.history = LinkHistory()
        self.pipe = pipe
        self.closing = False  # what is in the outbox still goes out, then the edge's side ends
        self.edge_paused = False
        self.arrived = asyncio.Event()  # bytes from the edge, or its end
        self.ended = False
        self.outlet = outlet
        self.copy: LinkCopy | None = None  # for an auditor
        self._taken = b""  # of the enclave, in what was taken last
        self._enclave = cast("asyncio.Transport | None", None)
        self._outbox = Outbox()
        self._wire = b""  # ciphertext that was made but not yet paid
        self._early = Outbox()  # inward bytes, while the enclave is being dialled
        self._outbound_bytes, self._inbound_bytes = outbound_bytes, inbound_bytes
        self._edge_stall, self._enclave_stall = Stall(stall_timeout_s), Stall(stall_timeout_s)
        self._enclave_written = 0
        self._gone = gone

    # outward -------------------------------------------------------------------------

    def from_enclave(self, data: bytes) -> None:
        if self.ended:
            return
        self._outbox.put(data)
        if self._outbox.size >= self._outbound_bytes and self._enclave is not None:
            self._enclave.pause_reading()

    @property
    def waiting_bytes(self) -> int:
        """Wire bytes that the next tick could send."""
        if self.pipe is None:
            return self._outbox.size
        self._wire += self.pipe.take_outgoing()
        return len(self._wire) + self.pipe.wire_bytes(self._outbox.size)

    def fits(self, count: int) -> int:
        """How many bytes ``take(count)`` gives: under TLS a record has to fit, or it waits."""
        if self.pipe is None or count <= len(self._wire):
            return min(count, self.waiting_bytes)
        payload = min(self._outbox.size, tls_payload_bytes(count - len(self._wire)))
        return len(self._wire) + self.pipe.wire_bytes(payload)

    def take(self, count: int) -> bytes:
        """At most ``count`` wire bytes, to be paid before ``send``."""
        if self.pipe is None:
            data = self._taken = self._outbox.take(count)
        else:
            self._taken = self._outbox.take(tls_payload_bytes(max(0, count - len(self._wire))))
            data = self._seal(self._taken, count)
        self._resume()
        return data

    def take_frame(self, count: int) -> bytes:
        """Exactly ``count`` wire bytes, filled up with padding."""
        size = frame_bytes(count, self.pipe is not None)
        self._taken = self._outbox.take(size - 1)
        frame = pad(self._taken, size)
        self._resume()
        return frame if self.pipe is None else self._seal(frame, count)

    def _seal(self, payload: bytes, count: int) -> bytes:
        if self.pipe is None:
            raise PeerError("a plain link has nothing to seal")
        if payload:
            self.pipe.encrypt(payload)
        wire = self._wire + self.pipe.take_outgoing()
        self._wire = wire[count:]
        return wire[:count]

    def _resume(self) -> None:
        if self._enclave is not None and self._outbox.size < self._outbound_bytes:
            self._enclave.resume_reading()

    def send(self, data: bytes, drawn: Drawn) -> None:
        """Write paid bytes to the edge. ``drawn``: the leases that paid for them."""
        self.outlet.write(data)
        self.note_paid(drawn)

    def note_paid(self, drawn: Drawn) -> None:
        """Copy what was paid, with what was taken for it, if anything."""
        taken, self._taken = self._taken, b""
        if self.copy is not None and drawn:
            self.copy.outward(taken, drawn)

    def end(self) -> None:
        """Close both sides: paid bytes are still delivered, nothing else is."""
        if self.ended:
            return
        self.ended = True
        if self.copy is not None:
            self.copy.end()
        self.arrived.set()
        self.outlet.finish()
        if self._enclave is not None:
            self._enclave.abort()
        self._gone(self)

    # inward --------------------------------------------------------------------------

    def from_edge(self, data: bytes) -> None:
        if self.ended:
            return
        try:
            plain = data if self.pipe is None else self.pipe.receive(data)
        except PeerError:
            self.end()
            return
        self.arrived.set()
        if self.closing or not plain:
            return
        if self.copy is not None:
            self.copy.inward(plain)
        if self._enclave is None:
            self._early.put(plain)
            waiting = self._early.size
        else:
            self._enclave_written += len(plain)
            self._enclave.write(plain)
            waiting = self._enclave.get_write_buffer_size()
        if waiting > self._inbound_bytes:
            self.enclave_ended()

    def attach(self, enclave: asyncio.Transport) -> None:
        """The enclave answered the dial."""
        if self.ended or self.closing:
            enclave.abort()
            return
        self._enclave = enclave
        early = self._early.take(self._early.size)
        self._enclave_written = len(early)
        enclave.write(early)

    def enclave_ended(self) -> None:
        """It closed, reset, refused or does not read: all the same from here on."""
        self.closing = True
        if self._enclave is not None:
            self._enclave.abort()

    # health --------------------------------------------------------------------------

    def check(self, now: float) -> None:
        """Once a second: end what makes no progress."""
        if self._edge_stall.check(now, self.outlet.written_bytes, self.outlet.waiting_bytes):
            self.outlet.abort()
            self.end()
            return
        if self._enclave is not None and not self.closing:
            waiting = self._enclave.get_write_buffer_size()
            if self._enclave_stall.check(now, self._enclave_written, waiting):
                self.enclave_ended()


def shrink(links: list[Link], counts: list[int], allowed: int) -> list[int]:
    """The first links keep what they can: whole counts that sum up to ``allowed`` at most."""
    shrunk = []
    for link, count in zip(links, counts, strict=True):
        shrunk.append(link.fits(max(0, min(count, allowed))))
        allowed -= shrunk[-1]
    return shrunk


class EdgeSide(asyncio.Protocol):
    """The edge's connection. ``opened`` makes the link, or refuses with None; ``closed``
    when the socket is gone, which may be after the link's end; the edge's own end is the
    link's, but the socket stays until what was paid has left or was thrown away."""

    def __init__(
        self,
        opened: Callable[[asyncio.Transport], Link | None],
        closed: Callable[[Link | None], None],
    ) -> None:
        self._opened, self._closed = opened, closed
        self._link: Link | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        set_options(transport.get_extra_info("socket"), IDLE_S, PROBES)
        edge = cast(asyncio.Transport, transport)
        edge.set_write_buffer_limits(high=0)  # paused while anything waits for the kernel
        self._link = self._opened(edge)
        if self._link is None:
            edge.abort()

    def data_received(self, data: bytes) -> None:
        if self._link is not None:
            self._link.from_edge(data)

    def pause_writing(self) -> None:
        if self._link is not None:
            self._link.edge_paused = True

    def resume_writing(self) -> None:
        if self._link is not None:
            self._link.edge_paused = False

    def eof_received(self) -> bool:
        if self._link is not None:
            self._link.end()
        return self._link is not None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._link is not None:
            self._link.end()
        self._closed(self._link)


class EnclaveSide(asyncio.Protocol):
    """The connection into the enclave."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        set_options(transport.get_extra_info("socket"), IDLE_S, PROBES)
        self._link.attach(cast(asyncio.Transport, transport))

    def data_received(self, data: bytes) -> None:
        self._link.from_enclave(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._link.enclave_ended()
