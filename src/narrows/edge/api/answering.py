"""One reply, streamed or whole, from parsed request to the last byte, in any dialect.

While it is served, a second task waits for the client to leave; if that ends first, serving is
cancelled and every answer is stopped inside at once. Whatever happens, no answer outlives its
response.

Streams: text goes out on the edge's own grid of ``tick_ms``, never as the link cut it. Headers
wait for the first sign of the answer (``HEADER_HOLD_S`` at most), so that an early failure has
its HTTP status; a later one is the dialect's last event.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Sequence

from starlette.types import Receive, Scope, Send

from narrows.coding.kept import BYTES_PER_TOKEN
from narrows.edge import problems
from narrows.edge.answer import EdgeAnswer, Piece
from narrows.edge.api import jsonio
from narrows.edge.api.front import LINK_BYTES_HEADER, record_of
from narrows.edge.api.noise_keys import noise_keys
from narrows.edge.api.request import ChatRequest
from narrows.edge.api.service import Service
from narrows.edge.cost import total_cost
from narrows.edge.dialects.dialect import Dialect, Ended, TokenUsage
from narrows.edge.local import fits
from narrows.edge.models import EdgeModel
from narrows.errors import NarrowsError, PeerError
from narrows.wire.messages import Request

log = logging.getLogger("narrows.edge.answering")

HEADER_HOLD_S = 15.0
PING_S = 15.0
_SSE_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


class ClientGone(NarrowsError):
    """The client closed, or takes nothing."""


class AnswerResponse:
    """An ASGI response. ``body_bytes``: size of the request, for the limit on all of them."""

    def __init__(
        self,
        service: Service,
        model: EdgeModel,
        request: ChatRequest,
        dialect: Dialect,
        scope: int,
        body_bytes: int,
    ) -> None:
        self._service = service
        self._model = model
        self._dialect = dialect
        self._request = request
        self._scope = scope
        self._body_bytes = body_bytes
        self._changed = asyncio.Event()
        self._started = False
        limits = service.config.limits
        noise = noise_keys(model.secret, scope, request, service.random_bytes)
        self._answers = [
            EdgeAnswer(
                Request(
                    uid=service.random_bytes(16).hex(),
                    body=request.inward(index),
                    noise_key=key,
                    scope=scope,
                ),
                request.stops,
                # A whole answer is gathered here at once: only its total is limited.
                limits.buffer_bytes if request.stream else limits.answer_bytes,
                limits.answer_bytes,
                self._changed.set,
            )
            for index, key in enumerate(noise)
        ]
        for answer in self._answers:
            answer.concise = request.concise
        if service.transcripts is not None and request.keep:
            for answer in self._answers:
                answer.record = []
        self._created_s = int(service.wall_s())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with (
                self._service.admit(len(self._answers), self._body_bytes),
                self._service.rates.answering(
                    self._scope,
                    len(self._answers),
                    self._body_bytes * max(1, len(self._request.prompts)) // BYTES_PER_TOKEN,
                    lambda: self._tokens().total,
                ),
            ):
                await self._serve_while_wanted(receive, send)
        except problems.ApiError as error:
            if self._started:
                raise
            self._service.refused(error)
            await _send_whole(
                send, error.status, error.headers(), jsonio.dump(self._dialect.error(error))
            )
        except ClientGone:
            return
        finally:
            record_of(scope).link_bytes = sum(answer.bits for answer in self._answers) / 8

    async def _serve_while_wanted(self, receive: Receive, send: Send) -> None:
        leaving = asyncio.create_task(_disconnected(receive))
        serving = asyncio.create_task(self._serve(send))
        try:
            await asyncio.wait({leaving, serving}, return_when=asyncio.FIRST_COMPLETED)
            if not serving.done():
                raise ClientGone("the client closed")
            await serving
        finally:
            leaving.cancel()
            serving.cancel()
            for answer in self._answers:
                self._model.link.cancel(answer)

    async def _serve(self, send: Send) -> None:
        if not await self._answered_outside():
            # An alarm that was raised while this request was read, or waited, holds for it too: it
            # ends what is on a link, and this is on none until ``start`` returns.
            self._service.alarms.check(self._scope)
            await self._model.link.start(self._answers)
            self._service.alarms.check(self._scope)
        if self._request.stream:
            await self._serve_stream(send)
        else:
            await self._serve_whole(send)

    async def _answered_outside(self) -> bool:
        """Whether the local model was asked and has answered. ApiError: it should, and is down."""
        local, route = self._service.local, self._request.route
        if local is None or route == "strong":
            return False
        if route == "auto" and not fits(local.config, self._request.body):
            return False
        asked = [local.ask(one.request.body, route == "auto") for one in self._answers]
        replies = await asyncio.gather(*asked, return_exceptions=True)
        for reply in replies:
            if isinstance(reply, PeerError):
                log.warning("%s", reply)
                if local.config.down == "error":
                    raise problems.local_down()
                return False
            if isinstance(reply, BaseException):
                raise reply
        if any(reply is None for reply in replies):
            return False
        for answer, events in zip(self._answers, replies, strict=True):
            answer.local = True
            for event in events if isinstance(events, list) else ():
                answer.on_event(event)
        return True

    async def _serve_whole(self, send: Send) -> None:
        text_bytes = [0] * len(self._answers)
        while True:
            self._changed.clear()
            for index, answer in enumerate(self._answers):
                pieces = answer.take()
                self._dialect.add(index, pieces)
                text_bytes[index] += _text_bytes(pieces)
            if error := self._error():
                raise error
            if all(answer.finish is not None for answer in self._answers):
                break
            await self._changed.wait()
        ends = [end for answer in self._answers if (end := _end(answer)) is not None]
        tokens = self._tokens(over=True)
        body = jsonio.dump(self._dialect.whole(ends, tokens))
        self._started = True
        headers = {LINK_BYTES_HEADER: str(tokens.cost.link_bytes)} if tokens.cost else {}
        await self._deliver(_send_whole(send, 200, headers, body))
        for answer, size in zip(self._answers, text_bytes, strict=True):
            self._service.count_delivered(answer, size)
            self._completed(answer)

    def _completed(self, answer: EdgeAnswer) -> None:
        self._service.count_answer(self._model, answer, _completion_tokens(answer))
        choice = self._answers.index(answer)
        self._service.keep(answer, self._dialect.reply_id, choice, self._created_s)

    async def _serve_stream(self, send: Send) -> None:
        await self._first_sign()
        if (error := self._error()) and not any(answer.has_text for answer in self._answers):
            raise error
        self._started = True
        start = {"type": "http.response.start", "status": 200, "headers": _SSE_HEADERS}
        await self._deliver(send(start))
        pending = self._dialect.begin(self._tokens().prompt)
        unfinished = dict(enumerate(self._answers))
        while True:
            self._changed.clear()
            events, sizes, finished = [pending], [0] * len(self._answers), []
            for index, answer in enumerate(self._answers):
                pieces = answer.take()
                sizes[index] = _text_bytes(pieces)
                events.append(self._dialect.pieces(index, pieces))
                if index in unfinished and (end := _end(answer)) is not None:
                    finished.append(unfinished.pop(index))
                    events.append(self._dialect.finish(index, end))
            over = True
            if error := self._error():
                self._service.refused(error)
                events.append(self._dialect.failed(error))
            elif not unfinished:
                events.append(self._dialect.end(self._tokens(over=True)))
            else:
                over = False
            if data := b"".join(events):
                await self._deliver(
                    send({"type": "http.response.body", "body": data, "more_body": not over})
                )
                for answer, size in zip(self._answers, sizes, strict=True):
                    self._service.count_delivered(answer, size)
                for answer in finished:
                    self._completed(answer)
            if over:
                return
            pending = await self._next_change()

    async def _first_sign(self) -> None:
        deadline = time.monotonic() + HEADER_HOLD_S
        while not any(answer.has_text or answer.ended for answer in self._answers):
            self._changed.clear()
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    await self._changed.wait()
            except TimeoutError:
                return

    async def _next_change(self) -> bytes:
        """Until there is something new, then to the next point of the edge's grid; or a ping."""
        try:
            async with asyncio.timeout(PING_S):
                await self._changed.wait()
        except TimeoutError:
            return self._dialect.ping()
        tick_s = self._service.config.tick_ms / 1000
        now_s = time.monotonic()
        await asyncio.sleep(math.ceil(now_s / tick_s) * tick_s - now_s)
        return b""

    async def _deliver(self, sending: Awaitable[None]) -> None:
        """Hand something to the server, which waits while the client's buffers are full."""
        try:
            async with asyncio.timeout(self._service.config.limits.client_stall_s):
                await sending
        except TimeoutError as error:
            raise ClientGone("the client takes nothing") from error

    def _error(self) -> problems.ApiError | None:
        return next((answer.error for answer in self._answers if answer.error), None)

    def _tokens(self, over: bool = False) -> TokenUsage:
        prompt = sum(map(_prompt_tokens, self._answers[:: self._request.choices]))
        counted = [a.reasoning_tokens for a in self._answers if a.reasoning_tokens is not None]
        reasoning = sum(counted) if counted else None
        cost = total_cost(self._answers) if over else None
        return TokenUsage(prompt, sum(map(_completion_tokens, self._answers)), reasoning, cost)


def _end(answer: EdgeAnswer) -> Ended | None:
    return None if answer.finish is None else Ended(answer.finish, answer.stop)


def _text_bytes(pieces: Sequence[Piece]) -> int:
    return sum(len(piece.text.encode("utf-8", "surrogatepass")) for piece in pieces)


def _prompt_tokens(answer: EdgeAnswer) -> int:
    return answer.usage.prompt_tokens if answer.usage else answer.prompt_tokens


def _completion_tokens(answer: EdgeAnswer) -> int:
    """Counted where the link carries tokens, else as the model server says, else estimated."""
    if answer.native:
        return len(answer.tokens) + answer.kept_tokens
    if answer.usage:
        return answer.usage.completion_tokens
    return -(-answer.text_bytes // BYTES_PER_TOKEN) + answer.kept_tokens


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send_whole(send: Send, status: int, headers: dict[str, str], body: bytes) -> None:
    fields = {"content-type": "application/json", "content-length": str(len(body))} | headers
    raw = [(name.encode("ascii"), value.encode("ascii")) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
