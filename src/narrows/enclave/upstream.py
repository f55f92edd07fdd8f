"""Strong model behind any OpenAI-compatible server, streamed.

Whatever the server does, the answer ends in bounded time and memory:

    refuses, 5xx before the answer        UPSTREAM_REFUSED
    429, 503                              OVERLOADED
    says that the prompt is too long      PROMPT_TOO_LONG
    401 to 405, 407, a redirect           INTERNAL: an operator must act, no client can
    other 4xx                             UPSTREAM_REJECTED
    silent longer than a limit            UPSTREAM_SLOW
    closes without a finish reason, or
    with one that is not known            UPSTREAM_BROKE
    not an event stream, not JSON, no
    event, tool calls that do not fit,
    a line or an answer over its limit    UPSTREAM_MALFORMED

Its words in an error never leave: only the code does. They are in the enclave's log.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import aiohttp

from narrows.coding.events import Coding, Event, Failed, Failure, Opened
from narrows.enclave.backend import BackendRequest
from narrows.enclave.chunks import ChunkReader, ServerError
from narrows.enclave.config import UpstreamConfig
from narrows.enclave.refusal import failure_of
from narrows.enclave.sse import EventReader, Malformed
from narrows.models.api import Tokenizer

log = logging.getLogger("narrows.enclave.upstream")

MAX_WORDS_BYTES = 4096  # of an error, read and logged

_PASSED = (
    "messages",
    "temperature",
    "top_p",
    "stop",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "reasoning_effort",
    "presence_penalty",
    "frequency_penalty",
)


class UpstreamBackend:
    """Backend over HTTP. One connection pool; any number of answers at once."""

    def __init__(self, config: UpstreamConfig) -> None:
        self._config = config
        self._session: aiohttp.ClientSession | None = None

    @property
    def tokenizer(self) -> Tokenizer | None:
        """None: a server sends text."""
        return None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def generate(self, request: BackendRequest) -> AsyncGenerator[Event, None]:
        """The events of one answer; see the module's table for how failures end it."""
        opened = False
        try:
            async with contextlib.aclosing(self._stream(request.body)) as events:
                async for event in events:
                    if not opened:
                        opened = True
                        yield Opened(Coding.TEXT)
                    yield event
            return
        except Malformed as error:
            failure = Failure.UPSTREAM_MALFORMED
            log.warning("the strong model's server sent a malformed answer: %s", error)
        except TimeoutError:
            failure = Failure.UPSTREAM_SLOW
            log.warning("the strong model's server was too slow")
        except ServerError as error:
            failure = error.failure
            log.warning("the strong model's server failed: %.500r", str(error))
        except (aiohttp.ClientError, OSError) as error:
            failure = Failure.UPSTREAM_BROKE if opened else Failure.UPSTREAM_REFUSED
            log.warning("the strong model's server: %s", error)
        if not opened:
            yield Opened(Coding.TEXT)
        yield Failed(failure)

    async def _stream(self, body: Mapping[str, Any]) -> AsyncGenerator[Event, None]:
        # No timeout may stay open across a yield: it would cancel whoever consumes the events.
        config = self._config
        loop = asyncio.get_running_loop()
        deadline = loop.time() + config.answer_timeout_s
        answer = ChunkReader(config.max_answer_bytes)
        async with asyncio.timeout(config.first_token_timeout_s):
            response = await self._client().post(
                config.url.rstrip("/") + "/chat/completions",
                data=self._request_bytes(body),
                allow_redirects=False,
            )
        try:
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
            async with contextlib.aclosing(_payloads(response.content, config, deadline)) as all_:
                async for payload in all_:
                    if payload.strip() == b"[DONE]":
                        break
                    for event in answer.chunk(payload):
                        yield event
        finally:
            response.close()  # not release: an answer given up must stop at the server
        last = answer.end()
        if not last:
            raise aiohttp.ClientPayloadError("the stream ended without a finish reason")
        for event in last:
            yield event

    def _request_bytes(self, body: Mapping[str, Any]) -> bytes:
        sent = {key: body[key] for key in _PASSED if body.get(key) is not None}
        sent["model"] = self._config.model
        sent["stream"] = True
        sent["stream_options"] = {"include_usage": True}
        if body.get("max_tokens") is not None:
            sent["max_tokens"] = body["max_tokens"]
        if body.get("seed") is not None:
            sent["seed"] = body["seed"]
        return json.dumps(sent).encode("ascii")

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


async def _payloads(
    content: aiohttp.StreamReader, config: UpstreamConfig, deadline: float
) -> AsyncGenerator[bytes, None]:
    """Data of the stream's events, bounded in size and in the time that each and all may take."""
    loop = asyncio.get_running_loop()
    events = EventReader(config.max_line_bytes)
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
