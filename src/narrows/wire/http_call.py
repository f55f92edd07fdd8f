"""One HTTP/1.1 request to a peer that may answer anything, or never, under one deadline.

The deadline covers connecting, TLS, sending and the answer's last byte, interim answers (1xx)
included; only looking a name up has the resolver's own. It is looked at before every wait, so a
peer that sends a byte a second holds a thread no longer than a silent one. Heads, interim
answers and bodies are bounded while they are read.

The standard library's client is not used: its timeout is one of each read, it reads interim
answers without end, takes 6 MB of headers, and a negative chunk size as "until the end".
"""

from __future__ import annotations

import re
import select
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import urlsplit

from narrows.wire.address import shown_address

MAX_HEAD_BYTES = 1 << 14  # of all heads and trailers of one answer together
MAX_INTERIM_ANSWERS = 8
MAX_CHUNK_LINE_BYTES = 256
_READ_BYTES = 1 << 16
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [^\r\n]*)?")
_HEADER = re.compile(rb"([!#-'*+.0-9A-Z^-z|~-]{1,100}):([^\r\n\0]*)")
_LENGTH = re.compile(rb"[0-9]{1,12}")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?")


class CallError(Exception):
    """The peer is away or late, or what it sent is no answer that is taken here."""


@dataclass(frozen=True, slots=True)
class HttpReply:
    """``status``: 200..599."""

    status: int
    body: bytes


class Connection:
    """A connection to one peer, to be used for one call after the other; not thread-safe.
    ``deadline``: in ``time.monotonic`` seconds, here and in ``post``. Errors: ``CallError``;
    after one the connection is of no further use."""

    def __init__(
        self, host: str, port: int, deadline: float, tls: ssl.SSLContext | None = None
    ) -> None:
        self._host = shown_address(host, port)
        self._usable = True
        self._buffer = bytearray()
        try:
            sock = _connect(host, port, deadline)
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if tls is not None:
                    sock.settimeout(_left_s(deadline))
                    sock = tls.wrap_socket(sock, server_hostname=host)
            except BaseException:
                sock.close()
                raise
        except (OSError, ValueError) as error:
            raise CallError(_said(error)) from error
        self._sock = sock

    def gone(self) -> bool:
        """Whether the peer closed it, wants no further request, or spoke without being asked."""
        if not self._usable or self._buffer:
            return True
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(0))

    def post(
        self,
        path: str,
        body: bytes,
        content_type: str,
        max_bytes: int,
        deadline: float,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> HttpReply:
        """Send ``body``, read the answer, whose body has at most ``max_bytes``."""
        more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: {content_type}\r\n"
            f"{more}Content-Length: {len(body)}\r\n\r\n"
        )
        usable, self._usable = self._usable, False  # until the answer is there as a whole
        if not usable:
            raise CallError("the connection was given up")
        try:
            view = memoryview(head.encode("ascii") + body)
            while view:
                self._sock.settimeout(_left_s(deadline))
                view = view[self._sock.send(view) :]
            return self._answer(max_bytes, deadline)
        except (OSError, ValueError) as error:
            raise CallError(_said(error)) from error

    def close(self) -> None:
        self._usable = False
        self._sock.close()

    def _answer(self, max_bytes: int, deadline: float) -> HttpReply:
        left_bytes = MAX_HEAD_BYTES
        for _ in range(1 + MAX_INTERIM_ANSWERS):
            line = self._line(left_bytes, deadline)
            left_bytes -= len(line) + 2
            found = _STATUS.fullmatch(line)
            if found is None:
                raise CallError("the answer is no HTTP")
            status = int(found[2])
            headers, left_bytes = self._headers(left_bytes, deadline)
            if status >= 200:
                keeps = found[1] == b"1" and headers.get(b"connection", b"").lower() != b"close"
                body, whole = self._body(status, headers, max_bytes, left_bytes, deadline)
                self._usable = keeps and whole
                return HttpReply(status, body)
            if status == 101:
                break
        raise CallError("interim answers, and no final one")

    def _headers(self, left_bytes: int, deadline: float) -> tuple[dict[bytes, bytes], int]:
        """By lower-case name, up to the blank line; and how many bytes of heads are left."""
        headers: dict[bytes, bytes] = {}
        while line := self._line(left_bytes, deadline):
            left_bytes -= len(line) + 2
            found = _HEADER.fullmatch(line)
            if found is None:
                raise CallError("the answer has a malformed header")
            name = found[1].lower()
            if name in headers and name in (b"content-length", b"transfer-encoding"):
                raise CallError("the answer has two lengths")
            headers[name] = found[2].strip(b" \t")
        return headers, left_bytes - 2

    def _body(
        self,
        status: int,
        headers: dict[bytes, bytes],
        max_bytes: int,
        left_bytes: int,
        deadline: float,
    ) -> tuple[bytes, bool]:
        """The body, and whether the connection goes on after it."""
        coding, length = headers.get(b"transfer-encoding"), headers.get(b"content-length")
        if status in (204, 304):
            return b"", coding is None and length in (None, b"0")
        if coding is not None:
            if coding.lower() != b"chunked" or length is not None:
                raise CallError("the answer has an unknown coding")
            return self._chunks(max_bytes, left_bytes, deadline), True
        if length is not None:
            if _LENGTH.fullmatch(length) is None:
                raise CallError("the answer's length is no number")
            if int(length) > max_bytes:
                raise CallError("the answer is too long")
            return self._exactly(int(length), deadline), True
        while self._fill(deadline):
            if len(self._buffer) > max_bytes:
                raise CallError("the answer is too long")
        return self._take(len(self._buffer)), False

    def _chunks(self, max_bytes: int, left_bytes: int, deadline: float) -> bytes:
        body = bytearray()
        while True:
            found = _CHUNK.fullmatch(self._line(MAX_CHUNK_LINE_BYTES, deadline))
            if found is None:
                raise CallError("the answer has a malformed chunk")
            size = int(found[1], 16)
            if not size:
                self._headers(left_bytes, deadline)  # trailers: nothing here asks for them
                return bytes(body)
            if len(body) + size > max_bytes:
                raise CallError("the answer is too long")
            body += self._exactly(size, deadline)
            if self._exactly(2, deadline) != b"\r\n":
                raise CallError("the answer has a malformed chunk")

    def _line(self, max_bytes: int, deadline: float) -> bytes:
        """Without its end."""
        seen = 0
        while (end := self._buffer.find(b"\r\n", max(0, seen - 1))) < 0:
            seen = len(self._buffer)
            if seen >= max_bytes:
                break
            if not self._fill(deadline):
                raise CallError("the connection ended within an answer")
        if not 0 <= end <= max_bytes - 2:
            raise CallError("the answer's head is too long")
        line = self._take(end)
        self._take(2)
        return line

    def _exactly(self, count: int, deadline: float) -> bytes:
        while len(self._buffer) < count:
            if not self._fill(deadline):
                raise CallError("the connection ended within an answer")
        return self._take(count)

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def _fill(self, deadline: float) -> bool:
        """Wait for more; False at the end. ``TimeoutError`` at the deadline, however much came."""
        self._sock.settimeout(_left_s(deadline))
        more = self._sock.recv(_READ_BYTES)
        self._buffer += more
        return bool(more)


def is_web(url: str) -> bool:
    """Whether ``post_json`` can be asked to go there."""
    if not url.isascii() or not url.isprintable() or " " in url:
        return False
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname)
        return fits and parts.port != 0 and parts.username is None
    except ValueError:
        return False


def post_json(
    url: str, body: bytes, max_bytes: int, deadline: float, headers: Mapping[str, str]
) -> HttpReply:
    """One call to a URL that ``is_web``. Errors: ``CallError``."""
    parts = urlsplit(url)
    tls = ssl.create_default_context() if parts.scheme == "https" else None
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    port = parts.port or (443 if tls else 80)
    connection = Connection(parts.hostname or "", port, deadline, tls)
    try:
        return connection.post(path, body, "application/json", max_bytes, deadline, headers)
    finally:
        connection.close()


def printable(text: str, max_chars: int) -> str:
    """What a peer said, fit for a terminal and a log: no control characters, bounded."""
    return "".join(c if c.isprintable() else "?" for c in text[:max_chars])


def _connect(host: str, port: int, deadline: float) -> socket.socket:
    """To the first of the host's addresses that answers; each gets its share of the time."""
    failed: OSError = OSError("no address")
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(_left_s(deadline) / (len(addresses) - number))
            sock.connect(address)
        except OSError as error:
            sock.close()
            failed = error
        else:
            return sock
    raise failed


def _left_s(deadline: float) -> float:
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("no answer in time")
    return left_s


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
