"""The options of a link's sockets, on both of its ends."""

from __future__ import annotations

import socket

INTERVAL_S = 5


def set_options(sock: socket.socket, idle_s: int, probes: int) -> None:
    """A peer that vanished ends the connection ``idle_s + probes * INTERVAL_S`` after its last
    sign of life. No delay: whoever writes here has gathered already."""
    for level, option, value in (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle_s),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, INTERVAL_S),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, probes),
    ):
        sock.setsockopt(level, option, value)
