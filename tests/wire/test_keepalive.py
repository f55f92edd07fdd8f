"""The options that both ends of a link give to their sockets."""

from __future__ import annotations

import socket

from narrows.wire.keepalive import set_options


def test_a_vanished_peer_ends_the_connection_when_it_is_said_to() -> None:
    with socket.socket() as sock:
        set_options(sock, 10, 3)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        assert [sock.getsockopt(socket.IPPROTO_TCP, name) for name in names] == [10, 5, 3]
