"""Peers that a test makes up: what a connection gets is what a function does to its socket."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def listening(answer: Callable[[socket.socket], object]) -> Iterator[str]:
    """A server for whose connections ``answer(socket)`` is called; its URL."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            answer(self.request)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """The client hung up: that is what is tested."""

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def read_request(client: socket.socket) -> bytes:
    """A whole request. ``ConnectionError`` where the client ends before: a server's thread that
    read on would spin for as long as the process lives."""
    data = bytearray()
    while b"\r\n\r\n" not in data:
        data += _some(client)
    head, _, rest = bytes(data).partition(b"\r\n\r\n")
    body = bytearray(rest)
    (length,) = (
        int(x[15:]) for x in head.split(b"\r\n") if x.lower().startswith(b"content-length")
    )
    while len(body) < length:
        body += _some(client)
    return head + b"\r\n\r\n" + bytes(body)


def _some(client: socket.socket) -> bytes:
    if data := client.recv(65_536):
        return data
    raise ConnectionError("the client hung up")
