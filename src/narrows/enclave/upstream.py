"""Strong model behind any OpenAI-compatible server, streamed.

Whatever the server does, the answer ends in bounded time and memory:

    refuses, 5xx before the answer        UPSTREAM_REFUSED
    429, 503                              OVERLOADED
    other 4xx                             UPSTREAM_REJECTED
    silent longer than a limit            UPSTREAM_SLOW
    closes without a finish reason        UPSTREAM_BROKE
    not an event stream, not JSON,
    a line or an answer over its limit    UPSTREAM_MALFORMED

Its words in an error never leave: only the code does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import aiohttp

from narrows.coding.events import (
    Channel,
    Coding,
    Event,
    Failed,
    Failure,
    Finish,
    Finished,
    Opened,
    Switch,
    Text,
    Usage,
)
from narrows.enclave.backend import BackendRequest
from narrows.enclave.config import UpstreamConfig
from narrows.errors import LinkError
from narrows.models.api import Tokenizer
from narrows.wire.lines import LineSplitter

log = logging.getLogger("narrows.enclave.upstream")

MAX_TOKEN_COUNT = 1 << 24  # bound on the usage figures we believe

_FINISH = {
    "stop": Finish.STOP,
    "length": Finish.LENGTH,
    "tool_calls": Finish.TOOL_CALLS,
    "function_call": Finish.TOOL_CALLS,
    "content_filter": Finish.CONTENT_FILTER,
}
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


class _Malformed(Exception):
    """The server's stream is not what it must be."""


class _Answer:
    """Turns one server's chunks into events; holds the state between chunks."""

    def __init__(self, max_answer_bytes: int) -> None:
        self._left_bytes = max_answer_bytes
        self._channel = Channel.CONTENT
        self._tool = -1
        self.finish: Finish | None = None
        self.usage: Usage | None = None

    def chunk(self, payload: bytes) -> list[Event]:
        try:
            data = json.loads(payload)
        except (ValueError, RecursionError) as error:
            raise _Malformed("a chunk is not JSON") from error
        if not isinstance(data, dict):
            raise _Malformed("a chunk is not an object")
        if "error" in data:
            raise _Malformed("an error inside the stream")
        self._read_usage(data.get("usage"))
        choices = data.get("choices") or []
        if not isinstance(choices, list) or len(choices) > 1:
            raise _Malformed("more than one choice")
        events: list[Event] = []
        for choice in choices:
            if not isinstance(choice, dict):
                raise _Malformed("a choice is not an object")
            delta = choice.get("delta") or {}
            if not isinstance(delta, dict):
                raise _Malformed("a delta is not an object")
            events += self._delta(delta)
            reason = choice.get("finish_reason")
            if reason is not None:
                self.finish = _FINISH.get(str(reason), Finish.STOP)
        return events

    def _delta(self, delta: Mapping[str, Any]) -> list[Event]:
        events: list[Event] = []
        reasoning = delta.get("reasoning_content") or delta.get("reasoning")
        events += self._text(Channel.REASONING, reasoning)
        events += self._text(Channel.CONTENT, delta.get("content"))
        events += self._text(Channel.REFUSAL, delta.get("refusal"))
        calls = delta.get("tool_calls") or []
        if not isinstance(calls, list):
            raise _Malformed("tool_calls is not a list")
        for call in calls:
            events += self._tool_call(call)
        return events

    def _tool_call(self, call: object) -> list[Event]:
        if not isinstance(call, dict):
            raise _Malformed("a tool call is not an object")
        index = call.get("index", self._tool)
        function = call.get("function") or {}
        if not isinstance(function, dict) or not isinstance(index, int):
            raise _Malformed("a tool call without an index")
        events: list[Event] = []
        if index == self._tool + 1:
            self._tool = index
            self._channel = Channel.TOOL_NAME
            events.append(Switch(Channel.TOOL_NAME))
            events += self._text(Channel.TOOL_NAME, function.get("name"))
        elif index != self._tool or index < 0:
            raise _Malformed("tool calls out of order")
        events += self._text(Channel.TOOL_ARGUMENTS, function.get("arguments"))
        return events

    def _text(self, channel: Channel, value: object) -> list[Event]:
        if value is None or value == "":
            return []
        if not isinstance(value, str):
            raise _Malformed("text is not a string")
        data = value.encode("utf-8", "surrogatepass")
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            raise _Malformed("the answer is longer than the limit")
        if channel == self._channel:
            return [Text(data)]
        self._channel = channel
        return [Switch(channel), Text(data)]

    def _read_usage(self, usage: object) -> None:
        if not isinstance(usage, dict):
            return
        counts = [usage.get("prompt_tokens"), usage.get("completion_tokens")]
        if all(isinstance(n, int) and 0 <= n <= MAX_TOKEN_COUNT for n in counts):
            self.usage = Usage(int(counts[0] or 0), int(counts[1] or 0))


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
        except _Malformed as error:
            failure = Failure.UPSTREAM_MALFORMED
            log.warning("the strong model's server sent a malformed answer: %s", error)
        except TimeoutError:
            failure = Failure.UPSTREAM_SLOW
            log.warning("the strong model's server was too slow")
        except aiohttp.ClientResponseError as error:
            failure = _status_failure(error.status)
            log.warning("the strong model's server answered %d", error.status)
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
        answer = _Answer(config.max_answer_bytes)
        async with asyncio.timeout(config.first_token_timeout_s):
            response = await self._client().post(
                config.url.rstrip("/") + "/chat/completions",
                data=self._request_bytes(body),
                allow_redirects=False,
            )
        try:
            if response.status != 200:
                raise aiohttp.ClientResponseError(
                    response.request_info, (), status=response.status, message="refused"
                )
            if response.content_type != "text/event-stream":
                raise _Malformed(f"content type {response.content_type}")
            async with contextlib.aclosing(_lines(response.content, config, deadline)) as lines:
                async for line in lines:
                    payload = line[5:].strip() if line.startswith(b"data:") else b""
                    if payload == b"[DONE]":
                        break
                    if payload:
                        for event in answer.chunk(payload):
                            yield event
        finally:
            response.close()  # not release: an answer given up must stop at the server
        if answer.finish is None:
            raise aiohttp.ClientPayloadError("the stream ended without a finish reason")
        if answer.usage is not None:
            yield answer.usage
        yield Finished(answer.finish)

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
            headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
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


async def _lines(
    content: aiohttp.StreamReader, config: UpstreamConfig, deadline: float
) -> AsyncGenerator[bytes, None]:
    """Lines of the stream, bounded in length and in the time that each and all may take."""
    loop = asyncio.get_running_loop()
    splitter = LineSplitter(config.max_line_bytes)
    limit_s = config.first_token_timeout_s
    while True:
        async with asyncio.timeout(min(limit_s, deadline - loop.time())):
            data = await content.readany()
        if not data:
            return
        limit_s = config.token_timeout_s
        try:
            lines = splitter.feed(data)
        except LinkError as error:
            raise _Malformed(error.message) from error
        for line in lines:
            yield line.rstrip(b"\r")


def _status_failure(status: int) -> Failure:
    if status in (429, 503):
        return Failure.OVERLOADED
    if 400 <= status < 500 and status not in (401, 403, 404):
        return Failure.UPSTREAM_REJECTED
    return Failure.UPSTREAM_REFUSED
