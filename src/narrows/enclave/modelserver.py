"""One model server: requests to it, its streams within their bounds, its failures as codes.

Whatever the server does, an answer ends in bounded time and memory:

    refuses, 5xx before the answer        UPSTREAM_REFUSED
    429, 503                              OVERLOADED
    says that the prompt is too long      PROMPT_TOO_LONG
    401 to 405, 407, a redirect           INTERNAL: an operator must act, no client can
    other 4xx                             UPSTREAM_REJECTED
    silent longer than a limit            UPSTREAM_SLOW
    closes without a finish reason, or
    with one that is not known            UPSTREAM_BROKE
    not an event stream, not JSON, no
    event, what does not fit its API,
    a line or an answer over its limit    UPSTREAM_MALFORMED

Its words in an error never leave: only the code does. They are in the enclave's log.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Protocol

import aiohttp

from narrows.coding.events import OWN_NOISE, Coding, Event, Failed, Failure, Noise, Opened
from narrows.enclave.chunks import ServerError
from narrows.enclave.config import UpstreamConfig
from narrows.enclave.refusal import failure_of
from narrows.enclave.sse import EventReader, Malformed

log = logging.getLogger("narrows.enclave.upstream")

MAX_WORDS_BYTES = 4096  # of an error, read and logged
MAX_JSON_BYTES = 1 << 20


class Reader(Protocol):
    """One answer's chunks in order, as events."""

    @property
    def stopped(self) -> bool:
        """Whether nothing that may follow is read."""

    def chunk(self, payload: bytes) -> list[Event]:
        """Raises ``Malformed`` and ``ServerError``."""

    def end(self) -> list[Event]:
        """The last ones; none where the server did not say how it ends. Raises the same."""


class ModelServer:
    """One connection pool; any number of requests at once."""

    def __init__(self, config: UpstreamConfig) -> None:
        self._config = config
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def payloads(
        self, path: str, body: bytes, *, line_bytes: int = 0, beside: bool = False
    ) -> AsyncGenerator[bytes, None]:
        """The data of the events that ``path`` streams for ``body``, up to ``[DONE]``. Closing the
        generator closes the connection, which stops the answer at the server. ``line_bytes``:
        a longer line than the configured one is taken. ``beside``: ``path`` is beside ``/v1``,
        not under it. Raises what ``failure_in`` knows."""
        # No timeout may stay open across a yield: it would cancel whoever consumes the events.
        config = self._config
        loop = asyncio.get_running_loop()
        deadline = loop.time() + config.answer_timeout_s
        base = config.url.rstrip("/")
        base = base.removesuffix("/v1") if beside else base
        async with asyncio.timeout(config.first_token_timeout_s):
            response = await self._client().post(base + path, data=body, allow_redirects=False)
        try:
            await _check(response)
            limit = max(config.max_line_bytes, line_bytes)
            all_ = _payloads(response.content, config, limit, deadline)
            async with contextlib.aclosing(all_):
                async for payload in all_:
                    if payload.strip() == b"[DONE]":
                        break
                    yield payload
        finally:
            response.close()  # not release: an answer given up must stop at the server

    async def events(
        self, path: str, body: bytes, reader: Reader, *, line_bytes: int = 0, beside: bool = False
    ) -> AsyncGenerator[Event, None]:
        """``payloads`` as ``reader`` reads them, to the answer's end or where it has stopped."""
        async with contextlib.aclosing(
            self.payloads(path, body, line_bytes=line_bytes, beside=beside)
        ) as payloads:
            async for payload in payloads:
                for event in reader.chunk(payload):
                    yield event
                if reader.stopped:
                    break  # closing the connection ends the answer at the server
        last = reader.end()
        if not last:
            raise aiohttp.ClientPayloadError("the stream ended without a finish reason")
        for event in last:
            yield event

    async def ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The JSON that ``path`` gives; None where it gives none. With a ``body`` it is posted,
        beside the API (``/tokenize``), not under it. Raises what ``failure_in`` knows."""
        base = self._config.url.rstrip("/")
        url = base + path if body is None else base.removesuffix("/v1") + path
        data = None if body is None else json.dumps(body).encode("ascii")
        async with asyncio.timeout(self._config.first_token_timeout_s):
            async with self._client().request(
                "GET" if body is None else "POST", url, data=data, allow_redirects=False
            ) as response:
                said = b""
                while len(said) <= MAX_JSON_BYTES and (part := await response.content.readany()):
                    said += part
        if response.status != 200 or len(said) > MAX_JSON_BYTES:
            return None
        try:
            return json.loads(said)
        except (ValueError, RecursionError):
            return None

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            headers = {
                "Content-Type": "application/json",
                "Accept": "text/event-stream",
                "Accept-Encoding": "identity",
            }
            if self._config.api_key:
                headers["Authorization"] = f"Bearer {self._config.api_key}"
            self._session = aiohttp.ClientSession(
                headers=headers,
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=self._config.connect_timeout_s
                ),
                read_bufsize=1 << 16,
                auto_decompress=False,
                # An answer follows no redirect to elsewhere and obeys no proxy variable.
                trust_env=False,
            )
        return self._session


async def answered(
    stream: AsyncGenerator[Event, None], coding: Coding, noise: Noise = OWN_NOISE
) -> AsyncGenerator[Event, None]:
    """``stream`` as an answer: opened before its first event, unless it does that itself, and
    ended with a code where it fails. Closes it."""
    opened = False
    try:
        async with contextlib.aclosing(stream):
            async for event in stream:
                if not opened and not isinstance(event, Opened):
                    yield Opened(coding, noise)
                opened = True
                yield event
        return
    except (Malformed, TimeoutError, ServerError, aiohttp.ClientError, OSError) as error:
        failure = failure_in(error, opened)
    if not opened:
        yield Opened(coding, noise)
    yield Failed(failure)


def failure_in(error: Exception, opened: bool) -> Failure:
    """The code for what a request to the server raised, with a line in the log. ``opened``:
    whether something of its answer had come."""
    if isinstance(error, Malformed):
        log.warning("the strong model's server sent a malformed answer: %s", error)
        return Failure.UPSTREAM_MALFORMED
    if isinstance(error, TimeoutError):
        log.warning("the strong model's server was too slow")
        return Failure.UPSTREAM_SLOW
    if isinstance(error, ServerError):
        log.warning("the strong model's server failed: %.500r", str(error))
        return error.failure
    log.warning("the strong model's server: %s", error)
    return Failure.UPSTREAM_BROKE if opened else Failure.UPSTREAM_REFUSED


async def _check(response: aiohttp.ClientResponse) -> None:
    if response.status != 200:
        words = await _words(response)
        failure = failure_of(response.status, words)
        raise ServerError(failure, f"status {response.status}: {words}")
    if response.content_type != "text/event-stream":
        words = await _words(response)
        raise Malformed(f"content type {response.content_type}: {words[:500]!r}")
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise Malformed(f"content encoding {encoding[:40]!r}, which was not asked for")


async def _payloads(
    content: aiohttp.StreamReader, config: UpstreamConfig, line_bytes: int, deadline: float
) -> AsyncGenerator[bytes, None]:
    """Data of the stream's events, bounded in size and in the time that each and all may take."""
    loop = asyncio.get_running_loop()
    events = EventReader(line_bytes)
    limit_s = config.first_token_timeout_s
    while True:
        async with asyncio.timeout(min(limit_s, deadline - loop.time())):
            data = await content.readany()
        if not data:
            break
        limit_s = config.token_timeout_s
        for event in events.feed(data):
            yield event
    for event in events.finish():
        yield event


async def _words(response: aiohttp.ClientResponse) -> str:
    """The start of an error's text, for its meaning and the log; what does not come soon is not
    waited for."""
    words = b""
    with contextlib.suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(5.0):
            while len(words) < MAX_WORDS_BYTES:
                data = await response.content.readany()
                if not data:
                    break
                words += data
    return words[:MAX_WORDS_BYTES].decode("utf-8", "replace")
