"""A host without a key: TCP by hand, from the edge's address, below its own kernel.

The outside machine's kernel knows nothing of these connections; its RST are dropped so that
they live. Everything that a frame may say is in the test's hands.
"""

from __future__ import annotations

import itertools
import socket
import struct
import time
from dataclasses import dataclass

from kernel.netns import DEVICE, GATE, OUTSIDE, Machine

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
PORTS = (50_000, 59_999)
_SILENCE = (
    f'table netdev silence {{\n chain egress {{\n type filter hook egress device "{DEVICE}" '
    f"priority 0; policy accept;\n tcp sport {PORTS[0]}-{PORTS[1]} tcp flags & rst != 0 "
    "meta mark != 7 drop\n }\n}\n"
)
_SO_MARK = 36


def _sum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@dataclass
class Half:
    """A connection as the stranger sees it: next number of its own, next that it expects."""

    sport: int
    seq: int
    ack: int = 0


class Stranger:
    def __init__(self, gate: Machine, outside: Machine, port: int) -> None:
        self._port = port
        self._ports = itertools.count(PORTS[0])
        outside.nft(_SILENCE)
        macs = [m.run("cat", f"/sys/class/net/{DEVICE}/address").strip() for m in (gate, outside)]
        self._ethernet = b"".join(bytes.fromhex(mac.replace(":", "")) for mac in macs)

        def raw() -> socket.socket:
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
            sock.bind((DEVICE, 0x0800))
            sock.setsockopt(socket.SOL_SOCKET, _SO_MARK, 7)
            sock.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
            return sock

        self._socket: socket.socket = outside.within(raw)

    def close(self) -> None:
        self._socket.close()

    def ip(self, protocol: int, body: bytes, *, options: bytes = b"", fragment: int = 0) -> None:
        head = struct.pack(
            "!BBHHHBBH4s4s",
            0x40 | (20 + len(options)) // 4,
            0,
            20 + len(options) + len(body),
            77,
            fragment,
            64,
            protocol,
            0,
            socket.inet_aton(OUTSIDE),
            socket.inet_aton(GATE),
        )
        check = struct.pack("!H", _sum(head + options))
        head = head[:10] + check + head[12:] + options
        self._socket.send(self._ethernet + b"\x08\x00" + head + body)

    def tcp(
        self,
        half: Half,
        flags: int,
        payload: bytes = b"",
        *,
        seq: int | None = None,
        window: int = 65_000,
        options: bytes = b"",
        ip_options: bytes = b"",
    ) -> None:
        body = self.segment(half, flags, payload, seq=seq, window=window, options=options)
        self.ip(6, body, options=ip_options)

    def segment(
        self,
        half: Half,
        flags: int,
        payload: bytes = b"",
        *,
        seq: int | None = None,
        window: int = 65_000,
        options: bytes = b"",
    ) -> bytes:
        words = (20 + len(options)) // 4
        number = (half.seq if seq is None else seq) & 0xFFFFFFFF
        head = struct.pack(
            "!HHIIBBHHH",
            half.sport,
            self._port,
            number,
            half.ack if flags & ACK else 0,
            words << 4,
            flags,
            window,
            0,
            0,
        )
        body = head + options + payload
        pseudo = socket.inet_aton(OUTSIDE) + socket.inet_aton(GATE)
        check = _sum(pseudo + struct.pack("!BBH", 0, 6, len(body)) + body)
        return body[:16] + struct.pack("!H", check) + body[18:]

    def open(self, *, finish: bool = True, ip_options: bytes = b"", window: int = 65_000) -> Half:
        """A connection; without ``finish`` a half-open one. Where no SYN-ACK comes, as it is."""
        half = Half(next(self._ports), 1000)
        self.tcp(half, SYN, ip_options=ip_options, window=window)
        half.seq += 1
        answer = self.hear(half, SYN | ACK)
        if answer is not None:
            half.ack = answer[0] + 1 & 0xFFFFFFFF
            if finish:
                self.tcp(half, ACK, ip_options=ip_options, window=window)
        return half

    def hear(self, half: Half, flags: int, timeout_s: float = 2.0) -> tuple[int, bytes] | None:
        """Sequence number and payload of the next segment to ``half`` with these flags."""
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                frame = self._socket.recv(1 << 16)
            except TimeoutError:
                return None
            if frame[6:12] != self._ethernet[:6] or frame[23] != 6:
                continue
            at = 14 + (frame[14] & 15) * 4
            [target] = struct.unpack_from("!H", frame, at + 2)
            if target == half.sport and frame[at + 13] & flags == flags:
                [seq] = struct.unpack_from("!I", frame, at + 4)
                [length] = struct.unpack_from("!H", frame, 16)
                return seq, frame[at + (frame[at + 12] >> 4) * 4 : 14 + length]
        return None
