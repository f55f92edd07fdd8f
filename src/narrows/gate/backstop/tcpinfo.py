"""TCP_INFO of every socket of this network namespace, the ended ones included.

The kernel's sock_diag lists live sockets, and tells listeners the last figures of each socket
as it is destroyed (group SKNLGRP_INET_TCP_DESTROY). So no connection is missed, however short,
and no part of the gate has to hand in its sockets. Both need the kernel's ``tcp_diag``; the
second one needs CAP_NET_ADMIN. Offsets are those of linux/inet_diag.h and linux/tcp.h, which
only ever grow at the end.

A socket that left the list and whose last figures have not come yet counts with those that
were seen last: sums never fall.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from narrows.errors import PeerError
from narrows.gate.backstop.allowance import IPV4_HEADERS_BYTES, IPV6_HEADERS_BYTES, Tcp

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_SOCK_DIAG, _BY_FAMILY, _DONE, _ERROR = 4, 20, 3, 2
_REQUEST_DUMP = 0x301
_INFO = 2
_STATES = 0xFFF & ~(1 << 6 | 1 << 10)  # neither TIME_WAIT nor LISTEN: these have no figures
_DESTROY_GROUPS = 0b101  # TCP over IPv4 and over IPv6
_HEADER, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=HH")
_BODY_BYTES = 72
_SEGMENTS_AT, _DATA_SEGMENTS_AT, _SENT_AT, _INFO_BYTES = 136, 156, 200, 216
_RECEIVE_BYTES = 1 << 18
_QUEUE_BYTES = 32 << 20  # destroyed sockets that wait to be read: 25,000 or so
_SO_RCVBUFFORCE = 33


@dataclass(frozen=True, slots=True)
class Ends:
    """The two ends of a connection, mapped IPv4 addresses as IPv4."""

    local: Address
    local_port: int
    remote: Address
    remote_port: int


Classify = Callable[[Ends], str]  # the class of a connection, empty for what is of no interest
_Seen = tuple[str, Tcp]


class TcpSockets:
    """``totals`` since this was made, by class. One thread at a time."""

    def __init__(self, classify: Classify) -> None:
        self._classify = classify
        self._ended: dict[str, Tcp] = {}
        self._live: dict[int, _Seen] = {}
        self._events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG)
        self._dumps = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG)
        self._start: dict[str, Tcp] = {}
        try:
            self._events.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _QUEUE_BYTES)
            self._events.bind((0, _DESTROY_GROUPS))
            self._events.setblocking(False)
            self._dumps.settimeout(5.0)
            self._start = self._sums()
        except OSError as error:
            self.close()
            raise PeerError(f"the kernel tells nothing of its TCP sockets: {error}") from error

    def close(self) -> None:
        self._events.close()
        self._dumps.close()

    def totals(self) -> dict[str, Tcp]:
        """Errors: ``OSError``, also where figures of ended sockets were lost."""
        return {
            name: _minus(tcp, self._start.get(name, Tcp())) for name, tcp in self._sums().items()
        }

    def _sums(self) -> dict[str, Tcp]:
        for family in (socket.AF_INET, socket.AF_INET6):
            for message in self._dump(family):
                self._see(message)
        self._take_ended()
        sums = dict(self._ended)
        for name, tcp in self._live.values():
            sums[name] = _plus(sums.get(name, Tcp()), tcp)
        return sums

    def _dump(self, family: int) -> Iterator[bytes]:
        body = struct.pack("=BBBBI48x", family, socket.IPPROTO_TCP, 1 << (_INFO - 1), 0, _STATES)
        header = _HEADER.pack(_HEADER.size + len(body), _BY_FAMILY, _REQUEST_DUMP, 1, 0)
        self._dumps.send(header + body)
        while True:
            for kind, message in _messages(self._dumps.recv(_RECEIVE_BYTES)):
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    raise OSError(-struct.unpack_from("=i", message)[0], "sock_diag failed")
                yield message

    def _see(self, message: bytes) -> None:
        cookie, seen = self._parse(message)
        if seen is not None:
            self._live[cookie] = seen

    def _take_ended(self) -> None:
        while True:
            try:
                data = self._events.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                return
            for _, message in _messages(data):
                cookie, seen = self._parse(message)
                last = self._live.pop(cookie, None) or seen
                if last is not None:  # its ends are gone by now if it was seen before
                    name, tcp = last[0], seen[1] if seen is not None else last[1]
                    self._ended[name] = _plus(self._ended.get(name, Tcp()), tcp)

    def _parse(self, message: bytes) -> tuple[int, _Seen | None]:
        family = message[0]
        local_port, remote_port = struct.unpack_from("!HH", message, 4)
        [cookie] = struct.unpack_from("=Q", message, 44)
        info = _info(message)
        if len(info) < _INFO_BYTES:
            return cookie, None
        known = self._live.get(cookie)
        local, remote = _address(family, message[8:24]), _address(family, message[24:40])
        name = known[0] if known else self._classify(Ends(local, local_port, remote, remote_port))
        if not name:
            return cookie, None
        headers = IPV4_HEADERS_BYTES if remote.version == 4 else IPV6_HEADERS_BYTES
        [counted] = struct.unpack_from("=I", info, _SEGMENTS_AT)
        [with_data] = struct.unpack_from("=I", info, _DATA_SEGMENTS_AT)
        before = known[1] if known else Tcp()
        segments = _unwrapped(before.segments, with_data)
        bare = _unwrapped(before.bare_segments, (counted - with_data) % (1 << 32))
        sent, repeated = struct.unpack_from("=QQ", info, _SENT_AT)
        sizes = (segments * headers, bare, bare * headers)
        return cookie, (name, Tcp(1, segments, sent, repeated, *sizes))


def _unwrapped(before: int, counted: int) -> int:
    """A count of which the kernel has 32 bits; an older one changes nothing."""
    step = (counted - before) % (1 << 32)
    return before + (step if step < 1 << 31 else 0)


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, at)
        yield kind, data[at + _HEADER.size : at + length]
        at += (max(length, _HEADER.size) + 3) & ~3


def _info(message: bytes) -> bytes:
    at = _BODY_BYTES
    while at + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, at)
        if kind == _INFO:
            return message[at + _ATTRIBUTE.size : at + length]
        at += (max(length, _ATTRIBUTE.size) + 3) & ~3
    return b""


def _address(family: int, raw: bytes) -> Address:
    if family == socket.AF_INET:
        return ipaddress.IPv4Address(raw[:4])
    address = ipaddress.IPv6Address(raw)
    return address.ipv4_mapped or address


def _plus(a: Tcp, b: Tcp) -> Tcp:
    return Tcp(
        a.connections + b.connections,
        a.segments + b.segments,
        a.sent_bytes + b.sent_bytes,
        a.retransmitted_bytes + b.retransmitted_bytes,
        a.header_bytes + b.header_bytes,
        a.bare_segments + b.bare_segments,
        a.bare_bytes + b.bare_bytes,
    )


def _minus(a: Tcp, b: Tcp) -> Tcp:
    return Tcp(
        a.connections - b.connections,
        a.segments - b.segments,
        a.sent_bytes - b.sent_bytes,
        a.retransmitted_bytes - b.retransmitted_bytes,
        a.header_bytes - b.header_bytes,
        a.bare_segments - b.bare_segments,
        a.bare_bytes - b.bare_bytes,
    )
