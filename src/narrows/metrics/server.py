"""The exporter's listener: ``GET /metrics``, answered with what was sampled last.

A scrape makes nothing be read. Strangers cost at most ``MAX_CALLS`` sockets, a header of
``MAX_HEAD_BYTES`` and ``CALL_S`` each.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import math
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from narrows.errors import PeerError
from narrows.metrics.enclave import EnclaveFigures
from narrows.metrics.exposition import CONTENT_TYPE
from narrows.metrics.sampler import Sampler

log = logging.getLogger("narrows.metrics")
PATH = "/metrics"
MAX_CALLS = 16
MAX_HEAD_BYTES = 8192
CALL_S = 5.0
_NAMES = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 503: "Busy"}


class MetricsServer:
    """Answers for ``body()``; ``token``: what a scrape has to bring, empty for nothing."""

    def __init__(self, body: Callable[[], bytes], token: str = "") -> None:
        self._body, self._token = body, token
        self._calls = 0

    async def listen(self, host: str, port: int) -> asyncio.Server:
        """Raises PeerError where that cannot be."""
        try:
            return await asyncio.start_server(self._called, host, port, limit=MAX_HEAD_BYTES)
        except OSError as error:
            raise PeerError(
                f"cannot listen on {host}:{port}: {error.strerror or error}",
                "say another --listen, or listen in [metrics]",
            ) from error

    async def _called(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._calls += 1
        try:
            async with asyncio.timeout(CALL_S):
                if self._calls > MAX_CALLS:
                    writer.write(_reply(503, b"too many calls\n"))
                else:
                    writer.write(await self._answer(reader))
                await writer.drain()
                writer.write_eof()
                await reader.read(1)
        except (TimeoutError, OSError):
            pass  # a stranger's loss
        finally:
            self._calls -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return _reply(400, b"no HTTP request\n")
        first, *rows = head.decode("latin-1").split("\r\n")
        method, _, rest = first.partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        headers = {name.strip().lower(): text.strip() for name, _, text in map(_halves, rows)}
        if not self._allows(headers.get("authorization", "")):
            return _reply(401, b"a bearer token is needed\n", "WWW-Authenticate: Bearer\r\n")
        if method not in ("GET", "HEAD") or path != PATH:
            return _reply(404, b"GET /metrics\n")
        return _reply(200, self._body(), kind=CONTENT_TYPE, headed=method == "HEAD")

    def _allows(self, said: str) -> bool:
        kind, _, token = said.partition(" ")
        brought = token.strip().encode("latin-1") if kind.lower() == "bearer" else b""
        return not self._token or hmac.compare_digest(brought, self._token.encode())


def _halves(row: str) -> tuple[str, str, str]:
    return row.partition(":")


def _reply(
    status: int, body: bytes, extra: str = "", kind: str = "text/plain", headed: bool = False
) -> bytes:
    head = (
        f"HTTP/1.1 {status} {_NAMES[status]}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n{extra}\r\n"
    )
    return head.encode() + (b"" if headed else body)


async def export(
    sampler: Sampler,
    address: tuple[str, int],
    sample_s: float,
    say: Callable[[int], None],
    token: str = "",
    enclave: EnclaveFigures | None = None,
) -> None:
    """Sample and answer until SIGTERM or SIGINT. ``say`` hears the port once it listens. Raises
    PeerError."""
    over, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    with ThreadPoolExecutor(1, thread_name_prefix="sample") as reader:  # its database knows one
        await loop.run_in_executor(reader, sampler.sample)
        server = await MetricsServer(lambda: sampler.body, token).listen(*address)
        following = asyncio.create_task(enclave.follow()) if enclave is not None else None
        say(int(server.sockets[0].getsockname()[1]))
        next_s = loop.time()
        try:
            while not over.is_set():
                # A sample that took too long leaves moments out, it does not move them.
                next_s += sample_s * max(1, math.ceil((loop.time() - next_s) / sample_s))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(next_s):
                        await over.wait()
                if following is not None and following.done():
                    following.result()  # a bug ends the exporter
                if not over.is_set():
                    await loop.run_in_executor(reader, sampler.sample)
        finally:
            if following is not None:
                following.cancel()
            server.close()
